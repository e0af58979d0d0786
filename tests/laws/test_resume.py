"""Laws of resuming: a run that was interrupted, wherever, is the run that was not, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from effort import examples
from etude import Directory, every, steps
from etude.keep.names import Name
from jobs import HAND, Job, job
from stories import Story, difference, follow

EACH_STEP = every(steps(1))


def files(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by the number of steps made; of several the first."""
    found: dict[int, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        name = Name.parse(path.name)
        assert name is not None
        found.setdefault(name.step, path)
    return found


def interrupted_everywhere(of: Job, folder: Path, some: bool = False) -> list[str]:
    """Go on from every settled step of a job (or some of them): what then differs from the run left alone."""
    whole = follow(of)
    saved = follow(of, checkpoint=Directory(folder, EACH_STEP))
    found = [f"saved at every step: {told}" for told in [difference(whole, saved, 0)] if told]
    cuts = files(folder)
    assert set(cuts) >= set(range(1, whole.steps + 1))
    for step, path in cuts.items():
        if not some or step in (1, whole.steps // 2, whole.steps):
            resumed = follow(of, resume=path)
            told = difference(whole, resumed, step) or misread(of, whole, resumed, step)
            found += [f"cut after step {step}: {told}"] if told else []
    return found


def misread(of: Job, whole: Story, resumed: Story, cut: int) -> str:
    """What is wrong with the samples that two parts of a run saw, in words; each has to be seen once in an epoch."""
    if not of.numbered:
        return ""
    seen = [(step, number) for step, own in sorted(whole.ids.items()) if step <= cut for number in own]
    seen += [(step, number) for step, own in sorted(resumed.ids.items()) if step > cut for number in own]
    numbers = [number for _, number in seen]
    for begin in range(0, len(numbers) - 9, 10):
        if sorted(numbers[begin : begin + 10]) != list(range(10)):
            return f"the samples of epoch {begin // 10} are {numbers[begin : begin + 10]}"
    return "" if len(numbers) % 10 == len(set(numbers[len(numbers) // 10 * 10 :])) else "a sample came twice"


@pytest.mark.parametrize("number", range(examples(64)))
def test_interrupted_anywhere_is_uninterrupted(number: int, tmp_path: Path) -> None:
    of = job(number)
    assert interrupted_everywhere(of, tmp_path, some=of.slow and examples(1) == 1) == [], str(of)


@pytest.mark.parametrize("title", sorted(HAND))
def test_what_is_easily_forgotten_is_not(title: str, tmp_path: Path) -> None:
    assert interrupted_everywhere(HAND[title], tmp_path) == []
