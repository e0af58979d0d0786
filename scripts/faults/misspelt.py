"""Names as people mistype them, and as other libraries call the same thing."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

SYNONYMS: dict[str, tuple[str, ...]] = {
    "learning_rate": ("lr", "learningRate", "base_lr", "initial_lr", "init_lr"),
    "learning_rate_multipliers": ("lr_multipliers", "lr_mult", "lr_mults"),
    "epochs": ("n_epochs", "num_epochs", "max_epochs", "nb_epoch", "num_train_epochs", "nEpochs"),
    "steps": ("max_steps", "n_steps", "num_steps", "iterations", "max_iter"),
    "batch_size": ("bs", "batchsize", "batch", "train_batch_size", "per_device_train_batch_size"),
    "validation": ("val", "valid", "validation_data", "val_data", "validation_split", "eval_dataset", "dev"),
    "checkpoint": ("checkpoints", "ckpt", "save_dir", "checkpoint_dir", "output_dir"),
    "metrics": ("metric", "compute_metrics", "scores"),
    "averages": ("average", "averaging", "ema"),
    "optimizer": ("optim", "opt", "optimiser", "solver"),
    "loss": ("criterion", "loss_fn", "loss_function", "objective", "loss_func"),
    "weight_decay": ("wd", "decay", "l2_reg"),
    "momentum": ("mom",),
    "clip_norm": ("grad_clip", "max_grad_norm", "clip_grad_norm", "gradient_clip_val", "gradient_clip"),
    "clip_value": ("clip_grad_value", "clipvalue"),
    "seed": ("random_seed", "random_state", "manual_seed"),
    "workers": ("num_workers", "n_workers"),
    "precision": ("amp", "mixed_precision", "dtype"),
    "patience": ("early_stopping", "early_stopping_patience", "n_iter_no_change"),
    "min_delta": ("tol", "delta"),
    "time_limit": ("timeout", "max_time", "time_budget"),
    "accumulate": ("gradient_accumulation_steps", "accumulate_grad_batches", "grad_accum"),
    "resume": ("resume_from", "resume_from_checkpoint", "ckpt_path"),
    "listeners": ("callbacks", "hooks", "listener"),
    "progress": ("verbose", "progress_bar", "enable_progress_bar"),
    "strict": (),
    "non_finite": ("on_nan", "nan_policy", "nan"),
    "update_schedule": ("schedule", "freeze_schedule"),
    "keep": ("max_to_keep", "save_total_limit", "save_top_k", "keep_last"),
    "cadence": ("interval", "frequency", "period"),
    "every": ("interval", "frequency"),
    "rules": ("rule", "param_groups"),
    "turn": ("turns", "n_critic"),
    "total": ("total_steps", "num_training_steps"),
    "steps_per_epoch": ("batches_per_epoch", "epoch_length"),
    "loss_scale": ("grad_scaler", "scaler"),
    "betas": ("beta",),
    "eps": ("epsilon",),
    "on_failure": ("on_error",),
    "own_batch": ("separate_batch",),
    "latent": ("latent_dim", "latent_size", "z_dim"),
    "rise": ("pct_start",),
    "factor": ("gamma",),
    "low": ("min_lr",),
    "cooldown": (),
    "best": ("monitor",),
    "mode": ("direction",),
    "direction": ("mode",),
    "accuracy": ("acc",),
    "cross_entropy": ("crossentropy", "xent", "categorical_crossentropy", "CrossEntropyLoss"),
    "mse": ("mean_squared_error", "l2", "MSE_loss"),
    "l1": ("mean_absolute_error",),
    "val.loss": ("val_loss", "validation_loss", "validation.loss", "valid.loss"),
    "val.accuracy": ("val_accuracy", "val_acc", "val.acc"),
    "bf16": ("bfloat16", "bf16-mixed"),
}
"""What users of other libraries write for a name of this one."""

_BESIDE = dict(zip("qwertyuiopasdfghjklzxcvbnm", "wertyuiopoasdfghjkjxzcvbn", strict=False))
"""The key beside each."""


def drop(name: str, chance: Random) -> str:
    """A letter is left out."""
    place = chance.randrange(len(name))
    return name[:place] + name[place + 1 :]


def swap(name: str, chance: Random) -> str:
    """Two neighbours have changed places."""
    place = chance.randrange(max(1, len(name) - 1))
    return name[:place] + name[place + 1 : place + 2] + name[place] + name[place + 2 :]


def double(name: str, chance: Random) -> str:
    """A letter is there twice."""
    place = chance.randrange(len(name))
    return name[: place + 1] + name[place:]


def beside(name: str, chance: Random) -> str:
    """The key beside the right one was hit."""
    place = chance.randrange(len(name))
    return name[:place] + _BESIDE.get(name[place], name[place]) + name[place + 1 :]


def case(name: str, chance: Random) -> str:
    """Other upper and lower case, with or without the underscores."""
    pieces = name.split("_")
    camel = pieces[0] + "".join(piece.title() for piece in pieces[1:])
    return chance.choice((name.upper(), name.title(), camel, "".join(map(str.title, pieces))))


def synonym(name: str, chance: Random) -> str:
    """What another library calls it; the name itself where none is known."""
    return chance.choice(SYNONYMS.get(name) or (name,))


WAYS: tuple[Callable[[str, Random], str], ...] = (drop, swap, double, beside, case, synonym)
"""How a name can be mistyped; each may give the name itself, which is no mistake."""
