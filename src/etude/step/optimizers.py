"""Optimizers as a trainer is asked for them: one, or several by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from etude.bind.table import RATE
from etude.errors import SettingError
from etude.step.gradients import GRADIENT_SETTINGS
from etude.step.optim.foreign import ForeignOptimizer
from etude.step.optim.lbfgs import LBFGSOptimizer
from etude.step.optim.maker import Asked, Maker
from etude.step.optim.own import OwnOptimizer
from etude.step.optim.registry import by_name, preset_of
from etude.step.optim.rule import UpdateRule
from etude.step.optim.several import SeveralOptimizer
from etude.values.part import Part, everything, part, where
from etude.values.rules import Rules
from etude.values.tree import Tree, has_shape

OptimizerLike: TypeAlias = "Asked | Rules | Mapping[Any, Asked] | list[tuple[Any, Asked]]"

Optimizer: TypeAlias = "OwnOptimizer | ForeignOptimizer | LBFGSOptimizer | SeveralOptimizer"
"""An optimizer at work."""


def makers_of(optimizer: Any) -> tuple[dict[str, Maker], Rules]:
    """The optimizers by label, and the label by part; no parts where there is one optimizer for everything."""
    if isinstance(optimizer, str) and by_name(optimizer) is torch.optim.Muon and preset_of(optimizer):
        # Its parts depend on the net: see `muons`.
        pair = (Maker(optimizer), Maker("adamw"))
        return {maker.name: maker for maker in pair}, Rules()
    if not isinstance(optimizer, Mapping | Rules | list):
        alone = Maker(optimizer)
        return {alone.name: alone}, Rules()
    pairs = list(optimizer.items() if isinstance(optimizer, Mapping) else optimizer)
    if not pairs or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise SettingError(
            f"optimizer={optimizer!r}: optimizers by part are pairs of a part and an optimizer. "
            'Write optimizer={"embed": "sgd", everything: "adamw"}.'
        )
    made: dict[Any, Maker] = {}
    places: list[tuple[Part, Any]] = []
    for place, asked in pairs:
        maker = Maker(asked)
        made.setdefault(maker.key, maker)
        places.append((part(place), maker.key))
    labels: dict[Any, str] = {}
    for key, maker in made.items():
        same = sum(other.name == maker.name for other in list(made.values())[: len(labels)])
        labels[key] = f"{maker.name} {same + 1}" if same else maker.name
    if places == [(everything, places[0][1])]:
        return {labels[key]: maker for key, maker in made.items()}, Rules()
    return {labels[key]: maker for key, maker in made.items()}, Rules(
        tuple((place, labels[key]) for place, key in places)
    )


def muons(tree: Tree, muon: str, other: str) -> Rules:
    """Which arrays Muon moves where it is asked for by name: matrices, but no tables of embeddings.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    """
    lazy = [name for name in tree.trainable if not has_shape(tree.arrays[name])]
    if lazy:
        raise SettingError(
            f'optimizer="muon": {lazy[0]!r} has no shape yet, so it is not known whether it is a matrix. Call the net '
            "once first."
        )
    nodes = tree.nodes.values()
    tables = {id(node.weight) for node in nodes if isinstance(node, nn.Embedding | nn.EmbeddingBag)}

    def is_a_matrix(name: str, array: Tensor) -> bool:
        return array.dim() == 2 and id(array) not in tables

    matrices = [name for name in tree.trainable if is_a_matrix(name, tree.arrays[name])]
    if not matrices:
        raise SettingError(
            'optimizer="muon": the net has no trainable matrix outside embeddings, which is what Muon moves. Write '
            'optimizer="adamw".'
        )
    rest = ((everything, other),) if len(matrices) < len(tree.trainable) else ()
    return Rules(((where(is_a_matrix), muon), *rest))


def settings_known(optimizer: OptimizerLike) -> tuple[str, ...] | None:
    """The settings that an optimizer takes, and those every trainer does; None where only making it would tell.

    Raises:
        SettingError: no optimizer has that name.
    """
    makers, _ = makers_of(optimizer)
    found = [RATE, *GRADIENT_SETTINGS]
    for maker in makers.values():
        if not maker.settings and not maker.options and not isinstance(maker.of, UpdateRule | torch.optim.Optimizer):
            return None
        found += [*maker.settings, *maker.options, *(("betas",) if "beta1" in maker.settings else ())]
        found += ["maximize"] if isinstance(maker.of, UpdateRule) else []
    return tuple(dict.fromkeys(found))
