"""Update rules: those of this library, what is needed to write one's own, and schedules of torch.

@etude.optim.register
class SignDescent(etude.optim.UpdateRule):
    name = "sign_descent"
    settings = {"weight_decay": etude.optim.Setting(0.0)}
    memories = ()

    def formula(self, array, gradient, memory, count, settings, climb):
        step = -gradient.sign() if climb else gradient.sign()
        array.sub_((step + settings["weight_decay"] * array) * settings["learning_rate"])

etude.Trainer(net, "sign_descent", weight_decay=0.1)
"""

from __future__ import annotations

from etude.step.optim.adabelief import AdaBelief
from etude.step.optim.adam import Adam, AdamW, AMSGrad
from etude.step.optim.dcasgd import DcAsgd
from etude.step.optim.ftml import Ftml
from etude.step.optim.ftrl import Ftrl
from etude.step.optim.lamb import Lamb
from etude.step.optim.lans import Lans
from etude.step.optim.lars import Lars
from etude.step.optim.lazy import LazyAdam, LazySGD
from etude.step.optim.lion import Lion
from etude.step.optim.registry import known_names, register
from etude.step.optim.rowwise import RowwiseAdagrad
from etude.step.optim.rule import Setting, UpdateRule
from etude.step.optim.sgd import NAG, SGD
from etude.step.optim.sgld import Sgld
from etude.step.optim.signum import SignSGD, Signum
from etude.step.torch_schedules import from_torch, to_torch

__all__ = [
    "NAG",
    "SGD",
    "AMSGrad",
    "AdaBelief",
    "Adam",
    "AdamW",
    "DcAsgd",
    "Ftml",
    "Ftrl",
    "Lamb",
    "Lans",
    "Lars",
    "LazyAdam",
    "LazySGD",
    "Lion",
    "RowwiseAdagrad",
    "Setting",
    "Sgld",
    "SignSGD",
    "Signum",
    "UpdateRule",
    "from_torch",
    "known_names",
    "register",
    "to_torch",
]
