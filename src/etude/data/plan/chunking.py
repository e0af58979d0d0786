"""How samples are cut into chunks: sizes and steps, one for every stream or each its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeAlias, final

from etude.arguments import named
from etude.errors import SettingError, nearest
from etude.values.marks import Choice
from etude.values.progress import Progress
from etude.values.schedule import Schedule, schedule

Amount: TypeAlias = tuple[tuple[str, int], ...]
"""A number for each stream that is named; of every stream under the name ""."""

EVERY = ""
"""Stands for every stream."""

UNLABELLED = ("error", "skip", "whole")
"""What can be done with a sample whose streams have unequal numbers of chunks."""


@final
@dataclass(frozen=True, slots=True, repr=False)
class Chunk(Choice):
    """How samples are cut; made by `chunk`, whose arguments are the attributes.

    Attributes:
        size, step, least: pairs of a stream and a number; the stream "" stands for every stream (of `least`: for the
            first that is cut).
    """

    size: Amount
    step: Amount
    least: Amount = ((EVERY, 0),)
    stop_at_end: bool = False
    unlabelled: str = "error"
    jitter: bool = False
    variance: float = 0.0

    @property
    def changes(self) -> bool:
        """Whether another epoch has other chunks."""
        return self.jitter or self.variance > 0

    def __repr__(self) -> str:
        said = [_text(self.size)]
        said += [f"step={_text(self.step)}"] * (self.step != self.size)
        said += [f"least={_text(self.least)}"] * any(least for _, least in self.least)
        plain = {"stop_at_end": False, "unlabelled": "error", "jitter": False, "variance": 0.0}
        said += [f"{name}={getattr(self, name)!r}" for name, usual in plain.items() if getattr(self, name) != usual]
        return f"chunk({', '.join(said)})"


@named
def chunk(
    size: int | str | Mapping[str, int],
    step: int | Mapping[str, int] | None = None,
    least: int | Mapping[str, int] = 0,
    stop_at_end: bool = False,
    unlabelled: str = "error",
    jitter: bool = False,
    variance: float = 0.0,
) -> Chunk:
    """Samples in chunks that start at 0, step, 2 * step, ... below the length, each cut at the end of the sample.

    With a step below the size chunks overlap, and the end of a sample is in several ever shorter ones; with a step
    above it the frames in between are in none. A sample of length 0 has no chunk.

    Args:
        size: frames of a chunk: one number for every stream, or `{"audio": 12, "labels": 4}`; streams that are not
            named come whole with every chunk. "5:2" is size 5, step 2.
        step: frames from start to start, as `size`. Default: the size. In all streams sizes and steps are in one
            ratio, that of the downsampling; lengths that are divided rounding up then give equally many chunks.
        least: chunks that are shorter are left out and counted: a number means the first of the streams that are cut,
            a dict each of those it names.
        stop_at_end: the first chunk that reaches the end of a sample is its last.
        unlabelled: what to do with a sample whose streams have unequal numbers of chunks: "error"; "skip", which leaves
            out every chunk in which a stream has nothing, where that is the last chunk of a sample or the stream is
            empty; "whole", by which streams of length 0 or 1 come whole with every chunk of their sample.
        jitter: the chunks of a sample are shifted to the left, by less than a step, drawn anew in every epoch; the
            first is cut at the start.
        variance: size and step of each sample are multiplied by a number drawn from (1 - variance, 1], in every epoch
            anew. At least 0 and below 1.

    Raises:
        SettingError: numbers that are no counts, unknown streams in `step` or `least`, sizes and steps in unequal
            ratios, a `least` above the size.
    """
    if isinstance(size, str):
        size, step = _read(size, step)
    sizes = _amount("size", size, 1)
    steps = sizes if step is None else _amount("step", step, 1)
    leasts = _amount("least", least, 0)
    made = Chunk(
        sizes,
        _alike(sizes, steps),
        _known("least", leasts, sizes),
        _flag("stop_at_end", stop_at_end),
        unlabelled,
        _flag("jitter", jitter),
        _share(variance),
    )
    if unlabelled not in UNLABELLED:
        raise SettingError(
            f"unlabelled={unlabelled!r} is not known.{nearest(unlabelled, UNLABELLED)} "
            f"Write one of {', '.join(map(repr, UNLABELLED))}."
        )
    _check_ratio(made)
    _check_least(made)
    return made


@final
@dataclass(frozen=True, slots=True, repr=False)
class Changing:
    """Chunks that change during the run; a schedule is asked at the start of every epoch."""

    schedule: Schedule

    @property
    def changes(self) -> bool:
        """Whether another epoch has other chunks."""
        return True

    def at(self, progress: Progress) -> Chunk | None:
        """How samples are cut at a moment.

        Raises:
            SettingError: the schedule gives no chunk then.
        """
        given = self.schedule.at(progress)
        return chunk(round(given)) if isinstance(given, float) else _fixed(given)

    def __repr__(self) -> str:
        return repr(self.schedule)


def chunking(literal: Any) -> Chunk | Changing | None:
    """The cutting that a literal stands for.

    Args:
        literal: None (nothing is cut), what `chunk` gives, a size as `chunk` takes it (5, "5:2", {"audio": 12}), a
            pair of size and step, or a schedule (or function of `Progress`) of such.

    Raises:
        SettingError: anything else, or what `chunk` refuses.
    """
    if isinstance(literal, Schedule) or (callable(literal) and not isinstance(literal, type)):
        made = schedule(literal)
        if made.reactive:
            raise SettingError(
                f"chunk={made!r} follows a score, and chunks are planned before. Write a schedule of progress."
            )
        return Changing(made)
    return _fixed(literal)


def _fixed(literal: Any) -> Chunk | None:
    if literal is None or isinstance(literal, Chunk):
        return literal
    if isinstance(literal, tuple | list) and len(literal) == 2:
        return chunk(*literal)
    if isinstance(literal, str | Mapping) or _is_whole(literal):
        return chunk(literal)
    raise SettingError(
        f"chunk={literal!r}: no size of a chunk. Write 500, (500, 250) for size and step, "
        "{'audio': 480, 'labels': 120} by stream, or chunk(500, step=250, least=20)."
    )


def _read(text: str, step: object) -> tuple[int, int | None]:
    """Size and step of "5:2"."""
    numbers = text.split(":")
    if step is not None or len(numbers) > 2 or not all(number.strip().isdecimal() for number in numbers):
        said = "" if step is None else f", step={step!r}"
        raise SettingError(f'chunk({text!r}{said}): text is a size, or a size and a step with a colon. Write "5:2".')
    return int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else None


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _amount(name: str, value: Any, least: int) -> Amount:
    given = value if isinstance(value, Mapping) and value else {EVERY: value}
    return tuple((str(stream), _number(name, stream, number, least)) for stream, number in given.items())


def _number(name: str, stream: str, value: Any, least: int) -> int:
    if not _is_whole(value) or value < least:
        raise SettingError(
            f"chunk(): {name}{f' of {stream!r}' if stream else ''} is {value!r}. Write a whole number of frames from "
            f"{least} on, or one for each stream: {name}={{'audio': 480, 'labels': 120}}."
        )
    return int(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SettingError(f"chunk(): {name}={value!r} is no yes or no. Write True or False.")
    return value


def _share(variance: Any) -> float:
    if isinstance(variance, bool) or not isinstance(variance, int | float) or not 0 <= variance < 1:
        raise SettingError(f"chunk(): variance={variance!r}. Write a number from 0 to below 1, such as 0.2.")
    return float(variance)


def _known(name: str, amount: Amount, sizes: Amount) -> Amount:
    """An amount, if each of its streams has a size."""
    streams = [stream for stream, _ in sizes]
    for stream, _ in amount:
        if EVERY not in (stream, *streams) and stream not in streams:
            raise SettingError(
                f"chunk(): {name} names the stream {stream!r}, which has no size.{nearest(stream, streams)} "
                f"Streams with a size: {', '.join(map(repr, streams))}."
            )
    return amount


def _alike(sizes: Amount, steps: Amount) -> Amount:
    """The steps for the streams of the sizes, in their order; where one is missing, it is the size."""
    streams, given = [stream for stream, _ in sizes], dict(_known("step", steps, sizes))
    if EVERY in given and len(sizes) == 1:
        return ((streams[0], given[EVERY]),)
    if (EVERY in given) != (EVERY in streams):
        write = (
            f"step={{{', '.join(f'{stream!r}: ...' for stream in streams)}}}" if EVERY in given else "both by stream"
        )
        raise SettingError(
            f"chunk(): size={_text(sizes)} and step={_text(steps)}: one is by stream, the other not. Write {write}."
        )
    return tuple((stream, given.get(stream, size)) for stream, size in sizes)


def _check_ratio(made: Chunk) -> None:
    """Refuse sizes and steps by which no sample longer than a chunk has equally many chunks in two streams."""
    (first, whole), stride = made.size[0], made.step[0][1]
    for (name, size), (_, step) in zip(made.size[1:], made.step[1:], strict=True):
        if size * stride != step * whole:
            fitting, rest = divmod(stride * size, whole)
            write = (
                f"{fitting}"
                if not rest
                else f"..., with a step of {first!r} such that step * {size} / {whole} is whole"
            )
            raise SettingError(
                f"{made!r}: the sizes of {first!r} and {name!r} are as {whole} to {size}, their steps as {stride} to "
                f"{step}, so samples would have unequal numbers of chunks. Write {name!r}: {write}."
            )


def _check_least(made: Chunk) -> None:
    sizes = dict(made.size)
    for name, least in made.least:
        size = sizes.get(name) or made.size[0][1]
        if least > size:
            raise SettingError(f"{made!r}: least={least} is above the size {size}, so that no chunk would be left.")


def _text(amount: Amount) -> str:
    plain = dict(amount)
    return repr(plain.get(EVERY, plain))
