"""What can be said of a term: weights of 0, errors, what it reaches, evaluation alone, perplexity, settings."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import etude
from etude import losses
from etude.errors import PartError, PlanError, RuleError, ScheduleError, SettingError, StaleGradientError
from etude.run.events import EpochEnded, Evaluated, Stepped
from etude.step.loss import Losses, terms
from etude.step.reading import Reader
from etude.values.curves import linear
from etude.values.progress import Progress
from etude.values.reactive import plateau
from etude.values.schedule import pieces
from etude.values.spans import epochs, steps
from small import Noisy, arrays, classified, mlp, run, same, trained


class TwoHeads(nn.Module):
    """One body, two heads: classes by "kind", a number by "size"."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.body, self.kind, self.size = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.body(x).tanh()
        return {"kind": self.kind(hidden), "size": self.size(hidden)[:, 0]}


def two_targets(n: int = 12) -> dict[str, Tensor]:
    x, y = classified(n)
    return {"x": x, "kind": y, "size": x.sum(1)}


def noisy(net: nn.Module, batch: Any) -> Tensor:
    """A term that draws from every generator, calls the net in its mode, and moves its statistics."""
    drawn = torch.rand(()) + random.random() + np.random.rand()
    made: Tensor = net(batch[0]).square().mean() * drawn
    return made


def drawing(output: Tensor, target: Tensor) -> Tensor:
    return (output * torch.rand_like(output)).square().mean(1)


def hard(output: Tensor, target: Tensor) -> float:
    """Something of which there is no derivative, and no tensor either."""
    return float((output.detach().numpy().argmax(1) != target.numpy()).mean())


# a weight of 0


@pytest.mark.parametrize("beside", [("mse", 0.0), (noisy, 0.0), (drawing, 0.0), losses.term(noisy, 0)])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"precision": "bf16"}])
def test_a_term_of_weight_0_has_no_influence_on_any_array(beside: Any, options: dict[str, Any]) -> None:
    """Bit for bit: in dropout, in statistics of batch norm, in what later terms draw."""
    name = "beside"
    data = classified(12)
    if isinstance(beside, tuple) and beside[0] == "mse":
        beside = (lambda output, target: output.square().mean(), 0.0)
    also = (lambda net, batch: net(batch[0]).abs().mean() * torch.rand(()), 0.5)
    with_it = trained(Noisy(), data, loss={"ce": "cross_entropy", name: beside, "also": also}, epochs=2, **options)
    without = trained(Noisy(), data, loss={"ce": "cross_entropy", "also": also}, epochs=2, **options)
    assert same(arrays(with_it.net), arrays(without.net))
    assert with_it.history["loss"].values == without.history["loss"].values
    assert all(value > 0 for value in with_it.history[name].values)


def test_a_weight_that_is_0_at_a_step_has_no_influence_there() -> None:
    weight = pieces(0.0, (steps(2), 1.0))
    data = classified(16)
    ramped = list(run(Noisy(), data, loss={"ce": "cross_entropy", "n": (noisy, weight)}, batch_size=4))
    plain = list(run(Noisy(), data, loss={"ce": "cross_entropy"}, batch_size=4))
    first, second = (
        [event.losses["loss"] for event in events if isinstance(event, Stepped)] for events in (ramped, plain)
    )
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[2], second[2])


def test_a_term_of_weight_0_that_is_not_finite_does_not_stop_the_step() -> None:
    result = trained(loss={"ce": "cross_entropy", "bad": (lambda output, target: output.mean() * math.nan, 0)})
    plain = trained(loss={"ce": "cross_entropy"})
    assert same(arrays(result.net), arrays(plain.net))
    assert math.isnan(result.history["epoch.bad"].values[0])
    assert math.isfinite(result.history["epoch.loss"].values[0])


