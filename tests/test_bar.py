"""What a person sees of a run in a terminal and in a log."""

from __future__ import annotations

import io
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from etude.errors import SettingError
from etude.listen.bar import Bar, Silent
from etude.run.events import Began, Ended, EpochEnded, Event, Settled, Skipped
from etude.values.progress import Extent, Progress
from told import Terminal, a_run, at, reads_of, stepped

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def printed(*events: Event, every: float = 0.1) -> list[str]:
    stream = io.StringIO()
    bar = Bar(stream, every)
    for event in events:
        bar(event)
    bar.close()
    return stream.getvalue().splitlines()


def drawn(*events: Event, every: float = 0.0) -> str:
    """What a terminal got, without colours and movements; every drawing after the other."""
    stream = Terminal()
    bar = Bar(stream, every)
    for event in events:
        bar(event)
    bar.close()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n")


# plain lines


def test_a_log_has_a_heading_a_line_for_every_epoch_and_an_ending() -> None:
    lines = printed(*a_run(epochs=3, per_epoch=10, summary={"parameters": 7}))
    assert lines[0] == "training 7 parameters"
    assert [line[:17] for line in lines[1:4]] == ["epoch 1/3  10/30 ", "epoch 2/3  20/30 ", "epoch 3/3  30/30 "]
    assert lines[4] == "finished: 30 steps in 0.30 s, best validation loss 0.3333 at epoch 3"
    assert len(lines) == 5


def test_a_line_tells_losses_rate_speed_time_and_validation() -> None:
    line = printed(*a_run(epochs=2, per_epoch=10))[1]
    assert re.fullmatch(
        r"epoch 1/2  10/20  loss 0\.2929     rate 1\.00e-03      3,200/s  0\.10 s of 0\.20 s  "
        r"validation loss 1\.000  accuracy 0\.5000  best",
        line,
    )


def with_data(events: list[Event], data: dict[str, float]) -> list[Event]:
    return [replace(event, data=data) if isinstance(event, EpochEnded) else event for event in events]


def test_the_line_of_an_epoch_tells_padding_and_what_was_left_out() -> None:
    events = with_data(list(a_run(epochs=2, per_epoch=10)), {"padding.audio": 0.021, "left_out": 12.0})
    told = printed(*events)
    assert [line.partition("  padding ")[2].partition("  validation")[0] for line in told[1:3]] == [
        "2.1%, 12 left out",
        "2.1%, 12 left out",
    ]
    assert "padding" not in told[0] + told[3]


def test_lines_inside_an_epoch_do_not_tell_of_the_last_one() -> None:
    events = with_data(list(a_run(epochs=2, per_epoch=1000, step_seconds=0.01)), {"padding.audio": 0.021})
    told = [line for line in printed(*events) if "padding" in line]
    assert [line[:9] for line in told] == ["epoch 1/2", "epoch 2/2"]
    assert len(told) < len(printed(*events)) - 2


def test_the_bar_has_padding_below_it() -> None:
    events = with_data(list(a_run(epochs=2, per_epoch=10)), {"padding.audio": 0.021, "left_out": 12.0})
    assert "last epoch: padding 2.1%, 12 left out" in drawn(*events)
    assert "last epoch" not in drawn(*a_run(epochs=2, per_epoch=10))


def test_the_lines_of_a_log_are_aligned() -> None:
    lines = printed(*a_run(epochs=12, per_epoch=400, step_seconds=0.01))[1:-1]
    assert len(lines) == 24  # one every two seconds of four, and one for each epoch
    for word in ("loss", "rate", "/s"):
        assert len({line.index(word) for line in lines}) == 1


def test_lines_inside_an_epoch_are_two_seconds_apart() -> None:
    lines = printed(*a_run(epochs=1, per_epoch=1000, step_seconds=0.01, validate=False))[1:-1]
    assert [int(re.search(r"([\d,]+)/1,000", line)[1].replace(",", "")) for line in lines] == [200, 400, 600, 800, 1000]  # type: ignore[index]


def test_many_quick_epochs_do_not_flood_a_log() -> None:
    lines = printed(*a_run(epochs=1000, per_epoch=2, step_seconds=0.0005))
    assert 10 <= len(lines) <= 15
    assert lines[-2].startswith("epoch 1000/1000  2,000/2,000")


