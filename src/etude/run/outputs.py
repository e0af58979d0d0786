"""Outputs of modules, probed while they are made: hooks, and which elements are no padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from etude.errors import PlanError, SettingError
from etude.run.probe import Probe, module_of
from etude.run.statistics import Statistic, Taken
from etude.step.reading import Reader, tensors_in
from etude.values.tree import Tree


class Outputs:
    """What modules give while this is open, by label: every call counts, but for those made again within backward.

    Args:
        probes: of outputs. tree: the net, walked. read: how batches are read, for their padding. net: what is called.

    Attributes:
        strict: whether a function that fails raises; else its number is left out.
        failed: of the labels that failed since `open`, what happened.

    Raises:
        PlanError: the net, or a module of it, is compiled by torch.compile.
    """

    def __init__(self, probes: Sequence[Probe], tree: Tree, read: Reader, net: nn.Module) -> None:
        if probes and _is_compiled(net):
            raise PlanError(
                f"{probes[0]!r} sees what modules give, and a program made by torch.compile does not show it. Give the "
                'net as it was before torch.compile, or write of="array".'
            )
        self.strict = True
        self.failed: dict[str, str] = {}
        self._read = read
        self._net = tree.net
        self._of: dict[nn.Module, list[tuple[str, Statistic]]] = {}
        for probe in probes:
            for label, paths in probe.places(tree).items():
                for path in paths:
                    self._of.setdefault(module_of(tree, path), []).append((label, probe.statistic))
        self._statistics = {label: of for each in self._of.values() for label, of in each}
        self._labels: frozenset[str] = frozenset()
        self._taken: dict[str, Taken] = {}
        self._before: dict[str, Taken] = {}
        self._many: Sequence[Any] = ()
        self._inside: Tensor | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, in the order of the probes."""
        return tuple(self._statistics)

    @contextmanager
    def open(self, labels: Sequence[str] | None = None) -> Iterator[None]:
        """Within it calls are measured for these labels, or for all."""
        self._labels = frozenset(self.labels if labels is None else labels)
        self._taken, self._inside, self.failed = {}, None, {}
        handles: list[RemovableHandle] = []
        for module, wanted in self._of.items():
            if any(label in self._labels for label, _ in wanted):
                handles.append(module.register_forward_hook(self._see))
        if handles:
            handles.append(self._net.register_forward_pre_hook(self._begin, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._labels, self._many, self._inside = frozenset(), (), None

    def batch(self, *many: Any) -> None:
        """The net is going to be called on this batch, or on these micro-batches."""
        self._many = many
        self._inside = self._mask(many[0]) if len(many) == 1 else None

    def parts(self, many: Sequence[Any], again: bool) -> None:
        """The net is going to be called on these parts of a batch; `again`: what it has just given counts not."""
        if again:
            self._taken = dict(self._before)
        self._before = dict(self._taken)
        self.batch(*many)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it calls are not measured."""
        labels, self._labels = self._labels, frozenset()
        try:
            yield
        finally:
            self._labels = labels

    def values(self) -> dict[str, Tensor]:
        """The numbers of what was seen since `open`, on the device; those of modules that were not called are not."""
        return {label: of.value(self._taken[label]) for label, of in self._statistics.items() if label in self._taken}

    def _begin(self, net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Which of several micro-batches the net is called on is seen by its tensors."""
        if len(self._many) > 1:
            given = {id(tensor) for _, tensor in tensors_in([args, kwargs])}
            own = (one for one in self._many if any(id(tensor) in given for _, tensor in tensors_in(one)))
            found = next(own, None)
            self._inside = None if found is None else self._mask(found)

    def _mask(self, values: Any) -> Tensor | None:
        found = self._read.true_frames(values)
        if isinstance(found, Mapping):
            found = next((one for one in found.values() if isinstance(one, Tensor) and one.dim() > 1), None)
        return found if isinstance(found, Tensor) else None

    @torch.no_grad()
    def _see(self, module: nn.Module, args: Any, output: Any) -> None:
        # Checkpointing calls modules again for their gradients.
        if not self._labels or torch._C._current_graph_task_id() != -1:
            return
        tensor = _tensor(output)
        if tensor is None:
            what = type(output).__name__
            raise SettingError(
                f"{', '.join(n for n, _ in self._of[module])}: its module gives a {what}, no tensor. Name another."
            )
        inside = _spread(self._inside, tensor)
        with torch.autocast(tensor.device.type, enabled=False):
            for label, of in self._of[module]:
                if label in self._labels and label not in self.failed:
                    self._take(label, of, tensor.detach(), inside)

    def _take(self, label: str, of: Statistic, tensor: Tensor, inside: Tensor | None) -> None:
        try:
            found = of.take(tensor, inside)
        except SettingError as error:
            if self.strict:
                raise
            self.failed[label] = str(error)
            self._taken.pop(label, None)
            return
        before = self._taken.get(label)
        self._taken[label] = found if before is None else of.join(before, found)


def _is_compiled(net: nn.Module) -> bool:
    """Whether torch.compile has made programs of the net, or of a module in it."""
    return any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in net.modules())


def _tensor(output: Any) -> Tensor | None:
    """The first tensor of numbers of what a module gives; of packed sequences their frames."""
    if isinstance(output, nn.utils.rnn.PackedSequence):
        return output.data
    return next((tensor for _, tensor in tensors_in(_plain(output)) if tensor.is_floating_point()), None)


def _plain(output: Any) -> Any:
    """What other libraries give as records, as a tuple."""
    if isinstance(output, Tensor | Mapping | tuple | list):
        return output
    return tuple(vars(output).values()) if hasattr(output, "__dict__") else ()


def _spread(inside: Tensor | None, tensor: Tensor) -> Tensor | None:
    """A mask of frames as one of elements; None where the tensor has other frames, and all of them count."""
    if inside is None or tensor.shape[: inside.dim()] != inside.shape:
        return None
    return inside.reshape(*inside.shape, *(1,) * (tensor.dim() - inside.dim())).expand_as(tensor)
