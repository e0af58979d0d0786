"""The pages are programs: their Python runs from top to bottom, and what they point at is there."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from etude.cli import main

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    return [code for kind, code in _BLOCK.findall(PAGES[page].read_text()) if kind == language]


def experiments(page: str) -> list[str]:
    return [code for code in blocks(page, "python") if code.startswith("# experiment.py")]


def programs(page: str) -> list[str]:
    return [code for code in blocks(page, "python") if code not in experiments(page)]


def commands(page: str) -> list[list[str]]:
    lines = [line for code in blocks(page, "sh") for line in code.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.split("#")[0].strip()]


@pytest.mark.parametrize("page", [page for page in PAGES if programs(page)])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "page.py"
    program.write_text("\n".join(programs(page)))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(program), run_name="__main__")


@pytest.mark.parametrize("page", [page for page in PAGES if experiments(page)])
def test_the_experiment_files_of_a_page_take_the_commands_shown(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "experiment.py").write_text(experiments(page)[0])
    shown = [words[1:] for words in commands(page) if words[:1] == ["etude"] and "experiment.py" in words]
    assert shown
    for words in shown:
        if "--help" in words:
            with pytest.raises(SystemExit):
                main(words)
        else:
            assert main(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_exist(page: str) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands(page):
        if words[0] == "make":
            assert set(words[1:]) <= targets, words
        elif words[0] == "etude":
            assert words[1] in ("train", "resume", "inspect", "plan", "data", "demo"), words
        elif words[0] == "python":
            assert (ROOT / words[1]).exists(), words


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    text = _BLOCK.sub("", PAGES[page].read_text())
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith(("http:", "https:")):
            assert (PAGES[page].parent / target).exists(), target


def anchors(page: str) -> set[str]:
    """What a link may point at within a page, as GitHub and mkdocs make them of headings."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", PAGES[page].read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_the_headings_that_a_page_points_at_are_there(page: str) -> None:
    for target, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", _BLOCK.sub("", PAGES[page].read_text())):
        other = (PAGES[page].parent / target).resolve() if target else PAGES[page]
        assert heading in anchors(other.relative_to(ROOT.resolve()).as_posix()), f"{target}#{heading}"


def test_stepping_by_hand_takes_less_than_twenty_lines() -> None:
    first = blocks("docs/manual_stepping.md", "python")[0]
    assert len([line for line in first.splitlines() if line.strip()]) < 20


def test_a_loop_is_resumed_by_eight_lines() -> None:
    first = blocks("docs/resuming.md", "python")[0]
    assert re.findall(r"  # (\d)$", first, re.MULTILINE) == [*"12345678"]


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < 300_000, picture
