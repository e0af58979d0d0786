"""Losses by name, by function, in terms; sums and counts; how a batch becomes arguments and targets."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from etude.errors import DataError, SettingError
from etude.step.loss import Losses, Measured, terms
from etude.step.reading import Reader, samples_in, tensors_in
from etude.values.curves import linear
from etude.values.progress import Extent, Progress
from etude.values.schedule import cycle
from nets import seeded

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
CLASSES = torch.tensor([0, 1, 2, 2, 1, 0])


def net() -> nn.Linear:
    made: nn.Linear = seeded(lambda: nn.Linear(4, 3))
    return made


class Heads(nn.Module):
    """Two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"kind": self.body(x), "size": self.body(x).square()}


def measure(loss: Any, values: Any = (X, Y), of: nn.Module | None = None, step: int = 0) -> tuple[Tensor, Any]:
    made, module = Losses(terms(loss)), of or net()
    weights = made.weights(Progress(step, extent=Extent(steps=10)))
    return made.measure(module, Reader(module), values, weights)[:2]


def total(loss: Any, values: Any = (X, Y), of: nn.Module | None = None) -> float:
    return measure(loss, values, of)[0].item()


def the(loss: Any, values: Any = (X, Y), of: nn.Module | None = None) -> tuple[float, float]:
    """Mean and count of the only term."""
    (one,) = measure(loss, values, of)[1]
    return one.mean.item(), float(one.count)


# names


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("mse", functional.mse_loss),
        ("mse_loss", functional.mse_loss),
        ("MSE", functional.mse_loss),
        ("l1", functional.l1_loss),
        ("mae", functional.l1_loss),
        ("smooth_l1", functional.smooth_l1_loss),
        ("huber", functional.huber_loss),
        ("soft_margin_loss", functional.soft_margin_loss),
    ],
)
def test_names_of_torch_and_the_usual_short_ones(name: str, function: Any) -> None:
    assert the(name) == (pytest.approx(function(net()(X), Y).item()), 18)


def test_losses_of_classes_count_the_targets() -> None:
    expected = float(functional.cross_entropy(net()(X), CLASSES))
    assert the("cross_entropy", (X, CLASSES)) == (pytest.approx(expected), 6)
    assert the(nn.CrossEntropyLoss(), (X, CLASSES)) == (pytest.approx(expected), 6)
    logs = nn.Sequential(net(), nn.LogSoftmax(1))
    assert the("nll", (X, CLASSES), logs) == (pytest.approx(expected), 6)


def test_losses_of_probabilities() -> None:
    probabilities = Y.sigmoid()
    expected = float(functional.binary_cross_entropy_with_logits(net()(X), probabilities))
    assert the("bce_with_logits", (X, probabilities)) == (pytest.approx(expected), 18)
    sigmoid = nn.Sequential(net(), nn.Sigmoid())
    assert the("bce", (X, probabilities), sigmoid) == (pytest.approx(expected), 18)


def test_the_nets_own_output_may_be_the_loss() -> None:
    class Lossy(nn.Module):
        def __init__(self, form: str) -> None:
            super().__init__()
            self.form = form

        def forward(self, x: Tensor) -> Any:
            loss = x.square().mean()
            named = type("Output", (), {"loss": loss})
            return {"tensor": loss, "dict": {"loss": loss}, "named": named, "pair": (x.square().sum(), x.numel())}[
                self.form
            ]

    for form in ("tensor", "dict", "named", "pair"):
        assert total("output", X, Lossy(form)) == pytest.approx(float(X.square().mean()))


# functions


def test_functions_of_output_and_target_of_output_and_of_the_net() -> None:
    expected = float((net()(X) - Y).square().mean())
    assert total(lambda output, target: (output - target).square().mean()) == pytest.approx(expected)
    assert total(lambda output: output.mean()) == pytest.approx(float(net()(X).mean()))
    assert total(lambda net, batch: (net(batch[0]) - batch[1]).square().mean()) == pytest.approx(expected)
    assert total(lambda model, batch, power=2: (model(batch[0]) - batch[1]).pow(power).mean()) == pytest.approx(
        expected
    )
    assert total(lambda *pair: (pair[0] - pair[1]).square().mean()) == pytest.approx(expected)
    assert total(functools.partial(functional.mse_loss, reduction="mean")) == pytest.approx(expected)


def test_a_module_of_the_users_own_takes_what_its_forward_takes() -> None:
    class Small(nn.Module):
        def forward(self, output: Tensor) -> Tensor:
            return output.square().mean()

    class OnNet(nn.Module):
        def forward(self, net: nn.Module, batch: Any) -> Tensor:
            return net(batch[0]).square().mean()

    for loss in (Small(), OnNet()):
        assert total(loss) == pytest.approx(float(net()(X).square().mean()))


