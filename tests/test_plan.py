"""Plans: every option does what it says, and a plan is proved before anything happens."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import etude
from etude import (
    FROZEN,
    GAN,
    Evaluate,
    Extent,
    PartError,
    Plan,
    RuleError,
    ScheduleError,
    SettingError,
    Update,
    cosine,
    decay,
    everything,
    linear,
    minutes,
    part,
    seconds,
    steps,
    warmup,
)
from etude.errors import PlanError
from etude.run.events import Stepped
from small import (
    Noisy,
    arrays,
    batches,
    classified,
    close,
    condition,
    mlp,
    options,
    randomness,
    run,
    same,
    trained,
)

X, Y = classified(10)
VALIDATION = classified(6, seed=5)


def stepped(**changed: Any) -> list[Stepped]:
    """The steps of a short run."""
    return [event for event in run(**changed) if isinstance(event, Stepped)]


# ---------------------------------------------------------------------------------------------------- the plan itself


def test_a_plan_is_a_value_that_prints_what_was_said() -> None:
    plan = Plan("mse", epochs=2, learning_rate=cosine(0.1), weight_decay=0.01)
    assert repr(plan) == "Plan(loss='mse', learning_rate=cosine(0.1, 0.0), epochs=2, weight_decay=0.01)"
    assert plan.options() == {"loss": "mse", "learning_rate": cosine(0.1), "epochs": 2, "weight_decay": 0.01}


def test_the_options_in_a_result_read_back_to_the_same_plan() -> None:
    said = options(
        steps=5,
        learning_rate=warmup(steps(2)) * cosine(0.1),
        learning_rate_multipliers={"0.bias": FROZEN},
        update_schedule=["0", part("2") * 3],
        precision="bf16",
        weight_decay=linear(0.1, 0),
        seed=4,
    )
    result = trained(**said)
    again = {name: etude.read(text) for name, text in result.call.items()}
    assert Plan(**again).options() == Plan(**said).options()
    assert same(arrays(trained(**again).net), arrays(result.net))


def test_one_plan_serves_many_nets() -> None:
    plan = Plan(**options(epochs=2))
    one = etude.Run(plan, Noisy(), (X, Y)).result()
    other = etude.Run(plan, Noisy(), (X, Y)).result()
    assert same(arrays(one.net), arrays(other.net))
    assert etude.Run(plan, mlp(), classified(33)).result().steps == 18


# ----------------------------------------------------------------------------------------------------------- the proof


def test_check_changes_nothing() -> None:
    net = Noisy()
    net.body[3].eval()
    torch.manual_seed(3)
    before, state, chance = arrays(net), condition(net), randomness()
    checked = Plan(**options(validation=VALIDATION, metrics="accuracy")).check(net, (X, Y))
    assert same(arrays(net), before)
    assert condition(net) == state
    assert randomness() == chance
    assert checked.net is net


def test_check_leaves_buffers_alone_that_are_written_in_evaluation_too() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()
            self.calls: Tensor
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            output: Tensor = self.net(x)
            return output

    net = Counter()
    Plan(**options(validation=VALIDATION)).check(net, (X, Y))
    assert net.calls == 0


def test_check_says_what_will_happen() -> None:
    plan = Plan(**options(epochs=2, learning_rate=linear(0.1, 0), update_schedule=["0", "2"], validation=0.2, seed=3))
    checked = plan.check(mlp(), (X, Y))
    assert checked.extent == Extent(steps=4, epochs=2, samples=16)
    text = checked.show()
    for piece in ("4 steps", "2 epochs", "seed 3", "2 of 10 samples set aside", "adamw", "0.weight", "8x4", "0.1/0.1/"):
        assert piece in text
    assert isinstance(checked.plot(), Figure)
    assert checked.table.names == ("0.weight", "0.bias", "2.weight", "2.bias")


def test_check_names_what_never_moves() -> None:
    checked = Plan(**options(learning_rate_multipliers={"0.bias": FROZEN}, update_schedule=["0"])).check(mlp(), (X, Y))
    assert checked.idle == ("0.bias", "2.weight", "2.bias")
    assert "Never moved: 0.bias, 2.weight, 2.bias" in checked.show()


def test_the_picture_before_the_run_is_that_after_it() -> None:
    made = run(epochs=2, learning_rate=warmup(steps(2)) * cosine(0.1), update_schedule=["0", part("2") * 2])
    from etude.run.account import score_of
    from etude.run.pace import Pace

    before = score_of(made.checked, Pace(made.checked))
    assert len(before["steps"]) == 6
    assert made.result().score == before


# ---------------------------------------------------------------------------------------------------------- how long


LENGTHS: list[tuple[dict[str, Any], int, float]] = [
    ({"epochs": 2}, 6, 2),
    ({"steps": 5}, 5, 5 / 3),
    ({"steps": 5, "epochs": 1}, 3, 1),
    ({"steps": 2, "epochs": 1}, 2, 2 / 3),
    ({"steps": 3, "epochs": 1}, 3, 1),
]


@pytest.mark.parametrize(("given", "done", "passes"), LENGTHS, ids=str)
def test_the_first_end_that_is_reached_ends_the_run(given: dict[str, Any], done: int, passes: float) -> None:
    result = trained(**given)
    assert result.steps == done
    assert result.epochs == pytest.approx(passes)
    assert result.stop_reason == "finished"


class Clock:
    """Time that passes by a second with every step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 50.0
        monkeypatch.setattr("etude.run.run.time.perf_counter", lambda: self.now)

    def __call__(self, event: Any) -> None:
        self.now += isinstance(event, Stepped)