def test_what_only_a_term_of_weight_0_reaches_gets_the_gradient_0() -> None:
    """So the head stands still under SGD, and it is no stale gradient."""
    loss = {"kind": "cross_entropy", "size": ("mse", pieces(0.0, (epochs(1), 1.0)))}
    net = TwoHeads()
    before = arrays(net)
    events = etude.Run(
        etude.Plan(loss=loss, optimizer="sgd", learning_rate=0.1, epochs=2, batch_size=4), net, two_targets()
    )
    halfway: dict[str, Tensor] = {}
    for event in events:
        if isinstance(event, EpochEnded) and not halfway:
            halfway = arrays(net)
    assert torch.equal(halfway["size.weight"], before["size.weight"])
    assert not torch.equal(halfway["body.weight"], before["body.weight"])
    assert not torch.equal(arrays(net)["size.weight"], before["size.weight"])


def test_what_no_term_reaches_is_still_told() -> None:
    class Loose(TwoHeads):
        def __init__(self) -> None:
            super().__init__()
            self.nowhere = nn.Linear(2, 2)

    loss = {"kind": "cross_entropy", "size": ("mse", 0.0)}
    with pytest.raises(StaleGradientError, match=r"does not depend on 'nowhere.weight', 'nowhere.bias'"):
        etude.train(Loose(), two_targets(), loss=loss, epochs=1, batch_size=4, progress=False)


def test_where_every_weight_is_0_the_gradient_is_0() -> None:
    net = mlp()
    before = arrays(net)
    result = trained(net, loss=losses.term("cross_entropy", 0.0), optimizer="sgd", learning_rate=1.0)
    assert same(arrays(result.net), before)
    assert result.history["loss"].values[0] == 0


# errors


def test_an_error_is_reported_and_not_differentiated() -> None:
    data = classified(10)
    loss = {"ce": "cross_entropy", "fer": losses.error("error_rate"), "hard": losses.error(hard)}
    result = trained(data=data, loss=loss, validation=data, epochs=2)
    plain = trained(data=data, loss={"ce": "cross_entropy"}, epochs=2)
    assert same(arrays(result.net), arrays(plain.net))
    assert result.history["val.loss"].values[-1] == pytest.approx(result.history["val.ce"].values[-1])
    with torch.no_grad():
        expected = float((result.net(data[0]).argmax(1) != data[1]).float().mean())
    assert result.history["val.fer"].values[-1] == pytest.approx(expected)
    assert result.history["val.hard"].values[-1] == pytest.approx(expected)
    assert len(result.history["epoch.fer"].values) == 2


@pytest.mark.parametrize("said", [{"accumulate": 2}, {"out_of_memory": "split"}])
def test_an_error_that_is_a_number_of_python_counts_over_several_batches(said: dict[str, Any]) -> None:
    def share(output: Tensor, target: Tensor) -> float:
        return float(np.mean(output.numpy().argmax(1) != target.numpy()))

    loss = {"ce": "cross_entropy", "fer": losses.error("error_rate"), "share": losses.error(share)}
    result = trained(loss=loss, epochs=2, **said)
    assert result.history["epoch.share"].values == pytest.approx(result.history["epoch.fer"].values)


def test_shares_of_errors_are_those_of_whole_numbers() -> None:
    x, y = torch.randn(11, 2), torch.tensor([0, 1] * 5 + [0])
    loss = {"ce": "cross_entropy", "odd": losses.error(lambda output, target: target == 1)}
    loss["pair"] = losses.error(lambda output, target: (target.sum(), len(target)))
    result = etude.train(nn.Linear(2, 2), (x, y), loss=loss, epochs=1, batch_size=3, validation=(x, y))
    for name in ("epoch.odd", "epoch.pair", "val.odd", "val.pair"):
        assert result.history[name].values == [5 / 11]


def test_an_error_may_be_a_metric_of_torchmetrics() -> None:
    # Such metrics are equal to everything, losses of torch among it.
    accuracy = pytest.importorskip("torchmetrics.classification").MulticlassAccuracy(num_classes=2, average="micro")
    loss = {"ce": "cross_entropy", "right": losses.error(accuracy), "wrong": losses.error("error_rate")}
    result = etude.train(nn.Linear(2, 2), (torch.randn(8, 2), torch.tensor([0, 1] * 4)), loss=loss, steps=1)
    assert result.history["right"].values[0] + result.history["wrong"].values[0] == pytest.approx(1)