def test_a_function_gives_a_mean_one_value_a_sample_or_a_sum_and_a_count() -> None:
    expected = float((net()(X) - Y).square().mean(1).mean())
    assert the(lambda output, target: (output - target).square().mean()) == (pytest.approx(expected), 18)
    assert the(lambda output, target: (output - target).square().mean(1)) == (pytest.approx(expected), 6)
    assert the(lambda output, target: ((output - target).square().sum(), 18)) == (pytest.approx(expected), 18)
    counted = torch.tensor(9.0)
    assert the(lambda output, target: (output.sum(), counted)) == (pytest.approx(float(net()(X).sum() / 9)), 9)


@pytest.mark.parametrize("given", [None, 1.0, [1], (1, 2, 3), "x"])
def test_a_function_that_gives_something_else_is_told(given: Any) -> None:
    with pytest.raises(SettingError, match=r"The loss 'loss' gave a \w+. It has to give a tensor"):
        total(lambda output, target: given)


# sums and counts


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
def test_means_are_exact_over_batches_of_any_size() -> None:
    """Sum over counts is the mean of all at once: for every loss of torch that means over something."""
    weights = torch.tensor([0.2, 1.0, 3.0])
    mixed = Y.softmax(1)
    cases: list[tuple[Any, Tensor]] = [
        ("mse", Y),
        ("cross_entropy", CLASSES),
        ("cross_entropy", mixed),
        (nn.CrossEntropyLoss(weight=weights), CLASSES),
        (nn.CrossEntropyLoss(weight=weights, ignore_index=2), CLASSES),
        (nn.CrossEntropyLoss(label_smoothing=0.1), CLASSES),
        (nn.CrossEntropyLoss(reduction="sum"), CLASSES),
        (nn.CrossEntropyLoss(reduction="none"), CLASSES),
        (nn.KLDivLoss(reduction="batchmean"), mixed),
        (nn.KLDivLoss(), mixed),
        (nn.MSELoss(reduction="sum"), Y),
        (nn.HuberLoss(), Y),
        (nn.BCEWithLogitsLoss(), mixed),
        (nn.BCEWithLogitsLoss(pos_weight=weights), mixed),
        (lambda output, target: ((output - target).abs().sum(), len(output)), Y),
    ]
    for loss, target in cases:
        whole, _ = the(loss, (X, target))
        pieces = [the(loss, (X[part], target[part])) for part in (slice(0, 1), slice(1, 4), slice(4, 6))]
        joined = sum(mean * count for mean, count in pieces) / sum(count for _, count in pieces)
        assert joined == pytest.approx(whole, rel=1e-5), loss


def test_ignored_targets_do_not_count() -> None:
    target = torch.tensor([0, -100, 2, -100, 1, 0])
    mean, count = the("cross_entropy", (X, target))
    assert (mean, count) == (pytest.approx(float(functional.cross_entropy(net()(X), target))), 4)
    assert the(nn.CrossEntropyLoss(ignore_index=0), (X, CLASSES))[1] == 4


def test_targets_of_images_and_sequences_count_each_place() -> None:
    conv = seeded(lambda: nn.Conv1d(4, 3, 1))
    x = torch.randn(2, 4, 5)
    target = torch.randint(0, 3, (2, 5))
    assert the("cross_entropy", (x, target), conv)[1] == 10
    assert the("cross_entropy", (x, torch.randn(2, 3, 5).softmax(1)), conv)[1] == 10


def test_a_sum_is_divided_by_what_it_was_taken_over() -> None:
    assert the(nn.MSELoss(reduction="sum")) == (pytest.approx(float(functional.mse_loss(net()(X), Y))), 18)


# terms


def test_terms_have_names_and_weights() -> None:
    loss, each = measure({"a": "mse", "b": ("l1", 0.5), "c": (lambda output: output.mean(), -2)})
    parts = [functional.mse_loss(net()(X), Y), functional.l1_loss(net()(X), Y), net()(X).mean()]
    assert [float(one.mean) for one in each] == pytest.approx([float(part) for part in parts])
    assert float(loss) == pytest.approx(float(parts[0] + 0.5 * parts[1] - 2 * parts[2]))
    assert total({"a": ("mse", 3)}) == pytest.approx(3 * float(parts[0]))


