"""What was meant by a name that is not there."""

from __future__ import annotations

from inspect import signature

import pytest

import etude
from etude import layers, losses
from etude.hints import is_slip, nearest, not_there
from etude.run.plan import OF_TRAIN
from etude.run.statistics import STATISTICS
from etude.step.gradients import GRADIENT_SETTINGS

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


NAMES = (
    *signature(etude.Plan).parameters, *signature(etude.newbob).parameters, *signature(etude.plateau).parameters,
    *(name for made in (layers.StochasticDepth, layers.SpecAugment) for name in signature(made.__init__).parameters),
    *(name for made in (losses.cross_entropy, losses.ctc) for name in signature(made).parameters),
    *GRADIENT_SETTINGS, *OF_TRAIN, *STATISTICS,
)  # fmt: skip


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("EarlyStopping", ("patience", "stop")),
        ("callbacks", ("listeners",)),
        ("ReduceLROnPlateau", ("learning_rate",)),
        ("learning_rate_control", ("learning_rate",)),
        ("newbob", ("learning_rate",)),
        ("newbob_relative_error_threshold", ("min_improvement",)),
        ("newbob_learning_rate_decay", ("decay",)),
        ("min_learning_rate", ("low",)),
        ("label_smoothing", ("loss", "smoothing")),
        ("dropout", ("knobs",)),
        ("dropout_schedule", ("knobs",)),
        ("init", ("initialize",)),
        ("preload_from_files", ("initialize",)),
        ("load", ("resume", "initialize")),
        ("gradient_clip", ("clip_norm", "clip_value")),
        ("gradient_clip_norm", ("clip_array_norm",)),
        ("gradient_clip_avg_norm", ("clip_mean_norm",)),
        ("gradient_clip_global_norm", ("clip_norm",)),
        ("gradient_noise", ("noise",)),
        ("grad_norm", ("clip_norm", "probes", "norm")),
        ("variational_noise", ("weight_noise",)),
        ("param_dropout", ("weight_dropout",)),
        ("tie_word_embeddings", ("tie",)),
        ("restore_best_weights", ("back_to_best",)),
        ("auto_find_batch_size", ("out_of_memory",)),
        ("drop_prob", ("p",)),
        ("freq_mask_param", ("feature_width",)),
        ("blank_index", ("blank",)),
    ],
)
def test_words_of_other_frameworks(word: str, ours: tuple[str, ...]) -> None:
    told = nearest(word, NAMES)
    assert all(f'"{name}"' in told for name in ours), told
    assert told.startswith(f' Nearest: "{ours[0]}"')


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