@pytest.mark.parametrize(("limit", "done"), [(seconds(1), 1), (seconds(3.5), 4), (seconds(4), 4)])
def test_a_time_limit_ends_the_run_after_a_step(limit: Any, done: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    result = trained(time_limit=limit, listeners=[clock])
    assert (result.steps, result.stop_reason) == (done, "time")
    both = trained(time_limit=limit, steps=2, listeners=[clock])
    assert (both.steps, both.stop_reason) == (min(done, 2), "time" if done < 2 else "finished")


def test_a_schedule_to_the_end_needs_an_end() -> None:
    with pytest.raises(ScheduleError, match="length is not known"):
        trained(time_limit=minutes(1), learning_rate=cosine(0.1))
    assert trained(time_limit=seconds(1e-6), learning_rate=cosine(0.1, over=steps(9))).steps == 1


def test_schedules_follow_the_run_whose_end_is_reached_first() -> None:
    rates = trained(steps=4, epochs=9, learning_rate=linear(1e-3, 0)).history["rate"].values
    assert rates == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    rates = trained(steps=99, epochs=1, learning_rate=linear(1e-3, 0)).history["rate"].values
    assert rates == pytest.approx([1e-3, 2e-3 / 3, 1e-3 / 3])


# ----------------------------------------------------------------------------------------------------- batches, order


@pytest.mark.parametrize(("size", "expected"), [(1, [1] * 10), (3, [3, 3, 3, 1]), (10, [10]), (64, [10])])
def test_the_batch_size(size: int, expected: list[int]) -> None:
    assert [event.samples for event in stepped(batch_size=size)] == expected
    assert trained(batch_size=size).batch_size == size


def test_without_a_batch_size_it_is_32_or_all_there_is() -> None:
    assert trained(batch_size=None).batch_size == 10
    result = trained(data=classified(70), batch_size=None)
    assert (result.batch_size, result.chosen["batch_size"], result.steps) == (32, 32, 3)


class Recorder(nn.Linear):
    """A net that keeps the inputs it was trained on."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.seen: list[list[float]] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += [row.tolist() for row in x]
        return super().forward(x)


def order(**changed: Any) -> list[int]:
    """The samples in the order in which a run took them."""
    net = Recorder()
    trained(net, **changed)
    return [X.tolist().index(row) for row in net.seen]


def test_each_epoch_has_every_sample_once_in_a_new_order() -> None:
    found = order(epochs=2)
    assert sorted(found[:10]) == sorted(found[10:]) == list(range(10))
    assert found[:10] != found[10:]
    assert found[:10] != list(range(10))


def test_the_order_depends_on_the_seed_alone() -> None:
    assert order(epochs=2) == order(epochs=2, learning_rate=0.5, validation=VALIDATION)
    assert order(seed=1) != order(seed=2)
    assert order(epochs=2, batch_size=3) == order(epochs=2, batch_size=10)


def test_without_shuffling_the_order_is_the_data_s() -> None:
    assert order(shuffle=False, epochs=2) == list(range(10)) * 2


def test_shuffling_of_what_is_read_forward_is_an_error() -> None:
    with pytest.raises(etude.DataError, match="can only be read forward"):
        trained(data=Forward(), shuffle=True)


# ------------------------------------------------------------------------------------------------- every form of data


class Pairs(Dataset[Any]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]


class Nested(Dataset[Any]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        return (X[index, :2], X[index, 2:]), Y[index]


class Forward(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(X[i], Y[i]) for i in range(10)])


class Hugging:
    """A table that looks like a Hugging Face dataset: rows by number, columns by name."""

    column_names = ("x", "label")

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < 10:
            raise IndexError(index)
        return {"x": X[index].tolist(), "label": int(Y[index])}


class Streamed:
    """A stream that looks like a Hugging Face dataset."""

    column_names = ("x", "label")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ({"x": X[i].tolist(), "label": int(Y[i])} for i in range(10))


class Named(nn.Module):
    """A net whose input has a name."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x)
        return output


class Two(nn.Module):
    """A net of two inputs, `left` and `right`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        output: Tensor = self.net(torch.cat([left, right], 1))
        return output


def parts() -> Iterator[tuple[Tensor, Tensor]]:
    for piece in batches(10, 4):
        yield X[piece], Y[piece]


FORMS: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any]]] = {
    "tensors": (Named, (X, Y), {}),
    "list of tensors": (Named, [X, Y], {}),
    "numpy": (Named, (X.numpy(), Y.numpy()), {}),
    "float64 of numpy": (Named, (X.numpy().astype(np.float64), Y.numpy()), {}),
    "lists": (Named, (X.tolist(), Y.tolist()), {}),
    "dict": (Named, {"x": X, "label": Y}, {}),
    "dict of two inputs": (Two, {"right": X[:, 2:], "left": X[:, :2], "label": Y}, {}),
    "three arrays": (Two, (X[:, :2], X[:, 2:], Y), {}),
    "pairs": (Named, [(X[i], int(Y[i])) for i in range(10)], {}),
    "dicts": (Named, [{"x": X[i], "label": int(Y[i])} for i in range(10)], {}),
    "data set of nested pairs": (Two, Nested(), {}),
    "data set": (Named, Pairs(), {}),
    "data set, a worker": (Named, Pairs(), {"workers": 1}),
    "tensor data set": (Named, TensorDataset(X, Y), {}),
    "hugging face": (Named, Hugging(), {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_trains_the_same_net(form: str) -> None:
    net, data, more = FORMS[form]
    expected = trained(Named(), (X, Y), epochs=2)
    found = trained(net(), data, epochs=2, **more)
    assert same(arrays(found.net), arrays(expected.net))
    assert found.history["epoch.loss"].values == expected.history["epoch.loss"].values
    assert (found.steps, found.samples) == (6, 20)


FORWARD: dict[str, tuple[Any, dict[str, Any]]] = {
    "arrays in order": ((X, Y), {"shuffle": False}),
    "iterable data set": (Forward(), {}),
    "hugging face stream": (Streamed(), {}),
    "loader": (DataLoader(TensorDataset(X, Y), batch_size=4), {"batch_size": None}),
    "function": (parts, {"batch_size": None, "round_length": 3}),
    "function of the epoch": (lambda epoch: parts(), {"batch_size": None, "round_length": 3}),
    "list of batches": (lambda: iter(list(parts())), {"batch_size": None, "round_length": 3}),
}


@pytest.mark.parametrize("form", FORWARD)
def test_what_is_read_forward_trains_the_same_net(form: str) -> None:
    data, more = FORWARD[form]
    expected = trained(Named(), (X, Y), epochs=2, shuffle=False)
    found = trained(Named(), data, epochs=2, **more)
    assert same(arrays(found.net), arrays(expected.net))
    assert found.history["epoch.loss"].values == pytest.approx(expected.history["epoch.loss"].values, rel=1e-9)
    assert (found.steps, found.samples, found.epochs) == (6, 20, 2)


def test_a_round_may_be_shorter_than_the_data() -> None:
    result = trained(Named(), parts, batch_size=None, round_length=2, epochs=3)
    assert (result.steps, result.samples, result.batches_per_epoch) == (6, 24, 2)


def test_inputs_alone_with_a_loss_of_the_output() -> None:
    result = trained(mlp(), X, loss=lambda output: (output**2).mean(), epochs=2)
    assert result.history["epoch.loss"].values[1] < result.history["epoch.loss"].values[0]


# ---------------------------------------------------------------------------------------------------------- optimizers


def test_optimizers_are_names_classes_factories_and_instances() -> None:
    net = mlp()
    forms: list[Any] = [
        "adam",
        torch.optim.Adam,
        lambda groups: torch.optim.Adam(groups, lr=0.05),
    ]
    expected = trained(optimizer="adam", learning_rate=0.05)
    for form in forms:
        assert close(arrays(trained(optimizer=form, learning_rate=0.05).net), arrays(expected.net))
    made = torch.optim.Adam(net.parameters(), lr=0.05)
    assert close(arrays(trained(net, optimizer=made).net), arrays(expected.net))


def test_settings_of_the_update_rule_are_options() -> None:
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    for piece in batches(10, 4):
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(net(X[piece]), Y[piece]))
        optimizer.step()
    settings: dict[str, Any] = {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
    found = trained(optimizer="sgd", learning_rate=0.1, shuffle=False, **settings)
    assert close(arrays(found.net), arrays(net))


def test_clipping_by_norm() -> None:
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for piece in batches(10, 4):
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(net(X[piece]), Y[piece]))
        nn.utils.clip_grad_norm_(net.parameters(), 0.05)
        optimizer.step()
    assert close(arrays(trained(optimizer="sgd", learning_rate=0.1, shuffle=False, clip_norm=0.05).net), arrays(net))


def test_rules_and_multipliers_reach_the_step() -> None:
    before = arrays(mlp())
    result = trained(learning_rate_multipliers={"0": 0, "2.bias": FROZEN, everything: 1})
    after = arrays(result.net)
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["2.weight"]
    result = trained(
        rules={"weight_decay": {"0": 0.5}}, learning_rate_multipliers={"2": 0}, loss=lambda o, y: o.sum() * 0
    )
    assert torch.allclose(arrays(result.net)["0.weight"], before["0.weight"] * (1 - 1e-3 * 0.5) ** 3)


def test_strict_makes_an_error_of_a_rule_that_never_decides() -> None:
    covered: dict[str, Any] = {"learning_rate_multipliers": {everything: 1, "0": 2}}
    with pytest.warns(UserWarning, match="never decides"):
        trained(**covered)
    with pytest.raises(RuleError, match="can never decide"):
        trained(**covered, strict=True)


class Half(nn.Module):
    """A net of which the loss reaches only a part."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.spare = mlp(), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x)
        return output


def test_arrays_that_the_loss_does_not_reach() -> None:
    net = Half()
    before = arrays(net)
    with pytest.raises(etude.EtudeError, match=r"spare\.weight.*ignore_stale_grad=True"):
        trained(net)
    assert same(arrays(net), before)
    result = trained(net, ignore_stale_grad=True, weight_decay=0.5)
    after = arrays(result.net)
    assert [name for name in before if torch.equal(before[name], after[name])] == ["spare.weight", "spare.bias"]
    assert trained(Half(), learning_rate_multipliers={"spare": FROZEN}).stop_reason == "finished"


# ---------------------------------------------------------------------------------------------- precision and devices


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", None])
def test_precision_computes_in_other_numbers_and_keeps_the_arrays(precision: str | None) -> None:
    plain = trained(epochs=2, learning_rate=0.05)
    found = trained(epochs=2, learning_rate=0.05, precision=precision)
    assert {array.dtype for array in arrays(found.net).values()} == {torch.float32}
    exact = same(arrays(found.net), arrays(plain.net))
    assert exact == (precision in ("fp32", None))
    assert close(arrays(found.net), arrays(plain.net), 0.05)


def test_double_precision_makes_the_net_double_and_keeps_the_digits_of_the_data() -> None:
    net = mlp().double()
    x = X.double() + 1e-12
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for piece in batches(10, 4):
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(net(x[piece]), Y[piece]))
        optimizer.step()
    for data in ((x, Y), (x.numpy(), Y.numpy()), [(x[i], int(Y[i])) for i in range(10)]):
        found = trained(data=data, precision="fp64", optimizer="sgd", learning_rate=0.1, shuffle=False)
        assert {array.dtype for array in arrays(found.net).values()} == {torch.float64}
        assert all(torch.allclose(mine, arrays(net)[name], atol=1e-14) for name, mine in arrays(found.net).items())


