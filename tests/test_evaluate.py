"""Looking at validation data: exact, on time, and without a trace on the net."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

from etude import (
    DataError,
    Evaluate,
    ScheduleError,
    SettingError,
    Update,
    epochs,
    every,
    fraction,
    no_improvement,
    plateau,
    samples,
    seconds,
)
from etude import steps as steps_
from etude.errors import PlanError
from etude.losses import error, l2, term
from etude.run.evaluate import Means, numbers
from etude.run.events import Evaluated, Event, Settled, Stepped
from etude.step.looking import looking
from etude.step.loss import Measured
from small import Noisy, arrays, batches, classified, mlp, randomness, run, same, trained

X, Y = classified(10)
VALIDATION = classified(7, seed=5)


def looked_at(**changed: Any) -> list[int]:
    """The numbers of the steps after which the validation data were looked at."""
    history = trained(**changed).history
    return history["val.loss"].steps if "val.loss" in history else []


# -------------------------------------------------------------------------------------------------------- when


def test_the_validation_data_are_looked_at_after_every_epoch() -> None:
    assert looked_at(validation=VALIDATION, epochs=3) == [3, 6, 9]


CADENCES: list[tuple[Any, list[int]]] = [
    (every(steps_(2)), [2, 4, 6]),
    (steps_(2), [2, 4, 6]),
    (every(epochs(2)), [6]),
    (every(epochs(0.5)), [2, 3, 5, 6]),
    (every(samples(9)), [3, 5]),
    (every(fraction(0.5)), [3, 6]),
    (every(steps_(4)), [4]),
]


@pytest.mark.parametrize(("cadence", "expected"), CADENCES, ids=[repr(each[0]) for each in CADENCES])
def test_the_cadence_says_when(cadence: Any, expected: list[int]) -> None:
    assert looked_at(validation=Evaluate(VALIDATION, every=cadence), epochs=2) == expected


@pytest.mark.parametrize("cadence", [every(epochs(5)), every(steps_(100))], ids=repr)
def test_a_run_that_ends_before_the_first_look_is_looked_at_in_the_end(cadence: Any) -> None:
    result = trained(validation=Evaluate(VALIDATION, every=cadence), epochs=2)
    assert result.history["val.loss"].steps == [6]
    assert result.best_step == 6


class Clock:
    """Time that passes by a second with every step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("etude.run.run.time.perf_counter", lambda: self.now)

    def __call__(self, event: Event) -> None:
        # Before the look of this step is due.
        if isinstance(event, Stepped):
            self.now += 1


def test_a_cadence_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    made = Evaluate(VALIDATION, every=every(seconds(2)))
    assert looked_at(validation=made, epochs=2, listeners=[clock]) == [2, 4, 6]


def test_a_cadence_is_held_back_by_its_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    made = Evaluate(VALIDATION, every=every(steps_(1), minimum=seconds(2.5)))
    assert looked_at(validation=made, epochs=2, listeners=[clock]) == [1, 4]


def test_the_look_comes_after_the_end_of_the_epoch_and_before_the_state_is_settled() -> None:
    told = list(run(validation=VALIDATION))
    names = [type(event).__name__ for event in told]
    assert names[-5:] == ["Stepped", "EpochEnded", "Evaluated", "Settled", "Ended"]
    assert next(e for e in told if isinstance(e, Evaluated)).progress.step == 3


# -------------------------------------------------------------------------------------------------- exact scores


@pytest.mark.parametrize("size", [1, 2, 5, 7, None])
def test_scores_are_means_over_all_samples(size: int | None) -> None:
    result = trained(validation=Evaluate(VALIDATION, ["accuracy", "error_rate"], batch_size=size))
    x, y = VALIDATION
    assert result.final_net is not None
    with torch.no_grad():
        output = result.final_net(x)
    history = result.history
    assert history["val.loss"].values == [pytest.approx(functional.cross_entropy(output, y).item(), rel=1e-6)]
    right = float((output.argmax(1) == y).float().mean())
    assert history["val.accuracy"].values == [pytest.approx(right)]
    assert history["val.error_rate"].values == [pytest.approx(1 - right)]