def test_error_rate_leaves_out_padding_and_what_is_ignored() -> None:
    output = torch.zeros(2, 3, 4)
    output[:, 1] = 1
    target = torch.tensor([[1, 1, 0, 2], [1, 0, -100, 1]])
    mask = torch.tensor([[True, True, True, False], [True, True, True, False]])
    assert tuple(map(float, losses.error_rate(output, target, mask=mask))) == (2, 5)
    assert tuple(map(float, losses.error_rate(torch.tensor([[2.0], [-1.0]]), torch.tensor([1, 1])))) == (1, 2)
    assert tuple(map(float, losses.error_rate(torch.tensor([2.0, -1.0]), torch.tensor([1, 1])))) == (1, 2)
    with pytest.raises(etude.errors.DataError, match="classes in its second dimension"):
        losses.error_rate(torch.zeros(2, 3), torch.zeros(5))


def test_errors_are_no_loss() -> None:
    for loss in (losses.error("error_rate"), {"a": losses.error(hard), "b": losses.term("mse", only="evaluation")}):
        with pytest.raises(SettingError, match="Write a term to minimise too"):
            terms(loss)
    with pytest.raises(SettingError, match=r"no gradient comes from it. To report it write error\('error_rate'\)"):
        terms("error_rate")


# reaches


def test_a_term_that_reaches_a_part_gives_gradients_to_it_alone() -> None:
    net, batch = TwoHeads(), two_targets()
    loss = {"kind": "cross_entropy", "size": losses.term("mse", 0.5, reaches=etude.part("size") | "body.bias")}
    made = Losses(terms(loss), net)
    total, _, _, _ = made.measure(net, Reader(net), batch, made.now(Progress()))
    total.backward()
    found = {name: array.grad.clone() for name, array in net.named_parameters() if array.grad is not None}
    output = net(batch["x"])
    kind = functional.cross_entropy(output["kind"], batch["kind"])
    size = 0.5 * functional.mse_loss(output["size"], batch["size"])
    named = dict(net.named_parameters())
    of_kind = dict(
        zip(named, torch.autograd.grad(kind, named.values(), retain_graph=True, allow_unused=True), strict=True)
    )
    of_size = dict(zip(named, torch.autograd.grad(size, named.values(), allow_unused=True), strict=True))
    assert torch.allclose(found["body.bias"], of_kind["body.bias"] + of_size["body.bias"])
    assert torch.equal(found["body.weight"], of_kind["body.weight"])
    assert torch.allclose(found["size.weight"], of_size["size.weight"])
    assert float(total) == pytest.approx(float(kind + size))


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"precision": "bf16"}])
def test_a_term_that_reaches_nothing_of_the_rest_leaves_the_rest_to_the_bit(options: dict[str, Any]) -> None:
    both = {"kind": "cross_entropy", "size": losses.term("mse", reaches="size")}
    alone = {"kind": "cross_entropy"}
    plan = {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 2, "batch_size": 4, "progress": False, **options}
    with_it = etude.train(TwoHeads(), two_targets(), loss=both, **plan)
    without = etude.train(TwoHeads(), two_targets(), loss=alone, learning_rate_multipliers={"size": 0}, **plan)
    mine, theirs = arrays(with_it.net), arrays(without.net)
    for name in ("body.weight", "body.bias", "kind.weight", "kind.bias"):
        assert torch.allclose(mine[name], theirs[name], atol=1e-7), name
    assert not torch.equal(mine["size.weight"], theirs["size.weight"])


