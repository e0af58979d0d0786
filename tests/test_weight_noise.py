"""Weights that are perturbed while a step computes its gradients, and clean whenever anybody looks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import etude
from etude import Directory, ema, every
from etude.errors import SettingError
from etude.step.optim.noise import generator_of, mixed
from etude.step.precision import Precision
from etude.step.trainer import Trainer
from etude.step.update import Update
from etude.step.work import Work
from etude.values.part import everything, part
from etude.values.progress import Extent, Progress
from etude.values.rules import FROZEN
from etude.values.schedule import cycle, pieces
from etude.values.spans import steps
from nets import alike, arrays, chain, data, graph, shared_chain, tied

X, Y = data(1)[0]


def noise(array: Tensor, name: str, seed: int = 0, step: int = 0) -> Tensor:
    """What is added to an array at deviation 1."""
    return torch.randn(array.shape, generator=generator_of(mixed(seed, step), f"weight_noise:{name}", 0))


def mask(array: Tensor, name: str, p: float, seed: int = 0, step: int = 0) -> Tensor:
    """What of an array is kept."""
    return torch.rand(array.shape, generator=generator_of(mixed(seed, step), f"weight_dropout:{name}", 0)) >= p


def trainer(net: nn.Module, **settings: Any) -> Trainer:
    return Trainer(net, "sgd", **{"learning_rate": 0.1, **settings})


def work(net: nn.Module, **settings: Any) -> Work:
    update = Update("net", part=everything, loss="mse", optimizer="sgd", learning_rate=0.1, **settings)
    return Work(update, net, Precision("fp32", torch.device("cpu")), Extent(steps=10))


def loss(net: nn.Module, x: Tensor = X, y: Tensor = Y) -> Tensor:
    return ((net(x) - y) ** 2).sum()


def clean_gradients(net: nn.Module, changed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients at other values of the arrays, by hand."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        for name, array in other.named_parameters():
            array.copy_(changed[name])
    loss(other).backward()
    return {name: array.grad for name, array in other.named_parameters() if array.grad is not None}


def test_the_gradient_is_that_at_the_noisy_weights() -> None:
    net = chain()
    noisy = {name: array + 0.3 * noise(array, name) for name, array in arrays(net).items()}
    expected = clean_gradients(net, noisy)
    made = trainer(net, weight_noise=0.3)
    with made.perturbed():
        assert all(torch.allclose(array, noisy[name]) for name, array in net.named_parameters())
        loss(net).backward()
    assert all(torch.allclose(array.grad, expected[name], atol=1e-5) for name, array in net.named_parameters())


def test_the_gradient_of_a_dropped_weight_is_nought_and_that_of_a_kept_one_larger() -> None:
    net, p = chain(), 0.4
    kept = {name: mask(array, name, p) for name, array in arrays(net).items()}
    expected = clean_gradients(net, {name: array * kept[name] / (1 - p) for name, array in arrays(net).items()})
    made = trainer(net, weight_dropout=p)
    with made.perturbed():
        loss(net).backward()
    for name, array in net.named_parameters():
        assert torch.allclose(array.grad, expected[name] * kept[name] / (1 - p))
        assert not array.grad[~kept[name]].any()


def test_the_derivative_agrees_with_differences_of_the_loss() -> None:
    net = chain().double()
    made = trainer(net, weight_dropout=0.5, weight_noise=0.2)
    array = net[0].weight
    with made.perturbed():
        loss(net, X.double(), Y.double()).backward()

    def at(value: float) -> float:
        with torch.no_grad():
            array[1, 2] += value
            with made.perturbed():
                found = float(loss(net, X.double(), Y.double()))
            array[1, 2] -= value
        return found

    assert (at(1e-6) - at(-1e-6)) / 2e-6 == pytest.approx(float(array.grad[1, 2]), rel=1e-5, abs=1e-8)


def test_afterwards_every_array_is_as_it_was_bit_for_bit() -> None:
    net = graph()
    before, where = arrays(net), {name: array.data_ptr() for name, array in net.named_parameters()}
    with trainer(net, weight_noise=1e8, weight_dropout=0.5).perturbed():
        assert all(not alike(array, before[name]) for name, array in net.named_parameters())
    assert all(alike(array, before[name]) for name, array in net.named_parameters())
    assert {name: array.data_ptr() for name, array in net.named_parameters()} == where


def test_also_after_an_error() -> None:
    net = chain()
    before, made = arrays(net), trainer(net, weight_noise=1.0)
    with pytest.raises(ValueError, match="mine"), made.perturbed():
        raise ValueError("mine")
    assert all(alike(array, before[name]) for name, array in net.named_parameters())
    with made.perturbed():
        loss(net).backward()
    made.step(len(X))


def test_only_what_a_rule_names_at_the_time_it_says() -> None:
    net = graph()
    made = trainer(
        net, rules={"weight_noise": {"a": pieces(0.0, (steps(1), 0.5))}, "weight_dropout": {"out.weight": 0.5}}
    )
    seen = []
    for _ in range(2):
        before = arrays(net)
        with made.perturbed():
            seen.append({name for name, array in net.named_parameters() if not alike(array, before[name])})
            loss(net).backward()
        made.step(len(X))
    assert seen == [{"out.weight"}, {"a.weight", "a.bias", "out.weight"}]


def test_every_step_draws_anew_and_every_seed() -> None:
    drawn = []
    for seed in (0, 1):
        net = chain()
        made = trainer(net, weight_noise=0.1, learning_rate=1e-9, seed=seed)
        for _ in range(2):
            with made.perturbed():
                drawn.append(net[0].weight.detach().clone())
                loss(net).backward()
            made.step(len(X))
    assert len({tuple(one.flatten().tolist()) for one in drawn}) == 4


def test_the_draw_of_an_array_does_not_depend_on_what_else_there_is() -> None:
    small, large = chain(), nn.Sequential(*chain(), nn.Linear(2, 2))
    found = []
    for net in (small, large):
        with trainer(net, weight_noise=0.1).perturbed():
            found.append(net[2].weight.detach().clone())
    assert torch.equal(*found)


def test_chance_of_the_process_is_left_alone() -> None:
    net = chain()
    before = torch.get_rng_state()
    with trainer(net, weight_noise=0.1, weight_dropout=0.1).perturbed():
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tied_array_is_perturbed_once() -> None:
    for net, name in ((tied(), "emb.weight"), (shared_chain(), "0.weight")):
        before = arrays(net)[name]
        with trainer(net, weight_noise=0.3).perturbed():
            found = dict(net.named_parameters())[name]
            assert torch.allclose(found, before + 0.3 * noise(before, name), atol=1e-6)


def test_arrays_that_are_tied_for_a_while_are_perturbed_as_one() -> None:
    net = graph()
    with torch.no_grad():
        net.b.weight.copy_(net.a.weight)
    tie = {part("a.weight") | "b.weight": pieces(True, (steps(2), False))}
    made = trainer(net, rules={"tie": tie}, weight_noise=0.1, weight_dropout=0.2)
    same, equal = [], []
    for _ in range(3):
        with made.perturbed():
            same.append(torch.equal(net.a.weight, net.b.weight))
            loss(net).backward()
        made.step(len(X))
        equal.append(torch.equal(net.a.weight, net.b.weight))
    assert same == [True, True, False]
    assert equal == [True, True, False]


def test_held_arrays_are_perturbed_and_frozen_ones_are_not() -> None:
    net = graph()
    net.b.bias.requires_grad = False
    made = trainer(
        net,
        weight_noise=0.1,
        learning_rate_multipliers={"a": FROZEN},
        update_schedule=cycle(part("out"), part("b.weight")),
    )
    before = arrays(net)
    with made.perturbed():
        changed = {name for name, array in net.named_parameters() if not alike(array, before[name])}
        loss(net).backward()
    assert changed == {"b.weight", "out.weight", "out.bias"}
    made.step(len(X))
    assert all(alike(array, before[name]) for name, array in net.named_parameters() if not name.startswith("out"))


def test_all_micro_batches_of_a_step_see_one_draw() -> None:
    whole, parts = chain(), chain()
    settings: dict[str, Any] = {"weight_noise": 0.2, "weight_dropout": 0.3}
    made = trainer(whole, **settings)
    for _ in range(2):
        with made.perturbed():
            loss(whole).backward()
        made.step(len(X))
    made = trainer(parts, **settings, accumulate=2)
    for _ in range(2):
        for half in (slice(0, 4), slice(4, 8)):
            with made.perturbed():
                loss(parts, X[half], Y[half]).backward()
            made.step(4)
    assert made.progress.step == 2
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_sparse_gradients_stay_sparse() -> None:
    net = nn.Sequential(nn.Embedding(20, 3, sparse=True), nn.Flatten(), nn.Linear(6, 1))
    ids = torch.tensor([[1, 2], [2, 5]])
    made = Trainer(net, "sgd", learning_rate=0.1, weight_dropout=0.5, momentum=0.0)
    array = net[0].weight
    kept = mask(array, "0.weight", 0.5)
    with made.perturbed():
        net(ids).sum().backward()
    found = array.grad
    assert found.is_sparse
    dense = nn.Sequential(nn.Embedding(20, 3), nn.Flatten(), nn.Linear(6, 1))
    dense.load_state_dict(net.state_dict())
    with Trainer(dense, "sgd", learning_rate=0.1, weight_dropout=0.5).perturbed():
        dense(ids).sum().backward()
    assert torch.allclose(found.to_dense(), dense[0].weight.grad)
    assert not found.to_dense()[~kept].any()


def test_complex_and_half_arrays() -> None:
    for dtype in (torch.complex64, torch.float16, torch.bfloat16):
        array = nn.Parameter(torch.ones(40, 5, dtype=dtype))
        made = Trainer({"w": array}, "sgd", learning_rate=0.1, weight_noise=0.5, weight_dropout=0.25)
        with made.perturbed():
            now = array.detach().clone()
            (array * array.conj()).real.float().sum().backward()
        assert abs(float((now == 0).float().mean()) - 0.25) < 0.12
        assert bool((array == 1).all())
        assert array.grad is not None
        assert torch.equal(array.grad == 0, now == 0)


def test_numbers_in_autocast_are_those_of_the_perturbed_arrays() -> None:
    net = chain()
    made = trainer(net, weight_noise=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        clean = net(X)
        with made.perturbed():
            noisy = net(X)
        after = net(X)
    assert not torch.equal(noisy, clean)
    assert torch.equal(after, clean)


# ------------------------------------------------------------------------------------------------------- what is wrong


def test_a_step_without_it_is_refused_where_something_is_perturbed() -> None:
    net = chain()
    made = trainer(net, rules={"weight_noise": {"0.weight": pieces(0.0, (steps(1), 0.5))}})
    before = arrays(net)
    loss(net).backward()
    made.step(len(X))
    assert not alike(net[0].weight, before["0.weight"])
    loss(net).backward()
    before = arrays(net)
    said = r"step\(\): weight_noise perturbs '0\.weight' in this step.* Write with trainer\.perturbed\(\)"
    with pytest.raises(SettingError, match=said):
        made.step(len(X))
    assert all(alike(array, before[name]) for name, array in net.named_parameters())


def test_every_micro_batch_has_to_be_within_it() -> None:
    net = chain()
    made = trainer(net, weight_dropout=0.5, accumulate=2)
    with made.perturbed():
        loss(net).backward()
    made.step(len(X))
    loss(net).backward()
    with pytest.raises(SettingError, match=r"weight_dropout perturbs"):
        made.step(len(X))


def test_a_step_within_it_is_refused() -> None:
    net = chain()
    made, before = trainer(net, weight_noise=0.1), arrays(net)
    with made.perturbed():
        loss(net).backward()
        said = r"step\(\): the arrays are perturbed, and will be put back\. Call it after"
        with pytest.raises(SettingError, match=said):
            made.step(len(X))
    assert all(alike(array, before[name]) for name, array in net.named_parameters())


def test_it_is_not_used_within_itself() -> None:
    made = trainer(chain(), weight_noise=0.1)
    said = r"perturbed\(\): the arrays are perturbed already"
    with made.perturbed(), pytest.raises(SettingError, match=said), made.perturbed():
        pass


def test_backward_outside_is_refused_by_torch() -> None:
    net = chain()
    made = trainer(net, weight_noise=0.1)
    with made.perturbed():
        found = loss(net)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.backward()


def test_arrays_without_a_shape() -> None:
    net = nn.Sequential(nn.LazyLinear(2))
    said = r"'0\.weight', '0\.bias' cannot be perturbed: no shape yet"
    with pytest.raises(SettingError, match=said), trainer(net, weight_noise=0.1).perturbed():
        pass


@pytest.mark.parametrize(
    ("setting", "value"), [("weight_noise", -0.1), ("weight_dropout", 1.0), ("weight_dropout", -1)]
)
def test_values_out_of_range(setting: str, value: float) -> None:
    with pytest.raises(SettingError, match=rf"{setting}={value!r}: allowed is \[0, "):
        trainer(chain(), **{setting: value})


@pytest.mark.parametrize("setting", ["weight_noise", "weight_dropout"])
def test_an_optimizer_that_computes_the_loss_itself_refuses_it(setting: str) -> None:
    with pytest.raises(SettingError, match=rf"{setting}= is not for LBFGS"):
        Trainer(chain(), "lbfgs", **{setting: 0.1})


# ------------------------------------------------------------------------------------------------------------- in a run


@pytest.mark.parametrize(
    "settings", [{"weight_noise": 0.2}, {"weight_dropout": 0.4}, {"weight_noise": 0.1, "weight_dropout": 0.2}]
)
def test_a_step_of_a_run_is_that_of_a_loop(settings: dict[str, Any]) -> None:
    by_run, by_hand = chain(), chain()
    at = Progress(step=3, extent=Extent(steps=10))
    assert work(by_run, **settings).step(at, (X, Y)).moved
    made = trainer(by_hand, **settings)
    made._stepper.progress = at
    with made.perturbed():
        (loss(by_hand) / Y.numel()).backward()
    made.step()
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(by_run.parameters(), by_hand.parameters(), strict=True))


def test_micro_batches_of_a_run_see_one_draw() -> None:
    one, other = chain(), chain()
    settings: dict[str, Any] = {"weight_noise": 0.2, "weight_dropout": 0.2}
    at = Progress(step=3, extent=Extent(steps=10))
    work(one, **settings).step(at, (X, Y))
    work(other, **settings).step_together(at, [(X[:4], Y[:4]), (X[4:], Y[4:])])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_reported_loss_is_that_of_the_noisy_net_also_where_nothing_moves() -> None:
    still, moving = chain(), chain()
    at = Progress(step=2, extent=Extent(steps=10))
    seen = work(moving, weight_noise=0.5).step(at, (X, Y)).loss
    looked = work(still, weight_noise=0.5, learning_rate_multipliers={everything: pieces(FROZEN, (steps(5), 1.0))})
    before = arrays(still)
    report = looked.step(at, (X, Y))
    assert not report.moved
    assert torch.equal(report.loss, seen)
    assert all(alike(array, before[name]) for name, array in still.named_parameters())


def test_a_loss_that_fails_leaves_the_arrays_clean() -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.broken = chain(), False

        def forward(self, x: Tensor) -> Tensor:
            if self.broken:
                raise RuntimeError("broken")
            found: Tensor = self.inner(x)
            return found

    net = Failing()
    made, before = work(net, weight_noise=0.5, weight_dropout=0.5), arrays(net)
    net.broken = True
    with pytest.raises(RuntimeError, match="broken"):
        made.step(Progress(extent=Extent(steps=10)), (X, Y))
    assert all(alike(array, before[name]) for name, array in net.named_parameters())
    net.broken = False
    assert made.step(Progress(extent=Extent(steps=10)), (X, Y)).moved


def test_evaluation_is_clean_and_the_weights_are_learned() -> None:
    gen = torch.Generator().manual_seed(1)
    x = torch.randn(256, 3, generator=gen)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    net = nn.Linear(3, 1)
    result = etude.train(
        net, (x, y), loss="mse", optimizer="sgd", learning_rate=0.05, epochs=15, batch_size=16, weight_noise=0.3,
        validation=(x, y), seed=1,
    )  # fmt: skip
    with torch.no_grad():
        clean = float(((net(x) - y) ** 2).mean())
    # The net is the best one.
    assert min(result.history["val.loss"].values) == pytest.approx(clean, rel=1e-5)
    assert clean < 0.05
    # The loss in training is that of the noisy weights: 0.09 for each of the four.
    assert result.history["epoch.loss"].values[-1] > 0.2


def test_a_run_that_is_resumed_draws_the_same(tmp_path: Path) -> None:
    def run(**more: Any) -> tuple[nn.Module, etude.Result]:
        net = chain()
        result = etude.train(
            net, tuple(map(torch.cat, zip(*data(6), strict=True))), loss="mse", optimizer="adam", learning_rate=0.01,
            epochs=3, batch_size=8, seed=3, progress=False, weight_noise=0.1,
            rules={"weight_dropout": {"2.weight": 0.3}}, **more,
        )  # fmt: skip
        return net, result

    whole, first = run(checkpoint=Directory(tmp_path, every(steps(5))))
    resumed, second = run(resume=first.checkpoints[0])
    assert "_00000005_" in Path(first.checkpoints[0]).name
    assert second.history["loss"].values == first.history["loss"].values
    assert all(alike(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_checkpoint_holds_clean_arrays(tmp_path: Path) -> None:
    net = chain()
    etude.train(
        net, (X, Y), loss="mse", optimizer="sgd", learning_rate=1e-12, epochs=2, batch_size=8, weight_noise=10.0,
        averages=ema(0.5), checkpoint=Directory(tmp_path, every(steps(1))), progress=False,
    )  # fmt: skip
    for file in tmp_path.glob("*.safetensors"):
        saved = load_file(file)
        kept = [value for name, value in saved.items() if name.endswith("0.weight") and value.shape == (5, 3)]
        assert kept
        assert all(torch.allclose(value.float(), chain()[0].weight, atol=1e-6) for value in kept)
