"""Optimizers by name: what was registered, ours, every class of torch.optim, and those of other packages by prefix."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar, overload

import torch

from etude.errors import SettingError, nearest
from etude.needs import need
from etude.step.gradients import GRADIENT_SETTINGS
from etude.step.optim.adabelief import AdaBelief
from etude.step.optim.adam import Adam, AdamW, AMSGrad
from etude.step.optim.dcasgd import DcAsgd
from etude.step.optim.ftml import Ftml
from etude.step.optim.ftrl import Ftrl
from etude.step.optim.lamb import Lamb
from etude.step.optim.lans import Lans
from etude.step.optim.lars import Lars
from etude.step.optim.lazy import LazyAdam, LazySGD
from etude.step.optim.lion import Lion
from etude.step.optim.rowwise import RowwiseAdagrad
from etude.step.optim.rule import Setting, UpdateRule
from etude.step.optim.sgd import NAG, SGD
from etude.step.optim.sgld import Sgld
from etude.step.optim.signum import SignSGD, Signum

T = TypeVar("T")

OURS: tuple[type[UpdateRule], ...] = (
    SGD,
    Adam,
    AdamW,
    AMSGrad,
    NAG,
    AdaBelief,
    DcAsgd,
    Ftml,
    Ftrl,
    Lamb,
    Lans,
    Lars,
    LazyAdam,
    LazySGD,
    Lion,
    RowwiseAdagrad,
    Sgld,
    SignSGD,
    Signum,
)
"""The update rules of this library."""
_OURS: tuple[UpdateRule, ...] = tuple(rule() for rule in OURS)

PACKAGES = MappingProxyType(
    {"timm": "timm.optim", "pytorch_optimizer": "pytorch_optimizer", "schedulefree": "schedulefree"}
)
"""Packages of optimizers whose classes are known by their prefix, and the module that has them."""

_registered: dict[str, Any] = {}
"""What users have registered, by bare name."""


_ARGUMENTS = ("array", "gradient", "memory", "count", "settings", "climb")
"""Of a formula, besides the rule itself."""


def _bare(name: str) -> str:
    """A name as names are compared."""
    return name.lower().replace("_", "").replace("-", "")


def torch_classes() -> dict[str, type[torch.optim.Optimizer]]:
    """The optimizer classes of torch.optim, by lower-case name."""
    return _classes(torch.optim)


def _classes(module: ModuleType) -> dict[str, type[torch.optim.Optimizer]]:
    """The optimizer classes of a module, by bare name."""
    found = {}
    for name in dir(module):
        kind = getattr(module, name)
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer:
            found[_bare(name)] = kind
    return found


def known_names() -> tuple[str, ...]:
    """Every name that `by_name` knows: ours first, then what was registered, then torch's."""
    names = {_bare(rule.name): rule.name for rule in _OURS}
    return tuple(
        {**names, **{key: key for key in _registered}, **{key: key for key in torch_classes()}, **names}.values()
    )


def by_name(name: str) -> Any:
    """What a name stands for: an update rule, a class of torch's shape, or a registered function that makes one.

    Upper and lower case are alike, and underscores do not count. What was registered comes first, then ours, then
    torch's. `"torch.adamw"` is torch's own, `"timm.lamb"`, `"pytorch_optimizer.lion"` and `"schedulefree.adamw"` are
    those of other packages, which are imported then.

    Raises:
        SettingError: no optimizer has that name.
        MissingPackageError: the package of the prefix is not installed.
    """
    prefix, _, rest = name.lower().partition(".")
    if prefix in PACKAGES and rest:
        return _of_package(prefix, rest)
    bare = _bare(name)
    ours = {_bare(rule.name): rule for rule in _OURS}
    for known in (_registered, ours):
        if bare in known:
            return known[bare]
    theirs, without = torch_classes(), bare.removeprefix("torch.").removeprefix("optim.")
    if without in theirs:
        return theirs[without]
    names = known_names()
    raise SettingError(
        f"There is no optimizer {name!r}. Known: {', '.join(names)}; and with a prefix those of "
        f"{', '.join(PACKAGES)}.{nearest(without, names)}"
    )


def preset_of(name: str) -> Mapping[str, Any]:
    """The options that a name stands for besides its class.

    Muon's step is scaled to the size of AdamW's, 0.2 sqrt(max(rows, columns)), so that one learning rate is right for
    both: Liu et al., "Muon is Scalable for LLM Training", 2025.
    """
    return {"adjust_lr_fn": "match_rms_adamw"} if _bare(name) == "muon" and "muon" not in _registered else {}


def _of_package(prefix: str, rest: str) -> type[torch.optim.Optimizer]:
    found = _classes(need(PACKAGES[prefix], f'optimizer="{prefix}.{rest}"'))
    bare = _bare(rest.removeprefix("optim."))
    # schedulefree calls its classes AdamWScheduleFree and the like.
    for name in (bare, f"{bare}{prefix}"):
        if name in found:
            return found[name]
    raise SettingError(f"There is no optimizer {rest!r} in {prefix}. It has: {', '.join(found)}.{nearest(bare, found)}")


