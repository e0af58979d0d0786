"""Which arrays weight decay spares, and rules that spare them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import etude
from etude.errors import PartError, RuleError
from etude.step.trainer import Trainer
from etude.values.curves import linear
from etude.values.decay import decay, no_decay
from etude.values.part import everything, part
from etude.values.rules import rules
from etude.values.spans import steps
from etude.values.text import read, write
from nets import alike, arrays, chain, give_gradients


class LlamaRMSNorm(nn.Module):
    """As in other libraries: a matrix, so that only its name tells."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))


SPARED = [
    (lambda: nn.Linear(2, 3), {"bias"}),
    (lambda: nn.LayerNorm((2, 3)), {"weight", "bias"}),
    (lambda: nn.RMSNorm((2, 3)), {"weight"}),
    (lambda: nn.GroupNorm(2, 4), {"weight", "bias"}),
    (lambda: nn.BatchNorm2d(4), {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}),
    (lambda: nn.InstanceNorm1d(4, affine=True), {"weight", "bias"}),
    (lambda: nn.Embedding(4, 2), {"weight"}),
    (lambda: nn.EmbeddingBag(4, 2), {"weight"}),
    (lambda: LlamaRMSNorm(), {"weight"}),
    (lambda: nn.LSTM(2, 3), {"bias_ih_l0", "bias_hh_l0"}),
    (lambda: nn.MultiheadAttention(4, 2), {"in_proj_bias", "out_proj.bias"}),
    (
        lambda: nn.ParameterDict({"scale": nn.Parameter(torch.ones(3)), "matrix": nn.Parameter(torch.ones(3, 3))}),
        {"scale"},
    ),
    (lambda: nn.ParameterDict({"pos_bias": nn.Parameter(torch.ones(3, 3))}), {"pos_bias"}),
    (lambda: nn.ParameterDict({"biased": nn.Parameter(torch.ones(3, 3))}), set()),
    (lambda: parametrizations.orthogonal(nn.Linear(2, 2)), {"bias"}),
    (lambda: nn.LazyLinear(3), {"bias"}),
]


@pytest.mark.parametrize(("make", "expected"), SPARED)
def test_what_is_spared(make: Any, expected: set[str]) -> None:
    assert set(no_decay.names(make())) == expected


def test_a_tied_weight_is_the_embeddings() -> None:
    net = nn.ModuleDict({"head": nn.Linear(2, 4, bias=False), "embed": nn.Embedding(4, 2)})
    net["head"].weight = net["embed"].weight
    assert no_decay.names(net) == ("head.weight",)


def test_it_is_a_part_like_others() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    assert set((~no_decay).names(net)) == {"0.weight"}
    assert set((no_decay & part(1)).names(net)) == {"1.weight", "1.bias"}
    assert set((part(0) / no_decay).names(net)) == {"0.bias"}
    assert repr(no_decay) == "no_decay"
    made = decay(0.1, spare=no_decay | "0")
    assert read(write(made)) == made
    assert copy.deepcopy(no_decay) == no_decay


def test_rules_that_spare() -> None:
    assert decay(0.1) == rules([(no_decay, 0.0), (everything, 0.1)])
    net = chain()
    trainer = Trainer(net, "sgd", learning_rate=1.0, shrink=decay(linear(0.0, 0.5, over=steps(2))))
    start = arrays(net)
    for _ in range(2):
        for array in net.parameters():
            array.grad = torch.zeros_like(array)
        trainer.step()
        trainer.zero_grad()
    for name, array in net.named_parameters():
        assert torch.allclose(array, start[name] * (1.0 if name.endswith("bias") else 0.75))


@pytest.mark.parametrize("setting", ["weight_decay", "l2", "shrink"])
def test_every_kind_of_decay_takes_it(setting: str) -> None:
    net, free = chain(), chain()
    for own, value in ((net, decay(0.1)), (free, 0.0)):
        trainer = Trainer(own, "adamw", learning_rate=0.1, **{"weight_decay": 0.0, setting: value})
        give_gradients(own, 0)
        trainer.step()
    for (name, array), other in zip(net.named_parameters(), free.parameters(), strict=True):
        moved_alike = alike(array, other)
        assert moved_alike is name.endswith("bias") or setting == "l2"


def test_a_net_without_any_of_them_is_no_error(recwarn: pytest.WarningsRecorder) -> None:
    net = nn.Linear(2, 2, bias=False)
    trainer = Trainer(net, "adamw", weight_decay=decay(0.1), strict=True)
    assert trainer.table.at(trainer.progress).columns["weight_decay"] == [0.1]
    assert not list(recwarn)


def test_other_parts_still_have_to_be_there() -> None:
    with pytest.raises(PartError, match="'pos'"):
        Trainer(nn.Linear(2, 2, bias=False), "adamw", weight_decay=decay(0.1, spare=no_decay | "pos"))
    with pytest.raises(RuleError, match="weight_decay"):
        decay(None)  # type: ignore[arg-type]


# the plan says it


def shown(**settings: Any) -> str:
    plan = etude.Plan(loss="mse", optimizer="adamw", epochs=1, batch_size=2, **settings)
    return plan.check(chain(), (torch.ones(4, 3), torch.ones(4, 2))).show()


def test_a_plain_number_is_told_with_what_to_write() -> None:
    text = shown(weight_decay=0.1)
    assert "weight_decay=0.1 holds for norms, biases and embeddings too (2: 0.bias, 2.bias)" in text
    assert "weight_decay=decay(0.1) spares them" in text
    assert "weight_decay=0.01 holds for" in shown()
    assert "l2=0.5 holds for" in shown(l2=0.5)


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_decay": decay(0.1)},
        {"weight_decay": 0.0},
        {"weight_decay": {everything: 0.1}},
        {"rules": {"weight_decay": {"*.bias": 0}}},
        {"learning_rate_multipliers": {"*.bias": 0}},
    ],
)
def test_what_was_thought_of_is_not(settings: dict[str, Any]) -> None:
    assert "holds for norms" not in shown(**settings)
