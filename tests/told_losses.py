"""Wrong uses of terms and losses: how each is provoked, its error, and what the message says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import etude
from etude import linear, losses, plateau, steps
from etude.errors import DataError, EtudeError, PartError, PlanError, RuleError, SettingError, StateError
from etude.step.loss import Losses, terms
from etude.step.reading import Reader
from etude.values.progress import Extent, Progress

X, Y, KINDS = torch.randn(4, 3), torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
FRAMES = torch.randn(2, 3, 4)
SPELT: dict[str, Any] = {
    "input": FRAMES,
    "input_lengths": torch.tensor([3, 2]),
    "spelt": torch.tensor([[1, 2], [3, 0]]),
    "spelt_lengths": torch.tensor([2, 1]),
}


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.spare = nn.Linear(3, 2), nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"kind": self.layer(x), "size": self.layer(x)}


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def measure(loss: Any, batch: Any = (X, KINDS), of: nn.Module | None = None) -> None:
    module = net() if of is None else of
    made = Losses(terms(loss), module)
    made.measure(module, Reader(module), batch, made.now(Progress()))


def spell(loss: Any, **changed: Any) -> None:
    measure({"ctc": loss}, {**SPELT, **changed}, nn.Identity())


def check(loss: Any, **options: Any) -> None:
    etude.Plan(loss=loss, epochs=1, **options).check(net(), (X, KINDS))


class Apart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.layer(x)
        return {"kind": hidden, "size": self.other(hidden)}


def two_heads(size: Any, **options: Any) -> None:
    loss = {"kind": "cross_entropy", "size": size}
    etude.Plan(loss=loss, epochs=1, **options).check(Apart(), {"x": X, "kind": KINDS, "size": Y})


def temperature(output: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    return (output.logsumexp(1) / temperature).mean()


def remember() -> None:
    made = Losses(terms({"a": ("mse", plateau("val.loss")), "b": "mse"}))
    made.load([])


def out_of_bounds() -> None:
    Losses(terms(losses.cross_entropy(linear(0, 2)))).numbers.check(Extent(steps=10))


class Deaf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach().requires_grad_().sum(1)


class Several(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": x}


LOSSES: dict[str, tuple[Callable[[], Any], type[EtudeError], list[str]]] = {
    "term of terms": (lambda: losses.term({"a": "mse"}), SettingError, ["{'a': 'mse'}", "Several terms are a dict"]),
    "term at another time": (
        lambda: losses.term("mse", only="train"),
        SettingError,
        ["only='train'", 'Nearest: "training"'],
    ),
    "term of evaluation with a weight": (
        lambda: losses.term("mse", 0.5, only="evaluation"),
        SettingError,
        ["is in no sum", "Leave one of them out"],
    ),
    "term, exponent": (lambda: losses.term("mse", exponent=2), SettingError, ["exponent=2", "True or False"]),
    "term of an output": (lambda: losses.term("mse", of=3), SettingError, ["of=3", 'of=("logits", "labels")']),
    "term, settings": (lambda: losses.term("mse", settings=[1]), SettingError, ["settings=[1]", "a dict of numbers"]),
    "term, a setting": (
        lambda: losses.term(temperature, settings={"temperature": "hot"}),
        SettingError,
        ["'temperature' is 'hot'", "Write a finite number or a schedule"],
    ),
    "error of a term": (lambda: losses.error(losses.term("mse")), SettingError, ["error(term('mse'))", "a name"]),
    "errors alone": (
        lambda: terms({"fer": losses.error("error_rate")}),
        SettingError,
        ["'fer'", "there is nothing else", "Write a term to minimise too"],
    ),
    "terms of one name": (lambda: terms({1: "mse", "1": "mse"}), SettingError, ["'1'", "another name"]),
    "term in a pair": (
        lambda: terms({"a": (losses.term("mse"), 0.5)}),
        SettingError,
        ["a pair of term('mse')", "Write term(..., weight)"],
    ),
    "term of the net with an output": (
        lambda: terms(losses.term(lambda net, batch: net(batch), of="kind")),
        SettingError,
        ["of='kind'", "it takes the net and the batch", "Leave `of` out"],
    ),
    "settings of a loss with its own": (
        lambda: terms(losses.term(losses.cross_entropy(), settings={"smoothing": 0.1})),
        SettingError,
        ["{'smoothing'", "cross_entropy()", "Write them there"],
    ),
    "settings of a function without": (
        lambda: terms(losses.term(temperature, settings={"temprature": 2})),
        SettingError,
        ["no argument 'temprature'", "output, target, temperature", 'Nearest: "temperature"'],
    ),
    "what makes a loss": (lambda: terms(losses.ctc), SettingError, ["it makes a loss", "Write ctc(...)"]),
    "an error as a loss": (lambda: terms("error_rate"), SettingError, ["no gradient", "write error('error_rate')"]),
    "weights of another loss": (remember, StateError, ["has 1 schedules that listen", "0 were saved"]),
    "reaches, compiled": (
        lambda: check(losses.term("cross_entropy", reaches="0"), compile=True),
        PlanError,
        ["reaches=part('0') takes a backward of its own", "Leave compile out"],
    ),
    "reaches what never moves": (
        lambda: check(
            {"ce": "cross_entropy", "n": losses.term("cross_entropy", reaches="0")},
            learning_rate_multipliers={"0": 0},
        ),
        RuleError,
        ["'n' reaches part('0')", "0.weight", "Name a part that moves"],
    ),
    "reaches less than it has": (
        lambda: two_heads(losses.term("mse", reaches="layer.weight")),
        PlanError,
        [
            "'other.weight', 'other.bias' would move and get no gradient",
            "reaches=part('layer.weight') | 'other' in the term 'size'",
            "learning_rate_multipliers={'other.weight': 0}",
        ],
    ),
    "a measure that moves": (
        lambda: two_heads(
            ("mse", linear(1, 0)), validation=etude.Evaluate(0.5, every=steps(1)), batch_size=1, strict=True
        ),
        RuleError,
        ["'val.loss' is no steady measure", "'weight.size' (linear(1, 0)) changes", "best='kind'"],
    ),
    "reaches no array": (
        lambda: etude.Plan(losses.term("cross_entropy", reaches="1"), epochs=1).check(
            nn.Sequential(nn.Linear(3, 2), nn.ReLU()), (X, KINDS)
        ),
        PartError,
        ["reaches=part('1'): it has no parameter. Name a part that is trained"],
    ),
    "a pair of values and a mask": (
        lambda: check(lambda output, target: (output.sum(1), target >= 0)),
        SettingError,
        ["a pair that is not of two numbers", "has shape (4,)", "return (losses * mask).sum(), mask.sum()"],
    ),
    "a count below 0": (
        lambda: check({"a": "cross_entropy", "b": losses.error(lambda output, target: (3.0, -4))}),
        SettingError,
        ["The loss 'b' gave the pair (sum, -4): a count is at least 0"],
    ),
    "a count below 0 in validation alone": (
        lambda: check(
            {"a": "cross_entropy", "b": losses.term(lambda output: (output.sum(), -1), only="evaluation")},
            validation=(X, KINDS),
        ),
        SettingError,
        ["In the validation data", "The loss 'b' gave the pair (sum, -1)"],
    ),
    "no term for validation": (
        lambda: check({"a": losses.term("cross_entropy", only="training")}, validation=(X, KINDS)),
        SettingError,
        ["every term is of training alone (only='training')", "add losses.term(..., only='evaluation')"],
    ),
    "a dict for one term": (
        lambda: check(lambda net, batch: {"a": net(batch[0]).mean(), "b": net(batch[0]).mean()}),
        SettingError,
        ["gave a dict of 'a', 'b'", "as the dict does: loss={'a': function, 'b': function}"],
    ),
    "reaches buffers": (
        lambda: check(losses.term("cross_entropy", reaches="1.running_mean")),
        PartError,
        ["reaches=part('1.running_mean')", "only buffers", "Name a part that is trained"],
    ),
    "a weight that becomes no number": (
        lambda: Losses(terms({"a": ("mse", lambda p: "x")})).now(Progress()),
        SettingError,
        ["'weight.a' is 'x' at this step", "A finite number is needed"],
    ),
    "a smoothing that grows too large": (out_of_bounds, SettingError, ["'loss.smoothing' is", "from 0 to 1"]),
    "an output that is not there": (
        lambda: measure({"kind": losses.term("mse", of="kinds")}, {"x": X, "kind": Y}, Heads()),
        SettingError,
        ["takes 'kinds'", "has 'kind', 'size'", 'Nearest: "kind"'],
    ),
    "activations of what is not called": (
        lambda: measure({"kind": losses.activation("spare")}, {"x": X, "kind": Y}, Heads()),
        PartError,
        ["activation(part('spare'), 'l2')", "did not call 'spare'"],
    ),
    "activations of arrays": (
        lambda: measure(losses.activation("*.weight")),
        PartError,
        ["arrays only (0.weight, 1.weight)", "Name modules"],
    ),
    "activations, kind": (lambda: losses.activation("0", "l11"), SettingError, ["kind='l11'", 'Nearest: "l1"']),
    "smoothing, floats": (
        lambda: measure(losses.cross_entropy(), (X, Y)),
        DataError,
        ["class indices are needed", "nn.CrossEntropyLoss(label_smoothing=...)"],
    ),
    "smoothing, shapes": (
        lambda: measure(losses.cross_entropy(), (X, KINDS[:2])),
        DataError,
        ["output of shape (4, 2)", "target of shape (2,)", "(samples, classes, ...)"],
    ),
    "smoothing, one class": (
        lambda: measure(losses.cross_entropy(0.1, "others"), (X[:, :1], KINDS), nn.Identity()),
        DataError,
        ["one class has no others", 'Write share="all"'],
    ),
    "smoothing, class weights": (
        lambda: measure(losses.cross_entropy(weight=[1, 2, 3])),
        DataError,
        ["3 class weights", "has 2 classes"],
    ),
    "smoothing, share": (lambda: losses.cross_entropy(share="other"), SettingError, ["'other'", 'Nearest: "others"']),
    "smoothing, too large": (lambda: losses.cross_entropy(2), SettingError, ["smoothing is 2", "from 0 to 1"]),
    "smoothing, ignored": (
        lambda: losses.cross_entropy(ignore_index=0.5),
        SettingError,
        ["ignore_index=0.5", "a whole number"],
    ),
    "smoothing, weights": (lambda: losses.cross_entropy(weight=2), SettingError, ["weight=2", "one number from 0 on"]),
    "ctc, dimensions": (lambda: spell(losses.ctc(), input=FRAMES[0]), DataError, ["(3, 4)", "(samples, frames, class"]),
    "ctc, blank beyond the classes": (lambda: spell(losses.ctc(9)), DataError, ["blank=9", "4 classes", "classes=1"]),
    "ctc, the blank as a label": (
        lambda: spell(losses.ctc(), spelt=torch.zeros(2, 2).long()),
        DataError,
        ["ctc(blank=0)", "2 of 2 sequences", "lengths beside them", "ctc(blank=-1)"],
    ),
    "ctc, labels of another name": (
        lambda: spell(losses.ctc(labels="spel")),
        SettingError,
        ["labels='spel'", 'Nearest: "spelt"'],
    ),
    "ctc, floats": (
        lambda: spell(losses.ctc(), spelt=torch.zeros(2, 2)),
        DataError,
        ["no tensor of class indices", "ctc(labels='name')"],
    ),
    "ctc, labels in a row": (
        lambda: spell(losses.ctc(), spelt=torch.tensor([1, 2, 3])),
        DataError,
        ["labels of shape (3,)", "(samples, labels) is needed"],
    ),
    "ctc, too few labels": (
        lambda: spell(losses.ctc(), spelt=torch.tensor([[1]]), spelt_lengths=torch.tensor([1])),
        DataError,
        ["1 sequences of labels", "the output has 2"],
    ),
    "ctc, labels beyond the classes": (
        lambda: spell(losses.ctc(), spelt=torch.full((2, 2), 4)),
        DataError,
        ["4 classes, 0 to 3", "from 0 to 4", "their lengths beside them"],
    ),
    "ctc, lengths of a function": (
        lambda: spell(losses.ctc(frames=lambda batch: torch.tensor([1.0]))),
        DataError,
        ["tensor([1.])", "one whole number for each sample"],
    ),
    "ctc, frames that are not there": (
        lambda: spell(losses.ctc(), input_lengths=torch.tensor([9, 2])),
        DataError,
        ["has 3 frames", "said to have 9", "ctc(frames=lambda batch"],
    ),
    "ctc, frames of another name": (
        lambda: spell(losses.ctc(frames="inputs")),
        SettingError,
        ["frames='inputs'", 'Nearest: "input"'],
    ),
    "ctc, frames of several": (
        lambda: spell(losses.ctc(labels="spelt"), more=FRAMES, more_lengths=SPELT["input_lengths"]),
        SettingError,
        ["'input', 'more'", "ctc(frames='input')"],
    ),
    "ctc, blank": (lambda: losses.ctc("blank"), SettingError, ["blank='blank'", "-1 for the last one"]),
    "ctc, per": (lambda: losses.ctc(per="frames"), SettingError, ["per='frames'", 'Nearest: "frame"']),
    "ctc, frames": (lambda: losses.ctc(frames=2), SettingError, ["frames=2", "the name of a stream or a function"]),
    "ctc, labels": (lambda: losses.ctc(labels=2), SettingError, ["labels=2", "the name of the labels"]),
    "ctc, classes": (lambda: losses.ctc(classes=0), SettingError, ["classes=0", "-1 (samples, frames, classes)"]),
    "teacher of another shape": (
        lambda: measure(losses.distillation(nn.Linear(3, 5))),
        DataError,
        ["the net's output is (4, 2), the teacher's (4, 5)", "logits of one shape"],
    ),
    "teacher's output": (
        lambda: measure(losses.distillation(Several(), of="logit")),
        SettingError,
        ["of='logit'", 'Nearest: "logits"'],
    ),
    "teacher's outputs": (
        lambda: measure(losses.distillation(Several())),
        DataError,
        ["gives a dict", "distillation(teacher, of='name')"],
    ),
    "teacher elsewhere": (
        lambda: measure(losses.distillation(nn.Linear(3, 2, device="meta"))),
        SettingError,
        ["on meta, the net on cpu", "teacher.to('cpu')"],
    ),
    "teacher": (lambda: losses.distillation("gpt"), SettingError, ["'gpt'", "a net is needed"]),
    "teacher, of": (lambda: losses.distillation(net(), of=1), SettingError, ["of=1", "the name of an output"]),
    "errors, shapes": (
        lambda: losses.error_rate(X, KINDS[:2]),
        DataError,
        ["(4, 3)", "(2,)", "the classes in its second dimension"],
    ),
    "slope of what is flat": (
        lambda: measure(losses.r1(), X, Deaf()),
        DataError,
        ["r1()", "does not depend on its input"],
    ),
    "slope at whole numbers": (
        lambda: measure(losses.r1(), X.long()),
        DataError,
        ["torch.int64 (4, 3)", "a tensor of floats", "points=lambda net, batch: ..."],
    ),
    "slope of several outputs": (
        lambda: measure(losses.r1(), {"x": X}, Heads()),
        DataError,
        ["gives a dict", "Name the module that does"],
    ),
    "slope of another module": (
        lambda: measure(losses.gradient_penalty("10")),
        PartError,
        ["no module '10'", "Modules: 0, 1"],
    ),
    "slope between shapes": (
        lambda: measure(losses.gradient_penalty(points=lambda net, batch: (X, X[:1]))),
        DataError,
        ["(4, 3)", "(1, 3)", "need one shape"],
    ),
    "slope wanted": (lambda: losses.gradient_penalty(toward=-1), SettingError, ["toward=-1", "a number from 0 on"]),
    "slope, module": (lambda: losses.r1(3), SettingError, ["r1(3)", "as in r1('critic')"]),
    "slope, points": (lambda: losses.r1(points=3), SettingError, ["points=3", "a function of (net, batch)"]),
    "penalty on vectors": (
        lambda: measure(losses.orthogonality("*.bias")),
        PartError,
        ["fewer than two dimensions (0.bias, 1.bias)", "Name a part with weights"],
    ),
    "spectral": (lambda: losses.spectral("0", 0), SettingError, ["iterations=0", "at least 1"]),
}