def test_a_double_net_gets_the_digits_of_numpy() -> None:
    """In fp32, which leaves the net as it is, numbers of numpy become what the net computes in."""
    given = X.double() + 1e-12
    one = trained(mlp().double(), (given.numpy(), Y.numpy()))
    other = trained(mlp().double(), (given, Y))
    assert same(arrays(one.net), arrays(other.net))


def test_half_precision_finds_its_scale_by_leaving_out_steps() -> None:
    told = list(run(precision="fp16", epochs=4, loss=lambda o, y: functional.cross_entropy(o, y) * 64))
    names = [type(event).__name__ for event in told]
    assert names.count("Skipped") >= 1
    assert names.count("Stepped") >= 6
    assert names.index("Skipped") == 1


def test_half_precision_with_several_updates_is_an_error() -> None:
    updates = [Update("a", "cross_entropy", "0"), Update("b", "cross_entropy", "2")]
    with pytest.raises(PlanError, match="use precision='bf16'"):
        trained(loss=None, updates=updates, precision="fp16")
    assert trained(loss=None, updates=updates, precision="bf16").stop_reason == "finished"


def test_the_device() -> None:
    assert trained(device="cpu").device == "cpu"
    assert trained(device=torch.device("cpu")).device == "cpu"
    for wrong in ("cuda:99", "gpu"):
        with pytest.raises(PlanError, match="is not there"):
            trained(device=wrong)
    with pytest.raises(SettingError, match=r"device=3\.5: a device of torch is needed"):
        trained(device=3.5)


