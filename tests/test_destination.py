"""Where checkpoints go: what is filled in, text, several at once, what is refused before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.errors import ScheduleError, SettingError
from etude.keep.destination import Directory, File, destinations
from etude.keep.retain import best, last, thinning
from etude.values.cadence import every
from etude.values.spans import epochs, minutes, seconds, steps

# ----------------------------------------------------------------------------------------------------- as values


@pytest.mark.parametrize("kind", [File, Directory])
def test_what_is_filled_in(kind: Any) -> None:
    plain = kind("runs/digits")
    assert (plain.cadence, plain.final, plain.when, plain.export) == (every(epochs(1)), True, None, False)
    assert plain.on_failure == "warn"
    assert kind("runs/digits", steps(5)).cadence == every(steps(5))
    assert kind("runs/digits", every(epochs(1)) | minutes(10)).cadence == every(epochs(1)) | every(minutes(10))


@pytest.mark.parametrize("kind", [File, Directory])
def test_with_a_score_it_is_saved_wherever_that_was_measured_and_not_in_the_end(kind: Any) -> None:
    waiting = kind("b.safetensors", when=best("val.loss"))
    assert (waiting.cadence, waiting.final) == (None, False)
    assert kind("b.safetensors", when=best("val.loss"), final=True).final is True
    assert kind("b.safetensors", epochs(2), when=best("val.loss")).cadence == every(epochs(2))
    assert kind("b.safetensors", final=False).final is False


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (File("a.safetensors"), "File('a.safetensors')"),
        (File(Path("runs") / "a.safetensors", epochs(1)), "File('runs/a.safetensors')"),
        (File("a", steps(5), final=False, export=True), "File('a', every(steps(5)), final=False, export=True)"),
        (File("a", when=best("val.f1", 1, "max")), "File('a', when=best('val.f1', 1, 'max'))"),
        (File("a", when=best("val.loss"), final=True), "File('a', when=best('val.loss'), final=True)"),
        (File("a", epochs(1), when=best("loss")), "File('a', every(epochs(1)), when=best('loss'))"),
        (
            Directory("runs", every(epochs(1)) | minutes(9), keep=last(2) | thinning(), on_failure="stop"),
            "Directory('runs', every(epochs(1)) | every(seconds(540)), keep=last(2) | thinning(4), on_failure='stop')",
        ),
        (Directory("../runs/"), "Directory('../runs/')"),
    ],
)
def test_a_destination_prints_as_the_call_that_makes_it(made: Any, text: str) -> None:
    names = {
        "File": File,
        "Directory": Directory,
        "every": every,
        "epochs": epochs,
        "steps": steps,
        "seconds": seconds,
        "best": best,
        "last": last,
        "thinning": thinning,
    }
    assert repr(made) == text
    assert eval(text, names) == made
    assert hash(eval(text, names)) == hash(made)


def test_the_path_is_taken_where_the_destination_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = Directory("runs/../digits/")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert made.absolute == str(tmp_path / "digits")
    assert made.path == "runs/../digits/"


# ------------------------------------------------------------------------------------------------------- several


def test_what_an_option_stands_for() -> None:
    assert destinations(None) == ()
    assert destinations([]) == ()
    assert destinations("run.safetensors") == (File("run.safetensors"),)
    assert destinations("runs/digits") == destinations(Path("runs/digits")) == (Directory("runs/digits"),)
    assert destinations("runs/v1.2") == (Directory("runs/v1.2"),)
    assert destinations(File("a")) == (File("a"),)
    assert destinations([File("a"), "runs"]) == destinations((File("a"), "runs")) == (File("a"), Directory("runs"))


def test_a_list_that_begins_with_a_kind_is_one_destination() -> None:
    assert destinations(["File", "x"]) == (File("x"),)
    assert destinations(("Directory", "x", epochs(2))) == (Directory("x", epochs(2)),)
    assert destinations([["File", "x", steps(5)], ["Directory", "y"]]) == (File("x", steps(5)), Directory("y"))
    assert destinations(["x", "File"]) == (Directory("x"), Directory("File"))


@pytest.mark.parametrize(
    "given", [["runs", "./runs/"], ["a.safetensors", File("a.safetensors")], [File("a"), Directory("a")]]
)
def test_one_place_is_given_once(given: Any) -> None:
    with pytest.raises(SettingError, match=r"are one place\. Give each a path of its own"):
        destinations(given)


def test_one_place_under_two_names_is_seen(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "link").symlink_to("runs")
    with pytest.raises(SettingError, match="are one place"):
        destinations([tmp_path / "runs", tmp_path / "link"])


# ------------------------------------------------------------------------------------------------------ refusals

REFUSED: list[tuple[Callable[[], Any], list[str]]] = [
    (lambda: File(""), ["File(''): a path is needed. Write File('run.safetensors')"]),
    (lambda: Directory(None), ["Directory(None): a path is needed. Write Directory('runs/digits')"]),  # type: ignore
    (lambda: Directory(b"runs"), ["Directory(b'runs'): a path is needed"]),  # type: ignore[arg-type]
    (lambda: Directory("a\0b"), ["a path is needed"]),
    (lambda: Directory("~/runs"), ["Directory('~/runs'): ~", "os.path.expanduser('~/runs')", "'./~/runs'"]),
    (lambda: Directory("s3://bucket/x"), ["local file systems only", "Write Directory('runs/digits')"]),
    (lambda: File("runs/"), ["that is a folder", "Directory('runs/')", "File('runs/last.safetensors')"]),
    (lambda: File(".."), ["File('..'): that is a folder"]),
    (lambda: Directory("r", 5), ["Directory('r', cadence=5): 5 of what?", "every(epochs(5))"]),  # type: ignore[arg-type]
    (lambda: File("r", True), ["File('r', cadence=True): a cadence is needed", "every(epochs(1))"]),  # type: ignore[arg-type]
    (lambda: Directory("r", last(3)), ["a cadence is needed", "keep=last(3)"]),  # type: ignore[arg-type]
    (lambda: Directory("r", keep=3), ["Directory('r', keep=3): 3 does not say", "Write last(3)"]),  # type: ignore
    (lambda: Directory("r", keep="all"), ["keep='all'): 'all' does not say", "last(2)"]),  # type: ignore[arg-type]
    (lambda: File("r", when="val.loss"), ["when='val.loss'): a score", "when=best('val.loss')"]),  # type: ignore
    (
        lambda: Directory("r", when=best("val.f1", 3, "max")),
        ["when=best('val.f1', 3, 'max'))", "Write when=best('val.f1', 1, 'max')", "keep=best('val.f1', 3, 'max')"],
    ),
    (lambda: File("r", final=1), ["File('r', final=1): True or False"]),  # type: ignore[arg-type]
    (lambda: File("r", export=None), ["File('r', export=None): True or False"]),  # type: ignore[arg-type]
    (lambda: File("r", on_failure="stopp"), ["on_failure='stopp')", '"warn" or "stop"', 'Nearest: "stop"']),
    (lambda: destinations(5), ["checkpoint=5: that is no destination", "Write Directory('runs/digits')"]),  # type: ignore
    (lambda: destinations(b"runs"), ["checkpoint=b'runs': that is no destination"]),  # type: ignore[arg-type]
    (lambda: destinations(["runs", None]), ["checkpoint=None: that is no destination"]),
    (
        lambda: destinations("runs/net.pt"),
        ["checkpoint='runs/net.pt'", "Write 'runs/net.safetensors'", "Directory('runs/net.pt')"],
    ),
    (
        lambda: destinations(["File"]),
        ["checkpoint=['File']: a path", 'File("runs/digits.safetensors", every'],
    ),
    (
        lambda: destinations(["Directory", "a", epochs(1), 3]),
        ["a path, and perhaps a cadence"],
    ),
]


@pytest.mark.parametrize(("wrong", "said"), REFUSED, ids=[said[0] for _, said in REFUSED])
def test_what_is_refused(wrong: Callable[[], Any], said: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        wrong()
    for part in said:
        assert part in str(caught.value)


def test_a_cadence_of_nothing_is_refused_as_such() -> None:
    with pytest.raises(ScheduleError, match="longer than nothing"):
        Directory("runs", steps(0))


# --------------------------------------------------------------------------------------- looked at, nothing made


def test_a_place_that_can_be_made_is_left_unmade(tmp_path: Path) -> None:
    Directory(tmp_path / "a/b/c").check()
    File(tmp_path / "a/b/c.safetensors").check()
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "link").symlink_to("runs")
    (tmp_path / "old.safetensors").write_bytes(b"old")
    Directory(tmp_path / "runs").check()
    Directory(tmp_path / "link").check()
    Directory(tmp_path / "link" / "inside").check()
    File(tmp_path / "old.safetensors").check()
    assert (tmp_path / "old.safetensors").read_bytes() == b"old"


def refused(destination: File | Directory) -> str:
    with pytest.raises(SettingError) as caught:
        destination.check()
    assert repr(destination) in str(caught.value)
    return str(caught.value)


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_bytes(b"")
    for path in ("runs", "runs/digits", "runs/a/b"):
        said = refused(Directory(tmp_path / path))
        assert f"{tmp_path}/runs is a file, and a folder is needed there" in said
    assert f"{tmp_path}/runs is a file" in refused(File(tmp_path / "runs" / "a.safetensors"))


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    said = refused(File(tmp_path))
    assert f"{tmp_path} is a folder. Write Directory({str(tmp_path)!r})" in said
    assert f"File('{tmp_path}/last.safetensors')" in said


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are of Unix")
def test_links_and_pipes_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / "link").symlink_to("target")
    os.mkfifo(tmp_path / "pipe")
    assert f"{tmp_path}/link is a link, and only a file is overwritten" in refused(File(tmp_path / "link"))
    assert f"{tmp_path}/pipe is a pipe" in refused(File(tmp_path / "pipe"))
    assert f"{tmp_path}/pipe is a pipe, and a folder is needed there" in refused(Directory(tmp_path / "pipe"))
    assert "is a device" in refused(File("/dev/null"))


def test_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert f"{tmp_path}/link is a link that leads to no folder" in refused(Directory(tmp_path / "link" / "a"))


def test_a_name_that_cannot_be(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300)
    assert f"{long} cannot be used: File name too long" in refused(File(long))
    assert "cannot be used" in refused(Directory(long / "a"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir(mode=0o500)
    assert f"nothing can be written in the folder {tmp_path}/runs" in refused(Directory(tmp_path / "runs" / "a"))
