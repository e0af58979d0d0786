"""What is done about numbers that are not finite, as a value, and how it counts."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import etude
from etude import Directory, NonFiniteError, ScheduleError, SettingError, Trainer, epochs, every, samples, steps
from etude.errors import EtudeError
from etude.run.events import Event, Skipped, Stepped
from etude.step.policies import Policy, Tolerance, policy, policy_by_hand, roll_back, skip
from etude.values.progress import Extent
from etude.values.spans import fraction, minutes
from small import Noisy, arrays, classified, kinds, mlp, run, same, trained

X, Y = classified(40)


def spoiled(*rows: int) -> tuple[Tensor, Tensor]:
    """Data of which these rows are NaN."""
    x = X.clone()
    x[list(rows)] = nan
    return x, Y


def spoiled_steps(*numbers: int) -> tuple[Tensor, Tensor]:
    """Data by which, in batches of 4 in their order, the steps with these numbers see NaN."""
    return spoiled(*(4 * (number - 1) for number in numbers))


# ------------------------------------------------------------------------------------------------------- the values


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (policy("raise"), "'raise'"),
        (policy("apply"), "'apply'"),
        (skip(), "'skip'"),
        (skip(most=3), "skip(most=3)"),
        (skip(0), "skip(most=0)"),
        (roll_back(), "roll_back(factor=0.5, every=steps(100), most=5)"),
        (roll_back(1, every(epochs(1)), 2), "roll_back(factor=1.0, every=epochs(1), most=2)"),
    ],
)
def test_a_policy_prints_as_what_makes_it(made: Policy, text: str) -> None:
    assert repr(made) == text
    assert policy(eval(text, {"skip": skip, "roll_back": roll_back, "steps": steps, "epochs": epochs})) == made
    assert hash(policy(made)) == hash(made)


def test_skip_without_a_limit_is_the_word() -> None:
    assert skip() == policy("skip")


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (lambda: policy("skp"), SettingError, ["non_finite='skp'", "skip(most=3)", 'Nearest: "skip"']),
        (lambda: policy(None), SettingError, ["non_finite=None", "known are raise, skip, stop, apply"]),  # type: ignore[arg-type]
        (lambda: policy(skip), SettingError, ["the function itself", "Write non_finite=skip(most=3)"]),  # type: ignore[arg-type]
        (lambda: policy(roll_back), SettingError, ["Write non_finite=roll_back(factor=0.5)"]),  # type: ignore[arg-type]
        (lambda: skip(-1), SettingError, ["skip(most=-1): a whole number of at least 0"]),
        (lambda: skip(2.5), SettingError, ["skip(most=2.5)"]),  # type: ignore[arg-type]
        (lambda: skip(True), SettingError, ["skip(most=True)"]),
        (lambda: skip(mots=2), SettingError, ["'mots'", "most"]),  # type: ignore[call-arg]
        (lambda: roll_back(0), SettingError, ["roll_back(factor=0)", "above 0 and is at most 1"]),
        (lambda: roll_back(2.0), SettingError, ["roll_back(factor=2.0)", "Write roll_back(factor=0.5)"]),
        (lambda: roll_back(nan), SettingError, ["roll_back(factor=nan)"]),
        (lambda: roll_back(most=0), SettingError, ["roll_back(most=0): a whole number of at least 1"]),
        (lambda: roll_back(every=100), ScheduleError, ["roll_back(every=100)", "Write steps(100)"]),  # type: ignore[arg-type]
        (lambda: roll_back(every=minutes(1)), ScheduleError, ["cannot depend on time by the clock"]),
        (lambda: roll_back(every=every(steps(1)) | epochs(1)), SettingError, ["one span is needed here"]),
        (lambda: policy_by_hand("stop"), SettingError, ["non_finite='stop'", '"raise", "skip" or None']),
        (lambda: policy_by_hand(roll_back()), SettingError, ["roll_back(factor=0.5", "is for a run", "state_dict()"]),
        (lambda: policy_by_hand(skip), SettingError, ["Write non_finite=skip(most=3)"]),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_policy_is_refused(make: Any, kind: type[EtudeError], said: list[str]) -> None:
    with pytest.raises(kind) as caught:
        make()
    for piece in said:
        assert piece in str(caught.value)


def test_a_plan_takes_them_and_prints_them() -> None:
    plan = etude.Plan("mse", epochs=1, non_finite=roll_back(most=2))
    assert "non_finite=roll_back(factor=0.5, every=steps(100), most=2)" in repr(plan)
    assert "non_finite" not in repr(etude.Plan("mse", epochs=1))
    with pytest.raises(SettingError, match=r"non_finite='rolback'.*Nearest"):
        etude.Plan("mse", epochs=1, non_finite="rolback")


def test_a_span_that_the_run_cannot_tell_is_an_error_before_the_first_step() -> None:
    endless: dict[str, Any] = {"epochs": None, "time_limit": minutes(1), "shuffle": False}
    with pytest.raises(ScheduleError, match=r"non_finite=roll_back.*fraction.*Or write every=steps\(100\)"):
        run(non_finite=roll_back(every=fraction(0.1)), **endless)
    roll_back(every=fraction(0.1)).check(Extent(steps=10))


# -------------------------------------------------------------------------------------------------------- a counter


def test_one_good_step_begins_the_count_anew() -> None:
    tolerance = Tolerance(skip(most=2))
    asked = []
    for made in (True, False, False, True, False, False):
        asked.append(tolerance.asked)
        tolerance.follow(made)
    assert asked == ["skip", "skip", "skip", "raise", "skip", "skip"]
    assert (tolerance.refused, tolerance.spent, tolerance.asked) == (2, True, "raise")


def test_what_a_loss_scale_leaves_out_is_neither_counted_nor_good() -> None:
    tolerance = Tolerance(skip(most=1))
    tolerance.follow(False)
    tolerance.follow(False, overflow=True)
    assert tolerance.refused == 1


@pytest.mark.parametrize(
    ("made", "asked"),
    [(policy("apply"), None), (policy("raise"), "raise"), (policy("stop"), "raise"), (roll_back(), "skip")],
)
def test_what_a_step_is_told(made: Policy, asked: str | None) -> None:
    tolerance = Tolerance(made)
    assert tolerance.asked == asked
    tolerance.follow(False)
    assert tolerance.asked == asked


# ------------------------------------------------------------------------------------------------------------ a run


def told(net: nn.Module, data: Any, **options: Any) -> tuple[list[Event], NonFiniteError | None]:
    """The events of a run in the order of the data, and the error in which it ended."""
    seen: list[Event] = []
    try:
        for event in run(net, data, shuffle=False, **options):
            seen.append(event)
    except NonFiniteError as error:
        return seen, error
    return seen, None


def test_a_few_in_a_row_are_left_out() -> None:
    seen, error = told(Noisy(), spoiled_steps(2, 3, 5, 7, 8), non_finite=skip(2))
    assert error is None
    assert [event.progress.step for event in seen if isinstance(event, Skipped)] == [2, 3, 5, 7, 8]
    assert all("not finite" in event.reason for event in seen if isinstance(event, Skipped))


def test_one_too_many_is_an_error_that_names_all_of_it() -> None:
    net = Noisy()
    seen, error = told(net, spoiled_steps(2, 4, 5, 6), non_finite=skip(2))
    assert error is not None
    assert (error.step, error.names, error.rows) == (6, ("batch[0]",), (0,))
    for piece in (
        "Step 6 is refused",
        "The batch has NaN or infinity in batch[0]",
        "The 2 steps before it were left out, and skip(most=2) allows no more in a row.",
        "Samples: 20.",
    ):
        assert piece in str(error)
    assert sum(isinstance(event, Stepped) for event in seen) == 2
    expected = Noisy()
    told(expected, spoiled_steps(2, 4, 5), steps=5, non_finite="skip")
    assert same(arrays(net), arrays(expected)), "the step that raised has left a trace"


def test_of_none_the_first_is_an_error() -> None:
    _, error = told(mlp(), spoiled_steps(1), non_finite=skip(0))
    assert error is not None
    assert "before it" not in str(error)
    _, other = told(mlp(), spoiled_steps(1, 2), non_finite=skip(1))
    assert "The step before it was left out, and skip(most=1) allows no more" in str(other)


def test_the_count_goes_on_over_epochs_and_is_in_the_state(tmp_path: Any) -> None:
    data = spoiled_steps(9, 10)
    _, error = told(Noisy(), data, epochs=2, non_finite=skip(2))
    assert error is None
    x, y = data
    x[0] = nan  # the first batch of the second epoch too
    _, error = told(Noisy(), data, epochs=2, non_finite=skip(3))
    assert error is None or error.step == 11
    whole = told(Noisy(), (x, y), epochs=2, non_finite=skip(2))[1]
    assert whole is not None
    assert whole.step == 11
    where = Directory(tmp_path, every(steps(1)))
    told(Noisy(), (x, y), epochs=2, non_finite=skip(2), checkpoint=where)
    path = next(path for path in sorted(tmp_path.glob("*.safetensors")) if "_00000010_" in path.name)
    resumed = etude.Run(
        etude.Plan("cross_entropy", epochs=2, batch_size=4, shuffle=False, non_finite=skip(2)),
        Noisy(),
        (x, y),
        resume=path,
    )
    with pytest.raises(NonFiniteError, match="Step 11 is refused"):
        resumed.result()


def test_the_run_that_ends_so_can_be_gone_on_with(tmp_path: Any) -> None:
    net = Noisy()
    data = spoiled_steps(3)
    x, y = data
    plan: dict[str, Any] = {"batch_size": 4, "shuffle": False, "epochs": 1, "checkpoint": Directory(tmp_path)}

    class Unseen(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, index: int) -> Any:
            return x[index], y[index]

    with pytest.raises(NonFiniteError, match="Step 3 is refused") as caught:
        etude.train(net, Unseen(), loss="cross_entropy", progress=False, **plan)
    assert "The state after step 2 is in" in "".join(caught.value.__notes__)
    (path,) = tmp_path.glob("*.safetensors")
    plan |= {"non_finite": "skip", "checkpoint": None}
    on = etude.train(
        Noisy(5), Unseen(), loss="cross_entropy", progress=False, resume=path, accept=["non_finite"], **plan
    )
    expected = etude.train(Noisy(), Unseen(), loss="cross_entropy", progress=False, **plan)
    assert same(arrays(on.net), arrays(expected.net))


@pytest.mark.parametrize("kind", ["accumulate", "lbfgs", "updates", "torch.adamw"])
def test_every_way_to_step_counts(kind: str) -> None:
    """Two bad ones in a row are left out, the third raises; nothing has moved by them."""
    ways: dict[str, dict[str, Any]] = {
        "accumulate": {"accumulate": 2},
        "lbfgs": {"optimizer": "lbfgs", "max_iter": 2},
        "updates": {"loss": None, "updates": [etude.Update("only", "cross_entropy")]},
        "torch.adamw": {"optimizer": "torch.adamw"},
    }
    options = ways[kind]
    numbers = (3, 4, 5, 6, 7, 8) if kind == "accumulate" else (2, 3, 4)
    seen, error = told(mlp(), spoiled_steps(*numbers), non_finite=skip(2), **options)
    assert error is not None
    assert error.step == 4
    assert kinds(seen)[-4:] == ["Skipped", "Settled", "Skipped", "Settled"]


class Overflowing(torch.autograd.Function):
    """The identity; a gradient above `bound` becomes infinite, as it would in float16."""

    bound = 1000.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return torch.where(grads[0].abs() * 1 > Overflowing.bound, inf, grads[0])


def overflowing(output: Tensor, target: Tensor) -> Tensor:
    made: Tensor = Overflowing.apply(functional.cross_entropy(output.float(), target))  # type: ignore[no-untyped-call]
    return made


@pytest.mark.parametrize("made", [skip(1), roll_back(most=1)])
def test_steps_in_which_a_loss_scale_finds_its_size_are_not_counted(made: Policy) -> None:
    """From 65,536 down to below 1,000 are seven steps in a row, as float16 always begins."""
    seen, error = told(mlp(), (X, Y), loss=overflowing, precision="fp16", non_finite=made)
    assert error is None
    assert kinds(seen).count("Skipped") == 7
    assert kinds(seen).count("RolledBack") == 0
    assert kinds(seen).count("Stepped") == 3
    reasons = [event.reason for event in seen if isinstance(event, Skipped)]
    assert reasons[0] == "the gradients overflow at the loss scale 65536, which is halved"


# -------------------------------------------------------------------------------------------------- a loop by hand


def stepped(trainer: Trainer, net: nn.Module, value: float) -> bool:
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, value)
    return trainer.step()


def test_a_trainer_counts_too() -> None:
    net = mlp()
    trainer = Trainer(net, "adam", non_finite=skip(2))
    assert [stepped(trainer, net, value) for value in (1.0, nan, inf, 1.0, nan, nan)] == [
        True,
        *[False] * 2,
        True,
        False,
        False,
    ]
    before = arrays(net)
    with pytest.raises(NonFiniteError, match=r"Step 7 is refused: the gradients of '0.weight'.*skip\(most=2\) allows"):
        stepped(trainer, net, nan)
    assert same(arrays(net), before)
    assert trainer.progress.step == 6
    assert stepped(trainer, net, 1.0)


def test_the_count_of_a_trainer_is_in_its_state() -> None:
    net = mlp()
    trainer = Trainer(net, "adam", non_finite=skip(1))
    stepped(trainer, net, nan)
    later = Trainer(mlp(), "adam", non_finite=skip(1))
    later.load_state_dict(trainer.state_dict())
    net = later.net  # type: ignore[assignment]
    with pytest.raises(NonFiniteError, match="Step 2"):
        stepped(later, net, nan)
    older = {key: value for key, value in trainer.state_dict().items() if key != "refused"}
    later.load_state_dict(older)
    assert not stepped(later, net, nan)
    with pytest.raises(etude.StateError, match="The state has no count of refused steps: -1"):
        later.load_state_dict({**older, "refused": -1})


def test_a_trainer_with_a_dynamic_scale_counts_what_is_no_overflow() -> None:
    net = mlp()
    trainer = Trainer(net, "adam", non_finite=skip(1), loss_scale="dynamic")
    assert trainer.loss_scale == 65536.0
    refused = [stepped(trainer, net, nan) for _ in range(16)]
    assert refused == [False] * 16
    assert trainer.loss_scale == 1.0
    assert not stepped(trainer, net, nan)
    with pytest.raises(NonFiniteError, match="Step 18"):
        stepped(trainer, net, nan)


def test_a_closure_counts_too() -> None:
    net = mlp()
    trainer = Trainer(net, "lbfgs", max_iter=2, non_finite=skip(1))

    def spoiled_loss() -> Tensor:
        loss = functional.cross_entropy(net(X), Y) * nan
        torch.autograd.backward(loss)
        return loss

    assert not trainer.step(closure=spoiled_loss)
    with pytest.raises(NonFiniteError, match=r"skip\(most=1\) allows no more"):
        trainer.step(closure=spoiled_loss)


def test_samples_may_be_the_unit_of_snapshots() -> None:
    assert roll_back(every=samples(8)).every == samples(8)
    assert trained(non_finite=roll_back(every=samples(8))).steps == 3
