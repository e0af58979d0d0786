"""Laws of broken numbers: wherever they come, nothing that is kept has seen them, and a resumed run is the whole."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import etude
from effort import examples
from etude import Directory, Run, ema, every, steps
from etude.errors import NonFiniteError
from etude.run.events import RolledBack, Skipped, Stepped
from etude.step.policies import Policy, policy, roll_back, skip
from etude.step.reading import samples_in
from etude.step.splitting import halves, size_of
from small import Noisy, arrays, close, mlp, same

LENGTH = 12
"""Steps of a run."""

UNLIMITED = LENGTH + 1
policies = st.one_of(
    st.just(policy("skip")),
    st.builds(skip, st.integers(0, 3)),
    st.builds(
        roll_back,
        st.sampled_from([0.5, 1.0]),
        st.sampled_from([steps(1), steps(2), steps(3), etude.epochs(1), etude.samples(10)]),
        st.sampled_from([1, 2, UNLIMITED]),
    ),
)
bad_steps = st.sets(st.integers(1, LENGTH))
ways: dict[str, dict[str, Any]] = {
    "adamw": {},
    "momentum": {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1},
    "torch's": {"optimizer": "torch.rmsprop"},
    "in turns": {"update_schedule": ["body", "head"]},
    "carried": {"update_schedule": ["body", "head"], "carry": "sum", "optimizer": "sgd", "learning_rate": 0.05},
    "averaged": {"averages": ema(0.7)},
    "accumulated": {"accumulate": 2, "batch_size": 2},
}


def data(bad: set[int]) -> tuple[Tensor, Tensor]:
    """24 samples; in their order in two epochs of batches of four, the first of these steps see NaN in both."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(24, 4, generator=generator)
    x[[4 * ((number - 1) % 6) for number in bad]] = torch.nan
    return x, torch.randint(0, 3, (24,), generator=generator)


def plan(made: Policy, way: str, **more: Any) -> etude.Plan:
    options = {"batch_size": 4, **ways[way], **more}
    return etude.Plan("cross_entropy", epochs=2, shuffle=False, non_finite=made, **options)


def carried_out(made: Policy, way: str, bad: set[int], **more: Any) -> tuple[Run, list[Any], str]:
    """A run, its events, and how it ended."""
    run, seen = Run(plan(made, way, **more), Noisy(), data(bad)), []
    try:
        for event in run:
            seen.append(event)
    except NonFiniteError as error:
        return run, seen, str(error)
    return run, seen, "finished"


