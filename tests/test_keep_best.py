"""The best net, and patience: equality is no improvement, the run of looks without one must exceed the patience."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude import Evaluate, SettingError, every, minutes, steps
from etude.errors import PlanError
from etude.run.events import Evaluated
from etude.run.result import Result
from small import Noisy, arrays, classified, mlp, same, trained

VALIDATION = classified(6, seed=5)


class Scripted:
    """A metric whose values are written beforehand; the first is for the proof before the run."""

    def __init__(self, values: list[float], higher_is_better: bool) -> None:
        self.higher_is_better = higher_is_better
        self._values = iter([0.0, *values])

    def reset(self) -> None: ...

    def update(self, output: Any, target: Any) -> None: ...

    def compute(self) -> float:
        return next(self._values)


def scored(values: list[float], larger: bool = False, **changed: Any) -> Result:
    """A run of one look an epoch whose scores are `values`."""
    made = Evaluate(VALIDATION, {"s": Scripted(values, larger)}, best="s")
    return trained(validation=made, epochs=len(values), **changed)


STOPS: list[tuple[list[float], bool, dict[str, Any], int, str]] = [
    # Patience 0 stops at the first look without improvement; the first look has nothing to improve on.
    ([5, 4, 4, 3], False, {"patience": 0}, 3, "patience"),
    ([5, 5, 5, 5], False, {"patience": 0}, 2, "patience"),
    ([5, 4, 3, 2], False, {"patience": 0}, 4, "finished"),
    # One more look than the patience is needed, and an improvement starts it anew.
    ([5, 6, 6, 6, 4], False, {"patience": 2}, 4, "patience"),
    ([5, 6, 6, 4, 5, 5, 5, 5], False, {"patience": 2}, 7, "patience"),
    ([5, 6, 6, 6, 4], False, {"patience": 3}, 5, "finished"),
    # Larger is better.
    ([1, 2, 3, 3, 4], True, {"patience": 0}, 4, "patience"),
    ([1, 2, 3, 4], True, {"patience": 0}, 4, "finished"),
    # The change has to be as large as min_delta, counted from the last that was.
    ([5, 4.5, 4, 3.5], False, {"patience": 0, "min_delta": 1}, 2, "patience"),
    ([5, 4, 3, 2], False, {"patience": 0, "min_delta": 1}, 4, "finished"),
    ([5, 4.5, 4, 3.5, 3], False, {"patience": 1, "min_delta": 1}, 5, "finished"),
    ([1, 1.5, 1.75, 9], True, {"patience": 1, "min_delta": 1}, 3, "patience"),
    # What is no number improves on nothing, and everything improves on it.
    ([nan, 5, 4, 3], False, {"patience": 1}, 4, "finished"),
    ([nan, 1, 2, 3], True, {"patience": 1}, 4, "finished"),
    ([nan, nan, 3, 2], False, {"patience": 1}, 2, "patience"),
    ([5, nan, nan, 1], False, {"patience": 1}, 3, "patience"),
    ([5, inf, 4, 3], False, {"patience": 0}, 2, "patience"),
    # Without patience nothing stops.
    ([1, 2, 3, 4], False, {}, 4, "finished"),
]


@pytest.mark.parametrize(("values", "larger", "given", "looks", "reason"), STOPS)
def test_patience(values: list[float], larger: bool, given: dict[str, Any], looks: int, reason: str) -> None:
    result = scored(values, larger, **given)
    assert len(result.history["val.s"]) == looks
    assert result.stop_reason == reason


BEST: list[tuple[list[float], bool, int | None]] = [
    ([3, 1, 2], False, 2),
    ([1, 1, 1], False, 1),
    ([3, 1, 2], True, 1),
    ([1, 2, 3], True, 3),
    ([nan, 2, 3], False, 2),
    ([nan, 2, 3], True, 3),
    ([nan, nan, nan], False, None),
    ([2, nan, 1], False, 3),
]


@pytest.mark.parametrize(("values", "larger", "best"), BEST)
def test_the_best_look_is_remembered(values: list[float], larger: bool, best: int | None) -> None:
    result = scored(values, larger)
    assert result.best_epoch == best
    assert result.best_step == (None if best is None else 3 * best)


@pytest.mark.parametrize(("values", "larger", "best"), BEST[:5])
def test_the_net_is_the_best_one_and_the_final_net_the_last(values: list[float], larger: bool, best: int) -> None:
    result = scored(values, larger, net=Noisy(), learning_rate=0.05)
    assert same(arrays(result.net), arrays(trained(Noisy(), epochs=best, learning_rate=0.05).net))
    assert same(arrays(result.final_net), arrays(trained(Noisy(), epochs=3, learning_rate=0.05).net))
    if best == 3:
        assert result.final_net is result.net
    else:
        assert result.final_net is not result.net


def test_the_smallest_change_is_for_patience_alone() -> None:
    assert scored([5, 4.9, 4.8], patience=9, min_delta=1).best_epoch == 3


def test_without_a_score_it_is_the_validation_loss() -> None:
    result = trained(validation=VALIDATION, epochs=12, learning_rate=0.03)
    losses = result.history["val.loss"].values
    assert result.best_epoch == losses.index(min(losses)) + 1
    assert 1 < result.best_epoch < 12


def test_the_score_may_be_a_metric_with_a_direction_given_or_known() -> None:
    for best in ("error_rate", ("error_rate", "min")):
        result = trained(validation=Evaluate(VALIDATION, "error_rate", best=best), epochs=6, learning_rate=0.3)
        rates = result.history["val.error_rate"].values
        assert result.best_epoch == rates.index(min(rates)) + 1
    result = trained(validation=Evaluate(VALIDATION, "error_rate", best=("error_rate", "max")), epochs=6)
    rates = result.history["val.error_rate"].values
    assert result.best_epoch == rates.index(max(rates)) + 1


def test_the_loss_can_be_maximised() -> None:
    result = trained(validation=Evaluate(VALIDATION, best=("loss", "max")), epochs=4, learning_rate=0.1)
    losses = result.history["val.loss"].values
    assert result.best_epoch == losses.index(max(losses)) + 1


def test_without_validation_patience_looks_at_the_training_loss_of_epochs() -> None:
    result = trained(epochs=30, learning_rate=1e-9, patience=2, min_delta=0.1)
    assert result.epochs == 4
    assert result.stop_reason == "patience"
    assert "training loss did not improve for 3 looks" in result.stop_message
    assert result.best_epoch is None


def test_patience_counts_looks_and_not_epochs() -> None:
    made = Evaluate(VALIDATION, {"s": Scripted([3, 3, 3, 3], False)}, every=every(steps(1)), best="s")
    result = trained(validation=made, epochs=5, patience=1)
    assert result.steps == 3
    assert result.epochs == 1


def test_the_message_says_what_did_not_improve_and_how_good_the_best_was() -> None:
    assert scored([5, 4.25, 6, 7], patience=1).stop_message == "s did not improve for 2 looks; the best was 4.25"
    assert "none was a number" in scored([nan, nan, nan], patience=1).stop_message


class Counting(nn.Module):
    """A net with a statistic that its state_dict leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        output: Tensor = self.net(x)
        return output


