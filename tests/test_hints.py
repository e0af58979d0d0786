"""What was meant by a name that is not there."""

from __future__ import annotations

import pytest

from etude.hints import is_slip, nearest, not_there

OPTIONS = ("learning_rate", "epochs", "steps", "batch_size", "validation", "eps", "clip_norm", "loss", "val.loss")


@pytest.mark.parametrize(
    ("word", "first"),
    [
        ("epcohs", "epochs"),
        ("EPOCHS", "epochs"),
        ("epoch", "epochs"),
        ("batchSize", "batch_size"),
        ("BatchSize", "batch_size"),
        ("lr", "learning_rate"),
        ("num_epochs", "epochs"),
        ("max_steps", "steps"),
        ("epsilon", "eps"),
        ("val", "validation"),
        ("criterion", "loss"),
        ("max_grad_norm", "clip_norm"),
        ("val_loss", "val.loss"),
        ("validation_loss", "val.loss"),
    ],
)
def test_the_right_name_comes_first(word: str, first: str) -> None:
    assert nearest(word, OPTIONS).startswith(f' Nearest: "{first}"')


def test_nothing_is_offered_where_nothing_is_near() -> None:
    assert nearest("zzz", OPTIONS) == ""
    assert nearest("lr", ("momentum",)) == ""
    assert nearest(3, ("loss",)) == ""


def test_three_at_most_are_offered_each_once() -> None:
    assert nearest("loss", ("loss", "losses", "loss_a", "loss_b")).count('"') == 6


def test_a_slip_is_very_near() -> None:
    assert is_slip("epohcs", OPTIONS)
    assert is_slip("lr", OPTIONS)
    assert not is_slip("warmup_steps", OPTIONS)
    assert not is_slip("beta1", OPTIONS)
    assert not is_slip("eps", ("steps", "epochs"))


def test_all_names_are_told() -> None:
    assert not_there(["epoch", "zzz"], OPTIONS) == (
        "There is no option 'epoch'. Nearest: \"epochs\". There is no option 'zzz'."
    )
    assert not_there([], OPTIONS) == ""
