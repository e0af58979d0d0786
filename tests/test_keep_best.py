"""The best net, and patience: equality is no improvement, the run of looks without one must exceed the patience."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude import Directory, Evaluate, Run, SettingError, epochs, every, minutes, pieces, steps
from etude.errors import PlanError
from etude.run.events import Evaluated, Settled
from etude.run.result import Result
from etude.values.reactive import newbob
from small import Noisy, arrays, classified, close, mlp, run, same, trained

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


# --------------------------------------------------------------------------------------------- back to the best net


def best_and_back(values: list[float], back: str, larger: bool = False, **changed: Any) -> Run:
    """A run of one look an epoch whose rate falls to half, and the net goes back, where a score did not improve."""
    made = Evaluate(VALIDATION, {"s": Scripted(values, larger)}, best="s")
    rate = 0.05 * newbob("val.s", "max" if larger else "min", back_to_best=back)
    return run(Noisy(), validation=made, epochs=len(values), learning_rate=rate, **changed)


def followed(made: Run) -> tuple[list[dict[str, Tensor]], list[float]]:
    """The arrays after each look, and the rate of each step."""
    after = [arrays(made.net) for event in made if isinstance(event, Evaluated)]
    return after, made.result().history["rate"].values


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", torch.optim.Adam])
@pytest.mark.parametrize("back", ["clear", "keep"])
def test_where_a_rate_falls_the_net_goes_back_to_its_best_arrays(back: str, optimizer: Any) -> None:
    made = best_and_back([5, 3, 4, 2], back, optimizer=optimizer)
    after, rates = followed(made)
    assert same(after[2], after[1])
    assert not same(after[3], after[1])
    assert rates[::3] == pytest.approx([0.05, 0.05, 0.05, 0.025])


def test_the_optimizer_forgets_or_keeps_what_it_knows() -> None:
    counts = {}
    for back in ("clear", "keep"):
        made = best_and_back([5, 3, 4, 2], back)
        for event in made:
            if isinstance(event, Evaluated) and event.progress.epoch == 3:
                kept = made.checked.works[0].stepper.state()["arrays"]["head.weight"]
                counts[back] = kept.get("count", 0)
    assert counts == {"clear": 0, "keep": 9}


def test_after_going_back_it_is_as_if_it_went_on_from_there() -> None:
    after, _ = followed(best_and_back([5, 3, 4, 2], "clear", optimizer="sgd"))
    # Steps 10 to 12 from the arrays after step 6, at half the rate.
    net = Noisy()
    again = run(net, epochs=4, learning_rate=pieces(0.05, (epochs(3), 0.025)), optimizer="sgd")
    for event in again:
        if isinstance(event, Settled) and event.progress.step == 9:
            with torch.no_grad():
                for name, array in (*net.named_parameters(), *net.named_buffers()):
                    array.copy_(after[1][name])
        if isinstance(event, Settled) and event.progress.step == 12:
            assert same(arrays(net), after[3])
            return
    raise AssertionError("the twelfth step was not made")


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_arrays_in_half_precision_go_back_with_their_copies(precision: torch.dtype) -> None:
    data = (VALIDATION[0].to(precision), VALIDATION[1])
    made = Evaluate(data, {"s": Scripted([5, 3, 4, 4.5], False)}, best="s")
    rate = 0.05 * newbob("val.s", "min", back_to_best="keep", decay=1e-9)
    net = mlp().to(precision)
    going = run(net, data, validation=made, epochs=4, learning_rate=rate)
    after, _ = followed(going)
    # At a rate of nearly 0 nothing moves: whatever was remembered of the arrays is that of the best net.
    assert same(after[2], after[1])
    assert close(after[3], after[1])


@pytest.mark.parametrize("cut", [7, 9, 10])
@pytest.mark.parametrize("back", ["clear", "keep"])
def test_interrupted_around_going_back_it_is_the_same(cut: int, back: str, tmp_path: Any) -> None:
    values = [5.0, 3.0, 4.0, 2.0]
    whole = best_and_back(values, back).result()
    place = Directory(tmp_path, every(steps(1)))
    for event in best_and_back(values, back, checkpoint=place):
        if isinstance(event, Settled) and event.progress.step == cut:
            break
    rest = values[cut // 3 :]
    made = Evaluate(VALIDATION, {"s": Scripted(rest, False)}, best="s")
    rate = 0.05 * newbob("val.s", "min", back_to_best=back)
    result = trained(
        Noisy(), validation=made, epochs=4, learning_rate=rate, checkpoint=place, resume="auto", accept=True
    )
    assert same(arrays(result.net), arrays(whole.net))
    assert result.history["rate"].values == whole.history["rate"].values


def test_an_epoch_that_was_no_better_goes_back_to_the_best_look() -> None:
    rate = 0.05 * newbob("epoch.loss", min_improvement=1e6, back_to_best="clear")
    made = run(validation=VALIDATION, epochs=2, learning_rate=rate)
    looked: list[dict[str, Tensor]] = []
    for event in made:
        if isinstance(event, Evaluated):
            looked.append(arrays(made.net))
    assert same(looked[0], looked[1])


def test_without_validation_there_is_no_best_net_to_go_back_to() -> None:
    net = mlp()
    before = arrays(net)
    with pytest.raises(PlanError, match=r"goes back to the best net.*Write validation=0\.2"):
        trained(net, learning_rate=0.1 * newbob("epoch.loss", back_to_best="keep"))
    assert same(arrays(net), before)


class Two(torch.optim.SGD):
    """An optimizer that says which arrays are trained and which are evaluated."""

    def train(self) -> None: ...

    def eval(self) -> None: ...


def test_an_optimizer_that_evaluates_other_arrays_cannot_go_back() -> None:
    rate = 0.1 * newbob("val.loss", back_to_best="keep")
    with pytest.raises(PlanError, match="Two trains other arrays than it evaluates"):
        trained(optimizer=Two, learning_rate=rate, validation=VALIDATION)
    assert trained(optimizer=Two, learning_rate=0.1, validation=VALIDATION).epochs == 1


class Warm(nn.Module):
    """Scores divided by a temperature, which is no array."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(4, 3)
        self.temperature = 5.0

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x) / self.temperature  # type: ignore[no-any-return]


@pytest.mark.parametrize("stop_after", [None, 4])
def test_the_best_net_has_the_knobs_that_it_was_best_with(tmp_path: Any, stop_after: int | None) -> None:
    made = Evaluate(VALIDATION, {"s": Scripted([3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0], False)}, best="s")
    cooling = {"temperature": pieces(5.0, (epochs(2), 2.0), (epochs(3), 1.0))}
    folder = Directory(tmp_path, every(epochs(1)))
    plan = etude.Plan("cross_entropy", epochs=4, batch_size=8, validation=made, knobs=cooling, checkpoint=folder)
    net = Warm()
    result = Run(plan, net, classified(16)).result()
    # The best look was after the second epoch, and measured under the temperature of its last step.
    assert result.best_epoch == 2
    assert net.temperature == 5.0
    if stop_after is not None:
        again = Warm()
        assert Run(plan, again, classified(16), resume="auto").result().best_epoch == 2
        assert again.temperature == 5.0
