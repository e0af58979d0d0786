"""Probes: numbers of activations, arrays, gradients and updates by part, in training and over validation data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import nan
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

import etude
from effort import examples
from etude import Evaluate, Plan, Update, every, steps
from etude.errors import EtudeError, PartError, PlanError, SettingError
from etude.run.checked import Checked
from etude.run.events import Stepped
from etude.run.probe import Probe, probes_in
from etude.run.probes import Probes
from etude.run.result import Result
from etude.run.statistics import STATISTICS, Given
from etude.values.part import everything, part
from etude.values.progress import Progress
from etude.values.spans import epochs, minutes
from small import arrays, classified, mlp, options, run, same, trained

quick = settings(max_examples=examples(60), deadline=None)
X, Y = classified(8)


def checked(net: nn.Module, **changed: Any) -> Checked:
    return Plan(**options(**changed)).check(net, (X, Y))


def probed(probes: list[Probe], net: nn.Module | None = None, batch: Any = (X, Y), **changed: Any) -> dict[str, float]:
    """What probes give in the first step of a run."""
    made = checked(mlp() if net is None else net, **changed)
    at_work = Probes(probes, made.net, made.works, made.extent)
    begin = Progress(extent=made.extent)
    assert at_work.due(begin, begin.tick(samples=8))
    with at_work.watching(batch):
        made.works[0].step(begin, batch)
    return {label: float(value) for label, value in at_work.values().items()}


# ------------------------------------------------------------------------------------------------------- statistics

EXPECTED: dict[str, Callable[[Tensor], Tensor]] = {
    "rms": lambda x: x.square().mean().sqrt(),
    "mean": lambda x: x.mean(),
    "std": lambda x: x.std(correction=0),
    "norm": lambda x: x.norm(),
    "max": lambda x: x.max(),
    "min": lambda x: x.min(),
    "share_zero": lambda x: (x == 0).double().mean(),
    "share_not_finite": lambda x: (~x.isfinite()).double().mean(),
}


def pieces_of(x: Tensor, cuts: list[int]) -> list[Tensor]:
    ends = sorted(min(cut, len(x)) for cut in cuts)
    return [x[a:b] for a, b in zip([0, *ends], [*ends, len(x)], strict=True)]


def test_every_statistic_has_a_value_to_be_compared_with() -> None:
    assert EXPECTED.keys() == STATISTICS.keys()


@quick
@given(
    st.sampled_from(sorted(EXPECTED)), st.lists(st.integers(0, 20), max_size=4), st.integers(0, 2**16), st.booleans()
)
def test_whatever_the_pieces_it_is_that_of_all_elements(name: str, cuts: list[int], seed: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Far from 0, so that sums of squares would lose the deviation.
    x = (torch.randn(20, 3, generator=generator) + 1e4).relu().double()
    x[torch.rand(20, 3, generator=generator) < 0.3] = 0
    inside = torch.rand(20, 3, generator=generator) < 0.7 if masked else torch.ones(20, 3, dtype=torch.bool)
    inside[0, 0] = True
    of, taken = STATISTICS[name], None
    for piece, within in zip(pieces_of(x, cuts), pieces_of(inside, cuts), strict=True):
        found = of.take(piece, within if masked else None)
        taken = found if taken is None else of.join(taken, found)
    assert taken is not None
    torch.testing.assert_close(of.value(taken), EXPECTED[name](x[inside]).double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", sorted(EXPECTED))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_of_several_arrays_it_is_that_of_all_their_elements(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    many = [torch.randn(shape, generator=generator).to(dtype) for shape in ((3, 4), (5,), (2, 2, 2), ())]
    together = torch.cat([one.reshape(-1) for one in many]).double()
    found = STATISTICS[name].value(STATISTICS[name].take_all(many))
    torch.testing.assert_close(found, EXPECTED[name](together), rtol=1e-6, atol=0)


def test_of_sparse_gradients_zeros_count_too() -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.tensor([[3.0, 4.0]]), (4, 2), check_invariants=True)
    assert float(STATISTICS["norm"].value(STATISTICS["norm"].take_all([sparse]))) == 5
    assert float(STATISTICS["share_zero"].value(STATISTICS["share_zero"].take_all([sparse]))) == 0.75


def test_where_nothing_counts_there_is_no_number() -> None:
    none = torch.zeros(4, dtype=torch.bool)
    for name, of in STATISTICS.items():
        value = float(of.value(of.take(torch.ones(4), none)))
        assert value == 0 if name == "norm" else value != value


def test_what_is_not_finite_is_seen() -> None:
    x = torch.tensor([1.0, nan, float("inf"), 0.0])
    assert float(STATISTICS["share_not_finite"].value(STATISTICS["share_not_finite"].take(x))) == 0.5
    assert torch.isnan(STATISTICS["max"].value(STATISTICS["max"].take(x)))


def test_a_function_is_a_mean_over_elements_or_a_sum_over_a_count() -> None:
    mean, exact = Given(lambda x: x.mean()), Given(lambda x: ((x > 0).sum(), x.numel()))
    for of, expected in ((mean, 2.0), (exact, 0.75)):
        taken = of.join(of.take(torch.tensor([0.0, 1, 2])), of.take(torch.tensor([5.0])))
        assert float(of.value(taken)) == expected


def test_of_several_arrays_a_function_is_averaged_by_their_elements_unless_it_counts_itself() -> None:
    net = mlp()
    sizes = [array.numel() for array in net.parameters()]
    probes = [
        Probe(everything, lambda x: x.norm(), of="array", name="mean"),
        Probe(everything, lambda x: (x.norm(), 1), of="array", name="plain"),
        Probe(everything, "norm", of="array", name="joint"),
    ]
    found = probed(probes, net)
    now = [float(array.detach().norm()) for array in net.parameters()]
    assert found["mean"] == pytest.approx(sum(n * s for n, s in zip(now, sizes, strict=True)) / sum(sizes))
    assert found["plain"] == pytest.approx(sum(now) / len(now))
    assert found["joint"] == pytest.approx(sum(n * n for n in now) ** 0.5)


def test_a_probe_that_fails_in_a_look_is_named_and_the_run_goes_on() -> None:
    calls = []

    def late(x: Tensor) -> Tensor:
        calls.append(len(x))
        if len(calls) > 2:
            raise ValueError("late")
        return x.mean()

    for of in ("output", "array"):
        calls.clear()
        looks = Evaluate((X, Y), [Probe("0", late, of=of, name="late"), "accuracy"])
        with pytest.warns(UserWarning, match=r"name='late'\): its function failed on .* ValueError: late\. .* is NaN"):
            result = trained(validation=looks, epochs=4)
        assert [value == value for value in result.history["val.late"].values][-1] is False
        assert all(value == value for value in result.history["val.accuracy"].values)
    calls.clear()
    with pytest.raises(SettingError, match=r"ValueError: late.* Its value decides about the run"):
        trained(validation=Evaluate((X, Y), Probe("0", late, name="late"), best=("late", "min")), epochs=4)


# ------------------------------------------------------------------------------------------------------- in one step


def test_outputs_are_those_of_the_modules_in_this_step() -> None:
    net = mlp()
    with torch.no_grad():
        hidden = net[0](X)
        output = net(X)
    found = probed(
        [Probe("1", "share_zero"), Probe(nn.Linear, "max"), Probe("0", "std"), Probe(everything, "norm")], net
    )
    assert found == pytest.approx(
        {
            "1.share_zero": float((hidden <= 0).double().mean()),
            "Linear.max": float(max(hidden.max(), output.max())),
            "0.std": float(hidden.double().std(correction=0)),
            "norm": float(output.double().norm()),
        }
    )


@pytest.mark.parametrize("changed", [{}, {"clip_norm": 1e-3, "noise": 1.0}, {"optimizer": torch.optim.SGD}], ids=str)
def test_gradients_are_those_of_the_mean_loss_before_noise_and_clipping(changed: dict[str, Any]) -> None:
    net, twin = mlp(), mlp()
    nn.functional.cross_entropy(twin(X), Y).backward()
    own = {name: p.grad.double() for name, p in twin.named_parameters() if p.grad is not None}
    whole = torch.cat([g.reshape(-1) for g in own.values()])
    probes = [
        Probe(everything, "norm", of="gradient"),
        Probe("0", "mean", of="gradient"),
        Probe("2", "norm", of="gradient", each=True),
    ]
    found = probed(probes, net, **{"optimizer": "sgd", **changed})
    assert found == pytest.approx(
        {
            "gradient.norm": float(whole.norm()),
            "0.gradient.mean": float(torch.cat([own["0.weight"].reshape(-1), own["0.bias"]]).mean()),
            "2.weight.gradient.norm": float(own["2.weight"].norm()),
            "2.bias.gradient.norm": float(own["2.bias"].norm()),
        },
        rel=1e-5,
    )


def test_gradients_have_no_scale_of_half_precision() -> None:
    plain = probed([Probe(everything, "norm", of="gradient")])
    scaled = probed([Probe(everything, "norm", of="gradient")], precision="fp16")
    assert scaled == pytest.approx(plain, rel=2e-2)


def test_arrays_are_those_after_the_step_and_updates_what_it_added() -> None:
    net = mlp()
    before = arrays(net)
    found = probed(
        [Probe("2", "rms", of="array"), Probe("2", "norm", of="update"), Probe("0", "max", of="update")],
        net,
        learning_rate_multipliers={"0": 0},
        learning_rate=0.1,
    )
    after = arrays(net)
    both = torch.cat([after["2.weight"].reshape(-1), after["2.bias"]]).double()
    moved = torch.cat([(after[n] - before[n]).reshape(-1) for n in ("2.weight", "2.bias")]).double()
    assert moved.norm() > 0
    assert found == pytest.approx(
        {"2.array.rms": float(both.square().mean().sqrt()), "2.update.norm": float(moved.norm()), "0.update.max": 0.0}
    )


def test_of_micro_batches_it_is_that_of_the_step() -> None:
    net, probes = mlp(), [Probe("0", "std"), Probe(everything, "norm", of="gradient")]
    whole = probed(probes)
    made = checked(net, accumulate=2)
    at_work, begin = Probes(probes, net, made.works, made.extent), Progress(extent=made.extent)
    at_work.due(begin, begin.tick(samples=8))
    many = [(X[:3], Y[:3]), (X[3:], Y[3:])]
    with at_work.watching(*many):
        made.works[0].step_together(begin, many)
    assert {label: float(v) for label, v in at_work.values().items()} == pytest.approx(whole, rel=1e-5)


class Recomputed(nn.Module):
    """A net whose first half is called again within backward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(self.net[:2], x, use_reentrant=False)
        output: Tensor = self.net[2](hidden)
        return output