def test_an_evaluation_inside_an_epoch_is_told() -> None:
    from etude.run.events import Evaluated

    extent = Extent(steps=1000, epochs=1)
    events: list[Event] = [Began(at(0, 1000, extent))]
    for step in (100, 400):
        now = at(step, 1000, extent)
        events += [stepped(now, step / 100), Evaluated(now, {"loss": 0.5}, step == 100), Settled(now)]
    lines = printed(*events, every=60)
    assert lines[1].endswith("validation loss 0.5000  best")
    assert lines[2].endswith("validation loss 0.5000  (best loss 0.5000 at step 100)")


def test_a_stream_of_unknown_length_has_neither_epochs_nor_totals() -> None:
    steps = [stepped(Progress(step, 0.0, step * 32, 0), step * 0.01) for step in range(1, 601)]
    lines = printed(Began(Progress()), *steps, Ended(Progress(600, 0.0, 600 * 32, 0), "stopped", "the data ended"))
    assert [line.split("  ")[0] for line in lines[1:-1]] == ["step 200", "step 400", "step 600"]
    assert lines[-1] == "the data ended: 600 steps in 0:06"


def test_losses_that_are_not_numbers_are_shown_as_they_are() -> None:
    line = printed(*a_run(epochs=1, per_epoch=10, nan_from=4, validate=False))[1]
    assert "loss 0.2929" in line  # the mean that the epoch ended with, as the run told it
    steps = [stepped(at(step), step * 1.0, loss=math.nan) for step in range(1, 4)]
    assert "loss nan " in printed(Began(at(0)), *steps)[1]


def test_several_terms_are_shown() -> None:
    lines = printed(Began(at(0)), stepped(at(1), 3.0, loss=1.0, ce=0.75, kl=0.25))
    assert "loss 1.000      ce 0.7500     kl 0.2500 " in lines[1]


def test_updates_that_take_turns_are_told_apart() -> None:
    turns = [
        stepped(at(step), step * 1.0, updates=(name,), **{"loss": value, f"{name}.loss": value})
        for step, name, value in ((1, "critic", 1.5), (2, "generator", 0.5))
    ]
    lines = printed(Began(at(0), {"updates": ("critic", "generator")}), *turns)
    assert "critic.loss 1.500      generator.loss 0.5000 " in lines[1]
    assert " loss " not in lines[1]


def test_skipped_steps_are_told() -> None:
    lines = printed(
        Began(at(0)), Skipped(at(1), "NaN in fc1.weight"), stepped(at(2), 3.0), Ended(at(2), "finished", "")
    )
    assert lines[1].endswith("1 skipped")
    assert lines[2] == "finished: 2 steps in 0:03, 1 skipped (NaN in fc1.weight)"


def test_a_run_too_short_to_draw_still_has_its_last_line() -> None:
    lines = printed(Began(at(0)), stepped(at(1), 0.001), stepped(at(2), 0.002), Ended(at(2), "finished", ""))
    assert len(lines) == 3
    assert "loss 1.000" in lines[1]


def test_a_run_without_a_step_has_no_line() -> None:
    lines = printed(Began(at(0), {"parameters": 3}), Ended(at(0), "frozen", "every array is frozen"))
    assert lines == ["training 3 parameters", "every array is frozen: 0 steps in 0.00 s"]


def test_a_log_in_ascii_takes_words_in_greek() -> None:
    written = io.BytesIO()
    bar = Bar(io.TextIOWrapper(written, encoding="ascii"))
    bar(Began(at(0), {"optimizer": "λ"}))
    assert written.getvalue() == b"training ?\n"


# a terminal


def test_a_terminal_shows_one_bar() -> None:
    screen = drawn(*a_run(epochs=2, per_epoch=10, summary={"parameters": 7}))
    assert "training 7 parameters" in screen
    bar = r"epoch 2/2  [━╸╺ ]+  15/20  loss 0\.\d+  rate 1\.00e-03  3,200/s  0:01 left"
    assert re.search(bar, screen)
    assert "validation loss 0.5000  accuracy 0.7500  best" in screen
    assert "finished: 20 steps in 0.20 s" in screen


def test_the_cursor_is_hidden_while_the_bar_is_drawn_and_shown_after() -> None:
    stream = Terminal()
    bar = Bar(stream)
    bar(Began(at(0)))
    assert stream.getvalue().count(HIDE) == 1
    assert SHOW not in stream.getvalue()
    bar.close()
    bar.close()
    assert stream.getvalue().count(SHOW) == 1


def test_an_exception_leaves_the_terminal_clean() -> None:
    stream = Terminal()

    def broken() -> None:
        with Bar(stream) as bar:
            bar(Began(at(0)))
            bar(stepped(at(1), 1.0))
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        broken()
    assert stream.getvalue().count(SHOW) == 1
    assert stream.getvalue().endswith(SHOW)