def test_statistics_that_no_state_dict_has_come_back_with_the_best() -> None:
    result = scored([3, 1, 2], net=Counting())
    assert isinstance(result.net, Counting)
    assert isinstance(result.final_net, Counting)
    assert result.net.seen == 6
    assert result.final_net.seen == 9


def test_tied_arrays_stay_tied_in_both_nets() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.head(self.b(torch.relu(self.a(x))))
            return output

    result = scored([3, 1, 2], net=Tied())
    for net in (result.net, result.final_net):
        assert isinstance(net, Tied)
        assert net.a.weight is net.b.weight


def test_the_best_is_kept_as_a_copy() -> None:
    kept: list[dict[str, Tensor]] = []
    net = Noisy()

    def listener(event: Any) -> None:
        if isinstance(event, Evaluated) and event.best:
            kept.append(arrays(net))

    result = scored([3, 1, 2, 4], net=net, listeners=[listener])
    assert len(kept) == 2
    assert same(arrays(result.net), kept[-1])


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"min_delta": 0.1}, "Write patience= too"),
    ({"patience": -1}, "patience=-1: a whole number of at least 0"),
    ({"patience": True}, "patience=True"),
    ({"patience": 1, "min_delta": -1}, "min_delta=-1"),
    ({"patience": 1, "min_delta": nan}, "min_delta=nan"),
]


@pytest.mark.parametrize(("given", "words"), WRONG, ids=str)
def test_wrong_patience_is_an_error(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        trained(**given)


def test_patience_without_epochs_that_end_is_an_error() -> None:
    class Forward(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([(x, y) for x, y in zip(*classified(8), strict=True)])

    with pytest.raises(PlanError, match="patience needs validation data"):
        trained(data=Forward(), patience=1, time_limit=minutes(1))
