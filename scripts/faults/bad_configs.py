"""Configurations with a mistake in them: each is refused before the first step, and the message says which it was."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from torch import nn

from calls import Call, Spot, calls, carried_out, renamed, spots, with_option
from configurations import GOOD
from findings import Finding
from impossible import IMPOSSIBLE, SCENES, SEEN_LATER, WRONG_TYPES, Scene
from misspelt import WAYS
from seams import instead, nothing
from subjects import alike, scratch

ASKED = (
    "A misspelt name, a value of a wrong type, an impossible value, data or a file that cannot be used: each is "
    "refused before the first step by one of the library's own errors, which names it and its place and offers the "
    "right name first; the net is as it was, nothing is written; several mistakes are told together."
)
SHORT, FULL = 100, 500
SHARE = 0.95
"""Of the misspelt names, how many must get the right one offered first."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A configuration with mistakes, and what a refusal has to say.

    Attributes:
        config: it. what: the mistakes in words. told: texts that the message must have; of each one of several.
        offered: for each mistake the names of which one must be offered, before all others.
    """

    config: Any
    what: str
    told: tuple[tuple[str, ...], ...]
    offered: tuple[tuple[str, ...], ...] = ()


def look(count: int, seed: int) -> Iterator[Finding]:
    """Make so many mistakes: three in five are misspelt names."""
    chance = Random(seed)
    yield _good()
    yield _misspelt([_slip(chance) for _ in range(count * 3 // 5)])
    yield _tried("values of a wrong type", [_valued(chance, WRONG_TYPES) for _ in range(count // 5)])
    yield _tried("impossible values", [_valued(chance, IMPOSSIBLE) for _ in range(count // 10)])
    yield _scenes(count // 10, chance)
    yield _misspelt([_slips(chance) for _ in range(count // 10)], "two or three misspelt options of one call")
    yield _tried("misspelt options and wrong values in one call", [_mixed(chance) for _ in range(count // 10)])
    yield _tried("two misspelt parts", [_two_parts(chance) for _ in range(count // 20)])


# ------------------------------------------------------------------------------------------------------- what is tried


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a configuration came to: the error, if there was one, and what was changed all the same."""

    error: Exception | None
    wrong: tuple[str, ...]


def outcome(config: Call, folder: Path) -> Outcome:
    """Carry a configuration out: two steps at most, in a folder that is empty or holds what a scene put there."""
    stepped: list[Any] = []
    there = _files(folder)
    nets: list[tuple[nn.Module, dict[str, Any]]] = []
    error: Exception | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            args = [carried_out(each, folder) for each in config.args]
            nets += [(each, _arrays(each)) for each in args if isinstance(each, nn.Module)]
            options = {key: carried_out(each, folder) for key, each in config.options.items()}
            with suppress(_Enough):
                _begun(config.of, args, options, stepped)
        except Exception as found:
            error = found
    wrong = ["steps were made"] if stepped and error is not None else []
    wrong += (
        ["the net was changed"] if error is not None and any(not alike(was, _arrays(of)) for of, was in nets) else []
    )
    written = sorted(_files(folder) - there)
    wrong += [f"written: {', '.join(written)}"] if written and error is not None else []
    return Outcome(error, tuple(wrong))


def _begun(of: str, args: list[Any], options: dict[str, Any], stepped: list[Any]) -> None:
    """What the outermost call leads to, as far as the first step."""
    import etude

    if of == "train":
        listeners = options.pop("listeners", [])
        heard = [*listeners, _Hears(stepped)] if isinstance(listeners, list) else listeners
        etude.train(*args, **options, listeners=heard)
    elif of == "Run":
        run = etude.Run(*args, **options)
        run.to(_Hears(stepped)).result()
    elif of == "Checkpoints":
        with etude.Checkpoints(*args, **options) as checkpoints:
            checkpoints.load(net=nn.Linear(2, 2))
    else:
        etude.Trainer(*args, **options)


class _Enough(Exception):
    """Two steps were made."""


class _Hears:
    """A listener that keeps the steps, and ends the run after the second."""

    def __init__(self, stepped: list[Any]) -> None:
        self._stepped = stepped

    def __call__(self, event: Any) -> None:
        if type(event).__name__ in ("Stepped", "Skipped"):
            self._stepped.append(event)
        if len(self._stepped) > 1:
            raise _Enough


