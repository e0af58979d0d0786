"""One update of a run: a loss, the part it moves, the optimizer that moves it, and when it has its turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from etude.arguments import Faults, named_class, told_of
from etude.errors import SettingError
from etude.step.loss import LossLike, terms
from etude.step.recipe import OptimizerLike, Recipe
from etude.values.part import Part, PartLike, part
from etude.values.rules import RulesLike
from etude.values.schedule import Constant, Schedule, schedule

TAKEN = ("val", "epoch", "rate")
"""Names that would be taken for others in the history."""


@named_class
@dataclass(frozen=True, init=False, repr=False)
class Update:
    """What one of several losses does in a step.

    Args:
        name: how the update is called in the history: its loss is "<name>.loss" there.
        loss: as for `train`: a name, a torch loss, a function of (output, target) or of (net, batch), or named terms.
        part: the arrays it moves; None: all.
        optimizer, learning_rate, learning_rate_multipliers, rules, update_schedule, and settings of the update rule:
            as for `Trainer`.
        turn: a schedule of how often it acts in a step: a bool or a whole number (2: twice in a row). None: once in
            every step. `when("critic.loss", above=0.5, at_most=5)` listens to the losses.
        own_batch: it takes a batch of its own for each time it acts, instead of sharing the batch of the step. A step
            is finished even if the last epoch ends within it.

    Raises:
        SettingError, PartError, ScheduleError: what the arguments say is no update.
    """

    name: str
    loss: LossLike
    part: Part | None
    optimizer: OptimizerLike
    learning_rate: Any
    learning_rate_multipliers: RulesLike
    rules: Mapping[str, RulesLike] | None
    update_schedule: Any
    turn: Schedule | None
    own_batch: bool
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __init__(
        self,
        name: str,
        loss: LossLike | None = None,
        part: PartLike | None = None,
        *,
        optimizer: OptimizerLike = "adamw",
        learning_rate: Any = None,
        learning_rate_multipliers: RulesLike = None,
        rules: Mapping[str, RulesLike] | None = None,
        update_schedule: Any = None,
        turn: Any = None,
        own_batch: bool = False,
        **settings: Any,
    ) -> None:
        faults = Faults()
        take = partial(faults.take, _told, f"Update({name!r})")
        faults.take(_check_name, name)
        made = {
            "name": name,
            "loss": loss,
            "part": take(_part, part),
            "optimizer": optimizer,
            "learning_rate": learning_rate,
            "learning_rate_multipliers": learning_rate_multipliers,
            "rules": rules,
            "update_schedule": update_schedule,
            "turn": None if turn is None else faults.take(_turn, name, turn),
            "own_batch": faults.take(_flag, name, own_batch),
            "settings": settings,
        }
        for key, value in made.items():
            object.__setattr__(self, key, value)
        take(_check_loss, loss)
        take(self.recipe, False)
        faults.tell()

    def recipe(self, strict: bool) -> Recipe:
        """The optimizer, its settings and rules, checked."""
        return Recipe(
            self.optimizer,
            learning_rate=self.learning_rate,
            rules=self.rules,
            multipliers=self.learning_rate_multipliers,
            update_schedule=self.update_schedule,
            part=self.part,
            strict=strict,
            settings=self.settings,
            asked_by=Update,
        )

    def __repr__(self) -> str:
        return f"Update({self.name!r}, part={self.part!r}, optimizer={self.optimizer!r})"


def _told(place: str, check: Callable[..., Any], *given: Any) -> Any:
    with told_of(place):
        return check(*given)


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name or "." in name:
        raise SettingError(
            f'Update({name!r}): a name without dots is needed, as in Update("critic", ...): the history calls its '
            'loss "critic.loss".'
        )
    if name in TAKEN:
        raise SettingError(f"Update({name!r}): the history has series of that name. Write another, such as 'critic'.")


def _check_loss(loss: LossLike | None) -> None:
    if loss is None:
        raise SettingError('no loss is given. Write loss="mse", a torch loss or a function.')
    terms(loss)


def _flag(name: str, own_batch: bool) -> bool:
    if not isinstance(own_batch, bool):
        raise SettingError(f"Update({name!r}, own_batch={own_batch!r}): True or False is needed.")
    return own_batch


def _part(literal: PartLike | None) -> Part | None:
    return None if literal is None else part(literal)


def _turn(name: str, literal: Any) -> Schedule:
    with told_of(f"Update({name!r}, turn={literal!r})"):
        made = schedule(literal)
    if made.kind == "part":
        raise SettingError(
            f"Update({name!r}, turn={literal!r}): a turn is True, False or a number of times. Parts that move in turn "
            "are an update_schedule."
        )
    if isinstance(made, Constant) and not (isinstance(made.value, int) and made.value >= 0):
        raise SettingError(f"Update({name!r}, turn={literal!r}): True, False or a whole number of times is needed.")
    return made