def test_a_part_that_is_not_there_or_never_moves_is_an_error_before_the_first_step() -> None:
    def check(place: Any, **options: Any) -> None:
        loss = {"kind": "cross_entropy", "size": losses.term("mse", reaches=place)}
        etude.Plan(loss=loss, epochs=1, **options).check(TwoHeads(), two_targets())

    with pytest.raises(PartError, match='Nearest: "body"'):
        check("boddy")
    with pytest.raises(RuleError, match=r"none of its arrays .* ever moves"):
        check("body", learning_rate_multipliers={"body": 0})
    with pytest.raises(PlanError, match=r"reaches=.* takes a backward of its own, which is not compiled"):
        check("body", compile=True)
    loss = losses.term("cross_entropy", reaches="body.1.running_mean")
    with pytest.raises(PartError, match=r"no parameter, only buffers"):
        etude.Plan(loss=loss, epochs=1).check(Noisy(), classified())


def test_held_arrays_in_reach_get_nothing() -> None:
    loss = {"kind": "cross_entropy", "size": losses.term("mse", reaches="size")}
    net = TwoHeads()
    before = arrays(net)
    plan = etude.Plan(loss=loss, steps=1, batch_size=4, update_schedule=["kind", "size"])
    etude.Run(plan, net, two_targets()).result()
    assert torch.equal(arrays(net)["size.weight"], before["size.weight"])
    assert not torch.equal(arrays(net)["kind.weight"], before["kind.weight"])


# evaluation alone, training alone


def test_terms_of_evaluation_alone_are_not_computed_in_training() -> None:
    asked: list[bool] = []

    def slow(net: nn.Module, batch: Any) -> Tensor:
        asked.append(net.training)
        return net(batch[0]).square().mean()

    data = classified(8)
    loss = {"ce": "cross_entropy", "slow": losses.term(slow, only="evaluation")}
    result = trained(data=data, loss=loss, validation=data)
    assert asked
    assert not any(asked)
    assert {"val.slow", "slow", "epoch.slow"} & set(result.history) == {"val.slow"}
    assert result.history["ce"].values == result.history["loss"].values
    assert result.history["val.loss"].values == result.history["val.ce"].values


def test_terms_of_training_alone_are_in_no_validation_loss() -> None:
    data = classified(8)
    loss = {"ce": "cross_entropy", "l2": losses.term(losses.l2(), 0.1, only="training")}
    result = trained(data=data, loss=loss, validation=data)
    assert {"val.l2", "epoch.l2"} & set(result.history) == {"epoch.l2"}
    assert result.history["val.loss"].values == result.history["val.ce"].values
    assert result.history["loss"].values[0] > result.history["ce"].values[0]


def test_a_weight_in_evaluation_alone_means_nothing() -> None:
    with pytest.raises(SettingError, match=r"is in no sum"):
        losses.term("mse", 0.5, only="evaluation")
    with pytest.raises(SettingError, match='Nearest: "evaluation"'):
        losses.term("mse", only="evaluate")


def test_what_a_loss_reports_besides_has_the_name_of_its_update_before_it() -> None:
    frames, labels = torch.randn(6, 4, 3), torch.randint(1, 3, (6, 2))
    updates = [
        etude.Update("one", losses.ctc(), learning_rate=0.1),
        etude.Update("two", {"a": losses.term(mean_square, exponent=True), "b": losses.error(mean_size)}, "1"),
    ]
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    result = etude.train(net, (frames, labels), updates=updates, epochs=1, batch_size=3, progress=False)
    names = {"one.loss", "one.loss.no_path", "two.loss", "two.a", "two.b"}
    assert names <= set(result.history)
    assert {f"epoch.{name}" for name in names} | {"epoch.two.a.perplexity"} <= set(result.history)


def mean_square(output: Tensor, target: Tensor) -> Tensor:
    return output.square().mean()


def mean_size(output: Tensor, target: Tensor) -> Tensor:
    return output.abs().mean()


# perplexity


def test_perplexity_is_e_to_the_mean_over_the_epoch_and_all_validation_data() -> None:
    data = classified(10)
    loss = {"ce": losses.term("cross_entropy", exponent=True), "other": ("cross_entropy", 0.5)}
    result = trained(data=data, loss=loss, validation=data, epochs=2)
    for prefix in ("epoch", "val"):
        found, means = result.history[f"{prefix}.ce.perplexity"].values, result.history[f"{prefix}.ce"].values
        assert found == pytest.approx([math.exp(mean) for mean in means])


