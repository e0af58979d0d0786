"""Bad input: an error that says what to do, before the first step, with everything as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import etude
from etude import FROZEN, DataError, EtudeError, Evaluate, PartError, PlanError, SettingError, Update, part
from etude.run.events import Event
from small import Noisy, arrays, classified, condition, mlp, options, randomness, same, trained

X, Y = classified(10)


class Pairs(Dataset[Any]):
    """A data set of a length of its choice, whose items a function gives."""

    def __init__(self, length: int, item: Callable[[int], Any]) -> None:
        self.length, self.item = length, item

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


class Nothing(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


def broken(index: int) -> Any:
    raise OSError("no such file")


def poisoned(at: tuple[int, ...], value: float = float("nan")) -> Tensor:
    x = X.clone()
    x[at] = value
    return x


def targets(**changed: int) -> Tensor:
    y = Y.clone()
    for place, value in changed.items():
        y[int(place.removeprefix("at"))] = value
    return y


# ----------------------------------------------------------------------------------------------------------- the data

DATA: list[tuple[str, Any, dict[str, Any], type[EtudeError], str]] = [
    ("no samples", (X[:0], Y[:0]), {}, DataError, "The data are empty: tuple with 0 samples"),
    ("nothing", [], {}, DataError, "The data are empty: a list"),
    ("no data", None, {}, DataError, "Cannot read NoneType None as data"),
    ("empty dict", {}, {}, DataError, "The data are empty: a dict"),
    ("empty data set", Pairs(0, broken), {}, DataError, "The data are empty: Pairs with 0 items"),
    ("empty stream", Nothing(), {}, DataError, "gave no batch in epoch 0"),
    ("lengths", (X, Y[:9]), {}, DataError, "different numbers of samples: '0' has 10, '1' has 9"),
    ("lengths by name", {"input": X[:3], "y": Y}, {}, DataError, "'input' has 3, 'y' has 10"),
    ("text", "digits", {}, DataError, "Cannot read str 'digits' as data. Known forms"),
    ("number", 3, {}, DataError, "Cannot read int 3 as data"),
    ("a net", mlp(), {}, DataError, "Cannot read the net Sequential as data"),
    ("a class", TensorDataset, {}, DataError, r"give an object of it: TensorDataset\(...\)"),
    ("used iterator", iter([(X, Y)]), {}, DataError, "can be read only once"),
    ("function", lambda: iter([(X, Y)]), {}, DataError, "round_length=n"),
    ("round length", lambda: iter([(X, Y)]), {"round_length": 0}, DataError, "round_length=0"),
    ("round length of arrays", (X, Y), {"round_length": 3}, DataError, "Leave round_length out"),
    ("item", Pairs(10, broken), {}, DataError, "Item 0 of the data set Pairs cannot be read: OSError: no such file"),
    ("samples that differ", [(X[0], 1), (X[1],)], {}, DataError, "The samples of the list differ"),
    ("NaN", (poisoned((3, 1)), Y), {}, DataError, "Array '0' holds NaN or infinity in 1 of 10 samples: 3"),
    ("infinity", {"input": poisoned((3,), np.inf), "y": Y}, {}, DataError, "Array 'input' holds NaN or infinity"),
    ("NaN, stop", (poisoned((3, 1)), Y), {"non_finite": "stop"}, DataError, "NaN or infinity in 1 of 10 samples: 3"),
    ("class 3", (X, targets(at6=3)), {}, DataError, r"the targets have 3 \(samples 6\)"),
    ("class -1", (X, targets(at6=-1, at8=-1)), {}, DataError, r"the targets have -1 \(samples 6, 8\)"),
    ("class 7", (X, Y + 5), {}, DataError, r"3 classes, 0 to 2, and the targets have 5, 6, 7"),
    ("complex loss", (X, Y), {"loss": lambda output: output.cfloat().mean()}, PlanError, "a real number is needed"),
    ("class in a set", Pairs(10, lambda i: (X[i], int(Y[i]) + 5)), {}, PlanError, "classes count from 0"),
    ("float64", (X.double(), Y), {}, PlanError, r"float64 .*The net's arrays are float32: .*\(x\.float\(\)\)"),
    ("integers", (X.long(), Y), {}, PlanError, r"Tensor int64 \(4, 4\).*The net's arrays are float32"),
    ("float targets", (X, Y.float()), {}, PlanError, "class targets as integers"),
    ("one target", (X, X[:, 0]), {"loss": "nll"}, PlanError, "class targets as integers"),
    ("shape", (X[:, :3], Y), {}, PlanError, r"first batch, \(Tensor float32 \(4, 3\), .*cannot be multiplied"),
    ("targets missing", X, {}, EtudeError, "target"),
    ("names", {"image": X, "label": Y}, {}, SettingError, "name the inputs as forward does"),
    ("loader, batch size", DataLoader(TensorDataset(X, Y)), {}, DataError, "batches of its own"),
    ("loader, workers", DataLoader(TensorDataset(X, Y)), {"batch_size": None, "workers": 1}, PlanError, "its own"),
]


@pytest.mark.parametrize(("data", "given", "error", "words"), [d[1:] for d in DATA], ids=[d[0] for d in DATA])
def test_data_that_cannot_be_trained_on(data: Any, given: dict[str, Any], error: Any, words: str) -> None:
    net, heard = Noisy(), list[Event]()
    net.body[3].eval()
    net.head.bias.requires_grad_(False)
    before, state, chance = arrays(net), condition(net), randomness()
    with pytest.raises(error, match=words):
        etude.train(net, data, **options(**given), progress=False, listeners=[heard.append])
    assert heard == []
    assert same(arrays(net), before)
    assert condition(net) == state
    assert randomness() == chance


def test_one_bad_epoch_is_found_when_it_comes() -> None:
    def batches(epoch: int) -> Any:
        return iter([(X[:4], Y[:4])] * (3 - epoch))

    with pytest.raises(DataError, match="gave 2 batches in epoch 1; round_length=3 is more"):
        trained(data=batches, round_length=3, batch_size=None, epochs=3)


# ----------------------------------------------------------------------------------------------------------- the net


class Broken(nn.Module):
    """A net whose forward fails."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.net, self.error = mlp(), error

    def forward(self, x: Tensor) -> Tensor:
        if self.error is not None:
            raise self.error
        output: Tensor = self.net(x)
        return output.detach()