def test_weights_may_be_schedules() -> None:
    loss = {"a": ("mse", linear(1, 0)), "b": ("l1", cycle(1, 2)), "c": ("mse", lambda progress: progress.step / 10)}
    weights = [Losses(terms(loss)).weights(Progress(step, extent=Extent(steps=10))) for step in (0, 5)]
    assert weights == [(1.0, 1.0, 0.0), (0.5, 2.0, 0.5)]
    assert float(measure(loss, step=5)[0]) == pytest.approx(total("mse") + 2 * total("l1"))


def test_several_outputs_and_targets_go_to_terms_by_name() -> None:
    heads = Heads()
    target = {"kind": CLASSES, "size": Y}
    loss, (kind, size) = measure({"kind": "cross_entropy", "size": ("mse", 0.1)}, (X, target), heads)
    out = heads(X)
    assert float(kind.mean) == pytest.approx(float(functional.cross_entropy(out["kind"], CLASSES)))
    assert (float(kind.count), float(size.count)) == (6, 18)
    assert float(loss) == pytest.approx(float(kind.mean + 0.1 * size.mean))
    whole = lambda output, target: (output["kind"].mean() + target["size"].mean()) * output["size"].mean()  # noqa: E731
    assert total(whole, (X, target), heads) == pytest.approx(float(whole(out, target)))


def test_a_loss_of_torch_has_to_know_which_output_it_takes() -> None:
    message = (
        r"The loss 'loss': the net's output has 'kind', 'size', and none of them is called 'loss'.*\{'kind': ...\}"
    )
    with pytest.raises(SettingError, match=message):
        total("mse", (X, Y), Heads())
    with pytest.raises(SettingError, match=r"The loss 'knd': the net's output has.*Nearest: \"kind\""):
        total({"knd": nn.MSELoss()}, (X, Y), Heads())
    with pytest.raises(SettingError, match=r"The loss 'loss': the target has 'a', 'b'"):
        total("mse", (X, {"a": Y, "b": Y}))


def test_a_function_of_several_terms_is_called_once_for_all() -> None:
    calls: list[int] = []

    def game(net: nn.Module, batch: Any) -> dict[str, Tensor]:
        calls.append(len(batch[0]))
        output = net(batch[0])
        return {"low": output.min(), "high": output.max(), "unused": output.mean()}

    loss, (low, _) = measure({"low": game, "high": (game, 2)})
    assert calls == [6]
    assert float(low.mean) == pytest.approx(float(net()(X).min()))
    assert float(loss) == pytest.approx(float(net()(X).min() + 2 * net()(X).max()))
    assert total({"high": game}) == pytest.approx(float(net()(X).max()))
    with pytest.raises(
        SettingError, match=r"The loss 'hihg' gave a dict of 'low', 'high', 'unused'.*Nearest: \"high\""
    ):
        total({"hihg": game})