def test_a_rate_may_go_by_the_perplexity_of_an_epoch() -> None:
    loss = {"ce": losses.term("cross_entropy", exponent=True), "wrong": losses.error("error_rate")}
    rate = etude.newbob("epoch.ce.perplexity", start=1e-2, min_improvement=0.5)
    result = trained(loss=loss, learning_rate=rate, epochs=3)
    assert result.history["rate"].values[-1] == 5e-3
    with pytest.raises(ScheduleError, match=r"'epoch\.wrong\.perplexity', which is not measured"):
        trained(loss=loss, learning_rate=etude.newbob("epoch.wrong.perplexity", start=1e-2))


def test_perplexity_of_a_term_alone_and_of_a_mean_that_is_too_large() -> None:
    result = trained(loss=losses.term(lambda output, target: output.sum() * 0 + 1000, 0.5, exponent=True))
    assert result.history["epoch.loss.perplexity"].values == [math.inf]
    assert result.history["epoch.loss"].values == [500]


# settings


def test_a_setting_of_a_function_follows_its_schedule_and_is_in_force() -> None:
    given: list[float] = []

    def scaled(output: Tensor, target: Tensor, *, temperature: float) -> Tensor:
        given.append(temperature)
        return functional.cross_entropy(output / temperature, target)

    loss = losses.term(scaled, settings={"temperature": pieces(2.0, (steps(2), 1.0))})
    made = Losses(terms(loss))
    assert made.in_force(Progress(1)) == {"loss.temperature": 2.0}
    assert list(made.settings()) == ["weight.loss", "loss.temperature"]
    trained(data=classified(16), loss=loss, batch_size=4)
    assert given[-4:] == [2.0, 2.0, 1.0, 1.0]


