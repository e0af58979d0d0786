"""Penalties on what modules of a net give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, final

from torch import Tensor, nn

from etude.errors import PartError, SettingError, nearest
from etude.step.losses.own import OwnLoss, maker, wide
from etude.step.reading import LENGTHS, OFFSETS, mask_of
from etude.values.part import Part, PartLike, part
from etude.values.tree import Tree

_KINDS = ("l1", "l2")


@final
@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Activation(OwnLoss):
    """Made by `activation`."""

    place: Part
    kind: str
    modules: tuple[tuple[str, nn.Module], ...] | None = None

    takes = "output"
    wants = frozenset({"batch", "seen"})

    def __call__(self, output: Any, *, batch: Any, seen: Mapping[str, list[Tensor]]) -> tuple[Tensor, Any]:
        if not seen:
            names = ", ".join(repr(name) for name, _ in self.modules or ())
            raise PartError(f"{self!r}: the net did not call {names}, or they give no tensor.")
        total: Any = 0.0
        count: Any = 0
        for made in (each for kept in seen.values() for each in kept):
            sizes = wide(made).abs() if self.kind == "l1" else wide(made).square()
            mask = _mask(made, batch)
            if mask is None:
                total, count = total + sizes.sum(), count + sizes.numel()
            else:
                inside = mask.reshape(*mask.shape, *(1,) * (sizes.dim() - 2)).expand_as(sizes)
                total, count = total + sizes.where(inside, 0).sum(), count + inside.sum()
        return total, count

    @contextmanager
    def watching(self, net: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
        """Within it what the modules give is kept, each time that they are called."""
        modules = self.modules if self.modules is not None else self._found(Tree(net))
        seen: dict[str, list[Tensor]] = {}
        with ExitStack() as stack:
            for name, module in modules:
                stack.callback(module.register_forward_hook(_Keeper(name, seen)).remove)
            yield seen

    def bound(self, tree: Tree) -> OwnLoss:
        return replace(self, modules=self._found(tree))

    def _found(self, tree: Tree) -> tuple[tuple[str, nn.Module], ...]:
        paths = self.place.nodes(tree)
        modules = [(path, node) for path in paths if isinstance(node := tree.nodes[path], nn.Module)]
        if not modules:
            raise PartError(
                f"{self!r}: the part has arrays only ({', '.join(paths)}), and what modules give is penalised. Name "
                "modules: activation(nn.ReLU), activation('encoder.3')."
            )
        # A module that is reached in several ways is one.
        return tuple({id(module): (name, module) for name, module in reversed(modules)}.values())[::-1]

    def not_compiled(self) -> str:
        return "what modules give is looked at from outside"

    def __repr__(self) -> str:
        return f"activation({self.place!r}, {self.kind!r})"


class _Keeper:
    """A forward hook that keeps what a module gives."""

    def __init__(self, name: str, seen: dict[str, list[Tensor]]) -> None:
        self._name, self._seen = name, seen

    def __call__(self, module: nn.Module, given: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, Tensor) and first.is_floating_point():
            self._seen.setdefault(self._name, []).append(first)


def _mask(made: Tensor, batch: Any) -> Tensor | None:
    """Which frames are true of an output (samples, longest, ...) of padded sequences."""
    if not isinstance(batch, Mapping) or made.dim() < 2:
        return None
    for key, lengths in batch.items():
        name = key.removesuffix(LENGTHS) if isinstance(key, str) else ""
        if not name or name == key or name + OFFSETS in batch:
            continue
        stream = batch.get(name)
        if isinstance(stream, Tensor) and stream.dim() > 1 and stream.shape[:2] == made.shape[:2]:
            return mask_of(lengths, made.shape[1])
    return None


@maker
def activation(place: PartLike, kind: str = "l2") -> Activation:
    """The mean of |a| ("l1") or a² ("l2") over all that the modules of a part give.

    Frames that only fill up count nowhere, where a module gives (samples, longest, ...) as padded sequences are. The
    modules are looked at only while the loss is computed. Of a module that gives a tuple the first is taken.

    Args:
        place: modules: a name, a type such as nn.ReLU, "encoder.*", ...

    Raises:
        SettingError: an unknown kind. PartError: the part, of a net, has no module, or modules that are not called.
    """
    if kind not in _KINDS:
        raise SettingError(f'activation(kind={kind!r}): "l1" or "l2" is needed.{nearest(kind, _KINDS)}')
    return Activation(part(place), kind)
