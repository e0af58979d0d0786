"""Twenty-five things that Gluon's Trainer got wrong, and what is right, one number each.

Each was seen in the running package (mxnet 1.9.1 and 2.0.0b1). Where a fault can only show between several processes,
the half of it that one process can show is tested, and the rest is skipped by name.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude import (
    Extent,
    Progress,
    Schedule,
    ScheduleError,
    SettingError,
    StaleGradientError,
    StateError,
    cosine,
    everything,
    multi_step,
    polynomial,
    step_decay,
    steps,
    times,
    warmup,
)

Arrays = dict[str, nn.Parameter]

SEVERAL = {
    1: "whether a gradient is missing is decided on the union over processes",
    3: "no gradient is summed twice before a stale step is refused",
    4: "infinity in one process leaves the arrays of all alone",
    5: "set_learning_rate acts in all processes",
    6: "multipliers act in all processes",
    7: "the learning rate that is told is the one used in all processes",
    8: "the size of the batch may change in every process",
    9: "compression works between processes",
    11: "NaN in one process does not stay in what compression keeps back",
    13: "copies of one net cannot drift apart",
    24: "two trainers on one group of processes keep apart",
    25: "the state of a run of several processes can be saved",
}
"""By number, what is to be tested between several processes besides what is tested here."""


@pytest.mark.parametrize("number", SEVERAL)
def test_between_processes(number: int) -> None:
    pytest.skip(f"needs several processes: {SEVERAL[number]} (number {number})")


def arrays_of(**values: float | list[float]) -> Arrays:
    """Parameters by name: vectors, of two equal numbers where one is given."""
    lists = {name: value if isinstance(value, list) else [value, value] for name, value in values.items()}
    return {name: nn.Parameter(torch.tensor(value)) for name, value in lists.items()}


def push(arrays: Mapping[str, Tensor], **gradients: float | list[float]) -> None:
    """Call backward on a loss that has these gradients; like every backward it adds to what is there."""
    torch.stack([(arrays[name] * torch.tensor(value)).sum() for name, value in gradients.items()]).sum().backward()


def afresh(trainer: etude.Trainer, arrays: Mapping[str, Tensor], **gradients: float | list[float]) -> None:
    """The same, after what was there has been forgotten."""
    trainer.zero_grad()
    push(arrays, **gradients)


def numbers(arrays: Mapping[str, Tensor]) -> dict[str, list[float]]:
    return {name: array.tolist() for name, array in arrays.items()}


def walk(optimizer: Any, arrays: Arrays, gradients: Iterable[Mapping[str, Any]], **settings: Any) -> Arrays:
    """The arrays after a step with each of the gradients."""
    trainer = etude.Trainer(arrays, optimizer, **settings)
    for each in gradients:
        afresh(trainer, arrays, **each)
        trainer.step()
    trainer.detach()
    return arrays


# 1-3: gradients that were used


def test_01_a_used_gradient_is_never_applied_again() -> None:
    arrays = arrays_of(x=1.0)
    trainer = etude.Trainer(arrays, "sgd", learning_rate=0.5)
    push(arrays, x=1.0)
    trainer.step()
    with pytest.raises(StaleGradientError, match="no new gradient since the last step in 'x'"):
        trainer.step()
    trainer.step(ignore_stale_grad=True)
    assert numbers(arrays) == {"x": [0.5, 0.5]}


def test_02_a_refused_step_uses_up_no_gradient() -> None:
    arrays = arrays_of(x=1.0, y=-1.0)
    trainer = etude.Trainer(arrays, "sgd", learning_rate=0.5)
    push(arrays, x=1.0, y=3.0)
    trainer.step()
    afresh(trainer, arrays, x=1.0)
    with pytest.raises(StaleGradientError) as refused:
        trainer.step()
    assert refused.value.names == ("y",)
    trainer.step(ignore_stale_grad=True)
    assert numbers(arrays) == {"x": [0.0, 0.0], "y": [-2.5, -2.5]}


def test_03_a_refused_step_leaves_gradients_as_they_are() -> None:
    arrays = arrays_of(x=1.0)
    trainer = etude.Trainer(arrays, "sgd", learning_rate=0.5)
    push(arrays, x=4.0)
    trainer.allreduce_grads()
    trainer.update(2)
    for call in (trainer.step, trainer.allreduce_grads, lambda: trainer.update(2), lambda: trainer.clip_grads(1.0)):
        with pytest.raises(StaleGradientError):
            call()
        gradient = arrays["x"].grad
        assert gradient is not None
        assert gradient.tolist() == [4.0, 4.0]
    assert numbers(arrays) == {"x": [0.0, 0.0]}


# 4: overflow


def test_04_an_overflow_moves_nothing_and_lowers_the_scale_of_the_loss() -> None:
    arrays = arrays_of(x=1.0, y=1.0)
    trainer = etude.Trainer(arrays, "sgd", learning_rate=0.5, momentum=0.9, loss_scale="dynamic")
    before = float(trainer.scale(torch.tensor(1.0)))
    trainer.scale((arrays["x"] * float("inf") + arrays["y"]).sum()).backward()
    assert trainer.step() is False
    assert numbers(arrays) == {"x": [1.0, 1.0], "y": [1.0, 1.0]}
    assert float(trainer.scale(torch.tensor(1.0))) == before / 2
    trainer.zero_grad()
    trainer.scale((arrays["x"] + arrays["y"]).sum()).backward()
    assert trainer.step() is True
    assert numbers(arrays) == {"x": [0.5, 0.5], "y": [0.5, 0.5]}


# 5-8: what may change between steps


def test_05_a_new_learning_rate_acts_from_the_next_step() -> None:
    arrays = arrays_of(x=1.0)
    trainer = etude.Trainer(arrays, "sgd", learning_rate=0.5)
    push(arrays, x=1.0)
    trainer.step()
    trainer.set_learning_rate(0.25)
    afresh(trainer, arrays, x=1.0)
    trainer.step()
    assert trainer.learning_rate == 0.25
    assert numbers(arrays) == {"x": [0.25, 0.25]}


def test_06_multipliers_act_from_the_next_step_the_first_included() -> None:
    arrays = arrays_of(x=1.0, y=1.0)
    trainer = etude.Trainer(arrays, "sgd", learning_rate=0.5)
    trainer.change("learning_rate", {"x": times(0.5)})
    push(arrays, x=1.0, y=1.0)
    trainer.step()
    assert numbers(arrays) == {"x": [0.75, 0.75], "y": [0.5, 0.5]}
    trainer.change("learning_rate", {"y": times(0.5)})
    afresh(trainer, arrays, x=1.0, y=1.0)
    trainer.step()
    assert numbers(arrays) == {"x": [0.5, 0.5], "y": [0.25, 0.25]}


def test_07_the_learning_rate_told_is_the_one_that_the_next_step_uses() -> None:
    arrays = arrays_of(x=0.0)
    trainer = etude.Trainer(arrays, "sgd", learning_rate=step_decay(1.0, 0.5, steps(2)))
    told = []
    for _ in range(6):
        before, rate = arrays["x"].tolist(), trainer.learning_rate
        afresh(trainer, arrays, x=1.0)
        trainer.step()
        assert arrays["x"].tolist() == pytest.approx([before[0] - rate] * 2)
        told.append(rate)
    assert told == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_08_a_smaller_last_batch_is_divided_by_its_own_size() -> None:
    arrays = arrays_of(x=1.0)
    trainer = etude.Trainer(arrays, "sgd", learning_rate=0.5)
    push(arrays, x=8.0)
    trainer.step(8)
    afresh(trainer, arrays, x=3.0)
    trainer.step(3)
    assert numbers(arrays) == {"x": [0.0, 0.0]}


# 9, 10, 12, 13, 21: stores


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("compression_params", {"type": "2bit", "threshold": 0.5}),
        ("kvstore", "foo"),
        ("kvstore", "horovod"),
        ("kvstore", None),
        ("update_on_kvstore", True),
    ],
)
def test_09_10_12_21_no_option_of_a_store_is_taken_and_ignored(option: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"no setting '{option}'"):
        etude.Trainer(arrays_of(x=1.0), "sgd", learning_rate=0.5, **{option: value})


# 11: NaN


def test_11_nan_stays_in_no_memory() -> None:
    arrays = arrays_of(x=[1.0, 1.0], y=1.0)
    trainer = etude.Trainer(arrays, "sgd", learning_rate=0.5, momentum=0.5, non_finite="skip")
    push(arrays, x=[float("nan"), 1.0], y=1.0)
    assert trainer.step() is False
    assert numbers(arrays) == {"x": [1.0, 1.0], "y": [1.0, 1.0]}
    afresh(trainer, arrays, x=1.0, y=1.0)
    assert trainer.step() is True
    assert numbers(arrays) == {"x": [0.5, 0.5], "y": [0.5, 0.5]}


# 14-16: memory


@pytest.mark.parametrize("how", ["fill_", "load_state_dict"])
def test_14_new_values_of_an_array_leave_its_memory_alone(how: str) -> None:
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    trainer = etude.Trainer(net, "sgd", learning_rate=0.5, momentum=0.5)
    push({"weight": net.weight}, weight=1.0)
    trainer.step()
    if how == "fill_":
        with torch.no_grad():
            net.weight.fill_(10.0)
    else:
        net.load_state_dict({"weight": torch.tensor([[10.0]])})
    afresh(trainer, {"weight": net.weight}, weight=1.0)
    trainer.step()
    assert net.weight.item() == 9.25


def test_15_an_instance_carries_no_batch_size_into_the_next_trainer() -> None:
    arrays = arrays_of(x=1.0)
    instance = torch.optim.SGD(arrays.values(), lr=1.0)
    trainer = etude.Trainer(arrays, instance)
    push(arrays, x=4.0)
    trainer.step(4)
    trainer.detach()
    later = etude.Trainer(arrays, instance)
    afresh(later, arrays, x=1.0)
    later.step()
    assert numbers(arrays) == {"x": [-1.0, -1.0]}


def test_16_memory_is_found_by_name_in_whatever_order() -> None:
    def trained(names: str) -> tuple[Arrays, etude.Trainer]:
        values = {"x": 1.0, "y": 2.0}
        arrays = arrays_of(**{name: values[name] for name in names})
        return arrays, etude.Trainer(arrays, "sgd", learning_rate=0.5, momentum=0.5)

    arrays, trainer = trained("xy")
    push(arrays, x=1.0, y=100.0)
    trainer.step()
    others, other = trained("yx")
    other.load_state_dict(trainer.state_dict())
    push(others, x=1.0, y=1.0)
    other.step()
    assert numbers(others) == {"y": [2.0 - 0.5 * 51.0] * 2, "x": [1.0 - 0.5 * 1.5] * 2}


def test_16_the_state_of_another_optimizer_is_refused() -> None:
    arrays = arrays_of(x=1.0)
    trainer = etude.Trainer(arrays, "sgd", learning_rate=0.5, momentum=0.5)
    push(arrays, x=1.0)
    trainer.step()
    state = trainer.state_dict()
    trainer.detach()
    other = etude.Trainer(arrays, "adam", learning_rate=0.25)
    with pytest.raises(StateError, match=r"sgd.*adam"):
        other.load_state_dict(state)
    afresh(other, arrays, x=1.0)
    other.step()
    assert other.learning_rate == 0.25
    assert numbers(arrays)["x"] == pytest.approx([0.25, 0.25])


# 17: update rules


def test_17_nesterov_decays_by_the_array_as_it_was() -> None:
    gradients = [1.0, -2.0, 0.5, 3.0]
    arrays = walk(
        "sgd", arrays_of(x=1.0), [{"x": g} for g in gradients], learning_rate=0.1, momentum=0.9, nesterov=True, l2=0.1
    )
    x, kept = 1.0, 0.0
    for gradient in gradients:
        change = gradient + 0.1 * x
        kept = 0.9 * kept + change
        x -= 0.1 * (change + 0.9 * kept)
    assert arrays["x"].tolist() == pytest.approx([x, x], abs=1e-6)


def test_17_adamax_stands_still_where_the_gradient_is_zero() -> None:
    arrays = walk("adamax", arrays_of(x=[1.0, 1.0]), [{"x": [0.0, 1.0]}] * 3, learning_rate=0.1)
    still, moved = arrays["x"].tolist()
    assert still == 1.0
    assert moved == pytest.approx(0.7, abs=1e-5)


@pytest.mark.parametrize("optimizer", ["nadam", "adam", "adamax", "radam", "lamb", "lans", "adabelief", "ftml", "lars"])
def test_17_an_array_moves_as_if_it_were_alone(optimizer: str) -> None:
    """Whatever is counted or multiplied up over steps is kept for each array, and once a step."""
    gradients = [1.0, -2.0, 0.5, 3.0]
    names = "abcdefg"
    alone = walk(optimizer, arrays_of(a=1.0), [{"a": g} for g in gradients], learning_rate=0.1)
    among = walk(
        optimizer,
        arrays_of(**dict.fromkeys(names, 1.0)),
        [dict.fromkeys(names, g) for g in gradients],
        learning_rate=0.1,
    )
    assert among["a"].tolist() == pytest.approx(alone["a"].tolist(), abs=1e-6)
    assert numbers(among) == dict.fromkeys(names, among["a"].tolist())


def test_17_adadelta_heeds_the_learning_rate_and_leaves_the_gradient_alone() -> None:
    moved = []
    for rate in (1.0, 3.0):
        arrays = arrays_of(x=0.0)
        trainer = etude.Trainer(arrays, "adadelta", learning_rate=rate)
        push(arrays, x=2.0)
        trainer.step()
        moved.append(arrays["x"].tolist()[0])
        gradient = arrays["x"].grad
        assert gradient is not None
        assert gradient.tolist() == [2.0, 2.0]
    assert moved[0] < 0
    assert moved[1] == pytest.approx(3 * moved[0])


def test_17_signum_takes_decay_without_momentum() -> None:
    arrays = walk("signum", arrays_of(x=[1.0, -1.0]), [{"x": [5.0, -0.1]}], learning_rate=0.1, momentum=0.0, shrink=0.5)
    assert arrays["x"].tolist() == pytest.approx([0.85, -0.85])


def test_17_dcasgd_takes_momentum() -> None:
    gradients = [1.0, 2.0]
    settings: dict[str, Any] = {"learning_rate": 0.1, "momentum": 0.5, "compensation": 0.5}
    arrays = walk("dcasgd", arrays_of(x=1.0), [{"x": g} for g in gradients], **settings)
    x, previous, kept = 1.0, 1.0, 0.0
    for gradient in gradients:
        kept = 0.5 * kept + gradient + 0.5 * gradient**2 * (x - previous)
        previous, x = x, x - 0.1 * kept
    assert arrays["x"].tolist() == pytest.approx([x, x], abs=1e-6)


def test_17_the_first_window_of_accumulated_gradients_is_as_the_second() -> None:
    arrays = arrays_of(x=0.0)
    trainer = etude.Trainer(arrays, "sgd", learning_rate=1.0, accumulate=2)
    for window in (1, 2):
        trainer.zero_grad()
        push(arrays, x=1.0)
        assert trainer.step(1) is False
        push(arrays, x=8.0)
        assert trainer.step(2) is True
        assert arrays["x"].tolist() == pytest.approx([-3.0 * window] * 2)


def test_17_a_new_rate_acts_alike_on_every_array_that_lars_moves() -> None:
    names = "abcdefg"
    arrays = arrays_of(**dict.fromkeys(names, 1.0))
    rules = {"adapt": {everything: True}}  # vectors are exempt otherwise
    trainer = etude.Trainer(arrays, "lars", learning_rate=0.5, momentum=0.9, rules=rules)
    for rate in (0.5, 0.05, 0.5):
        trainer.set_learning_rate(rate)
        afresh(trainer, arrays, **dict.fromkeys(names, 1.0))
        trainer.step()
    assert len({tuple(each) for each in numbers(arrays).values()}) == 1


def test_17_names_decide_the_exemptions_of_lars() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    with torch.no_grad():
        for array in net.parameters():
            array.fill_(1.0)
    trainer = etude.Trainer(net, "lars", learning_rate=0.5, momentum=0.0)
    for array in net.parameters():
        array.grad = torch.ones_like(array)
    trainer.step()
    moved = {name: 1.0 - array.flatten()[0].item() for name, array in net.named_parameters()}
    # Exempt arrays move by the plain rate; the others by their share of it.
    assert [moved[name] for name in ("0.bias", "1.weight", "1.bias")] == pytest.approx([0.5] * 3)
    assert 0 < moved["0.weight"] < 0.1


def test_17_each_step_counts_once() -> None:
    arrays = arrays_of(x=1.0, y=1.0)
    trainer = etude.Trainer(arrays, "lamb", learning_rate=0.1)
    for _ in range(3):
        afresh(trainer, arrays, x=1.0, y=1.0)
        trainer.step()
    assert trainer.progress.step == 3
    assert [own["count"] for own in trainer.state_dict()["arrays"].values()] == [3, 3]


# 18-20: schedules, and what was said of them


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop", "lamb"])
def test_18_no_default_of_an_optimizer_replaces_the_rate_of_a_schedule(optimizer: str) -> None:
    made = warmup(steps(2), start=0.5) * cosine(0.5, 0.1, over=steps(10))
    trainer = etude.Trainer(arrays_of(x=1.0), optimizer, learning_rate=made)
    assert trainer.learning_rate == made.at(Progress()) == pytest.approx(0.375)


def test_18_the_rate_is_said_once() -> None:
    with pytest.raises(SettingError, match="no setting 'lr_scheduler'"):
        etude.Trainer(arrays_of(x=1.0), "sgd", learning_rate=0.7, lr_scheduler=cosine(0.1, over=steps(10)))


SCHEDULES: Mapping[str, Callable[[], Schedule]] = {
    "step_decay": lambda: step_decay(1.0, 0.5, steps(10)),
    "multi_step": lambda: multi_step(1.0, 0.1, at=[steps(10), steps(20)]),
    "polynomial": lambda: polynomial(1.0, 0.1, power=2, over=steps(50)),
    "cosine": lambda: cosine(1.0, 0.1, over=steps(50)),
    "warmup": lambda: warmup(steps(15)) * step_decay(1.0, 0.5, steps(30)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_19_a_schedule_answers_alike_in_any_order(name: str) -> None:
    made, asked = SCHEDULES[name](), list(range(100))
    in_order = {step: made.at(Progress(step, extent=Extent(steps=100))) for step in asked}
    random.Random(1).shuffle(asked)
    assert {step: made.at(Progress(step, extent=Extent(steps=100))) for step in asked} == in_order


def test_20_adam_corrects_its_bias_so_that_the_first_step_is_the_rate() -> None:
    arrays = walk("adam", arrays_of(x=[0.0, 0.0]), [{"x": [3.0, -0.01]}], learning_rate=0.1)
    assert arrays["x"].tolist() == pytest.approx([-0.1, 0.1], abs=1e-6)


@pytest.mark.parametrize("name", ["polynomial", "cosine"])
def test_20_a_curve_stays_at_its_end(name: str) -> None:
    assert [SCHEDULES[name]().at(Progress(step)) for step in (50, 51, 1000)] == [0.1, 0.1, 0.1]


def test_20_signum_clips_before_it_averages() -> None:
    """The bound is that of the gradient, so the large one of the first step does not outweigh the second."""
    gradients = [{"x": 100.0}, {"x": -2.0}]
    settings: dict[str, Any] = {"learning_rate": 0.1, "momentum": 0.5}
    assert walk("signum", arrays_of(x=0.0), gradients, **settings)["x"].tolist() == pytest.approx([-0.2, -0.2])
    bound = walk("signum", arrays_of(x=0.0), gradients, clip_value=1.0, **settings)
    assert bound["x"].tolist() == pytest.approx([0.0, 0.0], abs=1e-7)


def test_20_the_learning_rate_is_set_by_the_method_and_not_under_a_schedule() -> None:
    trainer = etude.Trainer(arrays_of(x=1.0), "sgd", learning_rate=1.0)
    with pytest.raises(AttributeError):
        trainer.learning_rate = 0.5  # type: ignore[misc]
    assert trainer.learning_rate == 1.0
    scheduled = etude.Trainer(arrays_of(x=1.0), "sgd", learning_rate=cosine(1.0, over=steps(10)))
    with pytest.raises(ScheduleError, match="follows the schedule"):
        scheduled.set_learning_rate(0.5)


# 22: clipping


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad", "adamax", "nadam", "adadelta", "dcasgd"])
def test_22_a_bound_of_zero_means_one_thing_in_every_optimizer(optimizer: str) -> None:
    gradients = [{"x": 4.0}] * 2
    without = walk(optimizer, arrays_of(x=1.0), gradients, learning_rate=0.1)
    unbounded = walk(optimizer, arrays_of(x=1.0), gradients, learning_rate=0.1, clip_value=float("inf"))
    at_zero = walk(optimizer, arrays_of(x=1.0), gradients, learning_rate=0.1, clip_value=0.0)
    assert numbers(without) == numbers(unbounded)
    assert without["x"].tolist() != [1.0, 1.0]
    assert numbers(at_zero) == numbers(without)
    with pytest.raises(SettingError, match="clip_value=-1"):
        etude.Trainer(arrays_of(x=1.0), optimizer, clip_value=-1.0)


# 23: stopping early


def falling(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def test_23_a_falling_loss_is_an_improvement() -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 3)
    data = (x, x.sum(1, keepdim=True))
    result = etude.train(
        nn.Linear(3, 1), data, loss="mse", optimizer="sgd", learning_rate=0.05, epochs=6, validation=0.25, patience=0
    )
    losses = list(result.history["val.loss"].values)
    assert losses == sorted(losses, reverse=True)
    assert (len(losses), result.best_epoch) == (6, 6)


def test_23_whether_more_is_better_is_said_or_asked() -> None:
    x = torch.randn(16, 3)
    data = (x, x.sum(1, keepdim=True))
    look = etude.Evaluate(0.25, {"nearness": falling}, best="nearness")
    with pytest.raises(etude.EtudeError, match=r"nearness.*max"):
        etude.train(nn.Linear(3, 1), data, loss="mse", epochs=1, validation=look, patience=1)


# 24: several trainers


def test_24_two_trainers_that_would_move_one_array_are_refused() -> None:
    arrays = arrays_of(x=1.0)
    first = etude.Trainer(arrays, "sgd", learning_rate=0.5)
    second = etude.Trainer(arrays, "sgd", learning_rate=0.25)
    push(arrays, x=1.0)
    first.step()
    afresh(second, arrays, x=1.0)
    with pytest.raises(SettingError, match=r"'x'.*share=True"):
        second.step()
    assert numbers(arrays) == {"x": [0.5, 0.5]}
    first.detach()
    second.step()
    assert numbers(arrays) == {"x": [0.25, 0.25]}


def test_24_two_trainers_of_two_parts_keep_apart() -> None:
    arrays = arrays_of(x=1.0, y=1.0)
    first = etude.Trainer(arrays, "sgd", learning_rate=0.5, momentum=0.5, part="x")
    second = etude.Trainer(arrays, "sgd", learning_rate=0.25, momentum=0.5, part="y")
    for _ in range(2):
        for array in arrays.values():
            array.grad = None
        push(arrays, x=1.0, y=1.0)
        first.step()
        second.step()
    assert numbers(arrays) == {"x": [-0.25, -0.25], "y": [0.375, 0.375]}
    assert (set(first.state_dict()["arrays"]), set(second.state_dict()["arrays"])) == ({"x"}, {"y"})


# 25: saving


def test_25_a_state_is_plain_values_and_tensors_and_goes_on_to_the_bit() -> None:
    def trained(steps_made: int, trainer: etude.Trainer, arrays: Arrays) -> None:
        for step in range(steps_made):
            afresh(trainer, arrays, x=1.0 + step, y=-1.0)
            trainer.step()

    arrays, others = arrays_of(x=1.0, y=2.0), arrays_of(x=1.0, y=2.0)
    trainer = etude.Trainer(arrays, "adam", learning_rate=0.1)
    trained(3, trainer, arrays)
    file = io.BytesIO()
    torch.save({"arrays": {name: array.detach() for name, array in arrays.items()}, "of": trainer.state_dict()}, file)
    file.seek(0)
    read = torch.load(file, weights_only=True)
    with torch.no_grad():
        for name, array in others.items():
            array.copy_(read["arrays"][name])
    other = etude.Trainer(others, "adam", learning_rate=0.1)
    other.load_state_dict(read["of"])
    trained(3, trainer, arrays)
    trained(3, other, others)
    assert all(torch.equal(arrays[name], others[name]) for name in arrays)


def test_every_number_has_its_test() -> None:
    found = set(SEVERAL)
    for name in globals():
        for piece in name.removeprefix("test_").split("_"):
            if not piece.isdigit():
                break
            found.add(int(piece))
    assert found == set(range(1, 26))
