"""Update rules by name: ours, then every class of torch.optim."""

from __future__ import annotations

import torch

from etude.errors import SettingError, nearest
from etude.step.optim.adam import Adam, AdamW
from etude.step.optim.rule import UpdateRule
from etude.step.optim.sgd import SGD

_OURS: dict[str, UpdateRule] = {rule.name: rule for rule in (SGD(), Adam(), AdamW())}


def torch_classes() -> dict[str, type[torch.optim.Optimizer]]:
    """The optimizer classes of torch.optim, by lower-case name."""
    found = {}
    for name in dir(torch.optim):
        kind = getattr(torch.optim, name)
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer:
            found[name.lower()] = kind
    return found


def known_names() -> tuple[str, ...]:
    """Every name that `by_name` knows: ours first."""
    return (*_OURS, *(name for name in torch_classes() if name not in _OURS and name != "lbfgs"))


def by_name(name: str) -> UpdateRule | type[torch.optim.Optimizer]:
    """One of our rules, or a class of torch.optim; upper and lower case are alike, `torch.` asks for torch's.

    Raises:
        SettingError: no rule has that name.
    """
    low = name.lower().replace("_", "")
    if low in _OURS:
        return _OURS[low]
    theirs, bare = torch_classes(), low.removeprefix("torch.").removeprefix("optim.")
    if bare in theirs:
        return theirs[bare]
    names = known_names()
    raise SettingError(f"There is no optimizer {name!r}. Known: {', '.join(names)}.{nearest(bare, names)}")
