"""Confusions, metrics per class, top-k, perplexity and r2: exact over batches, masks and classes; tables kept whole."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, inf, isnan
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import etude
from effort import examples
from etude import Evaluate, every, steps
from etude.errors import EtudeError, SettingError
from etude.run.events import Evaluated, Stepped
from etude.run.metrics import Metrics
from etude.run.result import Result
from small import batches, classified, mlp, options, run, trained

quick = settings(max_examples=examples(60), deadline=None)
VALIDATION = classified(12, seed=5)


def over(literal: Any, output: Any, target: Any, size: int = 4, true: Tensor | None = None) -> Metrics:
    """Metrics that have taken ragged batches."""
    made = Metrics(literal)
    made.reset()
    for place in batches(len(output), size):
        made.update(output[place], target[place], None if true is None else true[place])
    return made


def scores(n: int, classes: int, seed: int, shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(n, classes, *shape, generator=generator)
    return output, torch.randint(0, classes, (n, *shape), generator=generator)


def counted(predicted: Tensor, meant: Tensor, classes: int) -> Tensor:
    table = torch.zeros(classes, classes, dtype=torch.int64)
    for column, row in zip(predicted.flatten().tolist(), meant.flatten().tolist(), strict=True):
        table[row, column] += 1
    return table


# -------------------------------------------------------------------------------------------------------- confusion


@quick
@given(st.integers(1, 30), st.integers(2, 6), st.integers(1, 30), st.integers(0, 2**16))
def test_a_confusion_counts_rows_meant_and_columns_predicted(n: int, classes: int, size: int, seed: int) -> None:
    output, target = scores(n, classes, seed)
    made = over("confusion", output, target, size)
    assert made.values() == {}
    assert torch.equal(made.tables["confusion"], counted(output.argmax(1), target, classes))


@pytest.mark.parametrize("ignored", [-100, -1])
def test_what_is_ignored_or_padding_is_in_no_row(ignored: int) -> None:
    output, target = scores(5, 4, 0, (6,))
    target[0, 2:] = ignored
    true = torch.arange(6) < torch.tensor([2, 6, 3, 1, 5])[:, None]
    made = over(["confusion", "accuracy", "top_2", "perplexity"], output, target, 2, true)
    found = made.values()
    inside = true & (target >= 0)
    said, meant = output.movedim(1, -1)[inside], target[inside]
    assert torch.equal(made.tables["confusion"], counted(said.argmax(1), meant, 4))
    assert found["accuracy"] == pytest.approx(float((said.argmax(1) == meant).float().mean()))
    assert found["top_2"] == pytest.approx(float((said.topk(2).indices == meant[:, None]).any(1).float().mean()))
    assert found["perplexity"] == pytest.approx(float(nn.functional.cross_entropy(said, meant).exp()))


def test_of_one_logit_there_are_two_classes() -> None:
    output, target = torch.tensor([[2.0], [-1.0], [3.0], [-4.0]]), torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    made = over(["confusion", "f1", "precision", "recall"], output, target, 3)
    assert made.values() == {"f1": 0.5, "precision": 0.5, "recall": 0.5}
    assert made.tables["confusion"].tolist() == [[1, 1], [1, 1]]


def test_probabilities_as_targets_mean_the_largest() -> None:
    output, target = scores(9, 3, 1)
    soft = nn.functional.one_hot(target, 3).float() * 0.8 + 0.1
    assert over("macro_recall", output, soft).values() == over("macro_recall", output, target).values()


# -------------------------------------------------------------------------------------------------------- per class


@quick
@given(st.integers(1, 40), st.integers(2, 5), st.integers(1, 40), st.integers(0, 2**16))
def test_per_class_it_is_what_is_counted_for_each(n: int, classes: int, size: int, seed: int) -> None:
    output, target = scores(n, classes, seed)
    predicted = output.argmax(1)
    names = ["per_class_accuracy", "per_class_precision", "per_class_recall", "per_class_f1"]
    found = over(names, output, target, size).values()
    for of in range(classes):
        tp = float(((predicted == of) & (target == of)).sum())
        fp = float(((predicted == of) & (target != of)).sum())
        fn = float(((predicted != of) & (target == of)).sum())
        expected = {
            "accuracy": tp / (tp + fn) if tp + fn else None,
            "precision": tp / (tp + fp) if tp + fp else None,
            "recall": tp / (tp + fn) if tp + fn else None,
            "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None,
        }
        for name, value in expected.items():
            own = found[f"per_class_{name}.{of}"]
            assert isnan(own) if value is None else own == pytest.approx(value)


@quick
@given(st.integers(1, 40), st.integers(2, 5), st.integers(0, 2**16), st.integers(1, 5))
def test_macro_is_the_mean_over_the_classes_that_occur(n: int, classes: int, seed: int, few: int) -> None:
    output, target = scores(n, classes, seed)
    output[:, few:] -= 100.0  # never predicted
    names = ("accuracy", "precision", "recall", "f1")
    found = over([f"{of}_{name}" for of in ("per_class", "macro") for name in names], output, target).values()
    occur = {"accuracy": set(target.tolist())} | dict.fromkeys(
        names[1:], set(target.tolist()) | set(output.argmax(1).tolist())
    )
    for name in names:
        own = [found[f"per_class_{name}.{of}"] for of in occur[name]]
        expected = sum(0.0 if isnan(value) else value for value in own) / len(own)
        assert found[f"macro_{name}"] == pytest.approx(expected), name


def test_a_net_that_says_one_class_alone_does_not_look_precise() -> None:
    output, target = torch.tensor([[1.0, 0.0]]).repeat(10, 1), torch.tensor([0, 1] * 5)
    assert over("macro_precision", output, target).values() == {"macro_precision": 0.25}


def test_perplexity_is_in_double_precision() -> None:
    output, target = scores(50, 4, 0)
    exact = nn.functional.cross_entropy(output.double(), target).exp()
    assert over("perplexity", output, target).values()["perplexity"] == pytest.approx(float(exact), rel=1e-12)


def test_many_classes_are_a_table_and_no_series() -> None:
    output, target = scores(500, 100, 0)
    made = over(["per_class_recall", "accuracy"], output, target, 100)
    assert set(made.values()) == {"accuracy"}
    assert made.tables["per_class_recall"].shape == (100,)


# --------------------------------------------------------------------------------------- top-k, perplexity, r2


@quick
@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 30), st.integers(0, 2**16))
def test_top_k_is_among_the_largest(n: int, k: int, size: int, seed: int) -> None:
    output, target = scores(n, 6, seed)
    right = [t in row.argsort(descending=True)[:k] for row, t in zip(output, target, strict=True)]
    assert over(f"top_{k}", output, target, size).values() == {f"top_{k}": pytest.approx(sum(map(float, right)) / n)}


def test_top_1_is_accuracy_with_masks_too() -> None:
    output, target = scores(5, 4, 3, (6,))
    target[1, 3:] = -100
    true = torch.arange(6) < torch.tensor([2, 6, 3, 1, 5])[:, None]
    found = over(["top_1", "accuracy"], output, target, 2, true).values()
    assert found["top_1"] == found["accuracy"]


@quick
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**16))
def test_perplexity_is_exp_of_the_mean_over_all_that_counts(n: int, size: int, seed: int) -> None:
    output, target = scores(n, 4, seed, (5,))
    true = torch.rand(n, 5, generator=torch.Generator().manual_seed(seed)) < 0.7
    true[0, 0] = True
    each = nn.functional.cross_entropy(output.double(), target, reduction="none")[true]
    found = over("perplexity", output, target, size, true).values()["perplexity"]
    assert found == pytest.approx(exp(float(each.mean())))


def test_a_perplexity_that_overflows_is_infinite_and_of_nothing_it_is_nan() -> None:
    output, target = torch.tensor([[0.0, 1e6]]), torch.tensor([0])
    assert over("perplexity", output, target).values()["perplexity"] == inf
    assert isnan(over("perplexity", output, torch.tensor([-100])).values()["perplexity"])


@quick
@given(st.integers(2, 40), st.integers(1, 3), st.integers(1, 40), st.integers(0, 2**16))
def test_r2_is_the_variance_explained_however_far_from_0(n: int, columns: int, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(n, columns, generator=generator, dtype=torch.float64) + 1e5
    output = target + 0.3 * torch.randn(n, columns, generator=generator, dtype=torch.float64)
    total = ((target - target.mean(0)) ** 2).sum(0)
    expected = (1 - ((output - target) ** 2).sum(0) / total).mean()
    assert over("r2", output, target, size).values()["r2"] == pytest.approx(float(expected), abs=1e-6)


def test_r2_of_targets_that_never_change_is_nan() -> None:
    assert isnan(over("r2", torch.zeros(4), torch.ones(4)).values()["r2"])


# --------------------------------------------------------------------------------------------------------- in a run


def looks(result: Any) -> list[Evaluated]:
    return [event for event in result if isinstance(event, Evaluated)]


def test_tables_are_whole_in_events_and_those_of_the_best_net_in_the_result(tmp_path: Path) -> None:
    made = run(epochs=4, learning_rate=0.05, validation=Evaluate(VALIDATION, ["confusion", "per_class_f1"]))
    told = looks(made)
    result = made.result()
    best = next(event for event in told if event.progress.epoch == result.best_epoch)
    assert torch.equal(result.tables["confusion"], best.tables["confusion"])
    assert result.net is not None
    with torch.no_grad():
        predicted = result.net(VALIDATION[0]).argmax(1)
    assert torch.equal(result.tables["confusion"], counted(predicted, VALIDATION[1], 3))
    assert not [name for name in result.history if "confusion" in name]
    result.save(tmp_path / "r.json")
    again = Result.load(tmp_path / "r.json")
    assert {name: table.tolist() for name, table in again.tables.items()}["confusion"] == predicted_table(result)
    assert again.tables["confusion"].dtype == torch.int64


def predicted_table(result: Result) -> list[list[int]]:
    found: list[list[int]] = result.tables["confusion"].tolist()
    return found


def test_tables_outlive_an_interruption(tmp_path: Path) -> None:
    given: dict[str, Any] = {"epochs": 4, "learning_rate": 0.5, "validation": Evaluate(VALIDATION, "confusion")}
    whole = trained(**given)
    assert whole.best_step is not None
    place = etude.Directory(tmp_path, every(steps(1)))
    for event in run(**given, checkpoint=place):
        if isinstance(event, Stepped) and event.progress.step > whole.best_step + 1:
            break
    result = etude.train(mlp(), classified(), progress=False, resume="auto", **options(**given, checkpoint=place))
    assert torch.equal(result.tables["confusion"], whole.tables["confusion"])


def test_the_best_net_may_be_chosen_by_the_f1_of_a_class() -> None:
    made = Evaluate(VALIDATION, "per_class_f1", best="per_class_f1.1")
    result = trained(validation=made, epochs=5, learning_rate=0.1)
    values = result.history["val.per_class_f1.1"].values
    known = [value for value in values if not isnan(value)]
    assert result.best_epoch == values.index(max(known)) + 1


# --------------------------------------------------------------------------------------------------------- refusals

WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: Metrics("confusoin"), 'Nearest: "confusion"'),
    (lambda: Metrics("perclass_f1"), 'Nearest: "per_class_f1"'),
    (lambda: trained(validation=Evaluate(VALIDATION, "f1")), "write 'macro_f1' for the mean over classes"),
    (lambda: trained(validation=Evaluate(VALIDATION, "top_9")), "top_9 of 3 classes"),
    (lambda: trained(validation=Evaluate(VALIDATION, "confusion", best="confusion")), "best='confusion'"),
    (lambda: over("perplexity", torch.ones(3, 2), torch.ones(3)), "class indices of shape (n, ...) are needed"),
    (
        lambda: over("confusion", torch.ones(3, 2), torch.tensor([0, 1, 5])),
        "a target is 5, and the output has 2 classes",
    ),
    (lambda: over("confusion", torch.ones(3, 2), torch.ones(3, 5)), "confusion of an output of shape (3, 2)"),
]


@pytest.mark.parametrize(("make", "text"), WRONG)
def test_wrong_use_is_an_error(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(EtudeError) as told:
        make()
    assert isinstance(told.value, SettingError)
    assert text in str(told.value)