def test_terms_on_the_output_are_asked_each_for_its_own() -> None:
    heads = Heads()
    mean = lambda output: output.mean()  # noqa: E731
    _, (kind, size) = measure({"kind": mean, "size": mean}, X, heads)
    assert float(kind.mean) != float(size.mean)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("cross_entrpy", r"There is no loss 'cross_entrpy'. Known: cross_entropy, .*Nearest: \"cross_entropy\""),
        (nn.MSELoss, r"loss=MSELoss: a class. Write MSELoss\(\)"),
        (3, r"loss=3: a name, a torch loss or a function is needed. Write loss=\"cross_entropy\""),
        ({}, r"loss=\{\}: no term"),
        ({"a": ("mse",)}, r"loss term 'a': \('mse',\) is no pair of loss and weight. Write 'a': \(\"mse\", 0.5\)"),
        ({"a": ("mse", "x")}, r"loss term 'a': its weight is 'x'. Write a finite number or a schedule of numbers"),
        ({"a": ("mse", float("nan"))}, "its weight is nan"),
        ({"a": ("mse", True)}, "its weight is True"),
        ({"a": ("mse", None)}, "its weight is None"),
        ({"a": ("mse", cycle(True, False))}, r"its weight is cycle\(True, False\)"),
        ({"a": ("mse", nn.Linear)}, "its weight is <class"),
        ({"loss": "mse", "a": "l1"}, r"a term is called 'loss', as is the sum \(or the rate\). Write another name"),
        ({"rate": "mse", "a": "l1"}, r"a term is called 'rate'"),
        (nn.CrossEntropyLoss(weight=torch.ones(3), reduction="none"), "with class weights, one value a sample cannot"),
    ],
)
def test_what_is_no_loss(loss: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        terms(loss)


# classes


def looked_at(loss: Any, target: Tensor) -> Losses:
    """Losses that have been held against the output of the net, all targets being in memory."""
    made, module = Losses(terms(loss)), net()
    made.check_output(module, Reader(module), (X, target), (X, target))
    return made


def test_every_target_has_to_be_a_class_of_the_output() -> None:
    looked_at("cross_entropy", CLASSES)
    wrong = torch.tensor([0, 1, 3, 2, -1, 7])
    made, module = Losses(terms("cross_entropy")), net()
    message = r"output has 3 classes, 0 to 2, and the targets have -1, 3, 7 \(samples 2, 4, 5\). Classes count from 0"
    with pytest.raises(DataError, match=message):
        made.check_output(module, Reader(module), (X, CLASSES), (X, wrong))


def test_targets_of_which_none_is_ignored_are_not_counted_again() -> None:
    some = torch.tensor([0, 1, 2, 2, -1, 1])
    loss = nn.CrossEntropyLoss(ignore_index=-1)
    assert looked_at(loss, some).terms[0].ignores
    made = looked_at(loss, CLASSES)
    assert not made.terms[0].ignores
    module = net()
    count = made.measure(module, Reader(module), (X, CLASSES), (1.0,))[1][0].count
    assert type(count) is int
    assert count == 6
    made.check_output(module, Reader(module), (X, some), (X, some), also=True)
    assert made.terms[0].ignores
    made = looked_at(loss, CLASSES)
    made.count_ignored()
    assert made.terms[0].ignores
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    made = looked_at(weighted, CLASSES)
    assert float(made.measure(module, Reader(module), (X, CLASSES), (1.0,))[1][0].count) == 12


@pytest.mark.parametrize("loss", ["mse", "l1", nn.HuberLoss(), "bce_with_logits"])
def test_elements_are_compared_with_as_many_elements(loss: Any) -> None:
    looked_at(loss, Y.sigmoid())
    message = r"The loss 'loss' compares elements, and the net's output has shape \(6, 3\), the target \(6,\)"
    with pytest.raises(DataError, match=message):
        looked_at(loss, Y[:, 0])
    looked_at(lambda output, target: (output - target).square().mean(), Y[:, :1])


# batches


class Two(nn.Module):
    """Takes two inputs by name."""

    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
        return (left - right) * scale


class Any_(nn.Module):
    def forward(self, x: Tensor, **rest: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("module", "values", "args", "kwargs", "target"),
    [
        (net(), X, (X,), {}, None),
        (net(), (X,), (X,), {}, None),
        (net(), (X, Y), (X,), {}, Y),
        (net(), [X, Y], (X,), {}, Y),
        (Two(), (X, Y, CLASSES), (X, Y), {}, CLASSES),
        (Two(), ((X, Y), CLASSES), (X, Y), {}, CLASSES),
        (Two(), ({"left": X, "right": Y}, CLASSES), (), {"left": X, "right": Y}, CLASSES),
        (Two(), {"left": X, "right": Y, "labels": CLASSES}, (), {"left": X, "right": Y}, CLASSES),
        (Two(), {"left": X, "right": Y}, (), {"left": X, "right": Y}, None),
        (Two(), {"left": X, "a": Y, "b": CLASSES}, (), {"left": X}, {"a": Y, "b": CLASSES}),
        (Any_(), {"z": X, "y": Y}, (), {"z": X, "y": Y}, None),
    ],
)
def test_how_a_batch_is_read(module: nn.Module, values: Any, args: Any, kwargs: Any, target: Any) -> None:
    found = Reader(module)(values)
    assert [id(one) for one in found[0]] == [id(one) for one in args]
    assert {key: id(one) for key, one in found[1].items()} == {key: id(one) for key, one in kwargs.items()}
    if isinstance(target, dict):
        assert {key: id(one) for key, one in found[2].items()} == {key: id(one) for key, one in target.items()}
    else:
        assert found[2] is target


def test_data_that_name_no_input_of_the_net_are_told() -> None:
    with pytest.raises(
        SettingError, match=r"The data have 'x', 'y', and the net's forward takes 'left', 'right', 'scale'"
    ):
        Reader(Two())({"x": X, "y": Y})


def test_samples_and_tensors_of_a_batch() -> None:
    assert samples_in((X, Y)) == samples_in({"x": X}) == samples_in([[X]]) == 6
    assert samples_in(torch.tensor(1.0)) == samples_in(()) == 1
    batch = {"x": X, "more": [Y, CLASSES]}
    assert [name for name, _ in tensors_in(batch)] == ["x", "more[0]", "more[1]"]
    assert [name for name, _ in tensors_in((X, Y))] == ["batch[0]", "batch[1]"]
    assert [name for name, _ in tensors_in(X)] == ["batch"]


def test_a_measured_term_is_a_mean_and_a_count() -> None:
    assert Measured(torch.tensor(1.0), 3).count == 3