class Pairs(Dataset[Any]):
    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Any:
        return VALIDATION[0][index], VALIDATION[1][index]


def generated() -> Any:
    for part in batches(7, 3):
        yield VALIDATION[0][part], VALIDATION[1][part]


FORMS: dict[str, Any] = {
    "arrays": VALIDATION,
    "numpy": tuple(each.numpy() for each in VALIDATION),
    "samples": [(VALIDATION[0][i], int(VALIDATION[1][i])) for i in range(7)],
    "data set": Pairs(),
    "loader": DataLoader(TensorDataset(*VALIDATION), batch_size=3),
    "shuffled loader": DataLoader(TensorDataset(*VALIDATION), batch_size=3, shuffle=True),
    "evaluate": Evaluate(VALIDATION, batch_size=3),
}


@pytest.mark.parametrize("form", FORMS)
def test_validation_data_come_in_every_form(form: str) -> None:
    expected = trained(validation=VALIDATION).history["val.loss"].values
    found = trained(validation=FORMS[form]).history["val.loss"].values
    assert found == pytest.approx(expected, rel=1e-6)


def test_validation_data_of_another_form_than_the_training_data() -> None:
    expected = trained(data=Pairs(), validation=VALIDATION).history["val.loss"].values
    assert trained(data=Pairs(), validation=VALIDATION, workers=1).history["val.loss"].values == expected
    assert trained(data=Pairs(), validation=Pairs(), workers=1).history["val.loss"].values == expected


def test_a_fraction_is_set_aside_by_the_seed_and_never_trained_on() -> None:
    seen: set[tuple[float, ...]] = set()

    class Watching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.update(tuple(row.tolist()) for row in x)
            return super().forward(x)

    result = trained(Watching(4, 3), validation=0.3, epochs=2)
    assert (result.training_samples, result.validation_samples) == (7, 3)
    aside = [row for row in X.tolist() if tuple(row) not in seen]
    assert len(aside) == 3
    assert result.chosen["validation"] == "3 of 10 samples set aside, chosen by seed 0"
    assert trained(validation=0.3).history["val.loss"].values == trained(validation=0.3).history["val.loss"].values
    assert (
        trained(validation=0.3, seed=1).history["val.loss"].values != trained(validation=0.3).history["val.loss"].values
    )


# ----------------------------------------------------------------------------------------------------- no traces


def test_looking_changes_nothing_of_the_net_but_reads_it_in_evaluation_mode() -> None:
    net = Noisy()
    net.train()
    net.body[3].eval()
    modes = [module.training for module in net.modules()]
    before = arrays(net)
    with looking(net):
        assert not any(module.training for module in net.modules())
        assert not net(X).requires_grad
    assert [module.training for module in net.modules()] == modes
    assert same(arrays(net), before)


def test_modes_come_back_after_an_error() -> None:
    net = Noisy()

    def fail() -> None:
        with looking(net):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(module.training for module in net.modules())


def test_a_net_trains_to_the_same_bits_with_and_without_looks() -> None:
    without = trained(Noisy(), epochs=3)
    looks = trained(Noisy(), epochs=3, validation=Evaluate(VALIDATION, ["accuracy"], every=steps_(2)))
    assert same(arrays(without.net), arrays(looks.final_net))


