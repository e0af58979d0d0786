"""Going back: how the net was some steps ago, kept in memory, and put back when numbers are broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import floor, inf
from typing import Any, final

import torch
from torch import Tensor, nn

from etude.errors import NonFiniteError, StateError
from etude.step.averaging import Averages
from etude.step.policies import Policy
from etude.step.report import Report
from etude.step.states import some
from etude.step.work import Work
from etude.values.progress import TINY, Progress
from etude.values.tree import has_shape

_USUAL = (torch.float32, torch.float16, torch.bfloat16)
_COUNTS = ("times", "step", "passed")


@final
class Snapshots:
    """The last snapshot of a run: arrays, statistics, optimizer memory, carried gradients and averages.

    Under a policy that does not go back it does nothing, and costs nothing.

    Args:
        works: the updates of the run. averages: its averages. net: the net. policy: what is done about numbers that are
            not finite.

    Attributes:
        active: whether the policy goes back. times: how often was gone back. step: of the snapshot; -1 where there is
            none.
    """

    def __init__(self, works: Sequence[Work], averages: Averages, net: nn.Module, policy: Policy) -> None:
        self._works, self._averages, self._net, self._policy = tuple(works), averages, net, policy
        self.active = policy.goes_back
        self.times, self.step = 0, -1
        self._passed: int | None = None
        self._kept: dict[str, Any] = {}

    @property
    def factor(self) -> float:
        """What learning rates are multiplied by now."""
        return float(self._policy.factor**self.times)

    def begin(self, progress: Progress) -> None:
        """Take the first snapshot, before the first step; one that was loaded stays."""
        if self.active and self.step < 0:
            self._passed = self._multiples(progress)
            self._take(progress)

    def take_if_due(self, before: Progress, after: Progress) -> None:
        """Take a snapshot after a step that was made, where a multiple of the policy's span was passed since the last.

        A net that holds NaN or infinity is not taken: the snapshot before it is the one to go back to.

        Args:
            before, after: the clock before and after the step.
        """
        if not self.active:
            return
        passed = self._multiples(before) if self._passed is None else self._passed
        self._passed = self._multiples(after)
        if self._passed > passed and self._is_sound():
            self._take(after)

    def back(self, reports: Sequence[tuple[Work, Report]], number: int) -> str:
        """Where something in a step was not finite, put everything back to the last snapshot and lower the rates.

        A step that a dynamic loss scale refused while it finds its size is none of these.

        Args:
            reports: of the step with number `number`, those of all its updates; what others moved is undone too.

        Returns:
            What was not finite, in words; "" where nothing is done.

        Raises:
            NonFiniteError: it has been done as often as the policy allows.
        """
        if not self.active:
            return ""
        refused = [report for _, report in reports if report.refused and not report.overflow]
        if not refused:
            return ""
        why = "; ".join(dict.fromkeys(report.why for report in refused))
        if self._policy.most is not None and self.times >= self._policy.most:
            acted = [repr(work.name) for work, report in reports if report.moved]
            told = f"In this step {', '.join(acted)} had acted." if acted else "Nothing was changed."
            raise NonFiniteError(
                f"Step {number} is refused: {why.rstrip('.')}. {self._policy!r} went back {self.times} times before, "
                f"the learning rates are at {self.factor:.3g} of what was said, and it goes back no more. "
                f"{told} Lower the learning rate, clip gradients (clip_norm=1.0), or look at the data.",
                tuple(dict.fromkeys(name for report in refused for name in report.names)),
                number,
            )
        self._put()
        self.times += 1
        self._shrink()
        return why

    def state(self) -> dict[str, Any]:
        """What a later run needs to go on; tensors are not copied. Nothing where the policy does not go back."""
        if not self.active:
            return {}
        return {"times": self.times, "step": self.step, "passed": self._passed, **self._kept}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state()` gave.

        Raises:
            StateError: it is of another net or of other updates; nothing is changed.
        """
        if not self.active or not state:
            return
        kept = {key: value for key, value in state.items() if key not in _COUNTS}
        if kept:
            self._check_state(kept)
        self.times, self.step, self._passed = state["times"], state["step"], state["passed"]
        self._kept = _copied(self._now(), kept)
        self._shrink()

    # ------------------------------------------------------------------------------------------------- at work

    def _now(self) -> dict[str, Any]:
        """Everything as it is; tensors are those at work."""
        return {
            "arrays": {name: array.detach() for name, array in _arrays(self._net)},
            "optimizers": {work.name: work.stepper.state()["arrays"] for work in self._works},
            "carried": {work.name: work.stepper.state()["carried"] for work in self._works},
            "losses": {work.name: work.loss_states() for work in self._works},
            "averages": self._averages.state()["each"],
        }

    @torch.no_grad()
    def _take(self, progress: Progress) -> None:
        self.step = int(progress.step)
        self._kept = _taken(self._kept, self._now())

    @torch.no_grad()
    def _put(self) -> None:
        arrays = dict(_arrays(self._net))
        for name, kept in self._kept["arrays"].items():
            arrays[name].copy_(kept)
        for work in self._works:
            work.go_back(self._kept["optimizers"][work.name], self._kept["losses"][work.name])
            work.stepper.carried.load(self._kept["carried"][work.name])
        # What schedules have heard is of the run, which goes on.
        self._averages.load({**self._averages.state(), "each": self._kept["averages"]})

    def _shrink(self) -> None:
        for work in self._works:
            work.scale_rates(self.factor)

    def _is_sound(self) -> bool:
        """Whether every array is finite but for those that were not at the beginning, such as masks of infinities."""
        now, before = _arrays(self._net), self._kept["arrays"]
        if _all_finite([array.detach() for _, array in now]):
            return True
        return all(_finite(array) or not _finite(before[name]) for name, array in now)

    def _multiples(self, progress: Progress) -> int:
        span = self._policy.every
        assert span is not None
        return floor(progress.amount(span.unit) / span.amount + TINY)

    def _check_state(self, kept: Mapping[str, Any]) -> None:
        now = {name: tuple(array.shape) for name, array in _arrays(self._net)}
        saved = {name: tuple(array.shape) for name, array in kept["arrays"].items()}
        if now != saved:
            differ = [name for name in {**now, **saved} if now.get(name) != saved.get(name)]
            raise StateError(f"The snapshot is of another net: it differs in {some(differ)}. Nothing was loaded.")
        if set(kept["optimizers"]) != {work.name for work in self._works}:
            raise StateError(f"The snapshot is of the updates {some(kept['optimizers'])}. Nothing was loaded.")