def _arrays(net: nn.Module) -> dict[str, Any]:
    return {name: array.detach().clone() for name, array in (*net.named_parameters(), *net.named_buffers())}


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _good() -> Finding:
    """Without mistakes they are carried out."""
    wrong = []
    for name, config in GOOD.items():
        with scratch(in_memory=True) as folder:
            found = outcome(config, folder)
        wrong += [f"{name}: {type(found.error).__name__}: {found.error}"] if found.error is not None else []
    return Finding("good configurations", len(GOOD), tuple(wrong))


def refusal(mistake: Mistake, folder: Path) -> list[str]:
    """What is wrong with how a mistake is refused; offers are looked at elsewhere."""
    return _refusal(outcome(mistake.config, folder), mistake)


def _refusal(found: Outcome, mistake: Mistake) -> list[str]:
    from etude.errors import EtudeError

    if found.error is None:
        return [f"{mistake.what}: accepted"]
    text = str(found.error)
    shown = f"{type(found.error).__name__}: {text[:300]}"
    wrong = [f"{mistake.what}: {line}" for line in found.wrong]
    if not isinstance(found.error, EtudeError):
        wrong.append(f"{mistake.what}: {shown}")
    for texts in mistake.told:
        if not any(each in text for each in texts):
            wrong.append(f"{mistake.what}: {texts[0]} is not told: {shown}")
    return wrong


def _tried(what: str, mistakes: list[Mistake]) -> Finding:
    """Mistakes whose refusal has to say what they are."""
    wrong = []
    for mistake in mistakes:
        with scratch(in_memory=True) as folder:
            wrong += refusal(mistake, folder)
    return Finding(what, len(mistakes), tuple(wrong))


def _misspelt(mistakes: list[Mistake], what: str = "misspelt options, settings, parts and other names") -> Finding:
    """Mistakes for which the right name has to be offered first, nearly always."""
    wrong, missed = list[str](), list[str]()
    for mistake in mistakes:
        with scratch(in_memory=True) as folder:
            found = outcome(mistake.config, folder)
        wrong += _refusal(found, mistake)
        first = re.findall(r'Nearest: "([^"]*)"', str(found.error))
        missed += [
            f"{mistake.what}: {names[0]} is not offered first: {str(found.error)[:300]}"
            for names in mistake.offered
            if not set(names) & set(first)
        ]
    asked = sum(len(mistake.offered) for mistake in mistakes)
    if len(missed) > (1 - SHARE) * asked:
        wrong += [f"{asked - len(missed)} of {asked} right names were offered first: less than {SHARE:.0%}", *missed]
    return Finding(what, len(mistakes), tuple(wrong), {"offered first": f"{asked - len(missed)} of {asked}"})


# ------------------------------------------------------------------------------------------------------ misspelt names


def _slip(chance: Random) -> Mistake:
    """One misspelt name in one configuration."""
    while True:
        config = GOOD[chance.choice(list(GOOD))]
        spot, wrong = _misspell(chance, chance.choice(spots(config)))
        if wrong:
            return _mistake(config, {spot.number: (spot, wrong)})


def _slips(chance: Random) -> Mistake:
    """Two or three options of one call are misspelt."""
    while True:
        config = GOOD[chance.choice(list(GOOD))]
        found = [spot for spot in spots(config) if spot.kind == "option"]
        number = chance.choice(found).call_number
        here = [spot for spot in found if spot.call_number == number]
        if len(here) < 2:
            continue
        slips = [_misspell(chance, spot) for spot in chance.sample(here, min(len(here), chance.choice((2, 3))))]
        if all(wrong for _, wrong in slips) and len({wrong for _, wrong in slips}) == len(slips):
            return _mistake(config, {spot.number: (spot, wrong) for spot, wrong in slips})


def _two_parts(chance: Random) -> Mistake:
    """Two parts of one call are misspelt."""
    while True:
        config = GOOD[chance.choice(["parts at other rates", "rules", "optimizers by part"])]
        found = [spot for spot in spots(config) if spot.kind == "part"]
        if len(found) < 2:
            continue
        slips = [_misspell(chance, spot) for spot in chance.sample(found, 2)]
        if all(wrong for _, wrong in slips) and slips[0][1] != slips[1][1]:
            return _mistake(config, {spot.number: (spot, wrong) for spot, wrong in slips})


def _misspell(chance: Random, spot: Spot) -> tuple[Spot, str]:
    """A spot with the name that is written there instead; an empty one where that would be right too."""
    wrong = chance.choice(WAYS)(spot.name, chance)
    return spot, "" if _is_right(spot, wrong) else wrong


