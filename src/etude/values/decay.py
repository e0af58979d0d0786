"""Which arrays weight decay is sensible for: not those of normalisation, biases and embeddings.

Decay makes a function smoother by making its matrices smaller. The scale of a normalised output, a bias and a row of a
table of embeddings, which most steps do not even look at, gain nothing by it (Loshchilov and Hutter, ICLR 2019, and
most recipes since leave them out).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from etude.arguments import named
from etude.values.part import Part, PartLike, everything, part
from etude.values.rules import Rules, rules
from etude.values.schedule import Schedule
from etude.values.tree import Tree, has_shape

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_PARAMETRISED = "parametrizations"


@dataclass(frozen=True, slots=True)
class NoDecay(Part):
    """Arrays of normalisation, biases and embeddings; a net may have none of them."""

    def _inside(self, tree: Tree, bases: tuple[str, ...]) -> Iterable[str]:
        return [path for base in bases for path in tree.paths_below(base) if _is_spared(tree, path)]

    @property
    def may_be_empty(self) -> bool:
        return True

    def __repr__(self) -> str:
        return "no_decay"


no_decay: Part = NoDecay()
"""The arrays that weight decay spares: those of layers of normalisation (torch's, and classes whose name ends in Norm),
biases (by their name: `bias`, `bias_ih_l0`, `in_proj_bias`), everything of at most one dimension, and embeddings. A
weight that an embedding shares with another layer is the embedding's. In a net without such arrays it is empty, which
is no error."""


@named
def decay(amount: float | Schedule, *, spare: PartLike = no_decay) -> Rules:
    """Rules for decay that spares some arrays: `weight_decay=decay(0.1)`, `l2=decay(...)`, `shrink=decay(...)`.

    Args:
        amount: of everything else, a number or a schedule.
        spare: what does not decay; `no_decay | "pos"` for one more.

    Raises:
        PartError, RuleError: `spare` is no part, or `amount` no value.
    """
    return rules([(part(spare), 0.0), (everything, amount)], setting="weight_decay")


def _is_spared(tree: Tree, path: str) -> bool:
    array = tree.nodes[path]
    if not isinstance(array, Tensor):
        return False
    owner, name = _owner(tree, path)
    if isinstance(owner, _NORMS + _EMBEDDINGS) or type(owner).__name__.endswith("Norm"):
        return True
    return "bias" in name.split("_") or (has_shape(array) and array.dim() <= 1)


def _owner(tree: Tree, path: str) -> tuple[object, str]:
    """The module that an array is of, and its name there; of a parametrised one those it had before."""
    pieces = path.split(".")
    if _PARAMETRISED in pieces[:-1]:
        place = pieces.index(_PARAMETRISED)
        return tree.nodes[".".join(pieces[:place])], pieces[place + 1]
    return tree.nodes[".".join(pieces[:-1])], pieces[-1]