def test_calls_made_again_for_their_gradients_do_not_count_twice() -> None:
    assert probed([Probe("net.0", "norm")], Recomputed())["net.0.norm"] == pytest.approx(
        probed([Probe("0", "norm")])["0.norm"]
    )


class Recurrent(nn.Module):
    """Sequences in, scores of each frame out; `gives` a tuple of tensors inside."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.lstm(x)[0]).transpose(1, 2)
        return output


def ragged() -> dict[str, Tensor]:
    """Three padded sequences with a target for each frame."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([5, 2, 3])
    x, y = torch.randn(3, 5, 4, generator=generator), torch.randint(0, 3, (3, 5), generator=generator)
    x[1, 2:], y[1, 2:], x[2, 3:], y[2, 3:] = 9, -100, 9, -100
    return {"x": x, "x_lengths": lengths, "y": y, "y_lengths": lengths}


def test_padding_is_left_out_where_the_lengths_are_known() -> None:
    net, batch = Recurrent(), ragged()
    made = Plan("cross_entropy", epochs=1).check(net, DataLoader([batch], batch_size=None))
    with torch.no_grad():
        hidden = net.lstm(batch["x"])[0]
    true = torch.cat([hidden[i, :n] for i, n in enumerate(batch["x_lengths"].tolist())]).double()
    at_work, begin = Probes([Probe("lstm", "rms")], net, made.works, made.extent), Progress(extent=made.extent)
    at_work.due(begin, begin.tick(samples=3))
    with at_work.watching(batch):
        made.works[0].step(begin, batch)
    assert float(at_work.values()["lstm.rms"]) == pytest.approx(float(true.square().mean().sqrt()))


