"""Losses: terms and errors, penalties, and losses that torch does not have in this form.

loss={
    "ce": losses.cross_entropy(smoothing=linear(0.2, 0.0)),
    "aux": losses.term("mse", weight=0.3, reaches="encoder"),
    "flat": (losses.activation(nn.ReLU, "l1"), 1e-3),
    "fer": losses.error("error_rate", of="ce"),
}
"""

from __future__ import annotations

from etude.step.literals import SaidTerm, error, term
from etude.step.losses.activation import activation
from etude.step.losses.cross_entropy import cross_entropy
from etude.step.losses.ctc import ctc
from etude.step.losses.distillation import distillation
from etude.step.losses.error_rate import error_rate
from etude.step.losses.gradient_penalty import gradient_penalty, r1
from etude.step.losses.own import OwnLoss
from etude.step.losses.penalties import l1, l2, orthogonality, spectral

__all__ = [
    "OwnLoss",
    "SaidTerm",
    "activation",
    "cross_entropy",
    "ctc",
    "distillation",
    "error",
    "error_rate",
    "gradient_penalty",
    "l1",
    "l2",
    "orthogonality",
    "r1",
    "spectral",
    "term",
]
