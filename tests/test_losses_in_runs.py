"""Losses in runs: every form, exact means over ragged epochs, weights that change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from etude import DataError, Evaluate, SettingError, Update, constant, cycle, linear, part, pieces, steps
from etude.errors import EtudeError
from small import arrays, batches, classified, close, mlp, same, trained

X, Y = classified(10)
REAL = torch.randn(10, 3, generator=torch.Generator().manual_seed(9))
SHARES = REAL.softmax(1)
YES = (REAL > 0).float()
RATE = 0.1


def by_hand(loss: Callable[[Tensor, Tensor], Tensor], target: Tensor, epochs: int = 1) -> tuple[nn.Module, list[float]]:
    """A net trained by plain SGD in batches of 4 in order, and the losses of its steps."""
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    losses = []
    for _ in range(epochs):
        for piece in batches(10, 4):
            optimizer.zero_grad()
            value = loss(net(X[piece]), target[piece])
            torch.autograd.backward(value)
            optimizer.step()
            losses.append(value.item())
    return net, losses


def in_a_run(loss: Any, target: Any, **more: Any) -> Any:
    return trained(
        data=(X, target), loss=loss, optimizer="sgd", learning_rate=RATE, shuffle=False, **{"epochs": 1, **more}
    )


NAMED: list[tuple[str, Callable[[Tensor, Tensor], Tensor], Tensor]] = [
    ("cross_entropy", functional.cross_entropy, Y),
    ("cross_entropy", functional.cross_entropy, SHARES),
    ("mse", functional.mse_loss, REAL),
    ("mse_loss", functional.mse_loss, REAL),
    ("mae", functional.l1_loss, REAL),
    ("l1", functional.l1_loss, REAL),
    ("smooth_l1", functional.smooth_l1_loss, REAL),
    ("huber", functional.huber_loss, REAL),
    ("bce_with_logits", functional.binary_cross_entropy_with_logits, YES),
    ("poisson_nll_loss", functional.poisson_nll_loss, YES),
    ("soft_margin_loss", functional.soft_margin_loss, YES * 2 - 1),
    ("multilabel_soft_margin_loss", functional.multilabel_soft_margin_loss, YES),
]


@pytest.mark.parametrize(("name", "function", "target"), NAMED, ids=[f"{i}-{e[0]}" for i, e in enumerate(NAMED)])
def test_a_named_loss_is_what_torch_minimises(name: str, function: Any, target: Tensor) -> None:
    net, losses = by_hand(function, target, epochs=2)
    result = in_a_run(name, target, epochs=2)
    assert close(arrays(result.net), arrays(net))
    assert result.history["loss"].values == pytest.approx(losses, rel=1e-5)
    means = [sum(v * c for v, c in zip(part, (4, 4, 2), strict=True)) / 10 for part in (losses[:3], losses[3:])]
    assert result.history["epoch.loss"].values == pytest.approx(means, rel=1e-5)


FORMS: dict[str, Any] = {
    "module": nn.CrossEntropyLoss(),
    "function": lambda output, target: functional.cross_entropy(output, target),
    "values": lambda output, target: functional.cross_entropy(output, target, reduction="none"),
    "pair": lambda output, target: (functional.cross_entropy(output, target, reduction="sum"), len(target)),
    "of the net": lambda net, batch: functional.cross_entropy(net(batch[0]), batch[1]),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "each": nn.CrossEntropyLoss(reduction="none"),
    "one term": {"a": "cross_entropy"},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_loss_does_the_same(form: str) -> None:
    net, losses = by_hand(functional.cross_entropy, Y)
    result = in_a_run(FORMS[form], Y)
    assert close(arrays(result.net), arrays(net))
    assert result.history["epoch.loss"].values[0] == pytest.approx(
        sum(v * c for v, c in zip(losses, (4, 4, 2), strict=True)) / 10, rel=1e-5
    )


class WithLoss(nn.Module):
    """A net that computes its loss, in one of three forms."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.net, self.form = mlp(), form

    def forward(self, x: Tensor, y: Tensor) -> Any:
        loss = functional.cross_entropy(self.net(x), y)
        made = type("Output", (), {"loss": loss})()
        return {"tensor": loss, "dict": {"loss": loss, "more": x}, "object": made}[self.form]


@pytest.mark.parametrize("form", ["tensor", "dict", "object"])
def test_a_net_may_compute_its_loss(form: str) -> None:
    net, losses = by_hand(functional.cross_entropy, Y)
    model = WithLoss(form)
    given = {"x": X, "y": Y}
    result = trained(model, given, loss="output", optimizer="sgd", learning_rate=RATE, shuffle=False)
    assert close(arrays(model.net), arrays(net))
    assert result.history["loss"].values == pytest.approx(losses, rel=1e-5)