def _is_right(spot: Spot, name: str) -> bool:
    """Whether a name is right at a place, though another one was meant."""
    from etude.errors import EtudeError
    from etude.run.plan import Plan
    from etude.step.loss import terms
    from etude.step.optim.registry import known_names

    if name == spot.name or not name:
        return True
    if spot.kind == "optimizer":
        # Case and underscores do not count there.
        return name.lower().replace("_", "") in {known.replace("_", "") for known in known_names()}
    if spot.kind == "loss":
        with suppress(EtudeError):
            return bool(terms(name))
    if spot.kind == "part":
        # What is no name at all is refused before there is a net, and so not together with what the net lacks.
        return "" in name.split(".")
    if spot.kind != "option":
        return False
    if not name.isidentifier():
        return True
    own = set(inspect.signature(_public(spot.call)).parameters)
    plan = set(inspect.signature(Plan.__init__).parameters) if spot.call in ("train", "Plan") else set()
    return name in own | plan | {"l2", "lr" if spot.call == "" else ""}


def _public(name: str) -> Callable[..., Any]:
    import etude

    return getattr(etude, name)


def _mistake(config: Call, slips: dict[int, tuple[Spot, str]]) -> Mistake:
    made = renamed(config, lambda spot: slips[spot.number][1] if spot.number in slips else spot.name)
    what = ", ".join(f"{wrong} for {spot.name} in {' '.join(spot.inside)}" for spot, wrong in slips.values())
    told: list[tuple[str, ...]] = []
    offered = []
    for spot, wrong in slips.values():
        told.append((repr(wrong), f'"{wrong}"') if spot.kind == "option" else (f"'{wrong}'", f'"{wrong}"'))
        told += [_places(spot)] if len(spot.inside) > 1 else []
        offered.append(_meant(spot.name, wrong))
    return Mistake(made, what, tuple(told), tuple(offered))


_SAID = {
    "learning_rate_multipliers": ("rule",),
    "rules": ("rule",),
    "update_schedule": ("update schedule",),
    "optimizer": ("optimizer",),
    "pieces": ("update schedule",),
    "cycle": ("update schedule",),
}
"""How a message may call a place."""


def _places(spot: Spot) -> tuple[str, ...]:
    """How a message may name the place of a spot: by the call or the options around it, but not the outermost."""
    inner = [each.removesuffix("(") for each in spot.inside[1:]]
    kind = [spot.kind] if spot.kind in ("loss", "metric", "optimizer") else []
    return tuple(text for each in (*inner, *kind) for text in (each, *_SAID.get(each, ())))


def _meant(right: str, wrong: str) -> tuple[str, ...]:
    """What has to be offered: the name, or the piece of it that is wrong."""
    pieces = zip(right.split("."), wrong.split("."), strict=False)
    return (right, *(own for own, other in pieces if own != other))


# --------------------------------------------------------------------------------------------------------- wrong values


def _valued(chance: Random, table: dict[str, dict[str, tuple[Any, ...]]]) -> Mistake:
    """One option of one call has a value that it cannot have."""
    while True:
        config = GOOD[chance.choice(list(GOOD))]
        there = [each.of for each in calls(config) if each.of in table]
        if there:
            of = chance.choice(there)
            option = chance.choice(list(table[of]))
            value = chance.choice(table[of][option])
            made = with_option(config, of, option, value)
            # A call that is wrong itself is refused before it is given to anything.
            own = (f"{value.of}(",) if isinstance(value, Call) else _SAID.get(option, ())
            return Mistake(made, f"{of}({option}={value!r})", ((option, *own),))


def _mixed(chance: Random) -> Mistake:
    """A misspelt option and a value of a wrong type, both of the outermost call."""
    while True:
        name = chance.choice(list(GOOD))
        config = GOOD[name]
        if config.of != "train":
            continue
        of = [spot for spot in spots(config) if spot.kind == "option" and len(spot.inside) == 1]
        spot, wrong = _misspell(chance, chance.choice(of))
        # What are settings is not known where the optimizer is none.
        option = chance.choice([key for key in WRONG_TYPES["Plan"] if key not in (spot.name, "optimizer")])
        if wrong:
            value = chance.choice(WRONG_TYPES["Plan"][option])
            made = _mistake(config, {spot.number: (spot, wrong)})
            both = with_option(made.config, "train", option, value)
            told = () if (option, value) in SEEN_LATER else ((option, *_SAID.get(option, ())),)
            return Mistake(both, f"{made.what}; {option}={value!r}", (*made.told, *told))


