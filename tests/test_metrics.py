"""Metrics: exact over all batches, with a name and a direction."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from math import isnan
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude import Directory, every, steps
from etude.errors import SettingError
from etude.run.evaluate import Evaluate
from etude.run.metrics import Metrics
from etude.values.reactive import newbob
from etude.values.stopping import no_improvement
from small import batches, classified, trained

torchmetrics: Any = None
with suppress(ImportError):  # the tests that need it say so
    import torchmetrics
needs_torchmetrics = pytest.mark.skipif(torchmetrics is None, reason="torchmetrics is not installed")

OUTPUT = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
TARGET = classified(10)[1]
REAL = torch.randn(10, 2, generator=torch.Generator().manual_seed(1))


def over(literal: Any, output: Any, target: Any, size: int = 4) -> dict[str, float]:
    """The values of metrics over ragged batches."""
    made = Metrics(literal)
    made.reset()
    for part in batches(len(output), size):
        made.update(output[part], target[part])
    return made.values()


def share(right: Iterable[Any]) -> float:
    each = [float(one) for one in right]
    return sum(each) / len(each)


EXACT: list[tuple[str, Tensor, Tensor, Callable[[], float]]] = [
    ("accuracy", OUTPUT, TARGET, lambda: share(OUTPUT.argmax(1) == TARGET)),
    ("error_rate", OUTPUT, TARGET, lambda: share(OUTPUT.argmax(1) != TARGET)),
    ("mse", OUTPUT[:, :2], REAL, lambda: float(((OUTPUT[:, :2] - REAL) ** 2).mean())),
    ("mae", OUTPUT[:, :2], REAL, lambda: float((OUTPUT[:, :2] - REAL).abs().mean())),
]


@pytest.mark.parametrize(("name", "output", "target", "expected"), EXACT, ids=[each[0] for each in EXACT])
@pytest.mark.parametrize("size", [1, 3, 4, 10])
def test_a_named_metric_is_exact_whatever_the_batches(
    name: str, output: Tensor, target: Tensor, expected: Callable[[], float], size: int
) -> None:
    assert over(name, output, target, size)[name] == pytest.approx(expected(), abs=1e-6)


def test_accuracy_leaves_out_what_is_ignored() -> None:
    target = TARGET.clone()
    target[[0, 1, 2, 7]] = -100
    known = target != -100
    right = (OUTPUT.argmax(1) == target)[known]
    assert over("accuracy", OUTPUT, target)["accuracy"] == pytest.approx(share(right))
    assert over("error_rate", OUTPUT, target)["error_rate"] == pytest.approx(1 - share(right))


def test_accuracy_of_tokens_counts_tokens() -> None:
    scores = torch.randn(10, 5, 7, generator=torch.Generator().manual_seed(2))
    target = torch.randint(0, 5, (10, 7), generator=torch.Generator().manual_seed(3))
    target[0, 2:] = -100
    known = target != -100
    assert over("accuracy", scores, target)["accuracy"] == pytest.approx(
        share((scores.argmax(1) == target)[known].tolist())
    )


def test_accuracy_of_probabilities_as_targets_counts_every_place() -> None:
    scores = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(4))
    wanted = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(5))
    right = scores.argmax(1) == wanted.argmax(1)
    assert over("accuracy", scores, wanted)["accuracy"] == pytest.approx(share(right.flatten().tolist()))


@pytest.mark.parametrize("shape", [(10,), (10, 1)])
@pytest.mark.parametrize("kind", [torch.float32, torch.int64])
def test_accuracy_of_one_logit_a_sample(shape: tuple[int, ...], kind: torch.dtype) -> None:
    logits, yes = OUTPUT[:, 0], (TARGET > 1)
    right = (logits > 0) == yes
    assert over("accuracy", logits.reshape(10, 1), yes.to(kind).reshape(shape))["accuracy"] == share(right.tolist())
    assert over("accuracy", logits, yes.to(kind).reshape(shape))["accuracy"] == share(right.tolist())


@pytest.mark.parametrize("name", ["mse", "mae"])
def test_shapes_that_would_be_all_pairs_are_an_error(name: str) -> None:
    with pytest.raises(SettingError, match=r"has shape \(4, 1\), the targets have \(4,\)"):
        over(name, OUTPUT[:, :1], OUTPUT[:, 0])


def test_accuracy_of_shapes_that_do_not_belong_together_is_an_error() -> None:
    with pytest.raises(SettingError, match=r"output of shape \(4, 3\) and targets of shape \(4, 2\)"):
        over("accuracy", OUTPUT, TARGET.reshape(10, 1).expand(10, 2))


def test_a_function_may_give_values_a_pair_or_a_scalar() -> None:
    def each(output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(1) == target).float()

    forms: dict[str, Any] = {
        "values": each,
        "bools": lambda o, y: o.argmax(1) == y,
        "array": lambda o, y: (o.argmax(1) == y).numpy(),
        "pair": lambda o, y: (each(o, y).sum(), len(y)),
        "scalar": lambda o, y: each(o, y).mean(),
        "number": lambda o, y: each(o, y).mean().item(),
    }
    exact = share((OUTPUT.argmax(1) == TARGET).tolist())
    assert over(forms, OUTPUT, TARGET) == pytest.approx(dict.fromkeys(forms, exact))


def test_a_scalar_counts_for_the_samples_of_its_batch_also_with_named_targets() -> None:
    made = Metrics({"m": lambda output, target: output.mean()})
    for part in batches(10, 4):
        made.update(OUTPUT[part], {"a": TARGET[part], "b": TARGET[part]})
    assert made.values()["m"] == pytest.approx(float(OUTPUT.mean()), abs=1e-6)


def test_a_pass_begins_anew_and_a_mean_over_nothing_is_nan() -> None:
    made = Metrics("accuracy")
    made.update(OUTPUT, TARGET)
    first = made.values()
    made.reset()
    assert isnan(made.values()["accuracy"])
    made.update(OUTPUT, TARGET)
    assert made.values() == first


class Largest:
    """What a metric of torchmetrics looks like."""

    higher_is_better = True

    def reset(self) -> None:
        self.found = -torch.inf

    def update(self, output: Tensor, target: Tensor) -> None:
        self.found = max(self.found, float(output.max()))

    def compute(self) -> float:
        return self.found


def test_an_object_that_streams_is_asked_once_at_the_end() -> None:
    assert over(Largest(), OUTPUT, TARGET) == {"largest": pytest.approx(float(OUTPUT.max()))}


def test_names_and_directions() -> None:
    made = Metrics(["accuracy", {"wrong": "error_rate", "top": Largest(), "accuracy2": nn.L1Loss()}])
    assert made.names == ("accuracy", "wrong", "top", "accuracy2")
    assert made.better == {"accuracy": "max", "wrong": "min", "top": "max", "accuracy2": None}


def test_the_direction_belongs_to_the_metric_and_not_to_its_name() -> None:
    assert Metrics({"accuracy": lambda o, y: o.mean()}).better == {"accuracy": None}


def test_a_metric_of_several_numbers_has_a_score_for_each() -> None:
    class Each(Largest):
        def compute(self) -> Any:
            return {"parts": torch.tensor([1.0, 2.0]), "pair": (3, torch.tensor(4.0))}

    assert over({"m": Each()}, OUTPUT, TARGET) == {"m.parts.0": 1, "m.parts.1": 2, "m.pair.0": 3, "m.pair.1": 4}


def test_a_metric_of_several_numbers_can_choose_the_best_by_one_of_them() -> None:
    class Each(Largest):
        def compute(self) -> Any:
            return torch.tensor([0.0, self.found])

    made = Evaluate(classified(6), {"m": Each()}, best=("m.1", "max"))
    assert trained(validation=made, epochs=2).best_epoch is not None
    with pytest.raises(SettingError, match=r"best='m': it is several numbers, and one is needed. Scores: .*m\.0, m\.1"):
        trained(validation=Evaluate(classified(6), {"m": Each()}, best=("m", "max")))


WRONG: list[tuple[Any, str]] = [
    ("acuracy", "There is no metric 'acuracy'. .*Nearest: \"accuracy\""),
    (["accuracy", "accuracy"], "two have one name"),
    (Largest, r"Write Largest\(\)"),
    (3, "metrics: 3 is none"),
    ({"loss": "mse"}, "'loss' is the name of a loss"),
]


@pytest.mark.parametrize(("literal", "words"), WRONG, ids=str)
def test_what_is_no_metric_is_an_error_before_the_run(literal: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        trained(validation=classified(6), metrics=literal)


def test_a_metric_that_fails_is_named_before_the_first_step() -> None:
    steps: list[Any] = []
    with pytest.raises(SettingError, match="The metric 'broken' failed: ZeroDivisionError"):
        trained(validation=0.3, metrics={"broken": lambda output, target: 1 / 0}, listeners=[steps.append])
    assert steps == []


def test_a_value_that_is_no_number_is_an_error() -> None:
    class Nothing(Largest):
        def compute(self) -> Any:
            return "much"

    with pytest.raises(SettingError, match="The metric 'nothing' failed: ValueError"):
        trained(validation=0.3, metrics=Nothing())


@needs_torchmetrics
def test_torchmetrics_are_exact_over_ragged_batches() -> None:
    f1 = torchmetrics.F1Score(task="multiclass", num_classes=3, average="macro")
    whole = torchmetrics.F1Score(task="multiclass", num_classes=3, average="macro")(OUTPUT, TARGET)
    assert over({"f1": f1}, OUTPUT, TARGET) == {"f1": pytest.approx(float(whole))}
    assert Metrics({"f1": f1}).better == {"f1": "max"}


@needs_torchmetrics
def test_a_collection_of_torchmetrics_gives_each_of_its_metrics() -> None:
    made = torchmetrics.MetricCollection(
        [torchmetrics.Accuracy(task="multiclass", num_classes=3), torchmetrics.Recall(task="multiclass", num_classes=3)]
    )
    assert Metrics(made).names == ("multiclass_accuracy", "multiclass_recall")
    assert Metrics({"m": made}).names == ("m.multiclass_accuracy", "m.multiclass_recall")
    right = share((OUTPUT.argmax(1) == TARGET).tolist())
    assert over(made, OUTPUT, TARGET)["multiclass_accuracy"] == pytest.approx(right)


@needs_torchmetrics
def test_torchmetrics_in_a_run_start_afresh_at_every_look() -> None:
    x, y = classified(10)
    metric = torchmetrics.Accuracy(task="multiclass", num_classes=3)
    result = trained(validation=(x, y), metrics=["accuracy", metric], epochs=3, learning_rate=0.05)
    history = result.history
    assert history["val.multiclass_accuracy"].values == pytest.approx(history["val.accuracy"].values)
    assert len(history["val.accuracy"]) == 3


@needs_torchmetrics
def test_a_table_of_torchmetrics_is_kept_whole_and_a_short_vector_has_series_too() -> None:
    confusion = torchmetrics.ConfusionMatrix(task="multiclass", num_classes=3)
    recall = torchmetrics.Recall(task="multiclass", num_classes=3, average=None)
    made = Metrics({"table": confusion, "recall": recall, "mine": "confusion"})
    for part in batches(10, 4):
        made.update(OUTPUT[part], TARGET[part])
    assert set(made.values()) == {"recall.0", "recall.1", "recall.2"}
    assert torch.equal(made.tables["table"], made.tables["mine"])
    assert made.tables["recall"].shape == (3,)


@needs_torchmetrics
def test_ours_by_name_are_those_of_torchmetrics() -> None:
    make = lambda kind, **more: getattr(torchmetrics, kind)(task="multiclass", num_classes=3, **more)  # noqa: E731
    theirs = {
        "macro_f1": make("F1Score", average="macro"),
        "macro_precision": make("Precision", average="macro"),
        "macro_recall": make("Recall", average="macro"),
        "macro_accuracy": make("Accuracy", average="macro"),
        "top_2": make("Accuracy", average="micro", top_k=2),
    }
    assert over(theirs, OUTPUT, TARGET) == pytest.approx(over(list(theirs), OUTPUT, TARGET))
    target = REAL + 0.1 * OUTPUT[:, :2]
    assert over({"r2": torchmetrics.R2Score()}, REAL, target) == pytest.approx(over("r2", REAL, target), abs=1e-5)


# ------------------------------------------------------------------------------------------- failing in the run


class Failing:
    """A metric that fails in looks of the run, and only there: the first pass is the proof before it."""

    higher_is_better = True

    def __init__(self, looks: tuple[int, ...], where: str = "update") -> None:
        self._looks, self._where, self._passes = looks, where, -2

    def reset(self) -> None:
        self._passes += 1

    def update(self, output: Any, target: Any) -> None:
        self._fail("update")

    def compute(self) -> float:
        self._fail("compute")
        return float(self._passes)

    def _fail(self, where: str) -> None:
        if where == self._where and self._passes in self._looks:
            raise OSError("no space left")


@pytest.mark.parametrize("where", ["update", "compute"])
def test_a_metric_that_fails_in_the_run_is_nan_and_named_and_the_run_goes_on(where: str) -> None:
    with pytest.warns(UserWarning, match="The metric 'm' failed: OSError: no space left") as told:
        result = trained(validation=0.3, metrics=["accuracy", {"m": Failing((2, 3), where)}], epochs=4)
    values = result.history["val.m"].values
    assert [isnan(value) for value in values] == [False, True, True, False]
    assert not any(map(isnan, result.history["val.accuracy"].values))
    assert result.epochs == 4
    assert len([one for one in told if "failed" in str(one.message)]) == 1


DEPENDS: list[dict[str, Any]] = [
    {"validation": Evaluate(classified(6), {"m": Failing((2,))}, best="m")},
    {"validation": Evaluate(classified(6), {"m": Failing((2,))}), "stop": no_improvement("val.m", 3, mode="max")},
    {"validation": Evaluate(classified(6), {"m": Failing((2,))}), "learning_rate": 0.01 * newbob("val.m", "max")},
]


@pytest.mark.parametrize("given", DEPENDS, ids=["best", "stop", "schedule"])
def test_where_something_depends_on_it_the_run_ends_and_the_state_is_saved(
    given: dict[str, Any], tmp_path: Any
) -> None:
    given = {**given, "epochs": 4, "checkpoint": Directory(tmp_path, every(steps(1000)))}
    with pytest.raises(SettingError, match=r"The metric 'm' failed.*decides about the run") as told:
        trained(**given)
    assert "The state after step 6 is in" in told.value.__notes__[0]


def test_a_look_that_failed_is_made_up_for(tmp_path: Any) -> None:
    def evaluate(*looks: int) -> Evaluate:
        return Evaluate(classified(6), {"m": Failing(looks), "a": "accuracy"}, best="m")

    place = Directory(tmp_path, every(steps(1000)))
    with pytest.raises(SettingError, match="The metric 'm' failed"):
        trained(validation=evaluate(2), epochs=4, checkpoint=place)
    result = trained(validation=evaluate(), epochs=4, checkpoint=place, resume="auto")
    whole = trained(validation=evaluate(), epochs=4)
    assert result.history["val.a"].values == whole.history["val.a"].values
    assert result.history["val.a"].steps == [3, 6, 9, 12]
    assert result.history["loss"].values == whole.history["loss"].values


class Two(nn.Module):
    """Two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.digit, self.size = nn.Linear(4, 3), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"digit": self.digit(x), "size": self.size(x)}


def test_metrics_by_name_take_the_output_and_target_of_their_name() -> None:
    x, y = classified(12)
    data = {"x": x, "digit": y, "size": x[:, :1]}
    plan: dict[str, Any] = {"loss": {"digit": "cross_entropy", "size": "mse"}, "epochs": 1, "validation": data}
    result = etude.train(
        Two(), data, metrics={"digit.accuracy": "accuracy", "digit.confusion": "confusion", "size.mse": "mse"}, **plan
    )
    assert result.net is not None
    with torch.no_grad():
        right = (result.net(x)["digit"].argmax(1) == y).double().mean()
    assert result.history["val.digit.accuracy"].values[-1] == pytest.approx(float(right))
    with pytest.raises(SettingError, match=r"none of them is called 'accuracy'.*metrics=\{'digit\.accuracy'"):
        etude.train(Two(), data, metrics="accuracy", **plan)
