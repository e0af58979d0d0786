"""What was meant by a name that is not there: the names most like it, and what other libraries call the same."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_ALSO_CALLED = {
    "learning_rate": "lr base_lr init_lr initial_lr max_lr",
    "learning_rate_multipliers": "lr_mult lr_mults lr_multipliers param_groups",
    "epochs": "nb_epoch n_epochs num_epochs max_epochs num_train_epochs",
    "steps": "iterations max_iter",
    "steps_per_epoch": "batches_per_epoch epoch_length",
    "total": "total_steps num_training_steps",
    "batch_size": "bs batch",
    "validation": "val valid dev val_data valid_data eval_data eval_dataset test_data",
    "checkpoint": "ckpt save_dir save_to output_dir",
    "resume": "ckpt_path load_from continue_from",
    "metrics": "scores compute_metrics",
    "averages": "ema swa",
    "loss": "criterion loss_fn loss_func loss_function objective",
    "optimizer": "opt solver",
    "weight_decay": "wd decay l2_reg",
    "clip_norm": "grad_clip gradient_clip clip_grad_norm max_grad_norm gradient_clip_val gradient_clipping max_norm",
    "clip_value": "clip_grad_value",
    "seed": "random_state",
    "precision": "amp mixed_precision dtype fp16",
    "patience": "early_stopping n_iter_no_change",
    "min_delta": "tol tolerance",
    "time_limit": "timeout time_budget max_time",
    "accumulate": "grad_accum gradient_accumulation accumulate_grad_batches gradient_accumulation_steps",
    "listeners": "callbacks hooks",
    "progress": "verbose tqdm progress_bar enable_progress_bar",
    "non_finite": "nan on_nan nan_policy detect_anomaly",
    "update_schedule": "freeze freeze_schedule",
    "rules": "param_groups",
    "loss_scale": "scaler grad_scaler",
    "turn": "n_critic",
    "keep": "max_to_keep save_top_k save_total_limit",
    "cadence": "interval frequency period every",
    "every": "interval frequency period cadence",
    "on_failure": "on_error",
    "latent": "z_dim noise_dim",
    "eps": "epsilon",
    "rise": "pct_start",
    "factor": "gamma",
    "low": "min_lr eta_min",
    "best": "monitor",
    "mode": "direction",
    "direction": "mode",
    "accuracy": "acc",
    "cross_entropy": "xent ce categorical_crossentropy sparse_categorical_crossentropy",
    "mse": "mean_squared_error l2",
    "l1": "mean_absolute_error",
    "normal": "untruncated_normal gaussian",
    "val.loss": "validation_loss valid_loss",
    "val.accuracy": "val_acc validation_accuracy",
}
"""What other libraries call something, by its name here."""


def _bare(word: str) -> str:
    """A word as words are compared: upper and lower case are alike, and what joins its pieces does not count."""
    return "".join(letter for letter in word.lower() if letter.isalnum())


_MEANT = [(right, {_bare(each) for each in also.split()}) for right, also in _ALSO_CALLED.items()]


def nearest(word: object, words: Iterable[str], count: int = 3) -> str:
    """The words most like `word`, as the end of a message: `' Nearest: "a", "b".'`, or an empty string.

    Upper and lower case count as alike, and so do words that differ in underscores or dots only. A word that contains
    `word` (or is contained in it) counts as near, and what other libraries call the same is it.
    """
    asked, known = _bare(str(word)), dict.fromkeys(words)
    bare: dict[str, str] = {}
    for each in known:
        bare.setdefault(_bare(each), each)
    found = [bare[asked]] if asked in bare else []
    found += [right for right, also in _MEANT if asked in also and right in known]
    found += [bare[match] for match in get_close_matches(asked, bare, n=count, cutoff=0.55)]
    found += [each for low, each in bare.items() if len(asked) > 2 and asked in low]
    quoted = ", ".join(f'"{name}"' for name in list(dict.fromkeys(found))[:count])
    return f" Nearest: {quoted}." if quoted else ""


def is_slip(word: str, words: Iterable[str]) -> bool:
    """Whether a word that could be something else is very like one of these, or another library's name for it."""
    asked, known = _bare(word), set(words)
    meant = any(asked in also and right in known for right, also in _MEANT)
    return meant or (len(asked) > 3 and bool(get_close_matches(asked, map(_bare, known), n=1, cutoff=0.75)))


def not_there(names: Iterable[object], known: Iterable[str], what: str = "option") -> str:
    """Sentences for all names that are not among the known ones: `There is no option 'epoch'. Nearest: "epochs".`"""
    words = list(known)
    return " ".join(f"There is no {what} {name!r}.{nearest(name, words)}" for name in names)
