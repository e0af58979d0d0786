"""The trainer in a hand-written loop: steps, gradients old and new, rates, state, and what it refuses."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from etude.errors import PartError, RuleError, ScheduleError, SettingError, StaleGradientError, StateError
from etude.step.optim.adam import AdamW
from etude.step.optim.sgd import SGD
from etude.step.trainer import Trainer
from etude.values.curves import cosine, linear, warmup
from etude.values.marks import FROZEN
from etude.values.part import everything, part
from etude.values.progress import Extent, Progress
from etude.values.reactive import when
from etude.values.rules import times
from etude.values.schedule import cycle, pieces
from etude.values.spans import epochs, fraction, samples, seconds, steps, tokens
from nets import Graph, alike, arrays, chain, changed, data, give_gradients, graph, memory_of, tied, walk

X, Y = data(1)[0]


def loss_of(net: nn.Module, x: Tensor = X, y: Tensor = Y) -> Tensor:
    """Squared errors, summed over samples."""
    loss: Tensor = (net(x) - y).square().mean(1).sum()
    return loss


# the step


def test_a_loop_is_that_of_torch() -> None:
    net, twin = chain(), chain()
    trainer = Trainer(net, "adamw", learning_rate=0.01, weight_decay=0.1)
    alone = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.1)
    for x, y in data(5):
        loss_of(net, x, y).backward()
        trainer.step(len(x))
        alone.zero_grad()
        loss_of(twin, x, y).div(len(x)).backward()
        alone.step()
    assert all(
        torch.allclose(one, other, atol=1e-6) for one, other in zip(net.parameters(), twin.parameters(), strict=True)
    )


def test_the_size_of_a_batch_may_change_every_step() -> None:
    net, twin = chain(), chain()
    trainer, other = Trainer(net, "sgd", learning_rate=0.1), Trainer(twin, "sgd", learning_rate=0.1)
    for size in (8, 3, 5):
        loss_of(net, X[:size], Y[:size]).backward()
        trainer.step(size)
        loss_of(twin, X[:size], Y[:size]).div(size).backward()
        other.step()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert trainer.progress.samples == 16


@pytest.mark.parametrize("count", [0, -1, float("nan"), float("inf"), -0.0])
def test_the_size_of_a_batch_is_positive(count: float) -> None:
    net = chain()
    trainer = Trainer(net)
    loss_of(net).backward()
    before = arrays(net)
    with pytest.raises(SettingError, match=r"step\(.*\): the number of samples is positive and finite"):
        trainer.step(count)
    assert changed(before, net) == set()
    assert trainer.progress.step == 0


def test_the_clock_counts_steps_and_samples_and_epochs_if_it_knows_them() -> None:
    net = chain()
    trainer = Trainer(net, steps_per_epoch=4, total=epochs(2))
    for n in range(3):
        give_gradients(net, n)
        trainer.step(8)
        trainer.zero_grad()
    assert (trainer.progress.step, trainer.progress.samples, trainer.progress.epoch) == (3, 24, 0.75)
    assert trainer.progress.extent == Extent(steps=8, epochs=2)


# gradients, old and new


def test_a_gradient_can_be_read_after_the_step_and_goes_with_the_next_forward() -> None:
    net = chain()
    trainer = Trainer(net, "sgd", learning_rate=0.1)
    loss_of(net).backward()
    trainer.step(8)
    kept = net[0].weight.grad
    assert kept is not None
    with torch.no_grad():
        net(X)
    assert net[0].weight.grad is kept
    net(X)
    assert net[0].weight.grad is None


def test_gradients_add_up_until_they_are_used() -> None:
    net, twin = chain(), chain()
    trainer, other = Trainer(net, "sgd", learning_rate=0.1), Trainer(twin, "sgd", learning_rate=0.1)
    loss_of(net, X[:3], Y[:3]).backward()
    loss_of(net, X[3:], Y[3:]).backward()
    trainer.step(8)
    loss_of(twin).backward()
    other.step(8)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_no_gradient_is_stale_and_all_are_named_before_anything_changes() -> None:
    net = graph()
    trainer = Trainer(net)
    net.b(X).sum().backward()
    before = arrays(net)
    with pytest.raises(
        StaleGradientError, match=r"no new gradient since the last step in 'a\.weight', 'a\.bias', 'out"
    ) as e:
        trainer.step()
    assert e.value.names == ("a.weight", "a.bias", "out.weight", "out.bias")
    assert changed(before, net) == set()
    assert trainer.progress.step == 0
    assert not any(memory_of(trainer).values())


def test_the_same_gradient_twice_is_stale() -> None:
    net = chain()
    trainer = Trainer(net)
    loss_of(net).backward()
    trainer.step(8)
    with pytest.raises(StaleGradientError, match="Step 2: no new gradient"):
        trainer.step(8)


def test_a_new_gradient_added_onto_a_used_one_is_an_error() -> None:
    net = chain()
    trainer = Trainer(net)
    loss_of(net).backward()
    trainer.step(8)
    before = arrays(net)
    hidden = net[1](net[0](X))
    (net[2](hidden) - Y).square().sum().backward()
    with pytest.raises(
        StaleGradientError, match=r"new gradients were added onto old ones.*Call trainer\.zero_grad"
    ) as e:
        trainer.step(8)
    assert e.value.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert changed(before, net) == set()


def test_zero_grad_starts_afresh() -> None:
    net = chain()
    trainer = Trainer(net)
    loss_of(net).backward()
    trainer.step(8)
    trainer.zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())
    (net[2](net[1](net[0](X))) - Y).square().sum().backward()
    trainer.step(8)


def test_stale_gradients_may_be_passed_over() -> None:
    net = graph()
    trainer = Trainer(net, "adamw", weight_decay=0.1)
    before = arrays(net)
    net.a(X).sum().backward()
    trainer.step(ignore_stale_grad=True)
    assert changed(before, net) == {"a.weight", "a.bias"}
    assert {name for name, own in memory_of(trainer).items() if own} == {"a.weight", "a.bias"}
    trainer.zero_grad()
    trainer.step(ignore_stale_grad=True)
    assert trainer.progress.step == 2


def test_what_is_held_now_needs_no_gradient() -> None:
    net = graph()
    trainer = Trainer(net, update_schedule=["a", "b"])
    before = arrays(net)
    net.a(X).sum().backward()
    trainer.step()
    assert changed(before, net) == {"a.weight", "a.bias"}


def test_a_gradient_passed_over_is_dropped() -> None:
    """A skipped gradient is not applied later."""
    net, twin = graph(), graph()
    trainer, other = Trainer(net, "sgd", update_schedule=["a", "b"]), Trainer(twin, "sgd", update_schedule=["a", "b"])
    for n, (x, y) in enumerate(data(2)):
        loss_of(net, x, y).backward()
        trainer.step(8)
        loss_of(twin, x, y).backward()
        for parameter in (twin.b if n == 0 else twin.a).parameters():
            parameter.grad = None
        other.step(8)
    assert all(alike(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_only_moving_leaves_the_rest_out_of_the_graph() -> None:
    net = graph()
    trainer = Trainer(net, update_schedule=["a", part("b") | "out"])
    for names in ({"a.weight", "a.bias"}, {"b.weight", "b.bias", "out.weight", "out.bias"}):
        with trainer.only_moving():
            loss = loss_of(net)
        assert all(parameter.requires_grad for parameter in net.parameters())
        loss.backward()
        assert {name for name, parameter in net.named_parameters() if parameter.grad is not None} == names
        trainer.step(8)


def test_only_moving_is_undone_by_an_error() -> None:
    net = graph()
    trainer = Trainer(net, update_schedule=["a"])
    with pytest.raises(ZeroDivisionError), trainer.only_moving():
        1 / 0  # noqa: B018
    assert all(parameter.requires_grad for parameter in net.parameters())


# frozen statistics


def normed() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


STATISTICS = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_a_frozen_layer_keeps_its_statistics_and_uses_them() -> None:
    """LRM-A6."""
    net = normed()
    trainer = Trainer(net, "adamw", learning_rate_multipliers={1: 0})
    for moved in walk(net.train(), trainer, data(2)):
        assert moved == {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert not net[1].training
    assert net[2].training
    net.train()
    with torch.no_grad():
        before = arrays(net)
        net(X)
    assert changed(before, net) == set()


@pytest.mark.parametrize("how", [{"learning_rate_multipliers": {"1.weight": 0, "1.bias": 0}}, {"update_schedule": [0]}])
def test_frozen_affine_arrays_or_a_layer_between_its_turns_leave_statistics_running(how: Any) -> None:
    """LRM-A6, TUS-A6."""
    net = normed()
    trainer = Trainer(net, "adamw", **how)
    for moved in walk(net.train(), trainer, data(2)):
        assert moved >= STATISTICS
        assert not {"1.weight", "1.bias"} & moved


def test_a_frozen_layer_in_a_frozen_net_part_of_which_thaws() -> None:
    net = nn.Sequential(normed(), nn.Linear(2, 2))
    trainer = Trainer(net, learning_rate_multipliers=[((0, 3), 1), (0, 0)])
    for moved in walk(net.train(), trainer, data(2)):
        assert moved == {"0.3.weight", "0.3.bias", "1.weight", "1.bias"}


# rates


def test_the_rate_before_rules_can_be_read_and_set() -> None:
    net = chain()
    trainer = Trainer(net, "sgd", learning_rate=0.1, learning_rate_multipliers={0: 2}, rules={})
    assert trainer.learning_rate == 0.1
    before = arrays(net)
    trainer.set_learning_rate(0.5)
    give_gradients(net, 0)
    trainer.step()
    assert trainer.learning_rate == 0.5
    assert trainer.settings()["learning_rate"] == 0.5
    moved = {name: before[name] - array for name, array in arrays(net).items()}
    assert torch.allclose(moved["0.weight"], net[0].weight.grad * 1.0)
    assert torch.allclose(moved["2.weight"], net[2].weight.grad * 0.5)


@pytest.mark.parametrize("rule", ["adamw", "torch.sgd"])
def test_setting_the_rate_keeps_memory_and_absolute_rates(rule: str) -> None:
    net = graph()
    trainer = Trainer(
        net, rule, learning_rate=0.1, rules={"learning_rate": {"a": 0.1, "b": times(2)}}, weight_decay=0.0
    )
    for n, rate in enumerate((None, 0.1, 0.2, 0.2)):
        if rate is not None:
            trainer.set_learning_rate(rate)
        give_gradients(net, n)
        trainer.step()
        trainer.zero_grad()
    found = dict(zip(*_last_rates(trainer), strict=True))
    assert found == {"a.weight": 0.1, "b.weight": 0.4, "out.weight": 0.2}
    if rule == "adamw":
        assert all(own["count"] == 4 for own in memory_of(trainer).values())


def _last_rates(trainer: Trainer) -> tuple[list[str], list[float]]:
    names, found = trainer.table.score([trainer.progress])
    chosen = [n for n, name in enumerate(names) if name.endswith("weight")]
    return [names[n] for n in chosen], [round(float(found[n, 0]), 6) for n in chosen]


def test_a_schedule_sets_the_rate_itself() -> None:
    net = chain()
    trainer = Trainer(net, learning_rate=warmup(steps(2)) * cosine(0.1), total=steps(10))
    assert trainer.learning_rate == pytest.approx(0.05)
    with pytest.raises(ScheduleError, match=r"follows the schedule warmup.*Write learning_rate=0.5 where"):
        trainer.set_learning_rate(0.5)
    give_gradients(net, 0)
    trainer.step()
    with pytest.raises(ScheduleError, match=r"as in pieces\(warmup.*\(steps\(1\), 0.5\)\)"):
        trainer.set_learning_rate(0.5)
    assert trainer.settings()["learning_rate"] == "warmup(steps(2)) * cosine(0.1, 0.0)"


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), True, "x", None])
def test_a_rate_is_a_finite_number(rate: Any) -> None:
    with pytest.raises(SettingError, match=r"set_learning_rate.*=.*: a finite number is needed"):
        Trainer(chain()).set_learning_rate(rate)
    if rate is not None:
        with pytest.raises(SettingError, match=r"learning_rate=.*a finite number is needed"):
            Trainer(chain(), learning_rate=rate)


def test_numbers_of_numpy_are_numbers() -> None:
    assert Trainer(chain(), learning_rate=np.float32(0.5), weight_decay=np.float64(0.25)).learning_rate == 0.5


def test_schedules_that_listen_are_told_and_saved() -> None:
    net = chain()
    trainer = Trainer(net, "sgd", momentum=0.9, nesterov=when("val.loss", above=0.5))
    now = trainer.table.at(trainer.progress, trainer.memory)
    assert now.columns["nesterov"] == [True]
    trainer.see({"val.loss": 0.1})
    assert trainer.table.at(trainer.progress, trainer.memory).columns["nesterov"] == [False]
    other = Trainer(net, "sgd", momentum=0.9, nesterov=when("val.loss", above=0.5))
    other.load_state_dict(trainer.state_dict())
    assert other.memory == trainer.memory


# what is stepped


@pytest.mark.parametrize("form", ["list", "generator", "pairs", "dict", "leaves"])
def test_parameters_may_be_given_without_their_net(form: str) -> None:
    net = chain()
    given: Any = {
        "list": lambda: list(net.parameters()),
        "generator": net.parameters,
        "pairs": net.named_parameters,
        "dict": lambda: dict(net.named_parameters()),
        "leaves": lambda: [p.detach().requires_grad_() for p in net.parameters()],
    }[form]()
    trainer = Trainer(given, "sgd", learning_rate=0.1)
    names = (
        ("0", "1", "2", "3") if form in ("list", "generator", "leaves") else tuple(n for n, _ in net.named_parameters())
    )
    assert trainer.table.names == names
    stepped = [trainer.table.tree.arrays[name] for name in names]
    before = [array.detach().clone() for array in stepped]
    for array in stepped:
        array.grad = torch.ones_like(array)
    trainer.step()
    assert all(torch.allclose(array, old - 0.1) for array, old in zip(stepped, before, strict=True))


def test_names_of_parameters_are_parts() -> None:
    net = graph()
    trainer = Trainer(dict(net.named_parameters()), update_schedule=["a", "*.bias"])
    assert trainer.table.moving(Progress(0)) == ("a.weight", "a.bias")
    assert trainer.table.moving(Progress(1)) == ("a.bias", "b.bias", "out.bias")


def test_a_part_of_the_net() -> None:
    net = graph()
    trainer = Trainer(net, part=part("a") | "out.bias")
    for moved in walk(net, trainer, data(2)):
        assert moved == {"a.weight", "a.bias", "out.bias"}
    assert set(trainer.state_dict()["arrays"]) == {"a.weight", "a.bias", "out.bias"}


def test_two_trainers_of_one_net() -> None:
    net = graph()
    first, second = Trainer(net, "sgd", part="a"), Trainer(net, "adamw", part="b")
    before = arrays(net)
    loss_of(net).backward()
    first.step(8)
    assert changed(before, net) == {"a.weight", "a.bias"}
    loss_of(net).backward()
    before = arrays(net)
    second.step(8)
    assert changed(before, net) == {"b.weight", "b.bias"}


@pytest.mark.parametrize(
    "optimizer", ["adamw", "AdamW", AdamW, AdamW(), torch.optim.AdamW, lambda groups: torch.optim.AdamW(groups)]
)
def test_the_forms_of_an_optimizer(optimizer: Any) -> None:
    net = chain()
    before = arrays(net)
    trainer = Trainer(net, optimizer, learning_rate=0.1)
    give_gradients(net, 0)
    trainer.step()
    for name, array in arrays(net).items():
        moved = (array - before[name] * (1 - 0.1 * 0.01)).abs()
        assert torch.allclose(moved, torch.full_like(moved, 0.1), atol=1e-4)


def test_the_net_is_told_apart_from_its_trainers() -> None:
    net = chain()
    trainer = Trainer(net)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        loss_of(other).backward()
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert len(net._forward_pre_hooks) == 1
    trainer.detach()
    assert not net._forward_pre_hooks
    trainer = Trainer(net)
    del trainer
    gc.collect()
    assert not net._forward_pre_hooks


def test_lazy_arrays_are_stepped_once_they_have_a_shape() -> None:
    net = nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(2))
    trainer = Trainer(net, "adamw", learning_rate_multipliers={"*.bias": 0})
    with pytest.raises(StaleGradientError):
        Trainer(nn.Linear(2, 2)).step()
    with pytest.raises(SettingError, match=r"'0\.weight', '2\.weight' have no shape yet\. Call the net once"):
        trainer.step()
    loss_of(net).backward()
    trainer.step(8)
    for moved in walk(net, trainer, data(2)):
        assert moved == {"0.weight", "2.weight"}


def test_everything_frozen_moves_nothing() -> None:
    """LRM-A9, LRM-A11."""
    net = chain()
    trainer = Trainer(net, "adamw", learning_rate_multipliers=0, weight_decay=0.1)
    for moved in walk(net, trainer, data(2)):
        assert moved == set()
    assert not any(memory_of(trainer).values())
    assert trainer.progress.step == 2


# schedules over a run of known length


def test_gradual_unfreezing_by_multipliers_and_by_parts() -> None:
    late = {"a": pieces(FROZEN, (epochs(2), 1)), "b": pieces(FROZEN, (epochs(1), 0.5))}
    grown = pieces("out", (epochs(1), part("out") | "b"), (epochs(2), everything))
    for how in ({"learning_rate_multipliers": late}, {"update_schedule": grown}):
        net = graph()
        trainer = Trainer(net, "adamw", total=epochs(3), steps_per_epoch=2, weight_decay=0.1, **how)
        sizes = [len(moved) for moved in walk(net, trainer, data(6))]
        assert sizes == [2, 2, 4, 4, 6, 6]
        assert not trainer.table.frozen_buffers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": cosine(0.1)}, "runs to the end of the run, and the run's length is not known"),
        ({"learning_rate": warmup(steps(20)) * 0.1, "total": steps(10)}, "longer"),
        ({"learning_rate": linear(1, 0, over=steps(3)).until(steps(3)), "total": steps(10)}, "ends after"),
        (
            {"learning_rate": pieces(0.1, (epochs(2), 0.01)), "total": steps(10)},
            "A Trainer counts epochs if it is given",
        ),
        ({"learning_rate": pieces(0.1, (tokens(2), 0.01)), "total": steps(10)}, "token"),
        ({"weight_decay": pieces(0.1, (fraction(0.5), 0.01))}, "length"),
        ({"learning_rate_multipliers": {0: warmup(steps(20))}, "total": steps(10)}, "longer"),
        ({"update_schedule": pieces("0", (epochs(2), "2"))}, "epoch"),
        ({"learning_rate": lambda progress: 1 / 0}, "ZeroDivisionError"),
        ({"total": 10}, r"total=10: a span in steps, epochs, samples or tokens is needed. Write total=steps\(10\)"),
        ({"total": seconds(10)}, r"total=seconds\(10\)"),
    ],
)
def test_what_can_be_seen_beforehand_is_an_error_beforehand(settings: Any, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        Trainer(chain(), **settings)


def test_spans_in_samples_are_counted() -> None:
    net = chain()
    trainer = Trainer(net, "sgd", learning_rate=pieces(0.1, (samples(16), 0.5)))
    rates = []
    for n in range(4):
        rates.append(trainer.learning_rate)
        give_gradients(net, n)
        trainer.step(8)
        trainer.zero_grad()
    assert rates == [0.1, 0.1, 0.5, 0.5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": lambda progress: "x"}, "learning_rate at step 1='x': a finite number is needed"),
        ({"beta1": linear(0.9, 1.5, over=steps(3)), "total": steps(9)}, r"beta1 at step \d=1.*: allowed is \[0, 1\)"),
        ({"weight_decay": lambda progress: -1.0}, r"weight_decay at step 1=-1.0: allowed is \[0, inf\)"),
        ({"rules": {"weight_decay": {0: linear(1, -1, over=steps(3))}}, "total": steps(9)}, "weight_decay at step"),
    ],
)
def test_values_that_are_computed_are_looked_at_beforehand(settings: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Trainer(chain(), **settings)


# refusals


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Trainer(chain(), "adamm"), SettingError, "There is no optimizer 'adamm'"),
        (lambda: Trainer(chain(), 3), SettingError, "optimizer=3: a name, a class of torch.optim, an instance"),
        (
            lambda: Trainer(chain(), momentun=0.9),
            SettingError,
            "adamw has no setting 'momentun'. Settings: learning_rate, beta1",
        ),
        (lambda: Trainer(chain(), "sgd", momentun=0.9), SettingError, 'Nearest: "momentum"'),
        (lambda: Trainer(chain(), lr=0.1), SettingError, "The learning rate is given as learning_rate="),
        (lambda: Trainer(chain(), weight_decay=-1), SettingError, r"weight_decay=-1: allowed is \[0, inf\)"),
        (lambda: Trainer(chain(), betas=(0.9, 1.0)), SettingError, r"beta2=1.0: allowed is \[0, 1\)"),
        (lambda: Trainer(chain(), betas=0.9), SettingError, r"betas=0.9: a pair is needed. Write betas=\(0.9, 0.999\)"),
        (lambda: Trainer(chain(), amsgrad=1), SettingError, "amsgrad=1: True or False"),
        (lambda: Trainer(chain(), clip_norm="x"), SettingError, "clip_norm='x': a finite number is needed"),
        (lambda: Trainer(chain(), rules={"lr": 1}), SettingError, "rules for 'lr': adamw has no setting 'lr'"),
        (
            lambda: Trainer(chain(), rules={"weight_decay": {0: -1}}),
            SettingError,
            "the rule part.0. for weight_decay=-1",
        ),
        (lambda: Trainer(chain(), rules={"weight_decay": {0: "x"}}), SettingError, "a finite number is needed"),
        (lambda: Trainer(chain(), rules={"betas": {0: 1}}), SettingError, "betas=1: a pair is needed"),
        (
            lambda: Trainer(chain(), rules={"learning_rate": {0: 1}}, learning_rate_multipliers={0: 1}),
            SettingError,
            "both given, and both decide the rate. Write the multipliers as times",
        ),
        (lambda: Trainer(chain(), learning_rate_multipliers={0: True}), RuleError, "a finite number is needed"),
        (lambda: Trainer(chain(), learning_rate_multipliers={"x": 1}), PartError, "the net has no 'x'"),
        (lambda: Trainer(chain(), [(everything, 1)]), SettingError, "optimizer=1: a name, a class"),
        (lambda: Trainer(chain(), non_finite="stop"), SettingError, 'non_finite=\'stop\': "raise", "skip" or None'),
        (lambda: Trainer(chain(), steps_per_epoch=0), SettingError, "steps_per_epoch=0: a whole number of at least 1"),
        (lambda: Trainer(chain(), steps_per_epoch=1.5), SettingError, "steps_per_epoch=1.5"),
        (lambda: Trainer(nn.Tanh()), SettingError, "The net has no trainable arrays"),
        (lambda: Trainer(chain().requires_grad_(False)), SettingError, "nothing has requires_grad=True"),
        (lambda: Trainer(torch.zeros(3, requires_grad=True)), SettingError, r"Trainer\(tensor\): give the net"),
        (lambda: Trainer(3), SettingError, r"Trainer\(int\): give the net, or its parameters"),
        (lambda: Trainer([]), SettingError, "no parameters were given"),
        (lambda: Trainer(["x"]), SettingError, "'0' is a str, not a parameter"),
        (lambda: Trainer([torch.zeros(3)]), SettingError, "'0' is not a leaf tensor with requires_grad=True"),
        (
            lambda: Trainer(chain(), strict=True, learning_rate_multipliers=[(everything, 1), (0, 2)]),
            RuleError,
            "can never decide",
        ),
    ],
)
def test_what_cannot_be_is_said_with_what_could(make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_rules_left_for_settings_that_are_not_there_are_told() -> None:
    from etude.bind.left import set_rules

    with pytest.warns(UserWarning, match="Rules left on modules are not used: adamw has no setting 'weigth_decay'"):
        Trainer(set_rules(chain(), weigth_decay={0: 0.1}))


# the state


def test_a_state_has_names_and_plain_values() -> None:
    net = tied()
    trainer = Trainer(net, "adamw", learning_rate=0.1)
    give_gradients(net, 0)
    trainer.step(8)
    state = trainer.state_dict()
    assert list(state["arrays"]) == ["emb.weight", "emb.bias", "out.bias"]
    assert set(state["arrays"]["emb.weight"]) == {"mean", "square", "count"}
    assert state["progress"]["step"] == 1
    assert (state["optimizer"], state["settings"]["learning_rate"]) == ("adamw", "constant(0.1)")


def test_a_rate_that_was_set_comes_back_with_the_state() -> None:
    net = chain()
    trainer = Trainer(net, learning_rate=0.1)
    trainer.set_learning_rate(0.7)
    other = Trainer(chain(), learning_rate=0.1)
    with pytest.warns(UserWarning, match="other settings than this trainer, and they are used: learning_rate"):
        other.load_state_dict(trainer.state_dict())
    assert other.learning_rate == 0.7
    scheduled = Trainer(chain(), learning_rate=cycle(0.1, 0.2))
    scheduled.load_state_dict(trainer.state_dict(), keep="new")
    assert scheduled.learning_rate == 0.1
    scheduled.load_state_dict(trainer.state_dict(), keep="saved")
    assert scheduled.learning_rate == 0.7


def test_the_place_in_a_cycle_comes_back_with_the_state() -> None:
    """TUS-A8."""
    net = graph()
    trainer = Trainer(net, update_schedule=[part("a") * 2, "b"])
    for n in range(4):
        give_gradients(net, n)
        trainer.step()
        trainer.zero_grad()
    other = Trainer(net, update_schedule=[part("a") * 2, "b"])
    other.load_state_dict(trainer.state_dict())
    assert [sorted(moved) for moved in walk(net, other, data(3))] == [
        ["a.bias", "a.weight"],
        ["b.bias", "b.weight"],
        ["a.bias", "a.weight"],
    ]


def spoiled(**changes: Any) -> Any:
    def spoil(state: dict[str, Any]) -> dict[str, Any]:
        return {**state, **changes}

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: None, r"This is no state of a Trainer"),
        (lambda state: {}, r"This is no state of a Trainer"),
        (lambda state: {"format": 1, "arrays": {}}, r"This is no state of a Trainer"),
        (spoiled(format=99), r"This is no state of a Trainer \(of this version\)"),
        (spoiled(optimizer="sgd"), r"The state is of the optimizer 'sgd', the trainer has 'adamw'"),
        (spoiled(progress=None), "The state has no clock"),
        (spoiled(progress={"step": 1}), "The state has no clock"),
        (lambda state: _arrays(state, {"0.weight": None}), r"of other arrays. It lacks '0.weight'. Nothing was loaded"),
        (lambda state: _arrays(state, {"x": {}}), r"It has 'x', which the trainer does not step"),
        (
            lambda state: _arrays(state, {"2.bias": {"mean": torch.zeros(9)}}),
            r"does not fit the net: memory 'mean' of '2.bias' has shape",
        ),
        (
            lambda state: _arrays(state, {"2.bias": {"speed": torch.zeros(2)}}),
            "memory 'speed' of '2.bias' is none of adamw",
        ),
        (lambda state: _arrays(state, {"2.bias": {"mean": 1.0}}), "memory 'mean' of '2.bias' is a float"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(spoil: Any, message: str) -> None:
    net = chain()
    trainer = Trainer(net)
    give_gradients(net, 0)
    trainer.step()
    before, memory, clock = arrays(net), memory_of(trainer), trainer.progress.step
    with pytest.raises(StateError, match=message):
        trainer.load_state_dict(spoil(copy.deepcopy(Trainer(net).state_dict())))
    assert changed(before, net) == set()
    assert trainer.progress.step == clock
    assert all(alike(memory[name]["mean"], own["mean"]) for name, own in memory_of(trainer).items())


def _arrays(state: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    found = {**state["arrays"], **changes}
    return {**state, "arrays": {name: own for name, own in found.items() if own is not None}}


def test_a_table_can_be_shown_before_anything_happens() -> None:
    trainer = Trainer(Graph(), learning_rate_multipliers={"a": 0.5}, update_schedule=["a", "b"])
    assert trainer.table.show().splitlines()[1].split()[:3] == ["a.weight", "4x3", "0.0005"]


def test_settings_are_told_with_values_and_schedules() -> None:
    found = Trainer(chain(), "sgd", momentum=linear(0.5, 0.9, over=steps(9)), clip_norm=1.0).settings()
    assert found == {
        "name": "sgd",
        "learning_rate": 1e-3,
        "momentum": "linear(0.5, 0.9, over=steps(9))",
        "dampening": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "clip_norm": 1.0,
    }


def test_off_may_be_written_out() -> None:
    net = chain()
    trainer = Trainer(net, SGD(), clip_norm=math.inf, noise=0.0)
    give_gradients(net, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trainer.step()
