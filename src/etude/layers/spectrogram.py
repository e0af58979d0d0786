"""SpecAugment: stretches of time and of features set to a value while training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from etude.arguments import named, named_class
from etude.errors import SettingError
from etude.layers.bands import draw_bands
from etude.values.schedule import Schedule, pieces
from etude.values.spans import Span, steps

_RETURNN = ((0, 1, 2), (1, 2, 3), (2, 4, 5))
"""Least number of masks, largest number per piece of time, largest number in the features; at first, from the first and
from the second moment."""

_FIRST, _SECOND = steps(1000), steps(2000)


@final
@named_class
class SpecAugment(nn.Module):
    """Masks of time and of features on sequences (Park et al., "SpecAugment", Interspeech 2019), in training only.

    Each sequence gets a number of masks, uniform between the least and the largest, each of a width uniform between 1
    and the largest, at starts drawn without repetition; masks may overlap and end with the sequence. A sequence is
    masked by its own length, whatever else is in the batch. In evaluation the input itself is returned.

    Its attributes can be knobs: min_time_masks, max_time_masks, min_feature_masks, max_feature_masks, time_width,
    feature_width, max_time_fraction, max_feature_fraction (whole numbers but for the fractions; a least number above
    the largest is the largest), and strength, which grows smoothly: `knobs={"strength": {SpecAugment: linear(0, 1)}}`.

    Args:
        time_masks: the least and the largest number of masks in time. time_width: the largest width, in frames.
        feature_masks: the least and the largest number of masks in the features. feature_width: the largest width, in
            features; 0 is a fifth of them, at least 1.
        per_frames: (frames, least): the largest number of masks in time is multiplied by the number of times that
            `frames` fit into the sequence, and by `least` at least; None: by nothing.
        max_fraction: the share of a sequence, and of the features, that is masked at most: one number for both, or a
            pair for time and features. What is too much is taken from the last mask.
        strength: with which chance each mask is made after all.
        value: what is written.

    Shapes:
        x: (batch, time, features); lengths: (batch,), whole numbers, None where every sequence is whole. The same
        shape comes back.

    Raises:
        SettingError: an argument is none of these; in a call, x or lengths have another shape, or a length is longer
            than x.
    """

    knob_ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "min_time_masks": (0, inf),
        "max_time_masks": (0, inf),
        "min_feature_masks": (0, inf),
        "max_feature_masks": (0, inf),
        "time_width": (1, inf),
        "feature_width": (0, inf),
        "max_time_fraction": (0.0, 1.0),
        "max_feature_fraction": (0.0, 1.0),
        "strength": (0.0, 1.0),
    }

    def __init__(
        self,
        time_masks: tuple[int, int] = (0, 2),
        time_width: int = 20,
        feature_masks: tuple[int, int] = (0, 2),
        feature_width: int = 0,
        *,
        per_frames: tuple[int, int] | None = None,
        max_fraction: float | tuple[float, float] = 0.5,
        strength: float = 1.0,
        value: float = 0.0,
    ) -> None:
        super().__init__()
        self.min_time_masks, self.max_time_masks = _numbers(time_masks, "time_masks")
        self.min_feature_masks, self.max_feature_masks = _numbers(feature_masks, "feature_masks")
        self.time_width = _whole(time_width, "time_width", 1)
        self.feature_width = _whole(feature_width, "feature_width", 0)
        self.per_frames = None if per_frames is None else _pair(per_frames, "per_frames", 1)
        if isinstance(max_fraction, tuple) and len(max_fraction) == 2:
            time, feature = max_fraction
        else:
            time = feature = max_fraction
        self.max_time_fraction = _share(time, f"max_fraction={max_fraction!r}")
        self.max_feature_fraction = _share(feature, f"max_fraction={max_fraction!r}")
        self.strength = _share(strength, f"strength={strength!r}")
        self.value = _finite(value)

    @staticmethod
    @named
    def returnn(*, time_width: int = 20, feature_width: int = 0, max_fraction: Any = 1.0) -> SpecAugment:
        """SpecAugment as RETURNN's recipes have it, before its numbers grow; `returnn_knobs` lets them.

        Args:
            time_width, feature_width: as for `SpecAugment`. max_fraction: RETURNN has no bound, and takes two thirds
                of a sequence of 40 frames at full strength: 0.5 is better for short ones.
        """
        (least, most_time, most_feature), *_ = _RETURNN
        return SpecAugment(
            (least, most_time),
            time_width,
            (least, most_feature),
            feature_width,
            per_frames=(100, 2),
            max_fraction=max_fraction,
        )

    @staticmethod
    @named
    def returnn_knobs(
        first: Span = _FIRST,
        second: Span = _SECOND,
        where: Any = None,
    ) -> dict[str, dict[Any, Schedule]]:
        """The rules by which RETURNN's numbers of masks grow at two moments, for `knobs=`.

        Args:
            first, second: the moments, spans from the start; 1,000 and 2,000 steps.
            where: the part of the net; None: every `SpecAugment`.

        Raises:
            ScheduleError: the second moment is not after the first.
        """
        place = SpecAugment if where is None else where
        low, time, feature = (pieces(a, (first, b), (second, c)) for a, b, c in zip(*_RETURNN, strict=True))
        found = {"min_time_masks": low, "max_time_masks": time, "min_feature_masks": low, "max_feature_masks": feature}
        return {name: {place: values} for name, values in found.items()}

    def forward(self, x: Tensor, lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        if x.dim() != 3:
            raise SettingError(
                f"SpecAugment: the input has the shape {tuple(x.shape)}; (batch, time, features) is needed. "
                "Write x[None] for one sequence."
            )
        if not self.training:
            return x
        _, time, features = x.shape
        own = _lengths(lengths, x)
        whole = torch.full_like(own, features)
        masked = self._mask_time(own, time)[:, :, None] | self._mask_features(whole, features)[:, None, :]
        inside = torch.arange(time, device=x.device) < own[:, None]
        return x.masked_fill(masked & inside[:, :, None], self.value)

    def _mask_time(self, lengths: Tensor, time: int) -> Tensor:
        high, most = torch.full_like(lengths, self.max_time_masks), self.max_time_masks
        if self.per_frames is not None:
            frames, least = self.per_frames
            high = high * (lengths // frames).clamp_min(least)
            most *= max(time // frames, least)
        low = torch.full_like(lengths, min(self.min_time_masks, self.max_time_masks))
        drawn = draw_bands(lengths, time, most, low, high, self.time_width, self.strength)
        return drawn.mask(self.max_time_fraction)

    def _mask_features(self, whole: Tensor, features: int) -> Tensor:
        most = self.max_feature_masks
        low, high = torch.full_like(whole, min(self.min_feature_masks, most)), torch.full_like(whole, most)
        drawn = draw_bands(whole, features, most, low, high, self.feature_width or max(features // 5, 1), self.strength)
        return drawn.mask(self.max_feature_fraction)

    def extra_repr(self) -> str:
        per = "" if self.per_frames is None else f", per_frames={self.per_frames}"
        value = "" if self.value == 0 else f", value={self.value!r}"
        return (
            f"({self.min_time_masks}, {self.max_time_masks}), {self.time_width}, "
            f"({self.min_feature_masks}, {self.max_feature_masks}), {self.feature_width}{per}, "
            f"max_fraction=({self.max_time_fraction!r}, {self.max_feature_fraction!r}), "
            f"strength={self.strength!r}{value}"
        )


def _lengths(lengths: Tensor | Sequence[int] | None, x: Tensor) -> Tensor:
    batch, time, _ = x.shape
    if lengths is None:
        return torch.full((batch,), time, dtype=torch.int64, device=x.device)
    own = torch.as_tensor(lengths)
    if own.shape != (batch,) or own.is_floating_point() or own.is_complex():
        raise SettingError(
            f"SpecAugment: lengths of the shape {tuple(own.shape)} and {own.dtype} for a batch of {batch}: one whole "
            "number for each sequence is needed."
        )
    # On another device a host would have to wait to see them.
    if (
        batch
        and own.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not 0 <= own.min() <= own.max() <= time
    ):
        raise SettingError(
            f"SpecAugment: lengths from {int(own.min())} to {int(own.max())} for {time} frames. Give them in frames of "
            "this input: after layers that take fewer frames they are smaller."
        )
    return own.to(x.device, torch.int64)


def _numbers(pair: Any, name: str) -> tuple[int, int]:
    low, high = _pair(pair, name, 0)
    if low > high:
        raise SettingError(
            f"SpecAugment: {name}={pair!r}: the least number is above the largest. Write {name}={(high, low)!r}."
        )
    return low, high


def _pair(pair: Any, name: str, least: int) -> tuple[int, int]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise SettingError(f"SpecAugment: {name}={pair!r}: a pair of whole numbers is needed, as in {name}=(0, 2).")
    low, high = (_whole(number, name, least) for number in pair)
    return low, high


def _whole(number: Any, name: str, least: int) -> int:
    if isinstance(number, bool) or not isinstance(number, Integral) or number < least:
        raise SettingError(f"SpecAugment: {name}={number!r}: a whole number of at least {least} is needed.")
    return int(number)


def _share(number: Any, said: str) -> float:
    if isinstance(number, Schedule):
        knob = "max_time_fraction" if said.startswith("max_fraction") else "strength"
        raise SettingError(
            f"SpecAugment: {said}: a number is needed. Begin with one, and let a knob change it: knobs={{{knob!r}: "
            f"{number!r}}}."
        )
    if isinstance(number, bool) or not isinstance(number, Real) or not 0 <= float(number) <= 1:
        raise SettingError(f"SpecAugment: {said}: a number from 0 to 1 is needed.")
    return float(number)


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        raise SettingError(f"SpecAugment: value={value!r}: a finite number is needed.")
    return float(value)