class Chancy(nn.Module):
    """A net that draws numbers in evaluation too, as a variational one does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x) + torch.randn(len(x), 3)
        return output


def test_every_look_of_a_run_draws_the_same_numbers_whatever_listeners_draw() -> None:
    still = {"learning_rate": 1e-12, "epochs": 3, "validation": VALIDATION}
    quiet = trained(Chancy(), **still).history["val.loss"].values
    disturbed = trained(Chancy(), **still, listeners=[lambda event: torch.rand(3)]).history["val.loss"].values
    assert quiet == disturbed
    assert quiet == pytest.approx([quiet[0]] * 3, rel=1e-6)
    assert trained(Chancy(), **still, seed=1).history["val.loss"].values != quiet


def test_metrics_are_of_the_output_that_the_loss_saw() -> None:
    seen: list[Tensor] = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        seen.append(output.detach())
        return functional.cross_entropy(output, target)

    def metric(output: Tensor, target: Tensor) -> Tensor:
        assert output is seen[-1] or torch.equal(output, seen[-1])
        return output.mean(1)

    result = trained(Chancy(), loss=loss, validation=VALIDATION, metrics={"m": metric}, precision="bf16")
    assert len(result.history["val.m"]) == 1


def test_metrics_have_an_output_also_where_the_loss_calls_the_net() -> None:
    def loss(net: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(net(batch[0]), batch[1])

    expected = trained(validation=VALIDATION, metrics="accuracy").history["val.accuracy"].values
    assert trained(loss=loss, validation=VALIDATION, metrics="accuracy").history["val.accuracy"].values == expected


def test_a_look_leaves_the_generators_alone() -> None:
    made = run(Chancy(), validation=VALIDATION)
    evaluator = made.checked.evaluator
    assert evaluator is not None
    before = randomness()
    evaluator.scores(made.progress)
    assert randomness() == before


# ------------------------------------------------------------------------------------------------ several updates


def test_with_several_updates_every_loss_is_looked_at_and_the_sum_chooses() -> None:
    updates = [Update("a", "cross_entropy", "0"), Update("b", "cross_entropy", "2")]
    result = trained(loss=None, updates=updates, validation=VALIDATION)
    history = result.history
    assert history["val.loss"].values[0] == history["val.a.loss"].values[0] + history["val.b.loss"].values[0]


# ---------------------------------------------------------------------------------------------------- derivatives


def steepness(net: nn.Module, batch: Any) -> Tensor:
    """A loss of the derivative of the net at its inputs, as in physics-informed nets."""
    x = batch[0].detach().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    loss: Tensor = ((slope - 1) ** 2).mean(1)
    return loss


def test_a_loss_of_derivatives_can_be_looked_at() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1, bias=False))
    result = trained(net, loss=steepness, validation=VALIDATION, epochs=2)
    assert result.final_net is not None
    expected = steepness(result.final_net, VALIDATION).mean().item()
    assert result.history["val.loss"].values[-1] == pytest.approx(expected, rel=1e-5)
    assert all(array.grad is None or array.grad.grad_fn is None for array in net.parameters())


# ----------------------------------------------------------------------------------------------- other data beside


def test_other_data_are_measured_as_data_of_their_own_would_be() -> None:
    other = classified(9, seed=6)
    both = trained(validation=Evaluate(VALIDATION, ["accuracy", "confusion"], also={"test": other}), epochs=2)
    first = trained(validation=Evaluate(VALIDATION, ["accuracy", "confusion"]), epochs=2)
    second = trained(validation=Evaluate(other, ["accuracy", "confusion"]), epochs=2)
    for score in ("loss", "accuracy"):
        assert both.history[f"val.{score}"].values == first.history[f"val.{score}"].values
        assert both.history[f"val.test.{score}"].values == second.history[f"val.{score}"].values
    assert set(both.tables) == {"confusion", "test.confusion"}
    assert [int(both.tables[name].sum()) for name in ("confusion", "test.confusion")] == [7, 9]
    assert both.best_step == first.best_step
    assert same(arrays(both.final_net), arrays(first.final_net))


def test_the_best_net_a_schedule_and_the_end_may_go_by_other_data() -> None:
    # Their targets are all wrong, so the longer it trains the worse they are.
    wrong = X, (Y + 1) % 3
    look = Evaluate(VALIDATION, "accuracy", also={"wrong": wrong}, best="wrong.loss")
    result = trained(validation=look, epochs=9, stop=no_improvement("val.wrong.loss", patience=2))
    assert result.best_step == result.history["val.wrong.loss"].steps[0]
    assert result.epochs == 4
    falls = trained(validation=look, epochs=6, learning_rate=plateau("val.wrong.loss", factor=0.1, patience=0) * 0.1)
    assert falls.history["rate"].values[-1] < falls.history["rate"].values[0]


def test_a_metric_that_fails_on_other_data_names_them() -> None:
    def picky(output: Tensor, target: Tensor) -> float:
        if len(target) != 7:
            raise ValueError("seven")
        return 1.0

    look = Evaluate(VALIDATION, {"m": picky}, also={"test": classified(9, seed=6)}, batch_size=20)
    with pytest.raises(SettingError, match=r"In the validation data 'test': .*'m' failed.*seven"):
        trained(validation=look)


# ------------------------------------------------------------------------------------------------------ bad input


WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: Evaluate(VALIDATION, every=3), SettingError, r"write every\(epochs\(1\)\)"),  # type: ignore[arg-type]
    (lambda: Evaluate(VALIDATION, every=every(3)), ScheduleError, "of what"),  # type: ignore[arg-type]
    (lambda: Evaluate(VALIDATION, batch_size=0), SettingError, "at least 1"),
    (lambda: Evaluate(VALIDATION, batch_size=True), SettingError, "at least 1"),
    (lambda: Evaluate(VALIDATION, best=3), SettingError, 'write best="accuracy"'),  # type: ignore[arg-type]
    (lambda: Evaluate(VALIDATION, best=("a", "b", "c")), SettingError, "write best="),  # type: ignore[arg-type]
    (lambda: trained(validation=Evaluate(VALIDATION, best=("loss", "most"))), SettingError, '"min" or "max"'),
    (lambda: trained(validation=Evaluate(VALIDATION, "accuracy", best="acuracy")), SettingError, "Nearest: "),
    (lambda: trained(validation=Evaluate(VALIDATION, {"m": lambda o, y: 1.0}, best="m")), SettingError, "not known"),
    (lambda: trained(validation=(X[:, :2], Y)), PlanError, "In the validation data: .*cannot be computed"),
    (lambda: trained(validation=(X, Y[:4])), DataError, "different numbers of samples"),
    (lambda: trained(validation=(X[:0], Y[:0])), DataError, "empty"),
    (lambda: trained(validation=(X * torch.nan, Y)), DataError, "NaN or infinity in 10 of 10 samples"),
    (lambda: trained(validation=0), DataError, "no fraction"),
    (lambda: trained(validation=1.0), DataError, "no fraction"),
    (lambda: trained(validation=0.99), DataError, "none for training"),
    (lambda: trained(validation=-0.2), DataError, "no fraction"),
    (lambda: trained(validation="digits"), DataError, "a fraction of the training data"),
    (lambda: run(time_limit=seconds(9), validation=Evaluate(0.2, every=fraction(0.5))), ScheduleError, "length"),
    (lambda: trained(metrics="accuracy"), PlanError, "Write validation=0.2"),
    (lambda: trained(metrics="accuracy", validation=Evaluate(VALIDATION)), PlanError, "Evaluate"),
    (lambda: trained(validation=Evaluate(FORMS["loader"], batch_size=5)), DataError, "batches of its own"),
    (lambda: Evaluate(VALIDATION, also=[VALIDATION]), SettingError, r"data by name are needed, not list"),  # type: ignore[arg-type]
    (lambda: Evaluate(VALIDATION, also={"a.b": VALIDATION}), SettingError, r"the names 'a\.b'\. Write also="),
    (lambda: Evaluate(VALIDATION, also={"test": 0.1}), SettingError, "for the first argument alone"),
    (
        lambda: trained(validation=Evaluate(VALIDATION, "accuracy", also={"accuracy": VALIDATION})),
        SettingError,
        "'accuracy' is a score of the first data",
    ),
    (
        lambda: trained(validation=Evaluate(VALIDATION, also={"test": (X, Y + 9)})),
        DataError,
        "In the validation data 'test': .*targets have",
    ),
    (
        lambda: trained(validation=Evaluate(VALIDATION, also={"test": VALIDATION}, best="tset.loss")),
        SettingError,
        r'test\.loss\. Nearest: "test\.loss"',
    ),
]


@pytest.mark.parametrize(("made", "error", "words"), WRONG, ids=[f"{i}" for i in range(len(WRONG))])
def test_what_cannot_be_looked_at_is_an_error_before_the_first_step(made: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        made()


def test_a_fraction_of_what_can_only_be_read_forward_is_an_error() -> None:
    with pytest.raises(DataError, match="Give validation data of their own"):
        trained(data=generated, round_length=3, batch_size=None, validation=0.2)


def test_evaluate_prints_without_its_data() -> None:
    assert repr(Evaluate(0.2)) == "Evaluate(0.2)"
    made = repr(Evaluate(VALIDATION, "accuracy", every(steps_(5))))
    assert made == ("Evaluate((Tensor float32 (7, 4), Tensor int64 (7,)), metrics='accuracy', every=every(steps(5)))")
    beside = repr(Evaluate(0.2, also={"test": VALIDATION}))
    assert beside == "Evaluate(0.2, also={'test': (Tensor float32 (7, 4), Tensor int64 (7,))})"


# ---------------------------------------------------------------------------------------------------------- means


def test_means_are_sums_over_counts_and_begin_anew() -> None:
    made = Means()
    values = [(0.1 * i, float(i % 5)) for i in range(200)]
    for mean, count in values:
        made.add({"a": Measured(torch.tensor(mean), count), "b": Measured(torch.tensor(1.0), torch.tensor(2))})
    expected = sum(m * c for m, c in values) / sum(c for _, c in values)
    assert made.values() == {"a": pytest.approx(expected, rel=1e-6), "b": 1.0}
    assert made.values() == {}


def test_a_mean_of_nothing_counts_for_nothing() -> None:
    made = Means()
    made.add({"a": Measured(torch.tensor(torch.nan), 0.0)})
    made.add({"a": Measured(torch.tensor(2.0), 3.0)})
    assert made.values() == {"a": 2.0}
    made.add({"a": Measured(torch.tensor(torch.nan), 0.0)})
    assert str(made.values()["a"]) == "nan"


def test_scalars_of_different_kinds_are_read() -> None:
    mixed: list[float | Tensor] = [torch.tensor(1.0), torch.tensor(2), 3.0, torch.tensor(4.0, dtype=torch.float64)]
    assert numbers(mixed) == [1.0, 2.0, 3.0, 4.0]


def test_events_of_looks_say_which_was_the_best() -> None:
    told = [event for event in run(validation=VALIDATION, epochs=4, learning_rate=0.1) if isinstance(event, Evaluated)]
    best = float("inf")
    for event in told:
        assert event.best == (event.scores["loss"] < best)
        best = min(best, event.scores["loss"])


def test_the_state_is_settled_once_a_step() -> None:
    told = list(run(validation=Evaluate(VALIDATION, every=steps_(1)), epochs=2))
    assert [e.progress.step for e in told if isinstance(e, Settled)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("best", ["ce", "fer", "ce.perplexity", ("ce", "max")])
def test_the_best_net_may_be_that_of_one_term(best: Any) -> None:
    loss = {"ce": term("cross_entropy", exponent=True), "fer": error("error_rate"), "size": (l2("0"), 1e-3)}
    made = Evaluate(classified(12, seed=5), best=best)
    result = trained(loss=loss, validation=made, epochs=3, learning_rate=0.3)
    name, larger = (best, False) if isinstance(best, str) else (best[0], True)
    scores = result.history[f"val.{name}"]
    assert result.best_step == scores.steps[scores.values.index((max if larger else min)(scores.values))]


def test_a_term_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(SettingError, match=r'no such score\. Scores: loss, ce, fer.*Nearest: "ce"'):
        trained(loss={"ce": "cross_entropy", "fer": error("error_rate")}, validation=Evaluate(classified(6), best="c"))
    with pytest.raises(SettingError, match=r"'ce\.perplexity'"):
        trained(
            loss={"ce": "cross_entropy", "fer": error("error_rate")},
            validation=Evaluate(classified(6), best="ce.perplexity"),
        )
