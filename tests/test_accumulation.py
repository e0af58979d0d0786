"""Steps of several micro-batches in a run: as the unsplit batch, exact by counts, resumed to the bit.

Also: data that cannot be read end a run whose state is saved.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import Dataset

import etude
from effort import examples
from etude import Directory, Update, cycle, epochs, every, part, pieces, steps
from etude.errors import DataError, NonFiniteError, PlanError, ScheduleError, SettingError
from etude.run.agreement import facts
from etude.run.events import EpochEnded, Settled, Skipped, Stepped
from small import Noisy, arrays, classified, close, mlp, options, run, same, trained

EVERY_STEP = every(steps(1))


class Parts:
    """Batches of given sizes, one epoch: slices of arrays, in order."""

    def __init__(self, values: Any, sizes: list[int]) -> None:
        self.values, self.sizes = values, sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Any]:
        start = 0
        for size in self.sizes:
            yield each(self.values, slice(start, start + size))
            start += size


def each(values: Any, where: slice) -> Any:
    if isinstance(values, dict):
        return {key: value[where] for key, value in values.items()}
    return tuple(value[where] for value in values)


def sizes_of(output: Tensor) -> Tensor:
    """One value a sample."""
    return (output**2).mean(1)


def pairs(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """A sum over the samples of class 0 or 1, and how many these are."""
    chosen = target < 2
    return (output[:, 0] ** 2 * chosen).sum(), chosen.sum()


def size(output: Tensor) -> Tensor:
    """A mean over samples."""
    return sizes_of(output).mean()


def scalar(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, target, label_smoothing=0.1)


LOSSES: dict[str, Any] = {
    "one of torch": "cross_entropy",
    "one of one's own": scalar,
    "a pair": pairs,
    "one value a sample": sizes_of,
    "several that are told": {"ce": "cross_entropy", "size": (size, 0.3)},
    "several that are not": {"ce": "cross_entropy", "pairs": (pairs, 0.5), "sizes": (sizes_of, 0.2)},
    "with a schedule": {"ce": "cross_entropy", "sizes": (sizes_of, cycle(0.1, 0.7))},
    "of classes with weights": {"ce": nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0])), "sizes": sizes_of},
}


def events(net: nn.Module, data: Any, **changed: Any) -> list[Any]:
    plan = {"optimizer": "sgd", "learning_rate": 0.3, "momentum": 0.9, "shuffle": False, "epochs": 3, **changed}
    return list(etude.Run(etude.Plan(**plan), net, data))


def of_kind(kind: type, told: list[Any]) -> list[Any]:
    return [event for event in told if isinstance(event, kind)]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("sizes", [[4, 4, 4, 4], [1, 7, 2, 2, 3, 1]], ids=["even", "ragged"])
def test_several_micro_batches_are_the_unsplit_batch(name: str, sizes: list[int]) -> None:
    x, y = classified(16)
    if "classes" not in name:
        y[3] = -100 if name in ("one of torch", "several that are told") else y[3]
    split, whole = mlp(), mlp()
    one = events(split, Parts((x, y), sizes), loss=LOSSES[name], accumulate=8, clip_norm=0.5)
    other = events(whole, Parts((x, y), [16]), loss=LOSSES[name], clip_norm=0.5)
    assert close(arrays(split), arrays(whole))
    for mine, theirs in zip(of_kind(Stepped, one), of_kind(Stepped, other), strict=True):
        assert mine.progress == theirs.progress
        assert mine.samples == theirs.samples
        assert {key: float(value) for key, value in mine.losses.items()} == pytest.approx(
            {key: float(value) for key, value in theirs.losses.items()}, rel=1e-5
        )
    for mine, theirs in zip(of_kind(EpochEnded, one), of_kind(EpochEnded, other), strict=True):
        assert mine.means == pytest.approx(theirs.means, rel=1e-5)


def test_padded_frames_and_micro_batches_in_which_nothing_counts() -> None:
    """Sequences are split as they come, one of them without a frame; each term has its own count."""

    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            frames = self.body(x)
            return {"y": frames.movedim(-1, 1), "z": frames[..., 0]}

    lengths = torch.tensor([3, 0, 5, 1])
    generator = torch.Generator().manual_seed(2)
    values = {
        "x": torch.randn(4, 5, 4, generator=generator),
        "x_lengths": lengths,
        "y": torch.randint(0, 3, (4, 5), generator=generator),
        "y_lengths": lengths,
        "z": torch.randn(4, 5, generator=generator),
        "z_lengths": torch.tensor([0, 0, 2, 1]),
    }
    split, whole = Frames(), Frames()
    loss = {"y": "cross_entropy", "z": ("mse", 0.7)}
    events(split, Parts(values, [1, 1, 2]), loss=loss, accumulate=3)
    events(whole, Parts(values, [4]), loss=loss)
    assert close(arrays(split), arrays(whole))
    split, whole = Frames(), Frames()
    events(split, Parts(values, [1, 1, 2]), loss={"y": "cross_entropy"}, accumulate=3)
    events(whole, Parts(values, [4]), loss={"y": "cross_entropy"})
    assert close(arrays(split), arrays(whole))


def test_a_step_in_which_nothing_counts_is_refused_as_without_splitting() -> None:
    x, y = classified(8)
    y[4:] = -100
    for loss in ("cross_entropy", {"ce": "cross_entropy", "sizes": sizes_of}):
        net = mlp()
        told = events(net, Parts((x, y), [2, 2, 2, 2]), loss=loss, accumulate=2, non_finite="skip", epochs=1)
        kinds_ = [type(event).__name__ for event in told if isinstance(event, Stepped | Skipped)]
        assert kinds_ == ["Stepped", "Skipped"]
        with pytest.raises(NonFiniteError, match="a mean over nothing: every target is ignored"):
            events(mlp(), Parts((x, y), [2, 2, 2, 2]), loss=loss, accumulate=2, epochs=1)
        clean = mlp()
        events(clean, Parts((x, y), [4, 4]), loss=loss, non_finite="skip", epochs=1)
        assert close(arrays(net), arrays(clean))


def test_what_is_left_at_the_end_of_an_epoch_is_a_step_of_its_own() -> None:
    told = list(run(mlp(), classified(10), accumulate=2, epochs=2, batch_size=2))
    stepped = of_kind(Stepped, told)
    assert [event.samples for event in stepped] == [4, 4, 2] * 2
    assert [event.progress.step for event in stepped] == [1, 2, 3, 4, 5, 6]
    assert [event.progress.epoch for event in stepped] == pytest.approx([0.4, 0.8, 1, 1.4, 1.8, 2])
    assert [event.progress.samples for event in stepped] == [4, 8, 10, 14, 18, 20]
    assert stepped[-1].progress.fraction == 1
    assert len(of_kind(Settled, told)) == 6
    assert [event.epoch for event in of_kind(EpochEnded, told)] == [1, 2]


def test_the_number_of_steps_is_known() -> None:
    def extent(**changed: Any) -> Any:
        made = etude.Plan(**options(batch_size=2, **changed)).check(mlp(), classified(10)).extent
        return made.steps, made.epochs, made.samples

    assert extent(accumulate=2, epochs=4) == (12, 4, 40)
    assert extent(accumulate=5, epochs=4) == (4, 4, 40)
    assert extent(accumulate=2, steps=6) == (6, 2, 20)
    assert extent(accumulate=pieces(1, (epochs(1), 2)), epochs=4) == (None, 4, 40)
    assert extent(accumulate=cycle(1, 2), steps=6) == (6, None, None)


def test_a_schedule_says_how_many() -> None:
    told = list(run(mlp(), classified(12), accumulate=pieces(1, (epochs(1), 3)), epochs=2, batch_size=2))
    assert [event.samples for event in of_kind(Stepped, told)] == [2] * 6 + [6, 6]
    told = list(run(mlp(), classified(12), accumulate=lambda p: 1 + int(p.step) % 2, steps=4, batch_size=2))
    assert [event.samples for event in of_kind(Stepped, told)] == [2, 4, 2, 4]


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "two", None])
def test_a_number_that_is_none_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises((SettingError, ScheduleError), match="accumulate"):
        etude.Plan("mse", epochs=1, accumulate=wrong)


def test_a_schedule_that_gives_no_whole_numbers_is_refused_before_the_first_step() -> None:
    with pytest.raises(SettingError, match=r"accumulate=1\.5: a whole number"):
        etude.Plan(**options(accumulate=pieces(1, (epochs(0.5), 1.5)))).check(mlp(), classified())
    with pytest.raises(SettingError, match="listens to metrics"):
        etude.Plan(**options(accumulate=etude.plateau("val.loss"), validation=0.5)).check(mlp(), classified())


def test_what_is_not_possible_together_is_said_in_one_error() -> None:
    updates = [
        Update("body", "cross_entropy", part(0), optimizer="lbfgs"),
        Update("head", "cross_entropy", part(2), own_batch=True),
    ]
    with pytest.raises(PlanError, match=r"LBFGS, which .*Update\('head', own_batch=True\).*larger batch_size"):
        etude.Plan(updates=updates, epochs=1, accumulate=2).check(mlp(), classified())


def test_one_batch_a_step_says_nothing() -> None:
    plain, said = etude.Plan(**options()), etude.Plan(**options(accumulate=1))
    assert plain.options() == said.options()
    of = [facts(plan.check(mlp(), classified())) for plan in (plain, said, etude.Plan(**options(accumulate=2)))]
    assert of[0] == of[1]
    assert "accumulate" not in of[0]
    assert of[2]["accumulate"] == "2"


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp64"])
def test_in_other_numbers(precision: str) -> None:
    split, whole = mlp(), mlp()
    data = classified(16)
    events(split, Parts(data, [8, 8]), loss="cross_entropy", accumulate=2, precision=precision, epochs=2)
    events(whole, Parts(data, [16]), loss="cross_entropy", precision=precision, epochs=2)
    assert not same(arrays(split), arrays(mlp()))
    assert close(arrays(split), arrays(whole), 1e-2)


def test_several_updates_act_on_all_micro_batches() -> None:
    def updates() -> list[Update]:
        return [
            Update("first", "cross_entropy", part(0), optimizer="sgd", learning_rate=0.1, turn=cycle(1, 2)),
            Update("last", {"ce": "cross_entropy", "size": sizes_of}, part(2), optimizer="sgd", learning_rate=0.1),
        ]

    split, whole = mlp(), mlp()
    data = classified(16)
    for net, sizes, number in ((split, [5, 3, 6, 2], 2), (whole, [8, 8], 1)):
        plan = etude.Plan(updates=updates(), epochs=2, accumulate=number)
        list(etude.Run(plan, net, Parts(data, sizes)))
    assert close(arrays(split), arrays(whole))


def test_a_step_in_which_nothing_moves_is_measured_over_all() -> None:
    with pytest.warns(UserWarning, match="moves nothing"):
        told = events(
            mlp(),
            Parts(classified(16), [5, 3, 6, 2]),
            loss="cross_entropy",
            accumulate=2,
            update_schedule=[part(0), part(2)],
            learning_rate_multipliers={part(0): 0},
        )
    first = of_kind(Stepped, told)[0]
    x, y = classified(16)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(mlp()(x[:8]), y[:8])
    assert first.updates == ()
    assert float(first.losses["loss"]) == pytest.approx(float(expected))


# what is not finite


def test_a_refused_step_leaves_no_trace_of_its_micro_batches() -> None:
    x, y = classified(16)
    bad = x.clone()
    bad[13] = float("nan")
    net, clean = Noisy(), Noisy()
    before = arrays(net)
    told = events(net, Parts((bad, y), [4, 4, 4, 4]), loss="cross_entropy", accumulate=4, non_finite="skip", epochs=1)
    assert len(of_kind(Skipped, told)) == 1
    assert same(arrays(net), before)
    with pytest.raises(NonFiniteError, match=r"The batch has NaN or infinity in batch\[0\]") as caught:
        events(clean, Parts((bad, y), [4, 4, 4, 4]), loss="cross_entropy", accumulate=4, epochs=1)
    assert caught.value.rows == (13,)
    assert same(arrays(clean), before)
    assert all(parameter.grad is None for parameter in clean.parameters())


class Items(Dataset[Any]):
    """Items of which some are not finite, cannot be read, or end the worker that reads them."""

    def __init__(self, n: int, bad: dict[int, str]) -> None:
        self.x, self.y = classified(n)
        self.bad = bad

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Any:
        kind = self.bad.get(index)
        if kind == "unreadable":
            raise OSError(f"item {index} is broken")
        if kind == "killed" and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return (self.x[index] * float("nan") if kind == "nan" else self.x[index]), self.y[index]


def test_samples_that_are_not_finite_are_named_in_the_data() -> None:
    data = Items(16, {13: "nan"})
    with pytest.raises(NonFiniteError, match=r"Samples: 13\."):
        events(mlp(), data, loss="cross_entropy", accumulate=2, batch_size=4, epochs=1)


def test_counts_that_change_are_told() -> None:
    calls = iter(range(100))

    def fickle(output: Tensor, target: Tensor) -> tuple[Tensor, int]:
        return output.sum(), 1 + next(calls)

    loss = {"ce": "cross_entropy", "fickle": fickle}
    with pytest.raises(SettingError, match=r"The loss 'fickle' is a mean over .* was told beforehand"):
        events(mlp(), Parts(classified(8), [4, 4]), loss=loss, accumulate=2, epochs=1)


def test_looking_at_counts_changes_nothing_of_the_net() -> None:
    """Counts that the batches do not tell are computed in evaluation mode: statistics count each batch once."""
    net = Noisy()
    loss = {"ce": "cross_entropy", "pairs": pairs}
    events(net, Parts(classified(8), [4, 4]), loss=loss, accumulate=2, epochs=1)
    assert int(net.body[1].num_batches_tracked) == 2
    assert net.body[1].training is False  # the end of a run
    assert all(parameter.requires_grad for parameter in net.parameters())


# going on


@settings(
    max_examples=examples(8),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(stop=st.integers(1, 6), name=st.sampled_from(["one of torch", "several that are not"]), by_epoch=st.booleans())
def test_interrupted_and_gone_on_with_is_uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, stop: int, name: str, by_epoch: bool
) -> None:
    folder = tmp_path_factory.mktemp("run")
    number: Any = pieces(1, (epochs(1), 3)) if by_epoch else 2
    said = {"loss": LOSSES[name], "accumulate": number, "epochs": 2, "batch_size": 2, "seed": 3}
    said["non_finite"] = "skip"  # of two samples neither may be one that counts
    whole = trained(Noisy(), classified(12), **said)
    place = {"checkpoint": Directory(folder, EVERY_STEP), **said}
    for event in run(Noisy(), classified(12), **place):
        if isinstance(event, Settled) and event.progress.step == stop:
            break
    again = trained(Noisy(5), classified(12), resume="auto", **place)
    assert same(arrays(again.net), arrays(whole.net))
    assert again.history.to_dict() == whole.history.to_dict()


def test_another_number_is_another_run(tmp_path: Path) -> None:
    place = {"checkpoint": Directory(tmp_path, EVERY_STEP), "batch_size": 2, "epochs": 2}
    trained(**place, accumulate=2)
    with pytest.raises(PlanError, match=r"accumulate: 2 in the file, \(nothing said\) now"):
        trained(**place, resume="auto")


# data that cannot be read


def left(data: Any, folder: Path, **changed: Any) -> tuple[DataError, int]:
    """The error with which a run ends, and the step of the newest state that was saved."""
    said = {"optimizer": "adamw", "epochs": 3, "shuffle": False, "batch_size": 4, "loss": "cross_entropy", **changed}
    made = etude.Run(etude.Plan(**said, checkpoint=Directory(folder)), mlp(), data)
    with pytest.raises(DataError) as caught:
        list(made)
    return caught.value, made.newest_checkpoint[1]


def test_a_worker_that_is_killed_leaves_the_state_of_the_last_step(tmp_path: Path) -> None:
    error, step = left(Items(20, {13: "killed"}), tmp_path / "a", workers=1)
    assert "A worker reading the data set Items ended" in str(error)
    assert error.__cause__ is not None
    assert any("The state after step" in note for note in error.__notes__)
    assert 0 < step < 4
    said = {"optimizer": "adamw", "epochs": 3, "shuffle": False, "checkpoint": Directory(tmp_path / "a")}
    gone_on = trained(mlp(7), Items(20, {}), resume="auto", **said, workers=1)
    whole = trained(mlp(), Items(20, {}), **{**said, "checkpoint": None})
    assert same(arrays(gone_on.net), arrays(whole.net))


def test_an_item_that_cannot_be_read_leaves_the_state_of_the_last_step(tmp_path: Path) -> None:
    error, step = left(Items(20, {13: "unreadable"}), tmp_path)
    assert "item 13 is broken" in str(error)
    assert isinstance(error.__cause__, OSError)
    assert step == 3
    assert error.__notes__ == [
        f"The state after step 3 is in {next(tmp_path.glob('*.safetensors'))}, to be gone on with."
    ]


def test_micro_batches_read_before_are_read_again(tmp_path: Path) -> None:
    _, step = left(Items(20, {13: "unreadable"}), tmp_path, accumulate=2)
    assert step == 1


def test_batches_of_its_own_are_read_before_anything_moves(tmp_path: Path) -> None:
    updates = [
        Update("body", "cross_entropy", part(0), optimizer="sgd"),
        Update("head", "cross_entropy", part(2), optimizer="sgd", own_batch=True),
    ]
    said = {"loss": None, "optimizer": "adamw", "updates": updates}
    _, step = left(Items(20, {13: "unreadable"}), tmp_path, **said)
    assert step == 1
    whole = run(mlp(), Items(20, {}), **{**said, "shuffle": False, "steps": 1})
    list(whole)
    loaded = mlp(9)
    etude.load_net(next(tmp_path.glob("*.safetensors")), loaded)
    assert same(arrays(loaded), arrays(whole.net))


def test_a_run_without_a_place_just_ends() -> None:
    with pytest.raises(DataError, match="item 13 is broken") as caught:
        events(mlp(), Items(20, {13: "unreadable"}), loss="cross_entropy", batch_size=4, momentum=0.0)
    assert not hasattr(caught.value, "__notes__")