def still() -> nn.Module:
    net = mlp()
    net.requires_grad_(False)
    return net


NETS: list[tuple[str, Callable[[], Any], type[EtudeError], str]] = [
    ("no module", lambda: len, PlanError, "The net is a builtin_function_or_method"),
    ("a class", lambda: nn.Linear, PlanError, "The net is a type"),
    ("nothing", lambda: None, PlanError, "The net is a NoneType"),
    ("no arrays", nn.Flatten, SettingError, "no trainable arrays"),
    ("no trainable arrays", still, SettingError, "nothing has requires_grad=True"),
    ("no forward", lambda: nn.ModuleList([nn.Linear(4, 3)]), PlanError, "forward"),
    ("fails", lambda: Broken(KeyError("mine")), PlanError, "first batch, .*mine"),
    ("outside the graph", Broken, PlanError, "no gradient can reach one"),
    ("half", lambda: mlp().half(), PlanError, "The net's arrays are float16"),
    ("lazy, too narrow", lambda: nn.Sequential(nn.LazyLinear(2)), DataError, "2 classes, 0 to 1"),
]


@pytest.mark.parametrize(("made", "error", "words"), [n[1:] for n in NETS], ids=[n[0] for n in NETS])
def test_nets_that_cannot_be_trained(made: Callable[[], Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        etude.train(made(), (X, Y), **options(), progress=False)


def without_gradients() -> Any:
    with torch.no_grad():
        return trained(Noisy())


def in_inference() -> Any:
    with torch.inference_mode():
        return trained(Noisy())


@pytest.mark.parametrize("made", [without_gradients, in_inference])
def test_training_where_gradients_are_switched_off_is_an_error(made: Callable[[], Any]) -> None:
    with pytest.raises(PlanError, match="Gradients are switched off here"):
        made()


RATES: list[tuple[Callable[[Any], Any], str]] = [
    (lambda progress: "fast", "a finite number is needed"),
    (lambda progress: torch.tensor(0.1), r"write \.item\(\)"),
    (lambda progress: float("nan") if progress.step else 0.1, "NaN cannot be the value"),
    (lambda progress: part("head"), "number"),
]


@pytest.mark.parametrize(("rate", "words"), RATES, ids=["text", "tensor", "NaN later", "part"])
def test_a_rate_that_is_no_number_is_an_error_before_the_first_step(rate: Any, words: str) -> None:
    heard: list[Event] = []
    with pytest.raises(EtudeError, match=words):
        trained(Noisy(), learning_rate=rate, listeners=[heard.append])
    assert heard == []


def test_a_rate_may_be_any_real_number() -> None:
    for kind in (np.float32, np.float64, float):
        result = trained(learning_rate=lambda progress, kind=kind: kind(0.125))
        assert result.history["rate"].values == [0.125] * 3


def test_an_error_of_the_net_is_chained() -> None:
    cause = KeyError("mine")
    with pytest.raises(PlanError) as caught:
        trained(Broken(cause))
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "smooth_l1"])
@pytest.mark.filterwarnings("error")
def test_shapes_that_would_be_all_pairs_are_an_error(loss: str) -> None:
    net = nn.Linear(4, 1)
    with pytest.raises(EtudeError, match=r"\(4, 1\).*\(4,\)"):
        trained(net, (X, X[:, 0].sigmoid()), loss=loss)
    assert trained(net, (X, X[:, :1].sigmoid()), loss=loss).steps == 3