def test_a_net_on_several_devices_needs_one_named() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3, device="meta"))
    with pytest.raises(PlanError, match="on several devices"):
        trained(net)


# -------------------------------------------------------------------------------------------------------- odd nets


def test_lazy_modules_get_their_shapes_before_rules_meet_arrays() -> None:
    net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    result = trained(net, learning_rate_multipliers={"0.bias": FROZEN, everything: 1})
    assert isinstance(result.net, nn.Sequential)
    assert result.net[0].weight.shape == (8, 4)
    assert result.learning_rates["0.bias"] == 0


def test_a_lazy_net_is_made_by_the_process_s_generator_as_by_a_call() -> None:
    torch.manual_seed(5)
    one = nn.Sequential(nn.LazyLinear(3))
    called = copy.deepcopy(one)
    called(X[:4])
    torch.manual_seed(5)
    Plan(**options()).check(one, (X, Y))
    assert {name: array.shape for name, array in arrays(one).items()} == {"0.weight": (3, 4), "0.bias": (3,)}
    assert same(arrays(one), arrays(called))


def test_tied_weights_are_one_array() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.head(self.b(self.a(x)))
            return output

    net = Tied()
    before = net.a.weight.clone()
    result = trained(net, learning_rate_multipliers={"b.weight": FROZEN, everything: 1})
    assert torch.equal(net.a.weight, before)
    assert result.learning_rates["a.weight"] == 0
    other = Tied()
    trained(other, update_schedule=["b.weight", "head"])
    assert other.a.weight is other.b.weight