def _scenes(count: int, chance: Random) -> Finding:
    wrong = []
    for number in range(count):
        scene: Scene = SCENES[number % len(SCENES)]
        with scratch(in_memory=True) as folder:
            config, what, told = scene(folder, chance)
            wrong += refusal(Mistake(config, what, tuple((each,) for each in told)), folder)
    return Finding("shapes, empty data, places that cannot be written to, foreign checkpoints", count, tuple(wrong))


# ------------------------------------------------------------------------------------------------------ faults to plant


def planted(seed: int) -> Iterator[Finding]:
    """A library that looks less closely, says less, or acts before it has looked."""
    for fault, plant in _faults().items():
        tried, wrong = 0, list[str]()
        for more in range(8):
            with plant():
                found = list(look(60, seed + more))
            # The good ones have to be carried out all the same.
            wrong += [line for finding in found[1:] for line in finding.wrong if not found[0].wrong]
            tried += sum(finding.tried for finding in found)
            if wrong:
                break
        told = {"seen": len(wrong), "first": wrong[0][:80]} if wrong else {}
        yield Finding(fault, tried, () if wrong else (f"{fault}: not noticed",), told)


def _faults() -> dict[str, Callable[[], AbstractContextManager[Any]]]:
    """What to plant, by name."""
    from etude import arguments, hints
    from etude.bind import resolve
    from etude.keep.retain import BestBy
    from etude.run import check, heard, plan, updates
    from etude.step.optim.rule import Setting

    return {
        "unknown options are passed over": lambda: instead(plan, "_check_names", _dropped),
        "no name is offered": lambda: instead(hints, "nearest", lambda *_: ""),
        "names are offered as they stand in the dictionary": lambda: instead(hints, "nearest", _sorted),
        "bare errors come through": lambda: instead(arguments, "_misfit", lambda *_: ""),
        "one mistake at a time": lambda: instead(arguments.Faults, "take", _at_once),
        "whole numbers are taken as they come": lambda: instead(plan, "_whole", lambda _, value, least=1: value),
        "settings are taken as they come": lambda: instead(Setting, "check", nothing),
        "the option is not named": lambda: instead(plan, "_flag", _unnamed),
        "the place is not told": lambda: instead(resolve, "_matched", lambda tree, _, place, __: {*place.names(tree)}),
        "names of scores are not looked at": lambda: both(
            instead(updates, "check_told", nothing),
            instead(heard, "check_told", nothing),
            instead(BestBy, "check", lambda self, _: BestBy(self.score, self.count, self.direction or "max")),
        ),
        "the net is changed before it is looked at": lambda: instead(plan.Plan, "check", _changing(plan.Plan.check)),
        "folders are made before anything is looked at": lambda: instead(plan.Plan, "check", _making(plan.Plan.check)),
        "data are first looked at in the first step": lambda: instead(check, "dry_run", nothing),
    }


@contextmanager
def both(*plants: AbstractContextManager[Any]) -> Iterator[None]:
    """Several faults that are one."""
    with ExitStack() as stack:
        for plant in plants:
            stack.enter_context(plant)
        yield


def _at_once(_: object, look: Callable[..., Any], *given: Any, **options: Any) -> Any:
    return look(*given, **options)


def _dropped(plan: Any) -> None:
    from etude.step.recipe import settings_known

    known = settings_known(plan.optimizer) or ()
    plan.settings = {name: value for name, value in plan.settings.items() if name in known}


def _sorted(_: object, words: Any, count: int = 3) -> str:
    return f" Nearest: {', '.join(map(_quoted, sorted(words)[:count]))}."


def _quoted(word: str) -> str:
    return f'"{word}"'


def _unnamed(_: str, value: Any) -> Any:
    from etude.errors import SettingError

    if not isinstance(value, bool):
        raise SettingError("True or False is needed.")
    return value


def _changing(check: Callable[..., Any]) -> Callable[..., Any]:
    def changed(plan: Any, net: Any, data: Any) -> Any:
        if isinstance(net, nn.Module):
            for array in net.parameters():
                array.data.mul_(1.5)
        return check(plan, net, data)

    return changed


def _making(check: Callable[..., Any]) -> Callable[..., Any]:
    def made(plan: Any, net: Any, data: Any) -> Any:
        for place in plan.checkpoint or ():
            with suppress(OSError):
                Path(place.absolute).parent.joinpath("made").mkdir()
        return check(plan, net, data)

    return made