# ----------------------------------------------------------------------------- whatever is wrong, nothing is half done


def failing(output: Any, target: Any) -> Any:
    """A loss, or a metric, that asks for what is not there."""
    return output.missing


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("loss", {"loss": "cross_entropi"}),
    ("loss that fails", {"loss": failing}),
    ("loss that is none", {"loss": lambda output, target: None}),
    ("loss that fails late", {"loss": {"a": "cross_entropy", "b": lambda output, target: 1 / 0}}),
    ("optimizer", {"optimizer": "adamv"}),
    ("setting", {"weight_decai": 0.1}),
    ("setting's value", {"beta1": 1.5}),
    ("rate", {"learning_rate": float("inf")}),
    ("part", {"learning_rate_multipliers": {"bodi": 1}}),
    ("part of a schedule", {"update_schedule": ["body", "haed"]}),
    ("rule", {"rules": {"weight_decay": {"haed": 0}}}),
    ("metric", {"metrics": "acuracy", "validation": 0.2}),
    ("metric that fails", {"metrics": failing, "validation": 0.2}),
    ("metrics without data", {"metrics": "accuracy"}),
    ("validation data", {"validation": (X[:, :2], Y)}),
    ("validation targets", {"validation": (X, Y + 2)}),
    ("validation in other numbers", {"validation": (X, Y.double())}),
    ("best", {"validation": Evaluate(0.2, "accuracy", best="f1")}),
    (
        "second update",
        {"loss": None, "updates": [Update("a", "cross_entropy"), Update("b", failing)]},
    ),
    (
        "part of an update",
        {"loss": None, "updates": [Update("a", "cross_entropy"), Update("b", "cross_entropy", "haed")]},
    ),
    ("not reached", {"loss": lambda output: output.detach().sum()}),
    ("classes", {"loss": nn.CrossEntropyLoss(ignore_index=7), "validation": (X, Y - 1)}),
]