def test_everything_frozen_warns_and_returns_the_net_as_it_was() -> None:
    net = Noisy()
    before = arrays(net)
    with pytest.warns(UserWarning, match="Every array is frozen"):
        result = trained(net, learning_rate_multipliers={everything: FROZEN}, validation=VALIDATION)
    assert same(arrays(net), before)
    assert (result.stop_reason, result.steps) == ("frozen", 0)
    assert result.net is net
    assert isinstance(result.plot("score"), Figure)


def test_a_net_without_trainable_arrays_is_an_error() -> None:
    net = mlp()
    net.requires_grad_(False)
    with pytest.raises(etude.EtudeError, match="no trainable arrays"):
        trained(net)
    with pytest.raises(etude.EtudeError, match="no trainable arrays"):
        trained(nn.Flatten(), loss=lambda o, y: o.mean())


def test_arrays_that_want_no_gradient_stay_as_they_are() -> None:
    net = mlp()
    net[0].requires_grad_(False)
    before = arrays(net)
    after = arrays(trained(net, weight_decay=0.5).net)
    assert [name for name in before if torch.equal(before[name], after[name])] == ["0.weight", "0.bias"]
    assert [array.requires_grad for array in net.parameters()] == [False, False, True, True]


# ------------------------------------------------------------------------------------------------------ update schedule


def moved(**changed: Any) -> list[set[str]]:
    """The arrays that moved at each step."""
    net = mlp()
    found, before = [], arrays(net)
    for event in run(net, **changed):
        if isinstance(event, Stepped):
            now = arrays(net)
            found.append({name for name in now if not torch.equal(now[name], before[name])})
            before = now
    return found


FIRST, SECOND = {"0.weight", "0.bias"}, {"2.weight", "2.bias"}