def _arrays(net: nn.Module) -> list[tuple[str, Tensor]]:
    """Every parameter and buffer with a shape, also those that a state_dict leaves out."""
    return [(name, one) for name, one in (*net.named_parameters(), *net.named_buffers()) if has_shape(one)]


def _all_finite(arrays: Sequence[Tensor]) -> bool:
    """Whether all are finite; the devices are waited for once, where their numbers are of the usual kinds."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for array in arrays:
        if array.dtype in _USUAL and array.numel() and array.layout == torch.strided:
            by_device.setdefault(array.device, []).append(array)
        elif not _finite(array):
            return False
    largest = [torch.stack([own.float() for own in torch._foreach_norm(some, inf)]) for some in by_device.values()]
    return all(bool(found.isfinite().all()) for found in largest)


def _finite(array: Tensor) -> bool:
    return not (array.is_floating_point() or array.is_complex()) or bool(torch.isfinite(array).all())


def _taken(kept: Any, now: Any) -> Any:
    """A copy of `now`, in the memory of an older one where that fits."""
    if isinstance(now, Tensor):
        same = isinstance(kept, Tensor) and kept.shape == now.shape and kept.dtype == now.dtype
        if same and kept.device == now.device and kept.layout == now.layout == torch.strided:
            return kept.copy_(now)
        return now.detach().clone()
    return _like(kept, now, _taken)


def _copied(like: Any, kept: Any) -> Any:
    """A copy of what was saved, on the devices of what is there now."""
    if isinstance(kept, Tensor):
        device = like.device if isinstance(like, Tensor) else kept.device
        return kept.detach().to(device, copy=True)
    return _like(like, kept, _copied)


def _like(other: Any, value: Any, made: Callable[[Any, Any], Any]) -> Any:
    """What `made` gives for each value in nested dicts and lists, with what stands at its place in another one."""
    if isinstance(value, Mapping):
        there = other if isinstance(other, Mapping) else {}
        return {key: made(there.get(key), own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        same = isinstance(other, list | tuple) and len(other) == len(value)
        beside = other if same else [None] * len(value)
        return type(value)(made(own, one) for own, one in zip(beside, value, strict=True))
    return value