@overload
def register(rule: T, name: str | None = None, *, replace: bool = False) -> T: ...
@overload
def register(rule: None = None, name: str | None = None, *, replace: bool = False) -> Callable[[T], T]: ...
def register(rule: Any = None, name: str | None = None, *, replace: bool = False) -> Any:
    """Make an optimizer known by name, to `Trainer` and `train`; returns it, so that it can decorate a class.

    Args:
        rule: a subclass of `UpdateRule` or an instance of one; or a class of torch's shape, or a function from
            parameter groups to an optimizer.
        name: letters, digits and underscores; the rule's `name`, or that of the class or function, if left out.
        replace: whether the name may be taken from another optimizer.

    Example:
        `@register` above `class Tiger(UpdateRule)`, or `register(Tiger, name="my_tiger")`.

    Raises:
        SettingError: it is no optimizer, or the name is no name or is taken.
    """
    if rule is None:
        return lambda given: register(given, name, replace=replace)
    made = _checked(rule)
    own = name or (made.name if isinstance(made, UpdateRule) else getattr(rule, "__name__", ""))
    if not isinstance(own, str) or not own.replace("_", "").isalnum():
        raise SettingError(f'register: {own!r} is no name. Write letters, digits and underscores: name="my_rule".')
    bare = _bare(own)
    taken = _registered.get(bare) or next((r for r in _OURS if _bare(r.name) == bare), torch_classes().get(bare))
    if taken is not None and not replace and not _alike(taken, made):
        raise SettingError(
            f"register: the name {own!r} is taken by {_called(taken)}. Give another name=, or write replace=True."
        )
    _registered[bare] = made
    return rule


def _checked(given: Any) -> Any:
    """A registered optimizer as it is kept: rules as instances."""
    if isinstance(given, type) and issubclass(given, UpdateRule):
        try:
            given = given()
        except TypeError as error:
            raise SettingError(
                f"register: {given.__name__} cannot be made: {error}. A rule needs `formula`, and a constructor "
                "without arguments."
            ) from error
    if isinstance(given, UpdateRule):
        check_rule(given, "register: ")
    elif isinstance(given, torch.optim.Optimizer) or not callable(given) or inspect.ismodule(given):
        raise SettingError(
            f"register: {_called(given)} is no subclass of UpdateRule, no optimizer class and no function that makes "
            "one from parameter groups."
        )
    elif isinstance(given, type) and not issubclass(given, torch.optim.Optimizer):
        raise SettingError(
            f"register: the class {given.__name__} is neither an UpdateRule nor a torch.optim.Optimizer. Derive from "
            "one of them."
        )
    return given


def check_rule(rule: UpdateRule, said: str = "") -> None:
    """Raise SettingError unless a rule has what every rule has; `said` stands before the message."""
    kind = type(rule).__name__
    name, settings, memories = (getattr(rule, key, None) for key in ("name", "settings", "memories"))
    named = isinstance(settings, Mapping) and all(isinstance(setting, Setting) for setting in settings.values())
    for key, value, right, form in (
        ("name", name, isinstance(name, str), 'a string: name = "my_rule"'),
        ("settings", settings, named, 'a dict of Setting: settings = {"momentum": Setting(0.9, 0.0, 1.0)}'),
        ("memories", memories, isinstance(memories, tuple), 'a tuple of names: memories = ("momentum",)'),
    ):
        if not right:
            raise SettingError(f"{said}{kind}.{key} has to be {form}. It is {value!r}.")
    if "learning_rate" in rule.settings:
        raise SettingError(f"{said}{kind}.settings has 'learning_rate', which every rule has: leave it out.")
    for key in rule.settings.keys() & GRADIENT_SETTINGS.keys():
        raise SettingError(f"{said}{kind}.settings has {key!r}, which every trainer has: call it something else.")
    for key, setting in rule.settings.items():
        setting.check(f"{said}the default of {kind}.settings[{key!r}]: {key}", setting.default)
    try:
        inspect.signature(rule.formula).bind(*_ARGUMENTS)
    except TypeError:
        raise SettingError(
            f"{said}{kind}.formula takes other arguments than that of every rule: write formula(self, "
            f"{', '.join(_ARGUMENTS)})."
        ) from None


def _alike(one: Any, other: Any) -> bool:
    """Whether it is the same optimizer, perhaps defined again, as when a cell of a notebook is run twice."""
    ones, others = (type(each) if isinstance(each, UpdateRule) else each for each in (one, other))
    if ones is others:
        return True
    places = {(getattr(of, "__module__", None), getattr(of, "__qualname__", repr(of))) for of in (ones, others)}
    return len(places) == 1 and "<" not in str(places)


def _called(of: Any) -> str:
    """A class or function in words, and the package that it is of."""
    kind = type(of) if isinstance(of, UpdateRule) else of
    if not hasattr(kind, "__qualname__"):
        return repr(of)
    return f"{kind.__qualname__.rpartition('>.')[2]} of {kind.__module__.partition('.')[0]}"