def test_one_update_with_a_schedule_of_parts() -> None:
    assert moved(update_schedule=["0", "2"], epochs=2) == [FIRST, SECOND] * 3
    assert moved(update_schedule=[part("0") * 2, "2"], epochs=2) == [FIRST, FIRST, SECOND] * 2
    assert moved(update_schedule="2") == [SECOND] * 3
    assert moved(update_schedule=["0.bias", part("0") | "2"]) == [{"0.bias"}, FIRST | SECOND, {"0.bias"}]


def test_several_updates_with_schedules_of_their_own() -> None:
    updates = [
        Update("a", "cross_entropy", "0", update_schedule=["0.weight", "0.bias"]),
        Update("b", "cross_entropy", "2", update_schedule=["2.bias"]),
    ]
    assert moved(loss=None, updates=updates) == [
        {"0.weight", "2.bias"},
        {"0.bias", "2.bias"},
        {"0.weight", "2.bias"},
    ]


def test_an_unknown_part_in_a_schedule_is_an_error() -> None:
    with pytest.raises(PartError, match=r"In the update schedule: .*Nearest"):
        trained(update_schedule=["0.wieght"])


# --------------------------------------------------------------------------------------------------------------- games


def players() -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        return nn.Linear(2, 4), nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))


SAMPLES = torch.randn(10, 4, generator=torch.Generator().manual_seed(3))
LATENTS = torch.randn(10, 2, generator=torch.Generator().manual_seed(4))

GAMES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "js": (
        lambda real, fake: -real.sigmoid().log().mean() - (1 - fake.sigmoid()).log().mean(),
        lambda fake: (1 - fake.sigmoid()).log().mean(),
    ),
    "non-saturating": (
        lambda real, fake: -real.sigmoid().log().mean() - (1 - fake.sigmoid()).log().mean(),
        lambda fake: -fake.sigmoid().log().mean(),
    ),
    "wasserstein": (lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean()),
    "hinge": (
        lambda real, fake: (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean(),
        lambda fake: -fake.mean(),
    ),
}


@pytest.mark.parametrize("game", GAMES)
def test_a_game_moves_the_two_in_turn_each_by_its_own_loss(game: str) -> None:
    generator, critic = players()
    critic_loss, generator_loss = GAMES[game]
    both: list[tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]] = [
        (critic, lambda x, z: critic_loss(critic(x), critic(generator(z)))),
        (generator, lambda x, z: generator_loss(critic(generator(z)))),
    ]
    for step, piece in enumerate([*batches(10, 4)] * 2):
        player, loss = both[step % 2]
        own = list(player.parameters())
        grads = torch.autograd.grad(loss(SAMPLES[piece], LATENTS[piece]), own)
        with torch.no_grad():
            for array, grad in zip(own, grads, strict=True):
                array.sub_(grad, alpha=0.05)
                if game == "wasserstein" and player is critic:
                    array.clamp_(-0.01, 0.01)
    gan = GAN(*players(), loss=game)
    options_ = {"loss": None, "optimizer": "sgd", "learning_rate": 0.05, "shuffle": False, "epochs": 2}
    result = trained(gan, (SAMPLES, LATENTS), **options_)
    assert close(arrays(gan.generator), arrays(generator))
    assert close(arrays(gan.discriminator), arrays(critic))
    assert {"discriminator.loss", "discriminator.real", "discriminator.fake", "generator.loss"} <= set(result.history)


def test_a_game_draws_its_latents_by_the_seed() -> None:
    one, other = (trained(GAN(*players(), latent=2), SAMPLES, loss=None, seed=3) for _ in range(2))
    assert same(arrays(one.net), arrays(other.net))
    third = trained(GAN(*players(), latent=2), SAMPLES, loss=None, seed=4)
    assert not same(arrays(one.net), arrays(third.net))


def test_a_game_may_have_a_schedule_of_its_own() -> None:
    gan = GAN(*players(), latent=lambda n: torch.zeros(n, 2))
    history = trained(
        gan, SAMPLES, loss=None, epochs=2, update_schedule=[part("discriminator") * 2, "generator"]
    ).history
    assert history["discriminator.loss"].steps == [1, 2, 4, 5]
    assert history["generator.loss"].steps == [3, 6]


def test_a_game_can_be_looked_at() -> None:
    history = trained(GAN(*players(), latent=2), SAMPLES, loss=None, validation=SAMPLES).history
    total = history["val.discriminator.loss"].values[0] + history["val.generator.loss"].values[0]
    assert history["val.loss"].values[0] == pytest.approx(total)