def test_a_bar_elsewhere_leaves_standard_output_alone(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Terminal()
    with Bar(stream) as bar:
        bar(Began(at(0)))
        print("a word of the user")
    assert capsys.readouterr().out == "a word of the user\n"
    assert "user" not in stream.getvalue()


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_the_bar_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = [line for line in drawn(*a_run(epochs=2, per_epoch=10)).splitlines() if "━" in line]
    assert lines
    assert max(len(line.rstrip()) for line in lines) < width
    assert all("loss" in line for line in lines[1:])


def test_a_stream_pulses_without_end() -> None:
    steps = [stepped(Progress(step, 0.0, step * 32, 0), step * 0.01) for step in range(1, 21)]
    screen = drawn(Began(Progress()), *steps)
    assert "step 20  loss 1.000" in screen
    assert "epoch" not in screen
    assert "left" not in screen


def test_the_bar_is_drawn_at_its_cadence() -> None:
    events = list(a_run(epochs=1, per_epoch=100, step_seconds=0.01, validate=False))
    assert drawn(*events, every=0.25).count("rate") == 6  # at 0.25, 0.5, 0.75, 1 s, at the end and when it is left


def test_losses_are_read_only_when_something_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = reads_of(monkeypatch)
    bar = Bar(Terminal(), every=1.0)
    bar(Began(at(0)))
    for step in range(1, 250):
        bar(stepped(at(step, 10**6), step * 0.01))
        bar(Settled(at(step, 10**6)))
    bar.close()
    assert reads == [100, 100]


def test_losses_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = reads_of(monkeypatch)
    bar = Bar(Terminal(), every=1e9)
    step = stepped(at(1))
    for _ in range(10_000):
        bar(step)
    assert reads == [4096, 4096]


def test_one_bar_can_show_two_runs() -> None:
    lines = printed(*a_run(epochs=1), *a_run(epochs=1))
    assert len(lines) == 6
    assert lines[:3] == lines[3:]


def test_a_step_costs_little_while_nothing_is_drawn() -> None:
    bar = Bar(Terminal(), every=1e9)
    bar(Began(at(0)))
    steps = [stepped(at(step, 10**6), 0.0) for step in range(1, 4001)]
    fastest = math.inf
    for _ in range(5):
        bar._start()
        started = time.perf_counter()
        for step in steps:
            bar(step)
        fastest = min(fastest, (time.perf_counter() - started) / len(steps))
    assert fastest < 3e-6


# whether and where


def test_auto_is_silent_in_ci_and_where_output_is_not_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    assert isinstance(Bar.auto(io.StringIO()), Silent)
    assert isinstance(Bar.auto(Terminal()), Bar)
    monkeypatch.setenv("CI", "true")
    assert isinstance(Bar.auto(Terminal()), Silent)
    monkeypatch.setenv("CI", "0")
    assert isinstance(Bar.auto(Terminal()), Bar)


def test_silent_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    listener = Silent()
    for event in a_run():
        listener(event)
    listener.close()
    assert capsys.readouterr().out == ""


def test_the_default_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar()
    for event in a_run(epochs=1):
        bar(event)
    assert "epoch 1/1  10/10" in capsys.readouterr().out


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    bar = Bar(stream)
    for event in a_run(epochs=1):
        bar(event)
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("every", [-1, math.nan, "fast", True, None])
def test_a_cadence_that_is_none_is_refused(every: object) -> None:
    with pytest.raises(SettingError, match="give the seconds between two drawings"):
        Bar(every=every)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are of Unix")
def test_prints_and_errors_of_a_real_terminal_appear_above_the_bar_and_the_cursor_comes_back(tmp_path: Path) -> None:
    import pty

    script = tmp_path / "run.py"
    script.write_text(
        "from told import at, reads_of, stepped\n"
        "from etude.listen.bar import Bar\n"
        "from etude.run.events import Began\n"
        "bar = Bar(every=0)\n"
        "bar(Began(at(0)))\n"
        "bar(stepped(at(1), 1.0))\n"
        "print('a word of the user')\n"
        "bar(stepped(at(2), 2.0))\n"
        "raise SystemExit('boom')\n"
    )
    ours, theirs = pty.openpty()
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "TERM": "xterm", "COLUMNS": "100"}
    run = subprocess.run([sys.executable, str(script)], stdout=theirs, stderr=theirs, env=environment, check=False)
    os.close(theirs)
    text = os.read(ours, 65536).decode()
    os.close(ours)
    assert run.returncode == 1
    assert "a word of the user" in text
    assert text.count(HIDE) == 1
    assert text.rindex(SHOW) > text.rindex("loss")