@pytest.mark.parametrize("more", [{}, {"precision": "fp64"}, {"precision": "bf16"}], ids=["fp32", "fp64", "bf16"])
@pytest.mark.parametrize("given", [w[1] for w in WRONG], ids=[w[0] for w in WRONG])
def test_nothing_is_half_done(given: dict[str, Any], more: dict[str, Any]) -> None:
    net, heard = Noisy(), list[Event]()
    net.body[3].eval()
    net.head.bias.requires_grad_(False)
    before, state, chance = arrays(net), condition(net), randomness()
    memory = [array.data_ptr() for array in net.parameters()]
    with pytest.raises(EtudeError):
        trained(net, listeners=[heard.append], **given, **more)
    assert heard == []
    assert same(arrays(net), before)
    assert condition(net) == state
    assert [array.data_ptr() for array in net.parameters()] == memory
    assert randomness() == chance


def test_a_plan_that_fails_can_be_mended_and_tried_again() -> None:
    net = Noisy()
    with pytest.raises(EtudeError):
        trained(net, loss=failing)
    assert same(arrays(trained(net).net), arrays(trained(Noisy()).net))


# ------------------------------------------------------------------------------------------------ messages that help

MESSAGES: list[tuple[str, dict[str, Any], type[EtudeError], str]] = [
    ("loss", {"loss": "cros_entropy"}, SettingError, "There is no loss 'cros_entropy'.*Nearest: \"cross_entropy\""),
    ("optimizer", {"optimizer": "adamx"}, SettingError, "There is no optimizer 'adamx'.*Nearest: .*\"adam\""),
    ("metric", {"metrics": "eror_rate", "validation": 0.2}, SettingError, "no metric 'eror_rate'.*\"error_rate\""),
    ("option", {"batch_sise": 4}, SettingError, "no option 'batch_sise'. Nearest: \"batch_size\""),
    ("setting", {"weightdecay": 0.1}, SettingError, "no option 'weightdecay'. Nearest: .*\"weight_decay\""),
    ("part", {"update_schedule": ["haed"]}, PartError, 'Nearest: "head"'),
    ("frozen", {"learning_rate_multipliers": {"bodi.0": FROZEN}}, PartError, 'Nearest: "body"'),
    ("policy", {"non_finite": "rase"}, SettingError, 'Nearest: "raise"'),
    ("precision", {"precision": "fp 16"}, SettingError, 'Nearest: .*"fp16"'),
]


@pytest.mark.parametrize(("given", "error", "words"), [m[1:] for m in MESSAGES], ids=[m[0] for m in MESSAGES])
def test_a_misspelt_word_is_answered_with_the_nearest(given: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        trained(Noisy(), **given)


def test_a_last_batch_of_one_is_an_error_beforehand_for_batch_norm() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    before = {name: array.clone() for name, array in net.state_dict().items()}
    x, y = torch.randn(9, 4), torch.zeros(9, dtype=torch.long)
    with pytest.raises(PlanError, match="last batch of an epoch has one sample"):
        etude.train(net, (x, y), loss="cross_entropy", epochs=1, batch_size=4, progress=False)
    assert all(torch.equal(before[name], array) for name, array in net.state_dict().items())
    assert all(module.training for module in net.modules())
    frozen = etude.train(
        net,
        (x, y),
        loss="cross_entropy",
        epochs=1,
        batch_size=4,
        progress=False,
        learning_rate_multipliers={"1": 0},
    )
    assert frozen.steps == 3


def test_a_scripted_net_is_refused_in_words() -> None:
    with pytest.warns(DeprecationWarning, match="jit"):
        net = torch.jit.script(nn.Linear(4, 3))
    with pytest.raises(PlanError, match="ScriptModule"):
        etude.train(net, (torch.randn(4, 4), torch.randn(4, 3)), loss="mse", epochs=1, progress=False)