# --------------------------------------------------------------------------------------------------------- bad options


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"epochs": 0}, SettingError, "epochs=0: a whole number of at least 1"),
    ({"epochs": -1}, SettingError, "epochs=-1"),
    ({"epochs": 1.5}, SettingError, "epochs=1.5"),
    ({"epochs": True}, SettingError, "epochs=True"),
    ({"epochs": "3"}, SettingError, "epochs='3'"),
    ({"steps": 0}, SettingError, "steps=0"),
    ({"batch_size": 0}, SettingError, "batch_size=0"),
    ({"batch_size": -4}, SettingError, "batch_size=-4"),
    ({"batch_size": 2.5}, SettingError, "batch_size=2.5"),
    ({"time_limit": 30}, SettingError, r"Write minutes\(30\)"),
    ({"time_limit": seconds(0)}, SettingError, "time_limit"),
    ({"time_limit": steps(5)}, SettingError, "a span of time"),
    ({"precision": "bf-16"}, SettingError, 'Nearest: "bf16"'),
    ({"precision": 16}, SettingError, "known are"),
    ({"non_finite": "skp"}, SettingError, 'Nearest: "skip"'),
    ({"seed": -1}, SettingError, "seed=-1"),
    ({"seed": 1.0}, SettingError, "seed=1.0"),
    ({"seed": None}, SettingError, "seed=None"),
    ({"workers": -1}, SettingError, "workers=-1"),
    ({"shuffle": "yes"}, SettingError, "shuffle='yes'"),
    ({"strict": 1}, SettingError, "strict=1"),
    ({"compile": "yes"}, SettingError, "compile='yes'"),
    ({"ignore_stale_grad": "yes"}, SettingError, "ignore_stale_grad='yes'"),
    ({"steps": 3, "epoch": 3}, SettingError, "There is no option 'epoch'. Nearest: \"epochs\""),
    ({"learning_rat": 0.1}, SettingError, 'Nearest: "learning_rate"'),
    ({"lr": 0.1}, SettingError, "learning_rate="),
    ({"batchsize": 3}, SettingError, 'Nearest: "batch_size"'),
    ({"weight_decai": 0.1}, SettingError, 'Nearest: "weight_decay"'),
    ({"momentum": 0.9}, SettingError, "There is no option 'momentum'"),
    ({"optimizer": "adamv"}, SettingError, "There is no optimizer 'adamv'"),
    ({"optimizer": 3}, SettingError, "optimizer=3"),
    ({"learning_rate": "0.1"}, SettingError, "learning_rate='0.1'"),
    ({"learning_rate": float("nan")}, SettingError, "learning_rate=nan"),
    ({"weight_decay": -0.1}, SettingError, "weight_decay"),
    ({"learning_rate_multipliers": {"0.wieght": 1}}, PartError, 'Nearest: "weight"'),
    ({"learning_rate_multipliers": {"3": 1}}, PartError, "matches nothing"),
    ({"rules": {"weigth_decay": {"0": 1}}}, SettingError, 'Nearest: "weight_decay"'),
    ({"learning_rate": warmup(steps(99)) * 0.1}, ScheduleError, "99"),
    ({"updates": []}, PlanError, "one at least is needed"),
    ({"updates": Update("a", "mse")}, SettingError, r"Write updates=\[Update\("),
    ({"updates": ["a"]}, Exception, "'a' is no Update"),
    ({"updates": [Update("a", "mse"), Update("a", "mse")]}, PlanError, "a name of its own"),
    ({"updates": [Update("a", "mse")], "learning_rate": 0.1}, SettingError, "said in each Update"),
    ({"updates": [Update("a", "mse")], "weight_decay": 0.1}, SettingError, "said in each Update"),
]


@pytest.mark.parametrize(("given", "error", "words"), WRONG, ids=[str(each[0]) for each in WRONG])
def test_a_wrong_option_is_an_error_before_anything_happens(given: dict[str, Any], error: Any, words: str) -> None:
    net = mlp()
    before, state = arrays(net), condition(net)
    loss = {"loss": None} if "updates" in given else {}
    with pytest.raises(error, match=words) as caught:
        trained(net, **{**loss, **given})
    assert isinstance(caught.value, etude.EtudeError)
    assert same(arrays(net), before)
    assert condition(net) == state


