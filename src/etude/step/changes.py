"""What is asked of a trainer after it was made: another rate, other rules, parts frozen and thawed by hand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from etude.bind.table import RATE
from etude.errors import ScheduleError, warn
from etude.step import states
from etude.step.gradients import GRADIENT_SETTINGS
from etude.step.rates import check_rate
from etude.step.stepper import Stepper
from etude.values.rules import RulesLike
from etude.values.schedule import schedule


class Changes:
    """Changes of what a stepper was asked for; most of them hold once the net was resolved again.

    Attributes:
        held, thawed: names of the arrays that were frozen, and thawed, by hand.
    """

    def __init__(self, stepper: Stepper) -> None:
        self._stepper = stepper
        self.held: frozenset[str] = frozenset()
        self.thawed: frozenset[str] = frozenset()

    def resolve(self) -> None:
        """Walk the net again and resolve the recipe as it is now."""
        self._stepper.resolve_again(self.held, self.thawed)

    def rules(self, setting: str, given: RulesLike) -> None:
        """Put rules for a setting before those there are; see `Recipe.change`."""
        self._stepper.recipe.change(setting, given)

    def freeze(self, names: Collection[str]) -> None:
        """Hold these arrays, whatever the rules say."""
        self.held, self.thawed = self.held | frozenset(names), self.thawed - frozenset(names)

    def thaw(self, names: Collection[str]) -> None:
        """Let these arrays move again, also those that require no gradient yet."""
        tree = self._stepper.table.tree
        for name in tree.parameters.intersection(names):
            array = tree.arrays[name]
            array.requires_grad = array.is_floating_point() or array.is_complex()
        self.held, self.thawed = self.held - frozenset(names), self.thawed | frozenset(names)

    def learning_rate(self, rate: float) -> bool:
        """Set the learning rate, as if it had been said at first.

        Returns:
            Whether the net has to be resolved again before it holds.

        Raises:
            SettingError: the rate is not a finite number of at least 0.
            ScheduleError: the learning rate is a schedule, which would set it otherwise at the next step.
        """
        stepper, recipe = self._stepper, self._stepper.recipe
        old, step = recipe.base[RATE], int(stepper.progress.step)
        if not old.constant:
            if not step:
                raise ScheduleError(
                    f"set_learning_rate({rate!r}): the learning rate follows the schedule {old!r}, and no step has "
                    f"been made. Write learning_rate={rate!r} where the trainer is made."
                )
            raise ScheduleError(
                f"set_learning_rate({rate!r}): the learning rate follows the schedule {old!r}. Write the change into "
                f"the schedule, as in pieces({old!r}, (steps({step}), {rate!r}))."
            )
        check_rate(rate, "set_learning_rate: rate")
        new = schedule(float(rate))
        recipe.base[RATE] = new
        if recipe.places and RATE not in recipe.said:
            # So far each optimizer had its own default.
            recipe.said.add(RATE)
            return True
        stepper.use(stepper.table.replaced(RATE, old, new))
        stepper.optimizer.forget_layout()
        return False

    @contextmanager
    def undone_on_error(self, resolve: Callable[[], None]) -> Iterator[None]:
        """What was asked for, and what may move, is as it was if something cannot be followed.

        Args:
            resolve: called after all is as it was.
        """
        recipe, tree = self._stepper.recipe, self._stepper.table.tree
        kept = recipe.base, recipe.rules, recipe.said, self.held, self.thawed
        able = [(array, array.requires_grad) for array in tree.arrays.values()]
        recipe.base, recipe.rules, recipe.said = dict(recipe.base), dict(recipe.rules), set(recipe.said)
        try:
            yield
        except BaseException:
            recipe.base, recipe.rules, recipe.said, self.held, self.thawed = kept
            for array, requires in able:
                if array.requires_grad != requires:
                    array.requires_grad = requires
            resolve()
            raise

    # ------------------------------------------------------------------------------------------------- the state

    def state(self) -> dict[str, Any]:
        """What is asked for now: base values and rules as text, and what was frozen and thawed by hand."""
        recipe = self._stepper.recipe
        return {
            "settings": {setting: states.text_of(base) for setting, base in recipe.base.items()},
            "rules": {setting: states.text_of(made) for setting, made in recipe.rules.items()},
            "said": sorted(recipe.said),
            "held": sorted(self.held),
            "thawed": sorted(self.thawed),
        }

    def load(self, state: Mapping[str, Any], tell: bool) -> bool:
        """Take over what `state` gave in place of what is asked for, where it can be read.

        Args:
            tell: warn where that makes a difference, and list it.

        Returns:
            Whether the net has to be resolved again before it holds.
        """
        recipe = self._stepper.recipe
        base = states.settings_in(state, (RATE, *recipe.known))
        rules = states.rules_in(state)
        held, thawed = frozenset(state["held"]), frozenset(state["thawed"])
        said = set(state["said"])
        off = recipe.base.keys() & GRADIENT_SETTINGS.keys() - state["settings"].keys()
        differs = [key for key, made in base.items() if recipe.base.get(key) != made] + sorted(off)
        differs += [f"the rules for {key}" for key, made in rules.items() if recipe.rules.get(key) != made]
        differs += [f"the rules for {key}" for key in recipe.rules if key not in state["rules"]]
        if (held, thawed) != (self.held, self.thawed):
            differs.append("what is frozen")
        if not differs and said == recipe.said:
            return False
        if tell and differs:
            warn(
                f"The state has other settings than this trainer, and they are used: {', '.join(differs)}. Write "
                'load_state_dict(state, keep="saved") if that is meant, or keep="new".'
            )
        recipe.base = {**{key: made for key, made in recipe.base.items() if key not in off}, **base}
        recipe.said = said
        recipe.rules = {**{key: made for key, made in recipe.rules.items() if key in state["rules"]}, **rules}
        self.held, self.thawed = held, thawed
        return True
