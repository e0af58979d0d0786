"""Where memory runs out in a step: the batch is computed in halves, which make one step together.

The step is made again from its beginning: gradients are forgotten, statistics and chance are as they were. What size
did not fit is remembered, so that later batches are cut before they are computed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from etude.errors import OutOfMemoryError, SettingError, nearest, warn
from etude.step.chance import Chance
from etude.step.reading import LENGTHS, OFFSETS, samples_in, tensors_in
from etude.values.progress import Progress

WAYS = ("raise", "split")

_WORDS = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed", "failed to allocate memory")
"""What errors of torch's allocators and of the libraries under it say, in lower case."""
_ONE_VALUE = "more than 1 value per channel"
"""What torch's batch norm says in training where a channel has one number."""
_TOLD = 4
T = TypeVar("T")


def check_out_of_memory(asked: object) -> str:
    """What `out_of_memory=` was given: "raise" or "split".

    Raises:
        SettingError: something else; the nearest is named.
    """
    if not isinstance(asked, str) or asked not in WAYS:
        near = nearest(asked, WAYS) if isinstance(asked, str) else ""
        raise SettingError(f'out_of_memory={asked!r}: "raise" or "split" is needed.{near}')
    return asked


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in _WORDS)


@final
class Splitting:
    """What is done in one update where memory runs out.

    Args:
        asked: "raise" or "split". net: the net, on whose devices chance is drawn.
        looking: batches are only looked at.

    Attributes:
        active: whether batches are split. limit: the smallest size (in elements of all its tensors) of a batch that did
            not fit; 0 where all did. observers: are told of the parts that are about to be computed together, and
            whether it is another try.
    """

    def __init__(self, asked: str, net: nn.Module, looking: bool = False) -> None:
        self.active = check_out_of_memory(asked) == "split"
        self.limit = 0
        self.observers: list[Callable[[Sequence[Any], bool], None]] = []
        self._net = net
        self._looking = looking

    def compute(
        self, progress: Progress, many: Sequence[Any], computed: Callable[[Sequence[Any]], T]
    ) -> tuple[Sequence[Any], T]:
        """Compute something over batches, in smaller and smaller parts of them until memory is enough.

        Args:
            progress: the clock. many: the batches. computed: gives what is wanted of the parts together; where it
                fails it leaves all as it was, but for chance.

        Returns:
            The parts, in order, and what `computed` gave for them.

        Raises:
            OutOfMemoryError: there is not enough for one sample, or for the two that batch norm needs.
        """
        if not self.active:
            for told in self.observers:
                told(many, False)
            return many, computed(many)
        parts = [part for values in many for part in self._cut(values)]
        devices = {array.device for array in self._net.parameters()}
        chance, limit, again = Chance(devices), self.limit, False
        while True:
            for told in self.observers:
                told(parts, again)
            try:
                made = computed(parts)
            except ValueError as error:
                if _ONE_VALUE not in str(error) or len(parts) == len(many):
                    raise
                raise self._alone(progress) from error
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = str(error).strip().splitlines()
            else:
                break
            # Outside of the handler: what it holds, it holds with all that was computed.
            _make_room(devices)
            chance.restore()
            again = True
            parts = self._smaller(progress, parts, said[0] if said else "")
        if self.limit != limit:
            _tell(progress, many, parts, self._looking)
        return parts, made

    def _alone(self, progress: Progress) -> OutOfMemoryError:
        """A batch was cut down to one sample, and batch norm needs more."""
        norms = (name for name, module in self._net.named_modules() if isinstance(module, _BatchNorm))
        place = next((repr(name) for name in norms if name), "nn.BatchNorm1d")
        return OutOfMemoryError(
            f'{_where(progress, self._looking)}: memory is short, and out_of_memory="split" has cut a batch down to '
            "one sample, with which batch norm cannot be trained. Nothing was changed. Shorten or filter the longest "
            "samples, use nn.GroupNorm or nn.LayerNorm in place of batch norm, or freeze it, so that it takes the "
            f"statistics that it has: learning_rate_multipliers={{{place}: FROZEN}}.",
            int(progress.step) + 1,
        )

    def state(self) -> int:
        """What a later run needs to go on."""
        return self.limit

    def load(self, state: Any) -> None:
        """Take over what `state()` gave."""
        self.limit = int(state)

    def _cut(self, values: Any) -> list[Any]:
        """A batch in parts each of which is smaller than what did not fit."""
        if not self.limit or size_of(values) < self.limit or samples_in(values) < 2:
            return [values]
        return [part for half in halves(values) for part in self._cut(half)]

    def _smaller(self, progress: Progress, parts: Sequence[Any], said: str) -> list[Any]:
        """The parts anew, once the largest of them is known not to fit."""
        sizes = [size_of(part) for part in parts if samples_in(part) > 1]
        if not sizes:
            largest = max(parts, key=size_of)
            raise OutOfMemoryError(
                f"{_where(progress, self._looking)}: there is not enough memory for one sample, {_shapes(largest)}, "
                'and out_of_memory="split" cannot cut it. Nothing was changed. Shorten or filter the longest samples, '
                f"take a smaller net, or recompute activations (torch.utils.checkpoint).{_quoted(said)}",
                int(progress.step) + 1,
            )
        self.limit = max(sizes)
        return [part for values in parts for part in self._cut(values)]