def test_of_several_micro_batches_each_has_its_own_padding() -> None:
    net, batch = Recurrent(), ragged()
    made = Plan("cross_entropy", epochs=1, accumulate=2).check(net, DataLoader([batch], batch_size=None))
    other = {name: value[:2].flip(0) for name, value in batch.items()}
    with torch.no_grad():
        hidden = [net.lstm(one["x"])[0] for one in (batch, other)]
    pairs = zip(hidden, (batch, other), strict=True)
    true = torch.cat([h[i, :n] for h, one in pairs for i, n in enumerate(one["x_lengths"].tolist())]).double()
    at_work, begin = Probes([Probe("lstm", "norm")], net, made.works, made.extent), Progress(extent=made.extent)
    at_work.due(begin, begin.tick(samples=5))
    with at_work.watching(batch, other):
        made.works[0].step_together(begin, [batch, other])
    assert float(at_work.values()["lstm.norm"]) == pytest.approx(float(true.norm()))


# ------------------------------------------------------------------------------------------------------------ in a run


def series(result: Result, label: str) -> dict[int, float]:
    found = result.history[f"probe.{label}"]
    return dict(zip(found.steps, found.values, strict=True))


def test_they_are_measured_in_the_first_step_and_at_their_cadence() -> None:
    probes = [Probe("0", every=steps(3)), Probe("2", "norm", of="gradient", every=epochs(1)), Probe("1")]
    result = trained(epochs=3, probes=probes)
    assert list(series(result, "0.rms")) == [1, 3, 6, 9]
    assert list(series(result, "2.gradient.norm")) == [1, 3, 6, 9]
    assert list(series(result, "1.rms")) == [1]