@pytest.mark.parametrize("way", ways)
@given(made=policies, bad=bad_steps)
@settings(max_examples=examples(12), deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_kept_is_finite_and_what_is_skipped_is_counted_in_nothing(
    way: str, made: Policy, bad: set[int]
) -> None:
    run, seen, ended = carried_out(made, way, bad)
    for name, array in arrays(run.net).items():
        assert torch.isfinite(array).all(), name
    for tensors in run._going.state()[1].values():
        assert tensors.dtype == torch.float64 or torch.isfinite(tensors).all(), "only the history tells of NaN"
    moved = [int(event.progress.step) for event in seen if isinstance(event, Stepped)]
    left = [int(event.progress.step) for event in seen if isinstance(event, Skipped)]
    every_step = sorted(moved + left)
    assert every_step == list(range(1, len(every_step) + 1))
    assert {step % 6 for step in left} <= {step % 6 for step in bad}
    assert (ended == "finished") == (len(every_step) == LENGTH)
    back = [event for event in seen if isinstance(event, RolledBack)]
    assert len(back) == (len(left) if made.goes_back else 0)
    for number, event in enumerate(back, 1):
        assert event.factor == made.factor**number
        assert event.to_step < event.progress.step
        assert event.to_step == 0 or event.to_step in moved


@pytest.mark.parametrize("way", ways)
@given(made=policies, bad=bad_steps, cut=st.integers(1, LENGTH))
@settings(max_examples=examples(8), deadline=None, suppress_health_check=list(HealthCheck))
def test_interrupted_anywhere_is_uninterrupted(
    way: str, made: Policy, bad: set[int], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole, events, ended = carried_out(made, way, bad)
    saving, _, other = carried_out(made, way, bad, checkpoint=Directory(folder, every(steps(1)), keep=None))
    assert same(arrays(whole.net), arrays(saving.net)), "saving changed the run"
    files = {int(path.name.split("_")[-2]): path for path in Path(folder).glob("*.safetensors")}
    if cut not in files:
        return
    resumed, rest, again = Run(plan(made, way), Noisy(7), data(bad), resume=files[cut]), [], "finished"
    try:
        for event in resumed:
            rest.append(event)
    except NonFiniteError as error:
        again = str(error)
    assert again == ended
    assert other.startswith(ended.removesuffix("."))
    assert same(arrays(resumed.net), arrays(whole.net))
    told = [event for event in events if isinstance(event, Stepped | Skipped | RolledBack)]
    told = [event for event in told if event.progress.step > cut]
    found = [event for event in rest if isinstance(event, Stepped | Skipped | RolledBack)]
    assert [_facts(event) for event in found] == [_facts(event) for event in told]


def _facts(event: Any) -> Any:
    if isinstance(event, Stepped):
        return event.progress, event.rate, event.updates, {name: float(own) for name, own in event.losses.items()}
    return event.progress, repr(event).split("losses")[0]


@pytest.mark.parametrize("way", ways)
def test_without_broken_numbers_every_policy_is_the_same_run(way: str) -> None:
    found = [arrays(carried_out(made, way, set())[0].net) for made in (policy("apply"), skip(2), roll_back())]
    assert same(found[0], found[1])
    assert same(found[0], found[2])


# ------------------------------------------------------------------------------------------------------ memory, split


class Room(nn.Module):
    """A net for which there is no memory above `room` samples in training."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.inside, self.room = mlp(), room

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) > self.room:
            raise torch.OutOfMemoryError("no room")
        made: Tensor = self.inside(x)
        return made


@given(room=st.integers(1, 9), size=st.integers(1, 9), accumulate=st.integers(1, 3))
@settings(max_examples=examples(25), deadline=None)
def test_a_run_that_splits_is_the_run_with_room_enough(room: int, size: int, accumulate: int) -> None:
    options: dict[str, Any] = {
        "loss": {"a": "cross_entropy", "b": (lambda output: output.square().sum(1), 0.1)},
        "batch_size": size,
        "accumulate": accumulate,
        "epochs": 2,
        "shuffle": False,
        "progress": False,
        "optimizer": "sgd",
        "learning_rate": 0.1,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        split = etude.train(Room(room), data(set()), out_of_memory="split", **options)
    whole = etude.train(Room(99), data(set()), **options)
    assert close(arrays(split.net), arrays(whole.net), 1e-5)


@given(lengths=st.lists(st.integers(0, 4), min_size=2, max_size=9), packed=st.booleans())
@settings(max_examples=examples(60), deadline=None)
def test_halves_hold_all_of_a_batch_in_order(lengths: list[int], packed: bool) -> None:
    told = torch.tensor(lengths)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), told.cumsum(0)])
    frames = torch.arange(float(starts[-1]))
    batch: dict[str, Tensor] = {"x": frames, "x_offsets": starts} if packed else {"x": torch.randn(len(lengths), 4)}
    batch |= {"x_lengths": told, "y": torch.arange(len(lengths))}

    def pieces(values: Any) -> list[Any]:
        return [values] if samples_in(values) < 2 else [part for half in halves(values) for part in pieces(half)]

    parts = pieces(batch)
    assert [samples_in(part) for part in parts] == [1] * len(lengths)
    for name in ("x", "x_lengths", "y"):
        assert torch.equal(torch.cat([part[name] for part in parts]), batch[name])
    assert all(size_of(part) <= size_of(batch) for part in parts)
    if packed:
        assert [part["x_offsets"].tolist() for part in parts] == [[0, length] for length in lengths]
