"""Newbob: each option, what it is part of, runs and states. The recorded sequences have a file of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch

import etude
from etude.errors import ScheduleError, SettingError
from etude.values.curves import cosine, linear, warmup
from etude.values.newbob import newbob
from etude.values.progress import Extent, Progress
from etude.values.schedule import Schedule, constant, cycle, pieces
from etude.values.spans import epochs, steps
from etude.values.text import read, write

PER_EPOCH = 100


def clock(epoch: float, length: int = 20) -> Progress:
    return Progress(step=round(epoch * PER_EPOCH), epoch=epoch, extent=Extent(steps=length * PER_EPOCH, epochs=length))


def fold(made: Schedule, scores: Sequence[float | None], name: str = "loss") -> list[Any]:
    """The value in the first step of each epoch, with a look at the end of each."""
    memory, values = made.start(), [made.at(clock(0), made.start())]
    for epoch, score in enumerate(scores, 1):
        memory = made.see(memory, {name: score}, clock(epoch))
        values.append(made.at(clock(epoch), memory))
    return values


# what is an improvement


def test_it_falls_when_a_score_improves_by_less_than_a_hundredth() -> None:
    assert fold(newbob("loss"), [1.0, 0.98, 0.975, 0.9, 0.95]) == [1, 1, 1, 0.5, 0.5, 0.25]


def test_exactly_enough_is_enough() -> None:
    assert fold(newbob("loss", min_improvement=0.25), [4.0, 3.0, 3.0]) == [1, 1, 1, 0.5]
    assert fold(newbob("loss", relative=False, min_improvement=0.5), [2.0, 1.5, 1.25]) == [1, 1, 1, 0.5]


def test_a_share_of_the_old_score_or_of_the_new_one() -> None:
    # From 2 to 1.6: a fifth of the old score, a quarter of the new one.
    assert fold(newbob("loss", min_improvement=0.22), [2.0, 1.6])[-1] == 0.5
    assert fold(newbob("loss", min_improvement=0.22, relative_to="new"), [2.0, 1.6])[-1] == 1


def test_more_is_better_where_the_name_or_the_mode_says_so() -> None:
    assert fold(newbob("accuracy"), [0.5, 0.6, 0.6], "accuracy") == [1, 1, 1, 0.5]
    assert fold(newbob("bleu", "max"), [10, 11, 11.01, 10], "bleu") == [1, 1, 1, 0.5, 0.25]
    assert fold(newbob("loss", "max"), [1.0, 0.5])[-1] == 0.5


def test_negative_scores_improve_downwards() -> None:
    assert fold(newbob("loss"), [-10.0, -12.0, -12.05, -13.0]) == [1, 1, 1, 0.5, 0.5]


def test_a_worse_score_can_be_borne() -> None:
    made = newbob("loss", min_improvement=-0.1)
    assert fold(made, [1.0, 1.05, 1.1, 1.3]) == [1, 1, 1, 1, 0.5]


@pytest.mark.parametrize("score", [nan, inf, -inf])
@pytest.mark.parametrize("growth", [1.0, 2.0])
def test_what_is_not_finite_is_no_improvement_and_no_measure_for_the_next(score: float, growth: float) -> None:
    for made in (
        newbob("loss", growth=growth),
        newbob("loss", "max", growth=growth),
        newbob("loss", growth=growth, relative=False),
        newbob("loss", growth=growth, window=3),
    ):
        assert fold(made, [1.0, score])[-1] == 0.5
        assert fold(made, [1.0, score, 1.0])[-1] == 0.25
        # Without a finite score before there is nothing to compare with.
        assert fold(made, [score, score, 1.0]) == [1, 1, 1, 1]


def test_a_score_of_0() -> None:
    for relative_to in ("old", "new"):
        made = newbob("loss", relative_to=relative_to, growth=2.0)
        # To 0 is an improvement beyond every share, no change at 0 is no change, and away from 0 is a loss.
        assert fold(made, [1.0, 0.0, 0.0, 0.5]) == [1, 1, 2, 1, 0.5]
        assert fold(newbob("x", "max", relative_to=relative_to), [0.0, 1.0, 0.0], "x") == [1, 1, 1, 0.5]


def test_infinite_gains_and_losses_in_one_window_are_no_improvement() -> None:
    # Up from 0 and down from 0: of an infinite gain and an infinite loss there is no mean.
    assert fold(newbob("x", "max", window=3, growth=2.0), [0.0, 1.0, 0.0, -1.0], "x") == [1, 1, 2, 4, 2]


def test_scores_too_large_to_subtract_raise_nothing() -> None:
    assert fold(newbob("loss"), [1e308, -1e308, 1e308]) == [1, 1, 1, 0.5]


def test_two_looks_with_a_score_are_needed() -> None:
    made = newbob("loss", growth=2.0)
    assert fold(made, [5.0]) == [1, 1]
    assert fold(made, [5.0, None, 5.0, 5.0]) == [1, 1, 1, 1, 0.5]


def test_scores_of_other_names_change_nothing() -> None:
    made = newbob("loss")
    memory = made.see(made.start(), {"loss": 1.0}, clock(1))
    assert made.see(memory, {"accuracy": 1.0}, clock(2)) == memory
    assert made.see(memory, {}, clock(2)) == memory


# what follows


def test_growth_decay_and_functions() -> None:
    assert fold(newbob("loss", decay=0.1, growth=1.5), [1.0, 0.5, 0.5]) == pytest.approx([1, 1, 1.5, 0.15])
    made = newbob("loss", decay=lambda value: value - 0.25, growth=lambda value: min(2 * value, 3))
    assert fold(made, [4.0, 2.0, 1.0, 0.5, 0.5]) == [1, 1, 2, 3, 3, 2.75]


def test_between_enough_and_much_it_stays() -> None:
    made = newbob("loss", growth=2.0, min_improvement=0.1, grow_improvement=0.5)
    assert fold(made, [8.0, 6.0, 2.0, 1.9, 0.95]) == [1, 1, 1, 2, 1, 1]


def test_the_mean_over_a_window_of_looks() -> None:
    # Relative improvements 1/2, 0, 0, 1/2, 0: means over two are 1/2 (one so far), 1/4, 0, 1/4, 1/4.
    made = newbob("loss", window=2, min_improvement=0.2)
    assert fold(made, [8.0, 4.0, 4.0, 4.0, 2.0, 2.0]) == [1, 1, 1, 1, 0.5, 0.5, 0.5]


def test_at_every_so_manieth_look() -> None:
    assert fold(newbob("loss", every=3), [1.0] * 7) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_held_for_some_looks() -> None:
    assert fold(newbob("loss", hold=3), [1.0] * 8) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert fold(newbob("loss", hold=1), [1.0] * 3) == fold(newbob("loss"), [1.0] * 3)


def test_at_a_small_value_a_small_improvement_counts_as_much() -> None:
    scores = [1.0, 1.0, 0.994, 0.988]
    assert fold(newbob("loss"), scores) == [1, 1, 0.5, 0.25, 0.125]
    assert fold(newbob("loss", scaled_by_value=True), scores) == [1, 1, 0.5, 0.5, 0.5]
    # At 0 there is no such measure: the improvement counts as it is.
    assert fold(newbob("loss", scaled_by_value=True, pinned={2: 0.0, 3: 1.0}), [1.0, 0.5])[-1] == 1


def test_bounds_hold_for_all() -> None:
    made = newbob("loss", start=0.5, decay=0.1, growth=10.0, low=0.2, high=0.8, pinned={1: 0.0, 2: 3.0, 7: 0.1, 8: 1})
    values = fold(made, [1.0, 0.9, 0.8, 0.8, 0.8, 0.7, 0.6, 0.6])
    assert values == [0.2, 0.8, 0.8, 0.8, 0.2, 0.2, 0.2, 0.8, 0.2]


def test_the_start_is_the_rate_itself_and_a_factor_without() -> None:
    assert fold(newbob("loss", start=1e-3), [1.0, 1.0]) == [1e-3, 1e-3, 5e-4]
    assert fold(newbob("loss") * 1e-3, [1.0, 1.0]) == [1e-3, 1e-3, 5e-4]


# which score


def test_of_several_names_the_first_counts_and_different_ones_are_not_compared() -> None:
    made = newbob(("a_loss", "b_loss"))
    memory, values = made.start(), []
    for epoch, metrics in enumerate(
        ({"b_loss": 2.0}, {"b_loss": 2.0}, {"a_loss": 1.0, "b_loss": 2.0}, {"a_loss": 1.0}, {"b_loss": 0.1}), 1
    ):
        memory = made.see(memory, metrics, clock(epoch))
        values.append(memory[0])
    assert values == [1, 0.5, 0.5, 0.25, 0.25]
    assert made.see(memory, {"a_loss": None, "b_loss": 0.1})[0] == 0.125
    assert repr(made) == "newbob(('a_loss', 'b_loss'), 'min')"


def both(scores: dict[str, float]) -> float:
    return scores["ce"] + 0.5 * scores["ctc"]


def test_a_function_of_the_scores() -> None:
    made = newbob(both, "min", names=("ce", "ctc"))
    memory = made.start()
    for ce, ctc in ((1.0, 2.0), (0.9, 2.2), (0.4, 2.2)):
        memory = made.see(memory, {"ce": ce, "ctc": ctc})
    assert memory[0] == 0.5
    assert made.see(memory, {"ce": 3.0}) == memory
    assert made.see(memory, {"ce": 3.0, "ctc": None})[8] is None
    assert read(write(made), {"both": both}) == made
    assert repr(made) == "newbob(both, 'min', names=('ce', 'ctc'))"


# pinned epochs


def test_pinned_epochs_have_their_value_and_the_control_goes_on_from_the_last() -> None:
    made = newbob("loss", start=1.0, pinned=[0.1, 0.2, 0.4])
    assert fold(made, [1.0] * 5) == [0.1, 0.2, 0.4, 0.2, 0.1, 0.05]
    assert fold(newbob("loss", pinned={1: 0.1, 4: 0.8}), [1.0] * 6) == [0.1, 0.1, 0.05, 0.8, 0.4, 0.2, 0.1]
    # Before anything was heard the last one pinned goes on.
    assert [made.at(clock(epoch)) for epoch in (0, 0.99, 1, 2.5, 3, 9)] == [0.1, 0.1, 0.2, 0.4, 0.4, 0.4]


def test_within_a_pinned_epoch_no_look_changes_the_value() -> None:
    made = newbob("loss", pinned={3: 0.4})
    memory = made.start()
    for epoch in (1, 2, 2.25, 2.5, 2.75):
        memory = made.see(memory, {"loss": 1.0}, clock(epoch))
        if epoch > 1:
            assert made.at(clock(epoch), memory) == 0.4
    memory = made.see(memory, {"loss": 1.0}, clock(3))
    assert made.at(clock(3), memory) == 0.2


def test_looks_that_are_rarer_than_epochs() -> None:
    made = newbob("loss", pinned={2: 0.4, 3: 0.8})
    memory = made.see(made.start(), {"loss": 1.0}, clock(1))
    assert [made.at(clock(epoch), memory) for epoch in (1, 2, 3, 4)] == [0.4, 0.8, 0.8, 0.8]
    memory = made.see(memory, {"loss": 1.0}, clock(5))
    assert made.at(clock(5), memory) == 0.4


def test_pinned_epochs_are_counted_on_its_own_clock() -> None:
    made = pieces(9.0, (epochs(2), newbob("loss", pinned={1: 0.1, 2: 0.8})))
    assert fold(made, [1.0] * 5) == [9, 9, 0.1, 0.8, 0.4, 0.2]


def test_pinned_epochs_need_a_clock_that_counts_them() -> None:
    made = newbob("loss", pinned={2: 0.4})
    with pytest.raises(ScheduleError, match="epochs are pinned, and the clock at the look was not told"):
        made.see(made.start(), {"loss": 1.0})
    with pytest.raises(ScheduleError, match="position in epochs is not known here"):
        made.check(Extent(steps=100), ("epochs",))
    with pytest.raises(ScheduleError, match="epochs is not known"):
        etude.Trainer(torch.nn.Linear(1, 1), "sgd", learning_rate=made)
    newbob("loss").check(Extent(steps=100), ("epochs",))


def test_in_a_cycle_nothing_is_pinned() -> None:
    made = cycle(newbob("loss", pinned={1: 0.1}).until(epochs(1)), constant(0.5).until(epochs(1)))
    with pytest.raises(ScheduleError, match="pins epochs, and its clock begins anew with each turn"):
        made.check(Extent(epochs=10))


# as a part of others


def test_under_a_warm_up_in_steps() -> None:
    made = warmup(steps(100)) * newbob("loss", start=0.8)
    made.check(Extent(steps=2000, epochs=20))
    memory = made.see(made.see(made.start(), {"loss": 1.0}, clock(1)), {"loss": 1.0}, clock(2))
    assert [made.at(Progress(step=n)) for n in (0, 49, 99, 500)] == pytest.approx([0.008, 0.4, 0.8, 0.8])
    assert made.at(clock(2), memory) == 0.4


def test_in_a_piece_that_begins_later_it_hears_all_and_changes_nothing_before() -> None:
    made = pieces(linear(0, 1, over=epochs(2)), (epochs(2), newbob("loss", growth=2.0)))
    made.check(Extent(steps=2000, epochs=20))
    # The looks at the ends of epochs 1 and 2 are remembered: that of epoch 3 is compared with the last of them.
    assert fold(made, [1.0, 1.0, 1.0, 0.5]) == [0, 0.5, 1, 0.5, 1]
    joined = constant(3.0).until(epochs(2)).then(newbob("loss"))
    assert fold(joined, [1.0] * 4) == [3, 3, 1, 0.5, 0.25]


def test_times_a_curve_in_a_clamp_in_a_cycle_and_followed() -> None:
    wave = newbob("loss") * cosine(1.0, over=epochs(4))
    assert fold(wave, [1.0] * 4) == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.25, (1 - 0.5**0.5) / 8, 0], abs=1e-12)
    assert fold(newbob("loss").clamp(0.4), [1.0] * 4) == [1, 1, 0.5, 0.4, 0.4]
    turns = cycle(newbob("loss").until(epochs(1)), constant(9.0).until(epochs(1)))
    turns.check(Extent(epochs=20))
    assert fold(turns, [1.0] * 4) == [1, 9, 0.5, 9, 0.125]
    followed = newbob("loss").until(epochs(3)).then(newbob("loss", start=8.0))
    followed.check(Extent(steps=2000, epochs=20))
    assert fold(followed, [1.0] * 5) == [1, 1, 0.5, 8, 4, 2]


# memory


@pytest.mark.parametrize(
    "made",
    [
        newbob("loss", window=3, scaled_by_value=True, hold=2),
        newbob("loss", pinned={2: 0.3, 5: 0.7}, back_to_best="keep"),
        warmup(epochs(3)) * pieces(0.5, (epochs(1), newbob("loss", every=2, growth=1.1, high=1.2))),
    ],
    ids=repr,
)
def test_the_memory_alone_says_how_it_goes_on(made: Schedule) -> None:
    scores = [2.0, 1.0, nan, 1.1, 1.0, inf, 0.9, 0.91, 0.0, 0.0]
    memory = kept = made.start()
    for epoch, score in enumerate(scores, 1):
        memory = made.see(memory, {"loss": score}, clock(epoch))
        kept = made.see(json.loads(json.dumps(kept, allow_nan=False)), {"loss": score}, clock(epoch))
        assert made.at(clock(epoch), memory) == made.at(clock(epoch), kept)
    assert json.dumps(kept) == json.dumps(memory)


def test_it_is_a_value_that_prints_as_its_call() -> None:
    made = newbob("val.loss", start=0.01, decay=0.7, window=4, every=2, pinned={8: 9e-3, 1: 0.01}, back_to_best="clear")
    said = "newbob('val.loss', 'min', start=0.01, decay=0.7, window=4, every=2, pinned={1: 0.01, 8: 0.009}, "
    assert repr(made) == said + "back_to_best='clear')"
    assert read(write(made)) == made
    assert hash(read(write(made))) == hash(made)
    assert (made.kind, made.reactive, made.constant, made.listens) == ("number", True, False, {"val.loss"})
    assert read(write(newbob("loss", high=2.0, low=0.5, relative=False))) == newbob(
        "loss", relative=False, high=2, low=0.5
    )


# back to the best net


def test_it_asks_for_the_best_net_at_each_decay_and_goes_on_from_its_score() -> None:
    made = newbob("loss", back_to_best="clear", low=0.25)
    memory, asked = made.start(), []
    for epoch, score in enumerate((1.0, 0.5, 0.8, 0.7, 0.4, 0.4), 1):
        before, memory = memory, made.see(memory, {"loss": score}, clock(epoch))
        asked.append(made.asks_for_best(before, memory))
    # After 0.8 the net is the one of 0.5 again: 0.7 is worse. At its lowest it goes back no more.
    assert asked == ["", "", "clear", "clear", "", ""]
    assert memory[0] == 0.25
    assert fold(newbob("loss"), [1.0, 0.5, 0.8, 0.7])[-1] == 0.5


def test_it_does_not_go_back_for_a_decay_that_a_pinned_epoch_hides() -> None:
    made = newbob("loss", back_to_best="keep", pinned={3: 1.0})
    first = made.see(made.start(), {"loss": 1.0}, clock(1))
    hidden = made.see(first, {"loss": 1.0}, clock(2))
    shown = made.see(hidden, {"loss": 1.0}, clock(3))
    assert [made.asks_for_best(first, hidden), made.asks_for_best(hidden, shown)] == ["", "keep"]


def test_a_trainer_keeps_no_best_net() -> None:
    rate = 0.1 * newbob("val.loss", back_to_best="keep")
    with pytest.raises(
        SettingError, match=r"goes back to the best net, and a Trainer keeps none\. Leave back_to_best="
    ):
        etude.Trainer(torch.nn.Linear(1, 1), "sgd", learning_rate=rate)


# in runs and trainers


def train(rate: Schedule, **options: Any) -> etude.Result:
    """Four epochs in which the validation loss does not change: no input explains the targets."""
    x, y = torch.zeros(8, 2), torch.zeros(8, 1)
    given = {"loss": "mse", "optimizer": "sgd", "batch_size": 8, "progress": False, "validation": (x, y)}
    return etude.train(
        torch.nn.Linear(2, 1, bias=False), (x, y), learning_rate=rate, **{**given, "epochs": 4, **options}
    )


def test_it_hears_the_looks_of_a_run() -> None:
    assert train(newbob("val.loss", start=0.1)).history["rate"].values == pytest.approx([0.1, 0.1, 0.05, 0.025])
    pinned = newbob("val.loss", start=0.1, pinned={1: 0.2, 3: 0.4})
    assert train(pinned).history["rate"].values == pytest.approx([0.2, 0.2, 0.4, 0.2])


def test_a_run_that_goes_on_goes_on_with_it(tmp_path: Path) -> None:
    rate = newbob("val.loss", start=0.1, pinned={2: 0.3}, window=2)
    saving = etude.Directory(tmp_path, etude.every(epochs(1)), keep=None)
    whole = train(rate, epochs=6, checkpoint=saving).history["rate"].values
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) >= 5
    for file in files:
        assert train(rate, epochs=6, resume=file).history["rate"].values == whole


def test_a_score_that_is_not_measured_is_an_error_before_the_first_step() -> None:
    with pytest.raises(ScheduleError, match=r"listens to 'val\.los', which is not measured.*Nearest: \"val\.loss\""):
        train(newbob("val.los", "min", start=0.1))


def test_a_trainer_is_told_and_saves_it() -> None:
    def trainer() -> etude.Trainer:
        return etude.Trainer(torch.nn.Linear(2, 1), "sgd", learning_rate=newbob("val.loss", start=0.1, hold=2))

    made, again, rates = trainer(), trainer(), []
    for score in (1.0, 1.0, 1.0):
        made.net(torch.ones(1, 2)).sum().backward()
        made.step()
        made.see({"val.loss": score})
        rates.append(made.learning_rate)
    again.load_state_dict(made.state_dict())
    for each in (made, again):
        each.see({"val.loss": 1.0})
    assert rates == [0.1, 0.05, 0.05]
    assert made.learning_rate == again.learning_rate == 0.025


def test_a_trainer_that_knows_its_epochs_pins_them() -> None:
    rate = newbob("val.loss", start=0.1, pinned={2: 0.4})
    made = etude.Trainer(torch.nn.Linear(2, 1), "sgd", learning_rate=rate, steps_per_epoch=2, total=epochs(4))
    rates = []
    for step in range(8):
        rates.append(made.learning_rate)
        made.net(torch.ones(1, 2)).sum().backward()
        made.step()
        if step % 2:
            made.see({"val.loss": 1.0})
    assert rates == [0.1, 0.1, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1]


# wrong uses


def fails(value: float) -> float:
    raise KeyError(value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: newbob(""), r"the name of a score is needed. Write newbob\('val.loss'\)"),
        (lambda: newbob("bleu"), r"whether less or more is better.*Write newbob\('bleu', mode='min'\) or mode='max'"),
        (lambda: newbob("loss", "mni"), "mode is one of 'min', 'max'. Nearest: \"min\""),
        (lambda: newbob("loss", start=0), "it must start above 0, for it is multiplied. Write start=1e-3"),
        (lambda: newbob("loss", start="a"), "a finite number is needed for start, not 'a'"),
        (lambda: newbob("loss", decay=0), "decay must be above 0, not 0. Write decay=0.5"),
        (lambda: newbob("loss", growth=-1), "growth must be above 0, not -1. Write growth=1.0"),
        (lambda: newbob("loss", decay=True), "a finite number is needed for decay"),
        (lambda: newbob("loss", decay="half"), "a finite number is needed for decay, not 'half'"),
        (lambda: newbob("loss", decay=cosine(1.0)), "a finite number is needed for decay"),
        (lambda: newbob("loss", decay=fails), "decay: the function failed at 1.0: KeyError: 1.0"),
        (lambda: newbob("loss", growth=lambda value: "a"), "growth: a finite number is needed, not 'a'"),
        (lambda: newbob("loss", decay=lambda value: -value), "makes -1.0 of 1.0: a number of at least 0 is needed"),
        (lambda: newbob("loss", decay=1.5), "decay=1.5 is above growth=1.0: what does not improve would fare better"),
        (lambda: newbob("loss", relative="yes"), "relative is True or False, not 'yes'"),
        (lambda: newbob("loss", scaled_by_value=1), "scaled_by_value is True or False, not 1"),
        (lambda: newbob("loss", relative_to="olf"), "relative_to is one of 'old', 'new'. Nearest: \"old\""),
        (lambda: newbob("loss", min_improvement=nan), "a finite number is needed for min_improvement"),
        (lambda: newbob("loss", grow_improvement=0.0), "between 0.0 and 0.01 would both decay and grow. Write a grow_"),
        (lambda: newbob("loss", window=0), "window is a whole number of looks, at least 1. Write window=3"),
        (lambda: newbob("loss", every=0.5), "every is a whole number of looks, at least 1"),
        (lambda: newbob("loss", hold=-1), "hold is a whole number of looks, at least 0"),
        (lambda: newbob("loss", low=-0.1), "low must be at least 0. Write low=0.0"),
        (lambda: newbob("loss", low=2), "low=2.0 is above the start 1.0: a decay would raise it"),
        (lambda: newbob("loss", high=0.5), "high=0.5 is below the start 1.0. Write more"),
        (lambda: newbob("loss", high=nan), "a finite number is needed for high"),
        (
            lambda: newbob("loss", pinned={0: 0.1}),
            r"pinned epochs are whole numbers from 1, not 0. Write pinned=\{8: 1e",
        ),
        (lambda: newbob("loss", pinned={epochs(1): 0.1}), r"not epochs\(1\).*For other moments write pieces\(...\)"),
        (lambda: newbob("loss", pinned={1.5: 0.1}), "pinned epochs are whole numbers from 1, not 1.5"),
        (lambda: newbob("loss", pinned={1: "a"}), "a finite number is needed for epoch 1, not 'a'"),
        (lambda: newbob("loss", pinned={1: -0.1}), "pinned values are at least 0"),
        (lambda: newbob("loss", pinned=0.5), "pinned is a dict from epoch to value, or a list"),
        (
            lambda: newbob("loss", pinned={1: 0.5, 3: 0}),
            "after epoch 3 it would stay at 0 for ever, since it is multipl",
        ),
        (lambda: newbob("loss", back_to_best=True), r"back_to_best=True does not say.*Write back_to_best='clear' or"),
        (
            lambda: newbob(both, "min", names=("ce", "cct")),
            "the function of scores made no number of .*KeyError: 'ctc'",
        ),
        (lambda: newbob(both, names=("ce", "ctc")), "a function's score is better: write mode='min' or mode='max'"),
    ],
)
def test_wrong_options(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        make()


def test_an_unknown_option_gets_the_nearest() -> None:
    with pytest.raises(SettingError, match=r"There is no argument 'min_improvment'\. Nearest: \"min_improvement\""):
        newbob("loss", min_improvment=0.1)  # type: ignore[call-arg]


def test_a_function_that_fails_in_the_run_is_named() -> None:
    made = newbob("loss", decay=lambda value: value / 2 if value == 1 else nan)
    memory = made.see(made.see(made.start(), {"loss": 1.0}), {"loss": 1.0})
    with pytest.raises(ScheduleError, match=r"newbob.*a finite number is needed, not nan"):
        made.see(memory, {"loss": 1.0})


def test_a_function_of_scores_that_fails_in_the_run_is_named() -> None:
    made = newbob(lambda scores: 1 / scores["ce"], "min", names=("ce",))
    with pytest.raises(ScheduleError, match=r"made no number of \{'ce': 0\.0\}: ZeroDivisionError"):
        made.see(made.start(), {"ce": 0.0})


def test_0_can_be_pinned_where_something_leads_away_from_it() -> None:
    assert fold(newbob("loss", pinned={2: 0.0, 3: 0.5}), [1.0] * 3) == [1, 0, 0.5, 0.25]
    assert fold(newbob("loss", pinned={2: 0.0}, low=0.125), [1.0] * 3) == [1, 0.125, 0.125, 0.125]
    away = newbob("loss", pinned={2: 0.0}, decay=lambda value: max(value, 0.25))
    assert fold(away, [1.0] * 3) == [1, 0, 0.25, 0.25]