PROBES = [
    Probe("1", "share_zero", every=steps(2)),
    Probe(everything, "norm", of="gradient", every=steps(1)),
    Probe("2", "norm", of="update", each=True, every=steps(2)),
]


def test_probing_changes_no_bit_and_leaves_no_hook() -> None:
    net = mlp()
    result = trained(net, epochs=3, probes=PROBES, learning_rate=0.05)
    assert same(arrays(result.net), arrays(trained(epochs=3, learning_rate=0.05).net))
    assert not [module for module in net.modules() if module._forward_hooks or module._forward_pre_hooks]


def test_resumed_they_are_what_they_would_have_been(tmp_path: Any) -> None:
    given: Mapping[str, Any] = {"epochs": 3, "probes": PROBES, "learning_rate": 0.05}
    whole = trained(**given)
    place = etude.Directory(tmp_path, every(steps(1)))
    for event in run(**given, checkpoint=place):
        if isinstance(event, Stepped) and event.progress.step == 5:
            break
    result = etude.train(mlp(), classified(), progress=False, resume="auto", **options(**given, checkpoint=place))
    assert {n: s.values for n, s in result.history.items()} == {n: s.values for n, s in whole.history.items()}


def test_in_a_step_that_is_skipped_nothing_is_told() -> None:
    x, y = classified(8)
    x[5] = nan
    result = trained(data=(x, y), shuffle=False, probes=[Probe("0", every=steps(1))], non_finite="skip")
    assert list(series(result, "0.rms")) == [1]


def test_a_step_that_raises_leaves_no_hook() -> None:
    net, made = mlp(), checked(mlp())
    made = checked(net)
    at_work, begin = Probes(PROBES, net, made.works, made.extent), Progress(extent=made.extent)
    at_work.due(begin, begin.tick())
    with pytest.raises(RuntimeError, match="broken"), at_work.watching((X, Y)):
        raise RuntimeError("broken")
    assert not net[1]._forward_hooks
    assert not made.works[0].stepper.observers
    assert at_work.values() == {}


def test_gradients_of_several_updates_are_told_apart() -> None:
    loss = lambda net, batch: nn.functional.cross_entropy(net(batch[0]), batch[1])  # noqa: E731
    updates = [Update("a", loss, part=part("0")), Update("b", loss, part=everything)]
    probes = [Probe("0", "norm", of="gradient"), Probe("2", "norm", of="gradient")]
    result = etude.train(mlp(), classified(), epochs=1, updates=updates, probes=probes, progress=False)
    assert {name for name in result.history if name.startswith("probe.")} == {
        "probe.a.0.gradient.norm",
        "probe.b.0.gradient.norm",
        "probe.2.gradient.norm",
    }


def test_gradients_of_what_is_held_are_not_there() -> None:
    probes = [Probe("0", "norm", of="gradient", every=steps(1))]
    result = trained(epochs=2, probes=probes, update_schedule=["0", "2"])
    assert list(series(result, "0.gradient.norm")) == [1, 3, 5]


# ------------------------------------------------------------------------------------------------ over validation data


