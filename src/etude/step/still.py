"""Frozen running statistics: modules that use them, and do not add to them, while the rest of the net trains."""

from __future__ import annotations

from typing import final

from torch import nn

from etude.bind.table import Table


@final
class Still:
    """The modules of a net whose running statistics a rule freezes.

    Args:
        net: what says whether a module that is thawed again trains.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self._modules: tuple[nn.Module, ...] = ()
        self._stilled: set[nn.Module] = set()

    def use(self, table: Table) -> None:
        """From now on those that this table freezes."""
        modules = _modules(table)
        for module in self._stilled - set(modules):
            # Thawed: what it does is for the net to say again.
            module.training = self._net.training
        self._stilled &= set(modules)
        self._modules = modules

    def hold(self) -> None:
        """The net is about to be called."""
        for module in self._modules:
            if module.training:
                module.training = False
                self._stilled.add(module)


def _modules(table: Table) -> tuple[nn.Module, ...]:
    """Those that keep statistics of their own: a container with a frozen constant must go on with its dropout."""
    nodes, found = table.tree.nodes, []
    for name in table.frozen_buffers:
        for path in table.tree.names[name]:
            owner = nodes[path.rpartition(".")[0]]
            keeps = hasattr(owner, "track_running_stats") or not table.tree.layers(path.rpartition(".")[0])
            if isinstance(owner, nn.Module) and keeps:
                found.append(owner)
    return tuple(dict.fromkeys(found))
