"""What a plan says that can hardly be meant is told before the first step, and nothing that is meant is."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude import (
    Evaluate,
    Extent,
    Plan,
    PlanError,
    RuleError,
    ScheduleError,
    SettingError,
    StaleGradientError,
    Trainer,
    Update,
    constant,
    cosine,
    cycle,
    epochs,
    every,
    everything,
    following,
    linear,
    losses,
    minutes,
    newbob,
    no_improvement,
    part,
    pieces,
    plateau,
    steps,
    warmup,
)
from etude.values.unbegun import never_begun
from small import Noisy, classified, mlp, options, trained

DATA = classified(40)
FADING = {"ce": "cross_entropy", "size": (lambda output: output.square().mean(), linear(1, 0))}
SMOOTH = losses.cross_entropy(smoothing=linear(0.5, 0))


def told(net: nn.Module | None = None, data: Any = DATA, **changed: Any) -> list[str]:
    """The warnings of a check of two epochs, twenty steps."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        Plan(**options(**{"epochs": 2, **changed})).check(mlp() if net is None else net, data)
    return [str(one.message) for one in found]


class Tempered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = 1.0

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output / self.temperature, target)


# ------------------------------------------------------------------------------------------------- measures that move


@pytest.mark.parametrize(
    ("said", "pieces_"),
    [
        (
            {"loss": SMOOTH, "validation": 0.2},
            ["'val.loss' is no steady measure: 'loss.smoothing'", "The best net goes by it", 'metrics="accuracy"'],
        ),
        (
            {"loss": SMOOTH, "validation": 0.2, "metrics": "accuracy"},
            ["write validation=Evaluate(..., best='accuracy')"],
        ),
        (
            {"loss": FADING, "validation": 0.2, "patience": 2},
            ["'weight.size' (linear(1, 0))", "The best net and patience= go by it", "best='ce'"],
        ),
        (
            {"loss": FADING, "patience": 2},
            ["'epoch.loss'", "stop=no_improvement('epoch.ce', patience=3, mode=\"min\") in place of patience"],
        ),
        (
            {"loss": FADING, "validation": Evaluate(0.2, best="ce"), "learning_rate": newbob("val.loss", start=1e-3)},
            [
                "newbob('val.loss', 'min', start=0.001) goes by it",
                "'val.ce' (mode='min') where schedules and stop= name 'val.loss'",
            ],
        ),
        (
            {"loss": FADING, "validation": Evaluate(0.2, best="ce"), "stop": no_improvement("val.loss", 2)},
            ["stop= goes by it", "'val.ce' (mode='min') where schedules and stop= name 'val.loss'"],
        ),
        (
            {"loss": {"ce": SMOOTH, "plain": losses.term("cross_entropy", only="evaluation")}, "validation": 0.2},
            ["'ce.smoothing'", "best='plain'"],
        ),
        (
            # A term that fades is the last that one would go by.
            {"loss": {"ce": SMOOTH, "size": FADING["size"], "wrong": losses.error("error_rate")}, "validation": 0.2},
            ["'ce.smoothing' (linear(0.5, 0)), 'weight.size' (linear(1, 0)) change", "best='wrong'"],
        ),
        (
            {
                "loss": {"ce": SMOOTH, "size": lambda output: output.square().mean()},
                "validation": Evaluate(0.2, best="ce"),
            },
            ["'val.ce' is no steady measure: 'ce.smoothing'"],
        ),
        (
            {
                "loss": {"a": losses.term(SMOOTH, exponent=True), "b": (lambda output: output.sum() * 0, 1.0)},
                "validation": Evaluate(0.2, best="a.perplexity"),
            },
            ["'val.a.perplexity' is no steady measure", "best='b'"],
        ),
        (
            {"loss": {"ce": "cross_entropy", "n": (lambda o: o.mean(), plateau("val.ce", "min"))}, "validation": 0.2},
            ["'weight.n' (plateau('val.ce', 'min'))", "best='ce'"],
        ),
    ],
)
def test_what_goes_by_a_measure_that_moves_is_told_what_to_go_by(said: dict[str, Any], pieces_: list[str]) -> None:
    found = told(**said)
    assert len(found) == 1
    for piece in pieces_:
        assert piece in found[0]
    with pytest.raises(RuleError, match="no steady measure"):
        told(strict=True, **said)