def test_settings_that_the_function_does_not_have() -> None:
    def scaled(output: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
        return functional.cross_entropy(output / temperature, target)

    with pytest.raises(SettingError, match=r"no argument 'temprature'.* Nearest: \"temperature\""):
        terms(losses.term(scaled, settings={"temprature": 2.0}))
    with pytest.raises(SettingError, match="Write a finite number or a schedule of numbers"):
        losses.term(scaled, settings={"temperature": "hot"})
    with pytest.raises(SettingError, match=r"has its own. Write them there"):
        terms(losses.term(losses.cross_entropy(), settings={"smoothing": 0.1}))


def test_a_weight_that_listens_is_told_and_remembers() -> None:
    weight = plateau("val.loss", patience=0, factor=0.5)
    data = classified(8)
    loss = {"ce": "cross_entropy", "n": (lambda output, target: output.square().mean(), weight)}
    made = Losses(terms(loss))
    assert made.weights(Progress()) == (1.0, 1.0)
    made.see({"val.loss": 2.0}, Progress(1))
    made.see({"val.loss": 3.0}, Progress(2))
    assert made.weights(Progress()) == (1.0, 0.5)
    other = Losses(terms(loss))
    other.load(made.state())
    assert other.weights(Progress()) == (1.0, 0.5)
    assert trained(data=data, loss=loss, validation=data).stop_reason == "finished"
    with pytest.raises(ScheduleError, match="not measured"):
        trained(data=data, loss=loss)


@pytest.mark.parametrize("weight", ["heavy", True, math.inf, nn.Linear])
def test_a_weight_that_is_no_number(weight: Any) -> None:
    with pytest.raises(SettingError, match="Write a finite number or a schedule of numbers"):
        losses.term("mse", weight)


def test_a_weight_that_becomes_no_number_is_an_error_before_the_first_step() -> None:
    with pytest.raises(SettingError, match=r"'weight.n' is 'much' at this step"):
        trained(loss={"ce": "cross_entropy", "n": ("cross_entropy", lambda p: "much" if p.epoch > 0.3 else 1.0)})


# several outputs, what is given by name


def test_a_term_takes_the_output_and_the_target_that_it_names() -> None:
    loss = {
        "kind": "cross_entropy",
        "fer": losses.error("error_rate", of="kind"),
        "far": losses.term("mse", of=("size", "size")),
        "free": losses.term(lambda output: output.square().mean(), 0.1, of="size"),
    }
    result = etude.train(TwoHeads(), two_targets(), loss=loss, epochs=1, batch_size=4, progress=False)
    assert {"kind", "fer", "far", "free"} < set(result.history)
    with pytest.raises(SettingError, match=r"takes 'kinds', and the net's output has .* Nearest: \"kind\""):
        etude.train(TwoHeads(), two_targets(), loss=loss | {"x": losses.term("mse", of="kinds")}, epochs=1)


def test_functions_are_given_the_mask_and_the_batch_where_they_name_them() -> None:
    seen: list[Any] = []

    def custom(output: Tensor, target: Tensor, mask: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        seen.append((mask, batch["input_lengths"]))
        return ((output - target).square() * mask).sum(), mask.sum()

    net = nn.Identity()
    x = torch.tensor([[1.0, 2.0, 9.0], [3.0, 9.0, 9.0]])
    lengths = torch.tensor([2, 1])
    batch = {"input": x, "input_lengths": lengths, "y": torch.zeros(2, 3), "y_lengths": lengths}
    made = Losses(terms(custom))
    total, (one,), _, _ = made.measure(net, Reader(net), batch, made.now(Progress()))
    assert float(total) == pytest.approx((1 + 4 + 9) / 3)
    assert float(one.count) == 3
    assert seen[0][0].tolist() == [[True, True, False], [True, False, False]]


# what is wrong with what was said


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: losses.term("mse", wieght=1), 'Nearest: "weight"'),
        (lambda: losses.term({"a": "mse"}), "Several terms are a dict"),
        (lambda: losses.term("mse", exponent=1), "True or False"),
        (lambda: losses.term("mse", of=3), "the name of an output"),
        (lambda: losses.term("mse", settings=3), "a dict of numbers by name"),
        (lambda: losses.error(losses.term("mse")), "a function or a name"),
        (lambda: terms({"a": (losses.term("mse"), 2)}), r"Write term\(\.\.\., weight\)"),
        (lambda: terms(losses.cross_entropy), r"it makes a loss. Write cross_entropy\(\.\.\.\)"),
        (lambda: terms({1: "mse", "1": "mse"}), "two series are called '1'"),
        (lambda: terms({"a": losses.term("mse", exponent=True), "a.perplexity": "mse"}), "two series are called"),
        (lambda: terms(losses.term(noisy, of="x")), "it takes the net and the batch"),
        (lambda: terms({"a": losses.term("mss")}), 'Nearest: "mse'),
    ],
)
def test_what_is_no_term_is_told(make: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        make()


def test_terms_print_as_they_are_written() -> None:
    made = losses.term("mse", linear(1, 0), reaches="body", exponent=True, of="a")
    assert repr(made) == "term('mse', weight=linear(1, 0), reaches=part('body'), exponent=True, of='a')"
    assert repr(losses.error("error_rate")) == "error('error_rate')"
    assert repr(losses.term(losses.ctc(2, per="label"))) == "term(ctc(blank=2, per='label'))"


def test_the_plan_says_what_is_in_the_sum_and_what_is_reported() -> None:
    loss = {
        "kind": "cross_entropy",
        "size": losses.term("mse", 0.5, reaches="size"),
        "fer": losses.error("error_rate", of="kind"),
    }
    told = etude.Plan(loss=loss, epochs=1).check(TwoHeads(), two_targets()).show()
    assert "loss: kind (cross_entropy) + 0.5 * size (mse_loss), 'size' reaches part('size'); reported: fer" in told


def test_a_run_with_every_kind_of_term_goes_on_to_the_bit(tmp_path: Any) -> None:
    def loss() -> dict[str, Any]:
        return {
            "ce": losses.cross_entropy(smoothing=linear(0.2, 0.0)),
            "noisy": (noisy, pieces(0.0, (epochs(1), 0.1))),
            "far": losses.term(drawing, 0.3, reaches="head"),
            "fer": losses.error("error_rate"),
        }

    data = classified(12)
    options: dict[str, Any] = {"loss": loss(), "epochs": 3, "validation": data}
    whole = trained(Noisy(), data, **options)
    place = etude.Directory(tmp_path / "kept", etude.every(steps(1)))
    first = run(Noisy(), data, checkpoint=place, **options)
    for event in first:
        if isinstance(event, Evaluated):
            break
    second = etude.Run(
        etude.Plan(**{"batch_size": 4, **options, "loss": options["loss"]}, checkpoint=place),
        Noisy(),
        data,
        resume="auto",
        accept=True,
    )
    result = second.result()
    assert same(arrays(result.net), arrays(whole.net))
    assert result.history["epoch.loss"].values == whole.history["epoch.loss"].values


def test_gradients_in_float16_are_scaled_also_where_a_term_reaches_a_part() -> None:
    net, batch = TwoHeads(), two_targets()
    loss = {"kind": ("cross_entropy", 1e-6), "size": losses.term("mse", 1e-6, reaches="size")}
    made = Losses(terms(loss), net)
    total, _, _, _ = made.measure(net, Reader(net), batch, made.now(Progress()))
    (total * 65536).backward()
    plain = functional.mse_loss(net(batch["x"])["size"], batch["size"])
    (expected,) = torch.autograd.grad(plain, [net.size.weight])
    assert torch.allclose(net.size.weight.grad, expected * 65536e-6, rtol=1e-4)
    result = etude.train(TwoHeads(), two_targets(), loss=loss, precision="fp16", epochs=2, batch_size=4, progress=False)
    assert all(math.isfinite(value) for value in result.history["loss"].values)


@pytest.mark.soak
def test_a_compiled_step_has_errors_and_weights_of_0_beside_its_program() -> None:
    def loss(beside: bool) -> dict[str, Any]:
        also = {"far": ("mse", 0.0), "fer": losses.error(hard_error), "n": (noisy, 0.0)} if beside else {}
        return {"ce": losses.cross_entropy(smoothing=linear(0.2, 0.1)), **also}

    def hard_error(output: Tensor, target: Tensor) -> float:
        return float(np.mean(output.numpy().argmax(1) != target.numpy()))

    data = classified(8)
    plain = trained(mlp(), data, loss=loss(False), compile=True)
    loss_ = loss(True)
    loss_["far"] = (lambda output, target: output.square().mean(), 0.0)
    made = trained(mlp(), data, loss=loss_, compile=True)
    eager = trained(mlp(), data, loss=loss_)
    assert same(arrays(made.net), arrays(plain.net))
    assert made.history["fer"].values == eager.history["fer"].values
    assert made.history["far"].values == pytest.approx(eager.history["far"].values, rel=1e-5)
    assert all(value > 0 for value in made.history["n"].values)


def test_an_error_may_be_computed_with_numpy() -> None:
    x, y = classified(12)

    def wrong_ones(output: Tensor, target: Tensor) -> Any:
        return (output.argmax(1) != target).numpy().astype("float32")

    wrong = {"ce": "cross_entropy", "wrong": losses.error(wrong_ones)}
    names = {"ce": "cross_entropy", "wrong": losses.error("error_rate")}
    first, second = trained(data=(x, y), loss=wrong), trained(data=(x, y), loss=names)
    truths = {"ce": "cross_entropy", "wrong": losses.error(lambda out, target: out.argmax(1) != target)}
    assert first.history["epoch.wrong"].values == pytest.approx(second.history["epoch.wrong"].values)
    assert trained(data=(x, y), loss=truths).history["epoch.wrong"].values == first.history["epoch.wrong"].values
