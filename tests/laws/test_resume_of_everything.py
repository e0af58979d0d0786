"""Laws of resuming, for everything that a plan can schedule, alone and mixed: interrupted is uninterrupted."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import etude
from all_at_once import BIG, FIRST, INGREDIENTS, SECOND, compatible, mixture
from effort import examples
from etude import Directory, every, steps
from etude.keep.names import Name
from jobs import Job
from stories import Story, difference, follow

pytestmark = pytest.mark.filterwarnings("ignore")
EACH_STEP = every(steps(1))


def saved(of: Job, folder: Path) -> tuple[Story, dict[int, Path]]:
    """A job left alone, and its file after each step; saving changed no bit of it."""
    whole = follow(of)
    assert difference(whole, follow(of, checkpoint=Directory(folder, EACH_STEP)), 0) == "", "saving changed the run"
    found = {name.step: path for path in folder.glob("*.safetensors") if (name := Name.parse(path.name))}
    assert set(found) == set(range(1, whole.steps + 1))
    return whole, found


def differs(of: Job, whole: Story, files: dict[int, Path]) -> list[str]:
    """In what runs that go on from these files differ from the one that was left alone."""
    told = {step: difference(whole, follow(of, resume=path), step) for step, path in sorted(files.items())}
    return [f"cut after step {step}: {what}" for step, what in told.items() if what]


@pytest.mark.parametrize("title", BIG)
def test_everything_at_once_cut_anywhere(title: str, tmp_path: Path) -> None:
    whole, files = saved(BIG[title], tmp_path)
    assert differs(BIG[title], whole, files) == []


@pytest.mark.parametrize("title", INGREDIENTS)
def test_each_alone_cut_in_three_places(title: str, tmp_path: Path) -> None:
    of = mixture(title)
    whole, files = saved(of, tmp_path)
    assert differs(of, whole, {step: files[step] for step in (2, 5, whole.steps - 1)}) == []


MIXTURES = st.lists(st.sampled_from(sorted(INGREDIENTS)), min_size=2, max_size=9, unique=True).map(compatible)


@settings(
    max_examples=examples(8),
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(MIXTURES, st.integers(1, 8))
def test_whatever_is_mixed_cut_anywhere(tmp_path_factory: Any, names: tuple[str, ...], cut: int) -> None:
    of = mixture(*names)
    whole, files = saved(of, tmp_path_factory.mktemp("mixed"))
    step = min(cut, whole.steps)
    assert differs(of, whole, {step: files[step]}) == []


def test_everything_goes_on_in_another_process(tmp_path: Path) -> None:
    of = BIG["everything"]
    whole, files = saved(of, tmp_path)
    paths = [str(files[step]) for step in (3, 6)]
    here = Path(__file__).parents[1]
    roots = os.pathsep.join([str(here), str(Path(etude.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _ELSEWHERE, *paths],
        env={**os.environ, "PYTHONPATH": roots},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [whole_digest(whole)] * 2


def whole_digest(story: Story) -> str:
    """One line for what came out."""
    return hashlib.sha256(repr(sorted(story.end.items())).encode()).hexdigest()


_ELSEWHERE = """
import sys
import torch
torch.set_num_threads(1)
from all_at_once import BIG
from laws.test_resume_of_everything import whole_digest
from stories import follow
for path in sys.argv[1:]:
    print(whole_digest(follow(BIG["everything"], resume=path)))
"""


@pytest.mark.parametrize("title", BIG)
def test_the_net_that_was_trained_so_far_goes_on(title: str, tmp_path: Path) -> None:
    """As in a notebook: the same net, whose attributes the knobs have turned."""
    whole, files = saved(BIG[title], tmp_path)
    net, names = BIG[title].net(1), {"everything": FIRST, "everything else": SECOND}[title]
    of = mixture(*names, net=lambda seed: net)
    follow(of, leave=3)
    assert differs(of, whole, {3: files[3]}) == []


def test_interrupted_twice(tmp_path: Path) -> None:
    of = BIG["everything else"]
    whole, files = saved(of, tmp_path / "whole")
    middle = tmp_path / "middle"
    follow(of, resume=files[2], checkpoint=Directory(middle, EACH_STEP), leave=5)
    again = {name.step: path for path in middle.glob("*.safetensors") if (name := Name.parse(path.name))}
    assert differs(of, whole, {4: again[4], 5: again[5]}) == []


def test_left_and_gone_on_with_at_every_step(tmp_path: Path) -> None:
    of = BIG["everything"]
    whole, saving = follow(of), {"checkpoint": Directory(tmp_path, EACH_STEP), "resume": "auto"}
    told = [follow(of, leave=step, seed=1 if step == 1 else None, **saving) for step in range(1, whole.steps + 1)]
    assert [difference(whole, story, step) for step, story in enumerate(told)] == [""] * whole.steps
    assert difference(whole, follow(of, **saving), whole.steps) == ""