def test_a_knob_of_the_loss_moves_its_measure() -> None:
    loss = Tempered()
    assert "the knob 'temperature' of the loss" in "".join(
        told(loss=loss, knobs={"temperature": [(loss, linear(1, 2))]}, validation=0.2)
    )
    assert told(loss=loss, knobs={"temperature": [(loss, 2.0)]}, validation=0.2) == []
    # Dropout is off in evaluation.
    assert told(Noisy(), loss="cross_entropy", knobs={"p": linear(0, 0.2)}, validation=0.2) == []


@pytest.mark.parametrize(
    "said",
    [
        {"loss": SMOOTH},
        {"loss": "cross_entropy", "validation": 0.2, "patience": 3},
        {"loss": SMOOTH, "validation": Evaluate(0.2, metrics="accuracy", best="accuracy"), "patience": 3},
        {"loss": FADING, "validation": Evaluate(0.2, best="ce"), "stop": no_improvement("val.ce", 2, mode="min")},
        # not measured in evaluation, or as good as constant wherever it is
        {
            "loss": {
                "ce": "cross_entropy",
                "size": losses.term(lambda o: o.square().mean(), linear(1, 0), only="training"),
            },
            "validation": 0.2,
        },
        {"loss": {"ce": "cross_entropy", "size": (lambda o: o.mean(), warmup(steps(5)))}, "validation": 0.2},
        {"loss": {"ce": "cross_entropy", "size": (lambda o: o.mean(), lambda p: 0.5)}, "validation": 0.2},
        # never in the sum
        {
            "loss": {
                "ce": "cross_entropy",
                "soft": losses.error(nn.functional.cross_entropy, settings={"label_smoothing": linear(0.5, 0.0)}),
            },
            "validation": 0.2,
        },
        {"loss": "cross_entropy", "validation": 0.2, "learning_rate": cosine(1e-3), "clip_norm": linear(1, 2)},
    ],
)
def test_a_steady_measure_is_no_matter(said: dict[str, Any]) -> None:
    assert told(**said) == []


def test_the_warning_is_right_the_score_falls_while_the_net_stands_still() -> None:
    with pytest.warns(UserWarning, match="no steady measure"):
        result = trained(data=DATA, loss=SMOOTH, epochs=3, learning_rate=1e-12, validation=0.2, metrics="accuracy")
    moving, steady = (result.history[name].values for name in ("val.loss", "val.accuracy"))
    assert len(set(moving)) == 3
    assert len(set(steady)) == 1


# ---------------------------------------------------------------------------------------------- a rate that is a factor


@pytest.mark.parametrize(
    "rate",
    [
        warmup(steps(3)),
        plateau("val.loss"),
        newbob("val.loss"),
        warmup(steps(3)) * plateau("val.loss"),
        pieces(warmup(steps(3)), (steps(5), 1e-3)),
        {"0": newbob("val.loss"), everything: 1e-3},
    ],
)
def test_a_factor_alone_is_no_rate(rate: Any) -> None:
    found = told(learning_rate=rate, validation=0.2)
    assert len(found) == 1
    assert "a factor alone, so that the rate itself is 1.0. Write learning_rate=3e-4 * " in found[0]


@pytest.mark.parametrize(
    "said",
    [
        {"learning_rate": 3e-4 * warmup(steps(3))},
        {"learning_rate": 1.0 * warmup(steps(3)), "optimizer": "sgd"},
        {"learning_rate": 1.0, "optimizer": "sgd"},
        {"learning_rate": newbob("val.loss", start=1e-3)},
        {"learning_rate": plateau("val.loss", start=1e-3)},
        {"learning_rate": warmup(steps(3)), "optimizer": "adadelta"},  # which has a rate of 1 anyway
        {"learning_rate": warmup(steps(3)), "learning_rate_multipliers": 1e-3},
        {"weight_decay": 0.1, "rules": {"weight_decay": {"0": warmup(steps(3))}}},
    ],
)
def test_a_rate_is_one(said: dict[str, Any]) -> None:
    assert told(validation=0.2, **said) == []


