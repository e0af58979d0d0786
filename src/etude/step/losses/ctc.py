"""Connectionist temporal classification (Graves et al., ICML 2006)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from etude.errors import DataError, SettingError, nearest
from etude.step.losses.own import MAIN, OwnLoss, maker
from etude.step.reading import LENGTHS, OFFSETS, mask_of

Frames: TypeAlias = "str | Callable[[Any], Tensor] | None"
_PER = ("sequence", "label", "frame")


@final
@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Ctc(OwnLoss):
    """Made by `ctc`."""

    blank: int
    per: str
    frames: Frames
    labels: str | None
    classes: int

    wants = frozenset({"batch"})
    also = ("no_path",)

    def __call__(self, output: Tensor, target: Any, *, batch: Any) -> dict[str, tuple[Tensor, Any]]:
        name = self._name(target, batch)
        labels, label_lengths = self._labels(name, target, batch)
        logs = self._logs(output)
        blank = self.blank % logs.shape[-1]
        self._check_labels(labels, label_lengths, logs, blank)
        lengths = self._frames(name, logs, batch)
        losses = functional.ctc_loss(
            logs.transpose(0, 1), labels, lengths, label_lengths, blank, reduction="none", zero_infinity=True
        )
        without = _frames_needed(labels, label_lengths) > lengths
        # Without a path the sum is over nothing: its logarithm is -inf, and torch's gradient of that is not a number.
        losses = losses.where(~without, 0)
        number = {"sequence": len(labels), "label": label_lengths.sum(), "frame": lengths.sum()}[self.per]
        return {MAIN: (losses.sum(), number), "no_path": (without.sum().float(), len(labels))}

    def _logs(self, output: Tensor) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() != 3:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise DataError(
                f"ctc(): the net's output is {shape}: logits of shape (samples, frames, classes) are needed."
            )
        logits = output.movedim(self.classes, -1)
        if self.blank >= logits.shape[-1]:
            raise DataError(
                f"ctc(blank={self.blank}): the output has {logits.shape[-1]} classes, 0 to {logits.shape[-1] - 1}. "
                "Where the classes are not the last dimension of the output say ctc(classes=1)."
            )
        # Sums over paths lose too much in half precision.
        return functional.log_softmax(logits.double() if logits.dtype == torch.float64 else logits.float(), -1)

    def _name(self, target: Any, batch: Any) -> str | None:
        """What the batch calls the labels; None where it has no names."""
        if not isinstance(batch, Mapping):
            return None
        if self.labels is None:
            return next((str(key) for key, value in batch.items() if value is target), None)
        if self.labels not in batch:
            raise SettingError(
                f"ctc(labels={self.labels!r}): the batch has {', '.join(map(repr, batch))}."
                f"{nearest(self.labels, map(str, batch))}"
            )
        return self.labels

    def _labels(self, name: str | None, target: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """Labels, padded with 0, and how many there are of each sequence."""
        target = batch[name] if name is not None else target
        if not isinstance(target, Tensor) or target.is_floating_point():
            raise DataError(
                "ctc(): the target is no tensor of class indices. Where there are several targets write "
                "ctc(labels='name')."
            )
        lengths = batch.get(f"{name}{LENGTHS}") if name is not None else None
        if lengths is not None and f"{name}{OFFSETS}" in batch:
            target = _unpacked(target, lengths)
        if target.dim() != 2:
            raise DataError(f"ctc(): labels of shape {tuple(target.shape)}: (samples, labels) is needed.")
        if lengths is None:
            return target.long(), torch.full((len(target),), target.shape[1], device=target.device)
        return target.where(mask_of(lengths, target.shape[1]), 0).long(), lengths

    def _check_labels(self, labels: Tensor, lengths: Tensor, logs: Tensor, blank: int) -> None:
        classes = logs.shape[-1]
        if len(labels) != len(logs):
            raise DataError(f"ctc(): {len(labels)} sequences of labels, and the output has {len(logs)}.")
        outside = (labels < 0) | (labels >= classes)
        blanks = (labels == blank) & mask_of(lengths, labels.shape[1])
        if not bool((outside | blanks).any()):
            return
        if bool(outside.any()):
            raise DataError(
                f"ctc(): the output has {classes} classes, 0 to {classes - 1}, and the labels go from "
                f"{int(labels.min())} to {int(labels.max())}. Labels that only fill up need their lengths beside them."
            )
        raise DataError(
            f"ctc(blank={self.blank}): class {blank} stands for no label, and {int(blanks.any(1).sum())} of "
            f"{len(labels)} sequences have it as a label. Where it fills up labels give their lengths beside them; "
            "where it is a label say which class is the blank: ctc(blank=-1) for the last one."
        )

    def _frames(self, name: str | None, logs: Tensor, batch: Any) -> Tensor:
        """How many frames each sequence has in the output."""
        samples, longest = logs.shape[:2]
        if callable(self.frames):
            lengths = torch.as_tensor(self.frames(batch), device=logs.device)
            if lengths.shape != (samples,) or lengths.is_floating_point():
                raise DataError(f"ctc(frames=...) gave {lengths!r}: one whole number for each sample is needed.")
        else:
            found = self._stream_lengths(name, batch)
            lengths = torch.full((samples,), longest, device=logs.device) if found is None else found
        if bool((lengths > longest).any()):
            raise DataError(
                f"ctc(): the output has {longest} frames, and a sequence is said to have {int(lengths.max())}. Of a "
                "net that makes sequences shorter say how long they are: "
                "ctc(frames=lambda batch: (batch['x_lengths'] + 1) // 2)."
            )
        return lengths

    def _stream_lengths(self, name: str | None, batch: Any) -> Tensor | None:
        if not isinstance(batch, Mapping):
            return None
        streams = [key.removesuffix(LENGTHS) for key in batch if isinstance(key, str) and key.endswith(LENGTHS)]
        if isinstance(self.frames, str):
            if self.frames not in streams:
                raise SettingError(
                    f"ctc(frames={self.frames!r}): there are lengths of {', '.join(map(repr, streams)) or 'nothing'}."
                    f"{nearest(self.frames, streams)}"
                )
            return batch[self.frames + LENGTHS]  # type: ignore[no-any-return]
        others = [stream for stream in streams if stream != name]
        if len(others) > 1:
            raise SettingError(
                f"ctc(): several streams have lengths: {', '.join(map(repr, others))}. Say which has the frames of the "
                f"output: ctc(frames={others[0]!r})."
            )
        return batch[others[0] + LENGTHS] if others else None

    def count(self, target: Any, mask: Any, batch: Any, entry: str = MAIN) -> float | Tensor | None:
        if self.per == "frame":
            return None  # a function of the batch may say how many there are
        labels, lengths = self._labels(self._name(target, batch), target, batch)
        return len(labels) if self.per == "sequence" or entry != MAIN else lengths.sum()

    def not_compiled(self) -> str:
        return "sums over paths are computed by a kernel that says its sizes to the processor"

    def __repr__(self) -> str:
        options = {"per": ("sequence", self.per), "frames": (None, self.frames), "labels": (None, self.labels)}
        said = [f"{name}={_text(value)}" for name, (usual, value) in options.items() if value != usual]
        said += [] if self.classes == -1 else [f"classes={self.classes}"]
        return f"ctc({', '.join([f'blank={self.blank}', *said])})"


def _text(value: Any) -> str:
    return getattr(value, "__name__", repr(value)) if callable(value) else repr(value)


def _unpacked(packed: Tensor, lengths: Tensor) -> Tensor:
    """Sequences that follow one another, one in a row and filled up."""
    return nn.utils.rnn.pad_sequence(list(torch.split(packed, lengths.tolist())), batch_first=True)


def _frames_needed(labels: Tensor, lengths: Tensor) -> Tensor:
    """The frames that a sequence of labels needs at least: between two that are alike there is a blank."""
    alike = (labels[:, 1:] == labels[:, :-1]) & mask_of(lengths - 1, max(labels.shape[1] - 1, 0))
    return lengths + alike.sum(1)


@maker
def ctc(
    blank: int = 0,
    per: str = "sequence",
    frames: Frames = None,
    labels: str | None = None,
    classes: int = -1,
) -> Ctc:
    """The negative logarithm of the probability of the labels, over all ways to lay them along the frames.

    The net gives logits (samples, frames, classes); they are normalised here, in float32 or float64. A sequence that is
    too short for its labels has no path: its loss is 0, no gradient comes from it, and "<term>.no_path" tells the share
    of such sequences.

    Args:
        blank: the class that stands for no label; -1: the last one.
        per: what the mean is taken over: "sequence", "label" or "frame". Sequences without a path count.
        frames: the stream whose lengths are those of the output, or a function of the batch that gives them, int64
            (samples,), for a net that makes sequences shorter. None: the one stream with lengths that is not the
            labels; without any, all frames.
        labels: the name of the labels in the batch, (samples, labels), their lengths beside them; None: the target.
        classes: which dimension of the output the classes are: -1 or 1.

    Raises:
        SettingError: an argument is not what it has to be. DataError: when it is computed, shapes, classes or lengths
            that do not go together.
    """
    if isinstance(blank, bool) or not isinstance(blank, int) or blank < -1:
        raise SettingError(f"ctc(blank={blank!r}): the index of a class is needed, or -1 for the last one.")
    if per not in _PER:
        raise SettingError(f'ctc(per={per!r}): "sequence", "label" or "frame" is needed.{nearest(per, _PER)}')
    if not (frames is None or isinstance(frames, str) or callable(frames)):
        raise SettingError(f"ctc(frames={frames!r}): the name of a stream or a function of the batch is needed.")
    if labels is not None and not isinstance(labels, str):
        raise SettingError(f"ctc(labels={labels!r}): the name of the labels in the batch is needed.")
    if classes not in (-1, 1):
        raise SettingError(f"ctc(classes={classes!r}): -1 (samples, frames, classes) or 1 (samples, classes, frames).")
    return Ctc(blank, per, frames, labels, classes)