# --------------------------------------------------------------------------------------------------- exact means


class Tokens(nn.Module):
    """Scores (n, 3, length) for tokens (n, length)."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.embed, self.head = nn.Embedding(7, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.embed(x)).transpose(1, 2)
        return scores


def tokens() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randint(0, 7, (10, 6), generator=generator)
    y = torch.randint(0, 3, (10, 6), generator=generator)
    for row, length in enumerate((6, 6, 1, 2, 5, 6, 3, 1, 1, 4)):
        y[row, length:] = -100
    return x, y


STILL: dict[str, Any] = {"learning_rate": 1e-12, "optimizer": "sgd"}
"""A run whose net stays where it is but for a rounding error, so that its means can be computed at once."""


def exact(net: nn.Module, x: Tensor, y: Tensor, loss: Callable[..., Tensor] = functional.cross_entropy) -> float:
    with torch.no_grad():
        return loss(net.eval()(x), y).item()


@pytest.mark.parametrize("size", [1, 3, 4, 10])
def test_means_over_tokens_leave_out_what_is_ignored(size: int) -> None:
    x, y = tokens()
    net = Tokens()
    result = trained(net, (x, y), batch_size=size, validation=(x, y), **STILL)
    assert result.history["epoch.loss"].values[0] == pytest.approx(exact(net, x, y), rel=1e-6)
    assert result.history["val.loss"].values[0] == pytest.approx(exact(net, x, y), rel=1e-6)


def test_validation_data_may_ignore_targets_where_the_training_data_have_none() -> None:
    x, y = tokens()
    net = Tokens()
    result = trained(net, (x, y.clamp(min=0)), validation=(x, y), **STILL)
    assert result.history["val.loss"].values[0] == pytest.approx(exact(net, x, y), rel=1e-6)
    assert result.history["epoch.loss"].values[0] == pytest.approx(exact(net, x, y.clamp(min=0)), rel=1e-6)


def test_another_ignore_index_is_honoured() -> None:
    x, y = tokens()
    own = nn.CrossEntropyLoss(ignore_index=1)
    net = Tokens()
    result = trained(net, (x, y.clamp(min=0)), loss=own, validation=(x, y.clamp(min=0)), **STILL)
    assert result.history["val.loss"].values[0] == pytest.approx(exact(net, x, y.clamp(min=0), own), rel=1e-6)


def test_a_validation_batch_of_which_nothing_counts_has_no_weight() -> None:
    y = Y.clone()
    y[4:8] = -100
    net = mlp()
    result = trained(net, (X, Y), validation=(X, y), **STILL)
    assert result.history["val.loss"].values[0] == pytest.approx(exact(net, X, y), rel=1e-6)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss, nn.NLLLoss])
def test_class_weights_weigh_the_means(loss: Any) -> None:
    own = loss(weight=torch.tensor([1.0, 5.0, 0.1]))
    net = nn.Sequential(mlp(), nn.LogSoftmax(1))
    result = trained(net, (X, Y), loss=own, validation=(X, Y), **STILL)
    for name in ("epoch.loss", "val.loss"):
        assert result.history[name].values[0] == pytest.approx(exact(net, X, Y, own), rel=1e-6)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
def test_divergences_have_the_mean_that_torch_says(reduction: str) -> None:
    own = nn.KLDivLoss(reduction=reduction)
    net = nn.Sequential(mlp(), nn.LogSoftmax(1))
    result = trained(net, (X, SHARES), loss=own, validation=(X, SHARES), **STILL)
    assert result.history["val.loss"].values[0] == pytest.approx(exact(net, X, SHARES, own), rel=1e-6)


def test_own_sums_and_counts_are_exact_too() -> None:
    x, y = tokens()

    def masked(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return functional.cross_entropy(output, target, reduction="sum"), (target != -100).sum()

    net = Tokens()
    result = trained(net, (x, y), loss=masked, validation=(x, y), **STILL)
    assert result.history["epoch.loss"].values[0] == pytest.approx(exact(net, x, y), rel=1e-6)
    assert result.history["val.loss"].values[0] == pytest.approx(exact(net, x, y), rel=1e-6)


# ------------------------------------------------------------------------------------------------- several terms


def squares(output: Tensor) -> Tensor:
    return (output**2).mean(1)


def test_terms_are_summed_by_weight_and_each_is_recorded() -> None:
    net, losses = by_hand(lambda o, y: 0.5 * functional.cross_entropy(o, y) + 2 * (o**2).mean(), Y)
    result = in_a_run({"ce": ("cross_entropy", 0.5), "size": (squares, 2)}, Y)
    history = result.history
    assert close(arrays(result.net), arrays(net))
    assert history["loss"].values == pytest.approx(losses, rel=1e-5)
    both = zip(history["ce"].values, history["size"].values, strict=True)
    assert history["loss"].values == pytest.approx([0.5 * a + 2 * b for a, b in both], rel=1e-5)
    for name in ("ce", "size"):
        mean = sum(v * c for v, c in zip(history[name].values, (4, 4, 2), strict=True)) / 10
        assert history[f"epoch.{name}"].values[0] == pytest.approx(mean, rel=1e-5)
    parts = history["epoch.ce"].values[0] * 0.5 + history["epoch.size"].values[0] * 2
    assert history["epoch.loss"].values[0] == pytest.approx(parts, rel=1e-5)


def test_the_weight_of_a_single_term_is_in_every_mean() -> None:
    net = mlp()
    result = trained(net, (X, Y), loss={"ce": ("cross_entropy", 0.25)}, validation=(X, Y), **STILL)
    expected = 0.25 * exact(net, X, Y)
    for name in ("epoch.loss", "val.loss"):
        assert result.history[name].values == [pytest.approx(expected, rel=1e-5)]
    mean = sum(v * c for v, c in zip(result.history["loss"].values, (4, 4, 2), strict=True)) / 10
    assert mean == pytest.approx(expected, rel=1e-5)


def test_a_negative_weight_maximises() -> None:
    one = in_a_run({"a": ("cross_entropy", -1)}, Y)
    other = in_a_run(lambda output, target: -functional.cross_entropy(output, target), Y)
    assert close(arrays(one.net), arrays(other.net))


def test_a_weight_may_change_with_the_steps() -> None:
    weights = iter((1.0, 0.5, 0.0, 1.0, 1.0, 1.0))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target) * next(weights)

    net, losses = by_hand(loss, Y, epochs=2)
    falling = pieces(linear(1.0, 0.0, over=steps(2)), (steps(3), 1.0))
    result = in_a_run({"a": ("cross_entropy", falling)}, Y, epochs=2)
    assert close(arrays(result.net), arrays(net))
    assert result.history["loss"].values == pytest.approx(losses, rel=1e-5, abs=1e-9)


def test_means_over_an_epoch_follow_a_weight_that_changes() -> None:
    """The mean of the loss is the mean of what was minimised, step by step."""
    result = trained(
        mlp(), (X, Y), shuffle=False, loss={"a": ("cross_entropy", linear(1.0, 0.0)), "b": (squares, 1.0)}, **STILL
    )
    history = result.history
    mean = sum(v * c for v, c in zip(history["loss"].values, (4, 4, 2), strict=True)) / 10
    assert history["epoch.loss"].values[0] == pytest.approx(mean, rel=1e-5)


def test_a_weight_that_runs_to_the_end_of_the_run_knows_where_that_is() -> None:
    result = trained(mlp(), (X, Y), loss={"a": ("cross_entropy", linear(1.0, 0.0)), "b": ("cross_entropy", 1)}, **STILL)
    both = zip(result.history["a"].values, result.history["b"].values, strict=True)
    expected = [a * (1 - step / 3) + b for step, (a, b) in enumerate(both)]
    assert result.history["loss"].values == pytest.approx(expected, rel=1e-5)


def test_a_weight_without_an_end_is_an_error_before_the_first_step() -> None:
    net = mlp()
    before = arrays(net)
    with pytest.raises(EtudeError, match="Say what follows"):
        trained(net, loss={"a": ("cross_entropy", constant(1.0).until(steps(2)))})
    assert same(arrays(net), before)


def test_outputs_and_targets_by_name_go_to_the_terms_of_their_names() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            output = self.net(x)
            return {"kind": output, "size": output.sum(1)}

    sizes = REAL.sum(1)
    model = Two()
    data = {"x": X, "kind": Y, "size": sizes}
    result = trained(model, data, loss={"kind": "cross_entropy", "size": "mse"}, validation=data, **STILL)
    assert result.history["val.kind"].values[0] == pytest.approx(exact(model.net, X, Y), rel=1e-5)
    with torch.no_grad():
        expected = functional.mse_loss(model.net(X).sum(1), sizes).item()
    assert result.history["val.size"].values[0] == pytest.approx(expected, rel=1e-5)


def test_losses_of_several_updates_are_recorded_under_their_names() -> None:
    updates = [
        Update("a", {"ce": ("cross_entropy", 0.5), "size": squares}, "0", optimizer="sgd", learning_rate=1e-12),
        Update("b", {"only": ("cross_entropy", 3.0)}, "2", optimizer="sgd", learning_rate=1e-12),
    ]
    net = mlp()
    history = trained(net, (X, Y), loss=None, updates=updates, validation=(X, Y)).history
    ce, size = exact(net, X, Y), exact(net, X, Y, lambda o, _: (o**2).mean())
    expected = {"a.ce": ce, "a.size": size, "a.loss": 0.5 * ce + size, "b.loss": 3 * ce, "loss": 3.5 * ce + size}
    for prefix in ("epoch", "val"):
        found = {name: history[f"{prefix}.{name}"].values[0] for name in expected}
        assert found == pytest.approx(expected, rel=1e-5)
    assert set(history) == {
        *expected,
        "rate",
        "a.rate",
        "b.rate",
        *(f"{p}.{n}" for p in ("epoch", "val") for n in expected),
    }


def test_two_updates_with_loss_functions_of_their_own_move_their_parts() -> None:
    """Each by plain SGD on its own loss and the same batch, the second after the first."""
    net = mlp()
    for piece in batches(10, 4):
        for layer, loss in ((net[0], functional.cross_entropy), (net[2], lambda o, _: (o**2).mean())):
            value = loss(net(X[piece]), Y[piece])
            grads = torch.autograd.grad(value, list(layer.parameters()))
            with torch.no_grad():
                for array, grad in zip(layer.parameters(), grads, strict=True):
                    array.sub_(grad, alpha=RATE)
    updates = [
        Update("first", "cross_entropy", "0", optimizer="sgd", learning_rate=RATE),
        Update("second", lambda output: (output**2).mean(), "2", optimizer="sgd", learning_rate=RATE),
    ]
    result = trained(data=(X, Y), loss=None, updates=updates, shuffle=False)
    assert close(arrays(result.net), arrays(net))


# ------------------------------------------------------------------------------------------------------ bad losses


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x).detach()
        return output


BAD: list[tuple[str, Any, dict[str, Any], type[EtudeError], str]] = [
    ("unknown", None, {"loss": "cross_entropi"}, SettingError, 'Nearest: "cross_entropy"'),
    ("class", None, {"loss": nn.CrossEntropyLoss}, SettingError, r"Write CrossEntropyLoss\(\)"),
    ("number", None, {"loss": 3}, SettingError, "a name, a torch loss or a function"),
    ("empty", None, {"loss": {}}, SettingError, "no term"),
    ("none", None, {"loss": lambda o, y: None}, SettingError, "gave a NoneType"),
    ("float", None, {"loss": lambda o, y: 1.0}, SettingError, "gave a float"),
    ("triple", None, {"loss": {"a": ("mse", 1, 2)}}, SettingError, "no pair of loss and weight"),
    ("weight", None, {"loss": {"a": ("cross_entropy", "much")}}, SettingError, "its weight is 'much'"),
    ("infinite", None, {"loss": {"a": ("cross_entropy", float("inf"))}}, SettingError, "finite number"),
    ("parts", None, {"loss": {"a": ("cross_entropy", cycle(part("0"), part("2")))}}, EtudeError, "its weight is cycle"),
    ("named loss", None, {"loss": {"loss": "mse", "b": "mse"}}, SettingError, "a term is called 'loss'"),
    ("detached", Detached, {}, EtudeError, "no gradient can reach"),
    ("constant", None, {"loss": lambda o, y: torch.zeros(())}, EtudeError, "no gradient can reach"),
    ("number targets", None, {"loss": lambda o, y: o.argmax(1).float().mean()}, EtudeError, "no gradient can reach"),
]


@pytest.mark.parametrize(("net", "given", "error", "words"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_is_no_loss_is_an_error_before_the_first_step(net: Any, given: Any, error: Any, words: str) -> None:
    made = mlp() if net is None else net()
    before = arrays(made)
    told: list[Any] = []
    with pytest.raises(error, match=words):
        trained(made, listeners=[told.append], **given)
    assert same(arrays(made), before)
    assert told == []


def test_a_class_beyond_the_outputs_is_named_with_its_sample() -> None:
    y = Y.clone()
    y[7] = 3
    with pytest.raises(DataError, match=r"3 classes, 0 to 2, and the targets have 3 \(samples 7\)"):
        trained(data=(X, y))
    with pytest.raises(DataError, match=r"In the validation data: .* the targets have 3 \(samples 7\)"):
        trained(validation=(X, y))
    with pytest.raises(DataError, match=r"In the validation data: .* the targets have -1 \(samples 0, 1"):
        trained(validation=Evaluate((X, torch.full((10,), -1))))