def test_a_trainer_is_told_too() -> None:
    with pytest.warns(UserWarning, match="a factor alone"):
        Trainer(mlp(), learning_rate=warmup(steps(3)))


# ------------------------------------------------------------------------------------------------ pieces never reached


@pytest.mark.parametrize(
    ("said", "piece"),
    [
        ({"learning_rate": pieces(1e-3, (epochs(2), 1e-4))}, "the piece 0.0001, which begins after epochs(2),"),
        ({"learning_rate": pieces(1e-3, (steps(30), 1e-4), (steps(40), 1e-5))}, "is never reached, nor are 1 more:"),
        ({"update_schedule": pieces("0", (epochs(3), everything))}, "the piece everything"),
        ({"weight_decay": constant(0.1).until(steps(30)).then(0.2)}, "the piece 0.2, which begins after steps(30)"),
        ({"rules": {"weight_decay": {"0": cosine(0.1, 0, over=epochs(3)).then(0.2)}}}, "the piece 0.2"),
        ({"learning_rate": 1e-3 * pieces(1.0, (steps(15), constant(1.0).until(steps(9)).then(0.5)))}, "steps(9)"),
        ({"accumulate": pieces(1, (epochs(4), 2))}, "the piece 2"),
        ({"loss": {"ce": ("cross_entropy", pieces(1.0, (epochs(4), 2.0)))}}, "the piece 2.0"),
    ],
)
def test_a_piece_that_is_never_reached_is_told(said: dict[str, Any], piece: str) -> None:
    found = told(**said)
    assert len(found) == 1
    assert piece in found[0]
    assert "Write an earlier moment, or leave it out." in found[0]
    with pytest.raises(RuleError, match="is never reached"):
        told(strict=True, **said)


def test_a_pinned_epoch_that_never_comes_is_told() -> None:
    pinned = newbob("epoch.loss", start=1e-3, pinned={2: 1e-4, 3: 2e-4, 7: 3e-4})
    (found,) = told(learning_rate=pinned)
    assert "the piece 0.0002, which begins after epochs(2), is never reached, nor are 1 more" in found
    assert not told(learning_rate=pinned, epochs=7)
    assert not told(learning_rate=newbob("epoch.loss", start=1e-3, pinned={2: 1e-4}))


@pytest.mark.parametrize("cadence", [epochs(2), every(epochs(5)) | steps(20), every(steps(7)) & epochs(9)])
def test_a_schedule_that_hears_nothing_before_the_end_is_told(cadence: Any) -> None:
    said = {"learning_rate": newbob("val.loss", start=1e-3), "validation": Evaluate(0.25, every=cadence)}
    (found,) = told(batch_size=3, **said)
    assert found.startswith("newbob('val.loss', 'min', start=0.001) listens to 'val.loss', and validation data are not")
    with pytest.raises(RuleError, match="Look sooner"):
        told(batch_size=3, strict=True, **said)


@pytest.mark.parametrize("cadence", [epochs(1), every(steps(19)), every(epochs(5)) | minutes(1)])
def test_a_schedule_that_may_hear_something_is_no_matter(cadence: Any) -> None:
    look = Evaluate(0.25, every=cadence)
    assert not told(learning_rate=newbob("val.loss", start=1e-3), validation=look, batch_size=3)
    both = newbob(["val.loss", "epoch.loss"], start=1e-3)
    assert not told(learning_rate=both, validation=Evaluate(0.25, every=epochs(2)), batch_size=3)


def test_a_piece_of_a_knob_or_a_turn_is_told_too() -> None:
    loss = Tempered()
    rules = {"temperature": [(loss, pieces(1.0, (epochs(4), 2.0)))]}
    assert "the piece 2.0, which begins after epochs(4)" in "".join(told(loss=loss, knobs=rules))
    late = pieces(True, (epochs(5), False))
    both = [Update("a", "cross_entropy", part="0", turn=late), Update("b", "cross_entropy", part="2")]
    assert "the piece False" in "".join(told(loss=None, updates=both))