@pytest.mark.parametrize("size", [1, 3, 8])
def test_in_metrics_it_is_that_of_all_validation_data(size: int) -> None:
    net, validation = mlp(), classified(8, seed=5)
    metrics = [Probe("0", "std"), Probe("1", "share_zero"), "accuracy", Probe("2", "norm", of="array", name="head")]
    result = trained(net, validation=Evaluate(validation, metrics, batch_size=size))
    with torch.no_grad():
        hidden = net[0](validation[0]).double()
    array = torch.cat([net[2].weight.reshape(-1), net[2].bias]).detach().double().norm()
    assert result.history["val.0.std"].values[-1] == pytest.approx(float(hidden.std(correction=0)))
    assert result.history["val.1.share_zero"].values[-1] == pytest.approx(float((hidden <= 0).double().mean()))
    assert result.history["val.head"].values[-1] == pytest.approx(float(array))
    assert "val.accuracy" in result.history


def test_the_best_net_may_be_chosen_by_a_probe() -> None:
    made = Evaluate(classified(6, seed=5), {"alive": Probe("1", "share_zero")}, best=("alive", "min"))
    result = trained(validation=made, epochs=4, learning_rate=0.1)
    values = result.history["val.alive"].values
    assert result.best_epoch == values.index(min(values)) + 1
    with pytest.raises(SettingError, match="whether more is better is not known"):
        trained(validation=Evaluate(0.3, Probe("1", name="alive"), best="alive"))