def size_of(values: Any) -> int:
    """How large a batch is: the elements of all its tensors, padding too."""
    return sum(tensor.numel() for _, tensor in tensors_in(values))


def halves(values: Any) -> tuple[Any, Any]:
    """A batch as two, each with half of its samples; the first has one more where their number is odd.

    Every tensor is cut along its first dimension, the samples. Sequences that are packed are cut where a sequence
    begins, and their offsets count from 0 in each half. Padding stays as it is.

    Args:
        values: a tensor, or tuples, lists and dicts of such, of at least two samples.

    Raises:
        SettingError: something in it is not of so many samples; it is named.
    """
    samples = samples_in(values)
    middle = (samples + 1) // 2
    return _rows(values, 0, middle, samples, "the batch"), _rows(values, middle, samples, samples, "the batch")


def _rows(values: Any, start: int, stop: int, samples: int, name: str) -> Any:
    """The samples from `start` to `stop` of a batch."""
    if isinstance(values, Tensor):
        return _rows_of(values, start, stop, samples, name)
    if isinstance(values, Mapping):
        return {key: _stream(values, key, start, stop, samples) for key in values}
    if isinstance(values, list | tuple):
        if len(values) == samples and values and not any(True for _ in tensors_in(values)):
            return values[start:stop]
        cut = [_rows(value, start, stop, samples, f"{name}[{i}]") for i, value in enumerate(values)]
        return type(values)(*cut) if hasattr(values, "_fields") else type(values)(cut)
    if values is None or isinstance(values, str | bytes | bool):
        return values
    raise SettingError(_unfit(name, f"{type(values).__name__} {values!r:.40}", samples))


def _rows_of(tensor: Tensor, start: int, stop: int, samples: int, name: str) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_nested or not tensor.dim() or tensor.shape[0] != samples:
        layout = "" if tensor.layout == torch.strided else f" and of layout {tensor.layout}"
        raise SettingError(_unfit(name, f"of shape {tuple(tensor.shape)}{layout}", samples))
    return tensor[start:stop]


def _stream(values: Mapping[str, Any], key: str, start: int, stop: int, samples: int) -> Any:
    """One entry of a dict; of packed sequences their frames, and where each begins."""
    value = values[key]
    starts = values.get(f"{key}{OFFSETS}") if isinstance(key, str) else None
    if isinstance(starts, Tensor) and f"{key}{LENGTHS}" in values:
        _check_offsets(f"{key}{OFFSETS}", starts, samples)
        # What only fills up follows the last sequence, and stays there.
        end = len(value) if stop == samples else int(starts[stop])
        return value[int(starts[start]) : end]
    stream = key.removesuffix(OFFSETS) if isinstance(key, str) else key
    if stream != key and f"{stream}{LENGTHS}" in values:
        _check_offsets(key, value, samples)
        return value[start : stop + 1] - value[start]
    return _rows(value, start, stop, samples, str(key))


def _check_offsets(name: str, starts: Tensor, samples: int) -> None:
    if tuple(starts.shape) != (samples + 1,):
        raise SettingError(_unfit(name, f"of shape {tuple(starts.shape)} where ({samples + 1},) is needed", samples))


def _unfit(name: str, what: str, samples: int) -> str:
    return (
        f'out_of_memory="split" cuts a batch between its samples, of which it has {samples}, and {name} is {what}. '
        'Give it one row a sample, or write out_of_memory="raise" and a smaller batch_size.'
    )


def _make_room(devices: set[torch.device]) -> None:
    """Give back what is held for nothing, so that pieces of other sizes find room."""
    gc.collect()
    for device in devices:
        if device.type != "cpu":
            torch.get_device_module(device).empty_cache()


def _tell(progress: Progress, many: Sequence[Any], parts: Sequence[Any], looking: bool) -> None:
    largest = max(many, key=size_of)
    together = ", which make one step together"
    write = "A smaller batch_size and accumulate= say the same beforehand."
    if looking:
        write = "Evaluate(..., batch_size=) says the same beforehand."
    sizes = ", ".join(str(samples_in(part)) for part in parts[:8]) + (", ..." if len(parts) > 8 else "")
    warn(
        f"{_where(progress, looking)}: there was not enough memory for {samples_in(largest)} samples, "
        f"{_shapes(largest)}. They are computed in parts, here of {sizes}{'' if looking else together}; from now on "
        f"batches of this size are. {write}"
    )


def _where(progress: Progress, looking: bool) -> str:
    return (
        f"Looking at validation data after step {int(progress.step)}" if looking else f"Step {int(progress.step) + 1}"
    )


def _shapes(values: Any) -> str:
    found = [f"{name} {tuple(tensor.shape)}" for name, tensor in tensors_in(values)]
    return ", ".join(found[:_TOLD]) + (", ..." if len(found) > _TOLD else "")


def _quoted(said: str) -> str:
    return f" torch says: {said[:200]}" if said else ""