@pytest.mark.parametrize(
    "said",
    [
        {"learning_rate": pieces(1e-3, (epochs(1), 1e-4))},
        {"learning_rate": pieces(1e-3, (steps(19), 1e-4))},
        {"learning_rate": linear(1e-3, 0, over=epochs(30))},
        {"weight_decay": constant(0.1).until(steps(3)).then(linear(0.1, 0, over=epochs(5)))},
        {"update_schedule": [part("0") * 30, "2"]},
        {"learning_rate": pieces(1e-3, (steps(30), 1e-4)), "epochs": None, "time_limit": etude.minutes(1)},
    ],
)
def test_pieces_that_are_reached_or_may_be_are_no_matter(said: dict[str, Any]) -> None:
    assert told(**said) == []


def test_what_is_never_begun_is_found_on_every_clock() -> None:
    run = Extent(steps=20, epochs=2)
    inside = pieces(1, (steps(4), 2), (steps(8), 3))
    assert list(never_begun(inside, run)) == []
    assert [repr(piece) for _, piece in never_begun(inside.until(steps(6)).then(0), run)] == ["constant(3)"]
    assert [repr(piece) for _, piece in never_begun(cycle(inside.until(steps(4)), 5), run)] == [
        "constant(2)",
        "constant(3)",
    ]
    assert [spans for spans, _ in never_begun(pieces(1, (epochs(1), pieces(1, (epochs(1), 2)))), run)] == [(epochs(1),)]
    assert list(never_begun(pieces(1, (steps(30), 2)), Extent())) == []


# ----------------------------------------------------------------------------------------- terms that leave arrays out


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.kind, self.size = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.body(x).relu()
        return {"kind": self.kind(hidden), "size": self.size(hidden)}


SIZED = {"x": DATA[0], "kind": DATA[1], "size": torch.zeros(40, 2)}


def both(size: Any) -> dict[str, Any]:
    return {"kind": "cross_entropy", "size": size}


def test_a_term_that_leaves_out_its_own_head_is_an_error_before_the_first_step() -> None:
    with pytest.raises(PlanError, match=r"'size.weight', 'size.bias' .* Write reaches=part\('body'\) \| 'size' in"):
        told(Heads(), SIZED, loss=both(losses.term("mse", reaches="body")))


@pytest.mark.parametrize(
    "said",
    [
        {"loss": both(losses.term("mse", reaches=part("body") | "size"))},
        {"loss": both(losses.term("mse", reaches="body")), "learning_rate_multipliers": {"size": 0}},
        {"loss": both(losses.term("mse", reaches="body")), "update_schedule": ["body", "kind"]},
        {"loss": both(losses.term("mse", reaches="body")), "ignore_stale_grad": True},
        {"loss": {**both(losses.term("mse", reaches="body")), "more": losses.term("mse", of="size")}},
    ],
)
def test_what_is_held_or_reached_otherwise_is_no_matter(said: dict[str, Any]) -> None:
    assert told(Heads(), SIZED, **said) == []
    etude.train(Heads(), SIZED, progress=False, **options(**said))


def test_where_only_the_step_can_tell_it_says_what_to_write() -> None:
    loss = both(losses.term("mse", linear(0, 1), reaches="body"))
    with pytest.raises(StaleGradientError, match=r"write reaches=part\('body'\) \| 'size' in the term 'size'"):
        etude.train(Heads(), SIZED, progress=False, **options(loss=loss))