def test_a_loss_that_calls_the_net_itself_is_measured_once() -> None:
    def loss(net: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(net(batch[0]), batch[1])

    validation = classified(8, seed=5)
    net = mlp()
    result = trained(net, loss=loss, validation=Evaluate(validation, [Probe("0", "norm"), "accuracy"], batch_size=8))
    with torch.no_grad():
        expected = float(net[0](validation[0]).double().norm())
    assert result.history["val.0.norm"].values[-1] == pytest.approx(expected)


class Sometimes(nn.Module):
    """A net with a module that is called in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.extra = mlp(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x)
        return self.extra(output) if self.training else output


def test_a_module_that_evaluation_does_not_call_is_an_error_before_the_run() -> None:
    with pytest.raises(SettingError, match=r"extra\.rms: the net did not call the module in evaluation"):
        trained(Sometimes(), validation=0.3, metrics=Probe("extra"))


# ------------------------------------------------------------------------------------------------- text and refusals

TEXTS = [
    (Probe("enc.3"), "Probe('enc.3')", "enc.3.rms"),
    (Probe("encoder", "norm", of="gradient"), "Probe('encoder', 'norm', of='gradient')", "encoder.gradient.norm"),
    (
        Probe("*.bias", of="array", every=steps(5)),
        "Probe('*.bias', of='array', every=every(steps(5)))",
        "*.bias.array.rms",
    ),
    (Probe(nn.ReLU, "mean", each=True, name="r"), "Probe(nn.ReLU, 'mean', each=True, name='r')", "r"),
    (Probe(everything, "norm", of="update"), "Probe(everything, 'norm', of='update')", "update.norm"),
    (Probe(part("a") | "b", "max"), "Probe(part('a') | part('b'), 'max')", "part('a') | part('b').max"),
    (Probe("a", torch.median), "Probe('a', median)", "a.median"),
]


@pytest.mark.parametrize(("made", "text", "label"), TEXTS, ids=str)
def test_a_probe_prints_as_what_makes_it_and_has_a_label(made: Probe, text: str, label: str) -> None:
    assert repr(made) == text
    assert made.label == label
    assert hash(made) == hash(made)


WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: Probe("a", "rsm"), "'rsm' is measured of nothing. Known: rms, mean"),
    (lambda: Probe("a", "rsm"), 'Nearest: "rms"'),
    (
        lambda: Probe("a", of="gradients"),
        "of='gradients' is no place to look at. Known: output, array, gradient, update",
    ),
    (lambda: Probe("a", every=5), "every=5: write every=steps(50)"),  # type: ignore[arg-type]
    (lambda: Probe("a", every=minutes(1)), "time by the clock"),
    (lambda: Probe("a", every=every(steps(5)) | every(minutes(1))), "time by the clock"),
    (lambda: Probe("a", each=1), "each=1: True or False is needed"),  # type: ignore[arg-type]
    (lambda: Probe("a", name=""), "name='': a text is needed"),
    (lambda: Probe("a", whta="rms"), 'Nearest: "what"'),  # type: ignore[call-arg]
    (lambda: Probe(3.5), "stands for no part"),  # type: ignore[arg-type]
    (lambda: probes_in("a"), "'a' is no probe. Write Probe('a')"),
    (lambda: probes_in([Probe("a"), Probe("a")]), "two are called 'a.rms'"),
    (lambda: Plan("mse", epochs=1, probes="enc"), "'enc' is no probe"),  # type: ignore[arg-type]
    (
        lambda: trained(validation=Evaluate(0.3, Probe("0", of="gradient"))),
        "nothing moves in a look",
    ),
    (lambda: trained(validation=Evaluate(0.3, Probe("0", every=steps(1)))), "Leave every out"),
    (lambda: trained(probes=[Probe("zero")]), "part('zero') matches nothing"),
    (lambda: trained(probes=[Probe("0.weight")]), "names arrays, and outputs are those of modules"),
    (lambda: trained(probes=[Probe("1", of="array")]), "has no array in this net"),
    (lambda: trained(probes=[Probe("1", of="gradient")]), "has no array with a gradient"),
    (lambda: trained(probes=[Probe("0")], compile=True), "with compile=True it is one program"),
    (
        lambda: trained(probes=[Probe("0", of="gradient")], optimizer=torch.optim.LBFGS),
        "computes several gradients a step",
    ),
    (
        lambda: trained(probes=[Probe("0", every=etude.fraction(0.1))], epochs=None, time_limit=minutes(1)),
        "length of the run",
    ),
    (lambda: trained(probes=[Probe("0", lambda x: x)]), "one number is needed"),
]


@pytest.mark.parametrize(("make", "text"), WRONG)
def test_wrong_use_is_an_error(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(EtudeError) as told:
        make()
    assert text in str(told.value)


@pytest.mark.parametrize("of", ["output", "array", "gradient", "update"])
def test_a_function_that_fails_is_found_before_anything_moves(of: Any) -> None:
    net = mlp()
    before = arrays(net)
    with pytest.raises(SettingError, match=r"its function failed on a tensor of shape .*IndexError"):
        trained(net, probes=[Probe("0", lambda x: x.amax(7), of=of)])
    assert same(arrays(net), before)


@pytest.mark.parametrize("of", ["output", "array", "gradient", "update"])
def test_a_function_that_fails_later_is_nan_and_the_run_goes_on(of: Any) -> None:
    calls = [0]

    def late(x: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == 5:
            raise ValueError("late")
        return x.mean()

    probe = Probe("0.weight" if of != "output" else "0", late, of=of, every=steps(1), name="p")
    with pytest.warns(UserWarning, match=r"ValueError: late.* Its value at this step is NaN") as told:
        result = trained(probes=[probe], epochs=3)
    values = result.history["probe.p"].values
    assert sum(value != value for value in values) == 1
    assert len([one for one in told if "late" in str(one.message)]) == 1
    assert same(arrays(result.final_net), arrays(trained(epochs=3).final_net))


def test_a_part_that_is_not_there_is_an_error_before_anything_moves() -> None:
    net = mlp()
    before = arrays(net)
    with pytest.raises(PartError, match=r"part\('encoder'\) matches nothing"):
        trained(net, probes=[Probe("0"), Probe("encoder", "norm", of="gradient")])
    with pytest.raises(PlanError, match="one program"):
        trained(net, probes=[Probe("0")], compile=True)
    assert same(arrays(net), before)


def test_a_module_that_gives_no_tensor_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.odd = mlp(), nn.Module()
            self.odd.forward = lambda x: "text"  # type: ignore[assignment]

        def forward(self, x: Tensor) -> Tensor:
            self.odd(x)
            output: Tensor = self.net(x)
            return output

    with pytest.raises(SettingError, match=r"odd\.rms: its module gives a str, no tensor"):
        trained(Odd(), probes=[Probe("odd")])


@pytest.mark.parametrize("inside", [False, True])
def test_a_net_that_torch_has_compiled_does_not_show_its_outputs(inside: bool) -> None:
    net = mlp()
    if inside:
        net[0].compile(backend="eager")
    given: Any = net if inside else torch.compile(net, backend="eager")
    with pytest.raises(PlanError, match=r"a program made by torch\.compile does not show it"):
        trained(given, probes=[Probe("0")])
    with pytest.raises(PlanError, match=r"a program made by torch\.compile does not show it"):
        trained(given, validation=0.3, metrics=Probe("0"))
    assert "probe.0.array.rms" in trained(given, probes=[Probe("0", of="array")]).history