def test_no_length_and_no_loss_are_errors() -> None:
    with pytest.raises(SettingError, match="How long"):
        Plan("mse")
    with pytest.raises(PlanError, match="No loss is given"):
        etude.train(mlp(), (X, Y), epochs=1, progress=False)
    with pytest.raises(PlanError, match=r"a function: a torch\.nn\.Module is needed"):
        etude.train(lambda x: x, (X, Y), loss="mse", epochs=1, progress=False)  # type: ignore[arg-type]


UPDATES: list[tuple[Callable[[], Any], str]] = [
    (lambda: Update("", "mse"), "a name without dots"),
    (lambda: Update("a.b", "mse"), "a name without dots"),
    (lambda: Update("val", "mse"), "series of that name"),
    (lambda: Update("epoch", "mse"), "series of that name"),
    (lambda: Update("a", "mse", turn=1.5), "turn=1.5"),
    (lambda: Update("a", "mse", turn=-1), "turn=-1"),
    (lambda: Update("a", "mse", turn=part("0")), "update_schedule"),
    (lambda: GAN(*players(), loss="wassersten"), 'Nearest: "wasserstein"'),
    (lambda: GAN(nn.Linear(2, 4), nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())), "Leave it out"),
    (lambda: trained(GAN(*players()), SAMPLES, loss=None), "latent=64"),
]


@pytest.mark.parametrize(("made", "words"), UPDATES, ids=[str(i) for i in range(len(UPDATES))])
def test_wrong_updates_and_games_are_errors(made: Callable[[], Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        made()


def test_nothing_of_a_short_run_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(Noisy(), validation=Evaluate(0.2, "accuracy"), epochs=2)


def test_the_picture_of_a_plan_is_that_of_its_result(tmp_path: Path) -> None:
    x = torch.randn(12, 3)
    options = {"loss": "mse", "epochs": 2, "batch_size": 4, "update_schedule": ["0", "1"]}
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    before = Plan(**options).plot(net, (x, x[:, :1]), tmp_path / "plan.png")
    after = etude.train(net, (x, x[:, :1]), progress=False, **options).plot("score")

    def notes(figure: Any) -> list[Any]:
        return [collection.get_array() for axes in figure.axes for collection in axes.collections]

    assert (tmp_path / "plan.png").stat().st_size > 1000
    shown, made = notes(before), notes(after)
    assert len(shown) == len(made) > 0
    for one, other in zip(shown, made, strict=True):
        assert (one is None and other is None) or (one == other).all()


def test_turns_of_updates_are_shown() -> None:
    def small(output: Tensor) -> Tensor:
        return output.square().mean()

    turns = {
        "never": 0,
        "thrice": 3,
        "late": etude.pieces(0, (steps(2), 2)),
        "heard": etude.when("late.loss", above=1.0),
        "usual": None,
    }
    plan = Plan(
        updates=[Update(name, small, part=everything, turn=turn) for name, turn in turns.items()], steps=5, batch_size=8
    )
    shown = plan.check(nn.Linear(2, 2), torch.randn(64, 2)).show()
    said = {}
    for text in shown.split("\n\nUpdate ")[1:]:
        lines = text.splitlines()
        (array,) = (line for line in lines if line.startswith("weight "))
        said[lines[0].strip("':")] = (
            [line for line in lines if line.startswith("turn: ")],
            array.split("  ")[-1].strip(),
        )
    assert said == {
        "never": (["turn: never"], "never"),
        "thrice": (["turn: 3 times in each step"], "every step"),
        "late": (["turn: pieces(0, (steps(2), 2))"], "3-5 (3 of 5)"),
        "heard": ([f"turn: {turns['heard']!r}, which only the run can tell"], "every step"),
        "usual": ([], "every step"),
    }


def test_the_line_of_settings_says_what_rules_decide_for_all_arrays() -> None:
    def line(**said: Any) -> str:
        plan = Plan(lambda output: output.mean(), epochs=1, optimizer="sgd", **said)
        shown = plan.check(nn.Linear(2, 2), torch.randn(64, 2)).show()
        return next(one for one in shown.splitlines() if one.startswith("sgd:"))

    ruled = line(weight_decay=decay(0.1), learning_rate=0.3, learning_rate_multipliers={everything: 0.5})
    assert "weight_decay by part" in ruled
    assert "learning_rate 0.3" in ruled
    assert "momentum 0.0" in line(rules={"momentum": {"weight": 0.9}})