# ------------------------------------------------------------------------------------------------- words of elsewhere


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"learning_rate": "cosine"}, r"Write learning_rate=cosine\(3e-4, 0\)"),
        ({"learning_rate": "ReduceLROnPlateau"}, r'Write learning_rate=3e-4 \* plateau\("val.loss"\)'),
        ({"learning_rate": "1e-3"}, "Write learning_rate=0.001, without quotes"),
        ({"momentum": 0.9}, 'beta1=; for momentum= write optimizer="sgd"'),
        ({"warmup_steps": 5}, r"learning_rate=3e-4 \* warmup\(steps\(500\)\)"),
        ({"scheduler": 5}, r"learning_rate=cosine\(3e-4, 0\)"),
        ({"lr_scheduler": 5}, r"learning_rate=cosine\(3e-4, 0\)"),
        ({"rules": {"0": {"weight_decay": 0}}}, r"Write rules=\{'weight_decay': \{'0': 0\}\}"),
        ({"epochs": epochs(2)}, r"epochs=epochs\(2\): a whole number .* Write epochs=2\."),
        ({"steps": steps(7)}, r"Write steps=7\."),
    ],
)
def test_words_of_other_libraries_are_answered(said: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        told(**said)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: newbob("val.loss", lr=1e-3), 'Nearest: "start"'),
        (lambda: newbob("val.loss", min_delta=0.1), 'Nearest: "min_improvement"'),
        (lambda: newbob("val.loss", div_by_old=True), 'Nearest: "relative_to"'),
        (lambda: newbob("val.loss", grow_threshold=0.1), 'Nearest: "grow_improvement"'),
        (lambda: plateau("val.loss", min_improvement=0.1), 'Nearest: "threshold"'),
        (lambda: losses.term("mse", scale=0.3), 'Nearest: "weight"'),
        (lambda: losses.term("mse", as_error=True), r"losses\.error\(\.\.\.\) in place of term"),
        (lambda: losses.term("mse", custom_inv_norm_factor=3), r"the pair \(sum, count\)"),
        (lambda: losses.term("mse", calculate_exp_loss=True), 'Nearest: "exponent"'),
        (lambda: losses.ctc(zero_infinity=True), "is counted: <term>.no_path"),
        (lambda: losses.ctc(input_lengths=3), 'Nearest: "frames"'),
    ],
)
def test_arguments_of_other_libraries_are_answered(call: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        call()


@pytest.mark.parametrize("rate", [lambda epoch: 0.1 * 0.9**epoch, lambda epoch: 0.1 if epoch < 3 else 0.01])
def test_a_function_of_the_epoch_is_told_that_it_is_given_the_clock(rate: Any) -> None:
    with pytest.raises(ScheduleError, match=r"It is given a Progress, not a number: write p\.epoch"):
        told(learning_rate=rate)


def test_what_is_near_is_not_drowned_in_what_there_is() -> None:
    with pytest.raises(SettingError, match=r"There is no option 'epcohs'\. Nearest: \"epochs\"[^:]*$"):
        told(epcohs=3)
    with pytest.raises(SettingError, match=r"'zzz'\. Options of Plan: loss, .* Settings of the optimizer: "):
        told(zzz=3)
    with pytest.raises(SettingError, match=r"no setting 'weight_deca'\. Nearest: \"weight_decay\".* Settings: "):
        Trainer(mlp(), weight_deca=0.1)


def test_a_score_is_told_by_its_name() -> None:
    trainer = Trainer(mlp(), learning_rate=following(lambda scores: 0.1, "val.loss", start=0.1))
    with pytest.raises(SettingError, match=r"Write see\(\{'val.loss': 0.3\}\)"):
        trainer.see(0.3)  # type: ignore[arg-type]


def test_a_rate_of_0_for_everything_is_told() -> None:
    said = "The learning rate of every array is 0 in every step, so that it moves nothing"
    for rate in (0.0, warmup(steps(3)) * 0.0):
        (found,) = told(learning_rate=rate)
        assert found.startswith(said)
        assert "learning_rate=1e-3" in found
    with pytest.raises(RuleError, match=said):
        Plan(**options(learning_rate=0.0, strict=True, epochs=2)).check(mlp(), DATA)
    pair = [Update("a", "cross_entropy", part(0), learning_rate=0.0), Update("b", "cross_entropy", part(2))]
    (found,) = told(updates=pair, loss=None)
    assert "of every array of the update 'a' is 0" in found
    for rate in (linear(0.0, 0.1), pieces(0.0, (steps(3), 0.1))):
        assert told(learning_rate=rate) == []
