"""The progress of a run in a terminal: a bar that is redrawn, or plain lines where the output is not a terminal."""

from __future__ import annotations

import atexit
import math
import os
import sys
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TextIO, final

from etude.arguments import named_class
from etude.errors import SettingError
from etude.listen import tally as words
from etude.listen.tally import Tally
from etude.run.events import Began, Ended, Event, Settled, Stepped

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

HELD_BACK: Final = 4096  # unread steps at most: bounds the memory between two looks at the losses
LINE_SECONDS: Final = 2.0  # between two lines inside an epoch
FEW_EPOCHS: Final = 50  # up to here every epoch has its line, however fast


@final
class Silent:
    """A listener that says nothing."""

    def __call__(self, event: Event, /) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing: there is nothing to tidy."""


@named_class
@final
class Bar:
    """A listener that shows how far the run is, how it goes and how long it will take.

    On a terminal it redraws one bar: epoch, steps, losses, learning rate, samples a second and time left; below it the
    last validation and which was the best. Elsewhere it prints plain aligned lines: one an epoch, and within long
    epochs at most one in two seconds. The losses are means over the epoch so far (where an epoch is longer than about a
    thousand steps, over about the last thousand). They are read from the device only when something is shown.

    Args:
        stream: where to write; default `sys.stdout`.
        every: seconds between two drawings of the bar, 0 for every step.

    Usable as a context manager; `close` leaves the terminal clean after an exception.
    """

    def __init__(self, stream: TextIO | None = None, every: float = 0.1) -> None:
        if isinstance(every, bool) or not isinstance(every, (int, float)) or not every >= 0:
            raise SettingError(f"Bar(every={every!r}): give the seconds between two drawings, 0 or more, as 0.1.")
        self._every = float(every)
        self._face = _face(stream, self._every)
        self._start()

    @classmethod
    def auto(cls, stream: TextIO | None = None) -> Bar | Silent:
        """A `Bar` for a person at a terminal; `Silent` in CI (the variable CI is set) and where output goes elsewhere.

        "0" and "false" count as not set.
        """
        ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
        return cls(stream) if _is_terminal(stream) and not ci else Silent()

    def _start(self) -> None:
        self._tally = Tally()
        self._pending: list[Stepped] = []
        self._due = self._face.pause

    def __call__(self, event: Event, /) -> None:
        """Take one event; draw when it is time."""
        if type(event) is Stepped:
            self._pending.append(event)
            if event.seconds >= self._due or len(self._pending) >= HELD_BACK:
                self._look(event.seconds)
        elif type(event) is not Settled:
            self._turn(event)
        elif self._tally.epoch_ended or self._tally.evaluated:
            self._tell()

    def _look(self, seconds: float) -> None:
        self._read()
        if seconds >= self._due:
            self._face.draw(self._tally)
            self._due = seconds + self._face.pause

    def _read(self) -> None:
        if self._pending:
            self._tally.steps(self._pending)
            self._pending = []

    def _turn(self, event: Event) -> None:
        """An event that is rarer than a step."""
        self._read()
        if isinstance(event, Began):
            self.close()
            self._start()
        self._tally.take(event)
        if isinstance(event, Began):
            self._face.open(self._tally)
        elif isinstance(event, Ended):
            self._face.end(self._tally, event)

    def _tell(self) -> None:
        """An epoch or an evaluation is complete, with all that followed from it."""
        if self._face.tell(self._tally):
            self._due = self._tally.seconds + self._face.pause
        self._tally.told()

    def close(self) -> None:
        """Give the terminal back as it was; what was shown last stays. Closing again does nothing."""
        self._face.close()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Face(ABC):
    """How a tally is shown. `pause` is the time between two drawings in seconds."""

    pause: float

    @abstractmethod
    def open(self, tally: Tally) -> None:
        """The run began."""

    @abstractmethod
    def draw(self, tally: Tally) -> None:
        """It is time to show where the run is."""

    @abstractmethod
    def tell(self, tally: Tally) -> bool:
        """An epoch or an evaluation is complete; True if it was shown."""

    @abstractmethod
    def end(self, tally: Tally, event: Ended) -> None:
        """The run is over."""

    @abstractmethod
    def close(self) -> None:
        """Tidy up, now or again."""


def _face(stream: TextIO | None, every: float) -> Face:
    if _is_terminal(stream) and os.environ.get("TERM") != "dumb":
        return Picture(stream, every)
    return Lines(stream, every)


def _is_terminal(stream: TextIO | None) -> bool:
    target = sys.stdout if stream is None else stream
    return target is not None and not target.closed and target.isatty()


@final
class Lines(Face):
    """Plain lines, aligned, for files and logs."""

    def __init__(self, stream: TextIO | None, every: float) -> None:
        self.pause = max(every, LINE_SECONDS)
        self._every = every
        self._stream = stream
        self._last = -math.inf
        self._written = -1.0

    def _write(self, line: str) -> None:
        target = sys.stdout if self._stream is None else self._stream
        encoding = target.encoding or "utf-8"  # a log in ASCII must not stop a run because of a name in Greek
        print(line.rstrip().encode(encoding, "replace").decode(encoding), file=target, flush=True)

    def open(self, tally: Tally) -> None:
        """The heading."""
        self._last, self._written = -math.inf, -1.0
        self._write(words.heading(tally.summary))

    def draw(self, tally: Tally) -> None:
        """A line within an epoch; at its end `tell` is about to be called."""
        if tally.progress.epoch != tally.epoch or not tally.epoch:
            self._line(tally)

    def _line(self, tally: Tally, *endings: str) -> None:
        self._last, self._written = tally.seconds, float(tally.progress.step)
        left = tally.seconds_left
        spent = words.clock(tally.seconds) + (f" of {words.clock(tally.seconds + left)}" if left > 0 else "")
        cells = [
            words.epoch_words(tally),
            words.step_words(tally).ljust(0 if tally.total_steps else 14),
            *(f"{name} {words.number(value):<9}" for name, value in tally.losses.items()),
            f"rate {words.rate(tally.rate):<8}",
            f"{words.per_second(tally.samples_per_second):>9}/s",
            f"{spent:<12}",
            f"{tally.skipped:,} skipped" if tally.skipped else "",
            words.rolled_words(tally),
            *endings,
        ]
        self._write("  ".join(cell for cell in cells if cell))

    def tell(self, tally: Tally) -> bool:
        """The line of an epoch; that of an evaluation inside an epoch if the last line is old enough."""
        pause = LINE_SECONDS
        if tally.epoch_ended:
            few = (tally.total_epochs or math.inf) <= FEW_EPOCHS
            pause = 0.0 if few else self._every
        if tally.seconds - self._last < pause:
            return False
        self._line(tally, *_news(tally))
        return True

    def end(self, tally: Tally, event: Ended) -> None:
        """The last line, if it is not there already, and how it ended."""
        if tally.seen and float(tally.progress.step) != self._written:
            self._line(tally, *_news(tally))
        tally.told()
        self._write(words.ending(tally, event))

    def close(self) -> None:
        """Nothing is left to do: every line was flushed as it was written."""


def _news(tally: Tally) -> tuple[str, str]:
    """What an epoch and an evaluation end with."""
    data = words.data_words(tally) if tally.epoch_ended else ""
    return data, words.validation_words(tally) if tally.evaluated else ""


@final
class Picture(Face):
    """A bar on a terminal, redrawn in place; what else is printed meanwhile appears above it."""

    def __init__(self, stream: TextIO | None, every: float) -> None:
        from rich.console import Console

        self.pause = every
        self._console = Console(file=stream, force_terminal=True, highlight=False)
        self._live: Live | None = None
        self._drawn = 0.0

    def open(self, tally: Tally) -> None:
        """The heading, and an empty bar below it."""
        from rich.live import Live
        from rich.text import Text

        self._console.print(Text(words.heading(tally.summary), style="bright_black"))
        shared = self._console.file in (sys.stdout, sys.stderr)  # only what goes to the same terminal is led past it
        self._live = Live(
            _rows(tally, self._console.width),
            console=self._console,
            auto_refresh=False,
            redirect_stdout=shared and _is_terminal(sys.stdout),
            redirect_stderr=shared and _is_terminal(sys.stderr),
        )
        self._live.start(refresh=True)
        atexit.register(self.close)  # a run that is abandoned must not leave the cursor hidden

    def draw(self, tally: Tally) -> None:
        """The bar as it is now."""
        if self._live is not None:
            self._live.update(_rows(tally, self._console.width), refresh=True)
            self._drawn = time.monotonic()

    def tell(self, tally: Tally) -> bool:
        """The bar as it is now, unless it was drawn just before; then the next drawing has the news."""
        if time.monotonic() - self._drawn < self.pause:
            return False
        self.draw(tally)
        return True

    def end(self, tally: Tally, event: Ended) -> None:
        """The bar as it ended, and below it why."""
        from rich.text import Text

        self.draw(tally)
        self.close()
        style = "bold red" if event.reason == "non-finite" else "bold"
        self._console.print(Text(words.ending(tally, event), style=style))

    def close(self) -> None:
        """Show the cursor again and leave the last drawing where it is."""
        if self._live is not None:
            live, self._live = self._live, None
            atexit.unregister(self.close)
            live.stop()


def _rows(tally: Tally, width: int) -> Group:
    from rich.console import Group
    from rich.text import Text

    rows = [_bar_row(tally, width)]
    told = words.data_words(tally)
    if told:
        rows.append(Text(f"last epoch: {told}", style="bright_black", no_wrap=True, overflow="ellipsis"))
    told = words.validation_words(tally)
    if told:
        rows.append(Text(told, style="cyan", no_wrap=True, overflow="ellipsis"))
    if tally.skipped:
        rolled = f"; {words.rolled_words(tally)}" if tally.rolled_back else ""
        told = f"{tally.skipped:,} skipped, the last: {tally.skip_reason}{rolled}"
        rows.append(Text(told, style="yellow", no_wrap=True, overflow="ellipsis"))
    return Group(*rows)


def _bar_row(tally: Tally, width: int) -> Any:
    """One row no wider than the terminal: as many words as fit, the bar in what is left."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    cells = _cells(tally)
    while len(cells) > 1 and _room(cells, width) < 10:
        cells.remove(max(cells, key=lambda cell: cell[0]))
    share = tally.share
    bar = ProgressBar(
        total=None if share is None else 1.0,
        completed=share or 0.0,
        width=max(4, min(40, _room(cells, width))),
        pulse=share is None,
        style="bright_black",
        complete_style="cyan",
        finished_style="green",
    )
    texts: list[Any] = [text for _, text in cells]
    texts.insert(1 if tally.epoch else 0, bar)
    row = Table.grid(padding=(0, 2, 0, 0))
    for _ in texts:
        row.add_column(no_wrap=True)
    row.add_row(*texts)
    return row


def _room(cells: list[tuple[int, Text]], width: int) -> int:
    return width - 1 - sum(len(text) + 2 for _, text in cells)


def _cells(tally: Tally) -> list[tuple[int, Text]]:
    """What stands beside the bar, in order, each with its rank: where room is short the greatest goes first."""
    from rich.text import Text

    total, left = tally.total_steps, tally.seconds_left
    cells = [(2, Text(words.epoch_words(tally)))] if tally.epoch else []
    cells.append((3 if tally.epoch and total else 1, Text(words.step_words(tally))))
    for index, (name, value) in enumerate(tally.losses.items()):
        style = "bold" if math.isfinite(value) else "bold red"
        cells.append((index and 6 + index, Text.assemble(f"{name} ", (words.number(value), style))))
    if tally.seen:
        cells.append((5, Text(f"rate {words.rate(tally.rate)}")))
        cells.append((4, Text(f"{words.per_second(tally.samples_per_second)}/s")))
    done = tally.share == 1.0 or not math.isfinite(left)
    time_words = words.clock(tally.seconds) if done else f"{words.clock(max(1.0, left))} left"
    cells.append((1, Text(time_words.ljust(9))))  # of steady width, so that the bar does not twitch
    return cells
