"""What was meant by a name that is not there: the names most like it, and what other libraries call the same."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_ALSO_CALLED = {
    "learning_rate": "lr base_lr init_lr initial_lr max_lr "
    "scheduler lr_scheduler lr_scheduler_type lr_schedule dynamic_learning_rate learning_rate_control newbob "
    "ReduceLROnPlateau",
    "learning_rate_multipliers": "lr_mult lr_mults lr_multipliers param_groups freeze frozen",
    "epochs": "nb_epoch n_epochs num_epochs max_epochs num_train_epochs",
    "steps": "iterations max_iter",
    "steps_per_epoch": "batches_per_epoch epoch_length",
    "total": "total_steps num_training_steps",
    "batch_size": "bs batch max_seqs",
    "validation": "val valid dev val_data valid_data eval_data eval_dataset test_data",
    "checkpoint": "ckpt save_dir save_to output_dir",
    "resume": "ckpt_path load_from continue_from load load_checkpoint",
    "metrics": "scores compute_metrics",
    "averages": "ema swa",
    "loss": "criterion loss_fn loss_func loss_function objective label_smoothing",
    "optimizer": "opt solver",
    "weight_decay": "wd decay l2_reg",
    "clip_norm": "grad_clip gradient_clip clip_grad_norm max_grad_norm gradient_clip_val gradient_clipping "
    "clip_grad clip_grad_norm_ clip_gradients clipnorm global_clipnorm gradient_clip_global_norm grad_norm",
    "clip_value": "clip_grad_value clip_grad_value_ clipvalue clip_by_value gradient_clip gradient_clip_value",
    "seed": "random_state",
    "precision": "amp mixed_precision dtype fp16 bf16 torch_amp autocast",
    "patience": "early_stopping n_iter_no_change early_stopping_patience",
    "min_delta": "tol tolerance early_stopping_threshold",
    "time_limit": "timeout time_budget max_time",
    "accumulate": "grad_accum gradient_accumulation accumulate_grad_batches "
    "gradient_accumulation_steps update_every accum_grad_multiple_step",
    "listeners": "callbacks hooks callback",
    "progress": "verbose tqdm progress_bar enable_progress_bar",
    "non_finite": "nan on_nan nan_policy detect_anomaly nan_inf_filter terminate_on_nan stop_on_nonfinite_train_score",
    "update_schedule": "freeze freeze_schedule unfreeze gradual_unfreezing",
    "rules": "param_groups",
    "loss_scale": "scaler grad_scaler",
    "turn": "n_critic",
    "keep": "max_to_keep save_top_k save_total_limit",
    "cadence": "interval frequency period every",
    "every": "interval frequency period cadence update_interval newbob_multi_update_interval",
    "on_failure": "on_error",
    "latent": "z_dim noise_dim",
    "eps": "epsilon",
    "rise": "pct_start",
    "factor": "gamma",
    "low": "min_lr eta_min min_value min_learning_rate minimum min",
    "high": "max_lr max_value max_learning_rate maximum max",
    "start": "initial initial_value init_value learning_rate lr base_lr rate",
    "best": "monitor metric_for_best_model",
    "score": "monitor metric error_measure learning_rate_control_error_measure",
    "mode": "direction",
    "direction": "mode",
    "accuracy": "acc",
    "cross_entropy": "xent ce categorical_crossentropy sparse_categorical_crossentropy label_smoothing",
    "mse": "mean_squared_error l2",
    "l1": "mean_absolute_error",
    "normal": "untruncated_normal gaussian",
    "val.loss": "validation_loss valid_loss",
    "val.accuracy": "val_acc validation_accuracy",
    "initialize": "init initializer init_weights weight_init kernel_initializer forward_weights_init "
    "pretrained from_pretrained load load_weights preload preload_from_files import_model_train_epoch1",
    "knobs": "dropout dropout_rate dropout_schedule dropout_probability temperature hyperparameters",
    "output": "activation activations",
    "array": "weight weights parameter parameters",
    "probes": "grad_norm log_grad_norm track_grad_norm watch summaries",
    "norm": "grad_norm l2_norm",
    "stop": "early_stopping stopping stop_condition stopping_criteria stopping_condition",
    "out_of_memory": "oom on_oom auto_batch_size auto_find_batch_size auto_scale_batch_size",
    "clip_array_norm": "gradient_clip_norm clip_norm_per_parameter",
    "clip_mean_norm": "gradient_clip_avg_norm clip_by_average_norm",
    "noise": "gradient_noise grad_noise",
    "drop_norm": "grad_norm_to_clip_to_zero",
    "drop_non_finite": "gradient_nan_inf_filter grad_discard_inf_nan nan_to_num",
    "centralise": "gradient_centralization",
    "max_norm": "max_norm_constraint weight_constraint kernel_constraint",
    "l2": "l2_penalty l2_regularization kernel_regularizer",
    "tie": "tie_weights tie_embeddings tie_word_embeddings weight_tying",
    "weight_noise": "variational_noise param_variational_noise param_noise",
    "weight_dropout": "param_dropout dropconnect weight_drop",
    "plateau": "ReduceLROnPlateau reduce_on_plateau",
    "newbob": "newbob_abs newbob_rel newbob_multi_epoch learning_rate_control",
    "decay": "factor gamma learning_rate_decay newbob_learning_rate_decay",
    "growth": "learning_rate_growth newbob_learning_rate_growth",
    "min_improvement": "threshold min_delta newbob_error_threshold newbob_relative_error_threshold",
    "threshold": "min_improvement min_delta",
    "grow_improvement": "grow_threshold newbob_relative_error_grow_threshold",
    "relative": "absolute",
    "relative_to": "div_by_old relative_error_div_by_old newbob_relative_error_div_by_old",
    "window": "num_epochs newbob_multi_num_epochs",
    "hold": "min_num_epochs_per_new_lr learning_rate_control_min_num_epochs_per_new_lr",
    "pinned": "learning_rates",
    "back_to_best": "restore_best_weights load_best_model_at_end",
    "smoothing": "label_smoothing",
    "weight": "scale loss_scale coefficient factor",
    "exponent": "calculate_exp_loss perplexity exp",
    "of": "output target key",
    "per": "reduction",
    "frames": "input_lengths output_lengths lengths",
    "labels": "target_lengths targets",
    "temperature": "t tau",
    "blank": "blank_idx blank_index blank_label",
    "p": "drop_rate drop_prob dropout_rate",
    "time_masks": "num_time_masks time_mask_num",
    "time_width": "time_mask_param max_time_mask",
    "feature_masks": "freq_masks num_freq_masks freq_mask_num",
    "feature_width": "freq_mask_param max_freq_mask",
    "error_rate": "wer cer fer",
    "perplexity": "ppl",
}
"""What other libraries call something, by its name here."""


_WRITE = {
    "warmup warmup_steps warmup_epochs warmup_ratio num_warmup_steps lr_warmup_steps": (
        "learning_rate",
        "A warm-up is a factor of the rate: learning_rate=3e-4 * warmup(steps(500)).",
    ),
    "scheduler lr_scheduler lr_scheduler_type lr_schedule": (
        "learning_rate",
        "A schedule is given as the rate: learning_rate=cosine(3e-4, 0).",
    ),
    "as_error is_error error": ("reaches", "What is only reported is losses.error(...) in place of term(...)."),
    "use_normalized_loss custom_inv_norm_factor reduction normalize": (
        "reaches",
        "A term is the mean over what it counts; a function that gives the pair (sum, count) says what that is.",
    ),
    "zero_infinity": ("blank", "A sequence without a path has the loss 0, always, and is counted: <term>.no_path."),
    "momentum": ("beta1", 'Here the mean of gradients is beta1=; for momentum= write optimizer="sgd".'),
}
"""What to write for words that no single name stands for, where there is the name that comes first."""


def _bare(word: str) -> str:
    """A word as words are compared: upper and lower case are alike, and what joins its pieces does not count."""
    return "".join(letter for letter in word.lower() if letter.isalnum())


_MEANT = [(right, {_bare(each) for each in also.split()}) for right, also in _ALSO_CALLED.items()]


_WRITTEN = {_bare(each): told for words, told in _WRITE.items() for each in words.split()}


def written(word: object, words: Iterable[str]) -> str:
    """What to write in place of a word for which no single one of `words` stands: a sentence, or an empty string."""
    needs, text = _WRITTEN.get(_bare(str(word)), ("", ""))
    return f" {text}" if needs in set(words) else ""


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
    return " ".join(f"There is no {what} {name!r}.{written(name, words) or nearest(name, words)}" for name in names)
