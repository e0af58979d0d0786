"""What a loss may be written as, and the terms that it stands for."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeAlias

from torch import Tensor, nn

from etude.arguments import named, told_of
from etude.errors import SettingError, nearest
from etude.step.elements import element_wise
from etude.step.losses.error_rate import error_rate
from etude.step.losses.own import MAIN, NO_SETTINGS, OwnLoss, is_number, makes_losses, number_of
from etude.step.term import BY_NAME, MODULES, LossFunction, Term
from etude.values.algebra import argument
from etude.values.part import Part, PartLike, part
from etude.values.schedule import Schedule, ScheduleLike, constant, schedule

LossLike: TypeAlias = "str | nn.Module | LossFunction | SaidTerm | Mapping[str, Any]"

_ALIASES = {
    "mse": "mse_loss",
    "mae": "l1_loss",
    "l1": "l1_loss",
    "smooth_l1": "smooth_l1_loss",
    "huber": "huber_loss",
    "nll": "nll_loss",
    "bce": "binary_cross_entropy",
    "bce_with_logits": "binary_cross_entropy_with_logits",
}
_ERRORS: dict[str, LossFunction] = {"error_rate": error_rate}
"""What is only reported, by name."""
OUTPUT = "output"
_WANTED = frozenset({"mask", "batch", "net"})
"""What a function of outputs and targets is given besides, where it names it."""
_TIMES = ("training", "evaluation")
PERPLEXITY = "perplexity"


@dataclass(frozen=True, slots=True, repr=False)
class SaidTerm:
    """A term of a loss with all that can be said of it; made by `term` and `error`."""

    what: Any
    weight: Schedule | None = None
    reaches: Part | None = None
    only: str | None = None
    exponent: bool = False
    of: str | tuple[str, str] | None = None
    settings: Mapping[str, Schedule] = field(default_factory=lambda: NO_SETTINGS)
    error: bool = False

    def __repr__(self) -> str:
        options = ("weight", "reaches", "only", "exponent", "of")
        values = {name: getattr(self, name) for name in options}
        said = [
            f"{name}={argument(value) if isinstance(value, Schedule) else repr(value)}"
            for name, value in values.items()
            if value is not None and value is not False
        ]
        if self.settings:
            said.append(f"settings={dict(self.settings)!r}")
        what = getattr(self.what, "__name__", None) if inspect.isroutine(self.what) else None
        return f"{'error' if self.error else 'term'}({', '.join([what or repr(self.what), *said])})"


@named
def term(
    what: Any,
    weight: ScheduleLike = None,
    reaches: PartLike | None = None,
    only: str | None = None,
    exponent: bool = False,
    of: str | tuple[str, str] | None = None,
    settings: Mapping[str, ScheduleLike] | None = None,
) -> SaidTerm:
    """A term of a loss: `loss={"ce": "cross_entropy", "aux": term(f, 0.3, reaches="encoder")}`.

    Args:
        what: a loss as `train` takes it.
        weight: what it is multiplied by in the sum; a number or a schedule, 1 if nothing is said. A term of weight 0 is
            computed and reported, and has no influence on any array: nor have the numbers it draws, the statistics it
            would move, or a NaN in it. (Arrays that it alone reaches get the gradient 0.)
        reaches: the part that its gradient goes to; the gradient passes through the rest of the net, which gets none of
            it. None: everything.
        only: "training" or "evaluation": it is computed there alone. In evaluation alone it is in no sum and has no
            weight.
        exponent: report also "<name>.perplexity", e to the mean over the epoch or all validation data (inf where that
            is too large).
        of: the name of the output and the target that it takes, or a pair of these names; None: those that are called
            like the term, or the only ones.
        settings: numbers or schedules that the function takes by keyword: {"temperature": linear(2, 1)}.

    Raises:
        SettingError, PartError, ScheduleError: an argument is not what it has to be.
    """
    if isinstance(what, SaidTerm | Mapping):
        raise SettingError(
            f"term({what!r}): a loss is needed here. Several terms are a dict: loss={{'a': ..., 'b': ...}}."
        )
    if only is not None and only not in _TIMES:
        raise SettingError(f'term(only={only!r}): "training" or "evaluation" is needed.{nearest(only, _TIMES)}')
    if only == "evaluation" and weight is not None:
        raise SettingError(
            f"term(weight={weight!r}, only='evaluation'): what is computed in evaluation alone is in no sum, so that "
            "the losses of both can be compared, and has no weight. Leave one of them out."
        )
    if not isinstance(exponent, bool):
        raise SettingError(f"term(exponent={exponent!r}): True or False is needed.")
    with told_of("term"):
        place = None if reaches is None else part(reaches)
        made = None if weight is None else _weight("", weight)
        return SaidTerm(what, made, place, only, exponent, _checked_of(of), _settings(settings))


@named
def error(
    what: Any, of: str | tuple[str, str] | None = None, settings: Mapping[str, ScheduleLike] | None = None
) -> SaidTerm:
    """What is reported beside a loss and never differentiated: `{"ce": "cross_entropy", "fer": error("error_rate")}`.

    Args:
        what: "error_rate" (the share of true targets that are not the most probable class), or a loss as `train` takes
            it; a function is computed without gradients, and may use argmax, numpy and the like.
        of, settings: as of `term`.

    Raises:
        SettingError, ScheduleError: an argument is not what it has to be.
    """
    if isinstance(what, SaidTerm | Mapping):
        raise SettingError(f"error({what!r}): a function or a name is needed, as in error('error_rate').")
    with told_of("error"):
        return SaidTerm(what, of=_checked_of(of), settings=_settings(settings), error=True)


def _checked_of(of: Any) -> Any:
    pair = isinstance(of, tuple) and len(of) == 2 and all(isinstance(name, str) for name in of)
    if of is None or isinstance(of, str) or pair:
        return of
    raise SettingError(f'of={of!r}: the name of an output is needed, or a pair as in of=("logits", "labels").')


def _settings(given: Mapping[str, ScheduleLike] | None) -> Mapping[str, Schedule]:
    if given is None:
        return NO_SETTINGS
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise SettingError(f'settings={given!r}: a dict of numbers by name is needed, as in {{"temperature": 2.0}}.')
    return MappingProxyType({name: number_of(value, f"settings: {name!r}") for name, value in given.items()})


def terms(literal: LossLike) -> tuple[Term, ...]:
    """The terms that a literal stands for.

    Args:
        literal: a name ("cross_entropy", "mse", ...: torch.nn.functional's names and the usual short ones), a torch
            loss module, a function of (output, target), of (output) or of (net, batch); a loss of `etude.losses`; or a
            dict from names to such, each alone, in a pair with a weight (a number or a schedule), or in `term(...)`.
            "output" takes the net's own output. A function gives a mean, one value a sample, or a pair (sum, count). A
            function of (net, batch) that stands for several terms is called once for all of them, and gives a dict of
            these by name. A function of outputs and targets that names `mask`, `batch` or `net` too is given these.

    Raises:
        SettingError: an unknown name, something that is no loss, a weight that is no number, nothing to minimise, or
            two series of one name.
    """
    if not isinstance(literal, Mapping):
        made = tuple(_made("loss", literal, ("", literal)))
    else:
        if not literal:
            raise SettingError('loss={}: no term. Write loss="cross_entropy" or loss={"name": function}.')
        taken = [name for name in literal if len(literal) > 1 and name in ("loss", "rate")]
        if taken:
            raise SettingError(f"loss: a term is called {taken[0]!r}, as is the sum (or the rate). Write another name.")
        made = tuple(each for name, what in literal.items() for each in _weighted(str(name), what))
    _check_alone(made)
    _check_names(made)
    return made


def _check_alone(made: tuple[Term, ...]) -> None:
    if not any(not one.error and one.only != "evaluation" for one in made):
        names = ", ".join(repr(one.name) for one in made)
        raise SettingError(
            f"loss: {names}: errors and terms of evaluation alone are reported and not minimised, and there is nothing "
            'else. Write a term to minimise too: loss={"ce": "cross_entropy", "fer": error("error_rate")}.'
        )


def _check_names(made: tuple[Term, ...]) -> None:
    names = [one.name for one in made] + [f"{one.name}.{PERPLEXITY}" for one in made if one.exponent]
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise SettingError(f"loss: two series are called {twice[0]!r}. Give one of the terms another name.")


def _weighted(name: str, what: Any) -> Iterator[Term]:
    if isinstance(what, tuple):
        if len(what) != 2:
            raise SettingError(
                f'loss term {name!r}: {what!r} is no pair of loss and weight. Write {name!r}: ("mse", 0.5).'
            )
        if isinstance(what[0], SaidTerm):
            raise SettingError(f"loss term {name!r}: a pair of {what[0]!r} and a weight. Write term(..., weight).")
        return _made(name, what[0], what)
    return _made(name, what, ("", what))


def _made(name: str, what: Any, pair: tuple[Any, ...]) -> Iterator[Term]:
    """The term, and what it reports besides."""
    said = what if isinstance(what, SaidTerm) else SaidTerm(what)
    weight = said.weight or (constant(1.0) if pair[0] == "" else _weight(name, pair[1]))
    found = _term(name, said.what, weight, said.error)
    pair_of = (said.of, said.of) if isinstance(said.of, str) else said.of
    if found.takes == "net" and pair_of is not None:
        raise SettingError(
            f"loss term {name!r}: of={said.of!r}, and it takes the net and the batch, no output. Leave `of` out."
        )
    found = replace(
        found,
        reaches=said.reaches,
        only=said.only or "",
        exponent=said.exponent,
        error=said.error,
        of=pair_of,
        settings=_all_settings(name, found, said.settings),
    )
    if found.error or found.only == "evaluation":
        found = replace(found, weight=constant(0.0))
    own = found.function
    if not isinstance(own, OwnLoss) or not own.also:
        yield found
        return
    yield replace(found, entry=MAIN)
    beside = replace(found, weight=constant(0.0), error=True, exponent=False, reaches=None)
    yield from (replace(beside, name=f"{name}.{entry}", entry=entry) for entry in own.also)


def _all_settings(name: str, found: Term, said: Mapping[str, Schedule]) -> Mapping[str, Schedule]:
    """The numbers that a function is given by keyword: its own, or those that were said."""
    if isinstance(found.function, OwnLoss):
        if said:
            raise SettingError(
                f"loss term {name!r}: settings={dict(said)!r}: {found.function!r} has its own. Write them there."
            )
        return found.function.settings
    if said:
        _check_keywords(name, found.function, said)
    return said


def _check_keywords(name: str, function: Any, said: Mapping[str, Schedule]) -> None:
    try:
        parameters = inspect.signature(getattr(function, "forward", function)).parameters.values()
    except (TypeError, ValueError):
        parameters = ()  # type: ignore[assignment]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    # The first one or two are outputs and targets, or the net and the batch.
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for key in said:
        if key not in known:
            raise SettingError(
                f"loss term {name!r}: its function has no argument {key!r}. Arguments: {', '.join(known) or 'none'}."
                f"{nearest(key, known)}"
            )


def _term(name: str, what: Any, weight: Schedule, is_error: bool) -> Term:
    if isinstance(what, str):
        return _named(name, what, weight, is_error)
    if isinstance(what, OwnLoss):
        return Term(name, what, weight, what.takes, wants=what.wants)
    if isinstance(what, type) and issubclass(what, nn.Module):
        raise SettingError(f"loss={what.__name__}: a class. Write {what.__name__}().")
    if not callable(what):
        raise SettingError(f'loss={what!r}: a name, a torch loss or a function is needed. Write loss="cross_entropy".')
    if makes_losses(what):
        raise SettingError(f"loss={what.__name__}: it makes a loss. Write {what.__name__}(...).")
    if isinstance(what, nn.Module):
        _check_reduction(name, what)
        each = element_wise(what) if isinstance(what, MODULES) else None
        takes = _takes(what.forward)
        return Term(name, what, weight, takes, function_of_each=each, wants=_wants(what.forward, takes))
    each = element_wise(what) if any(what is known for known in BY_NAME.values()) else None
    takes = _takes(what)
    return Term(name, what, weight, takes, function_of_each=each, wants=_wants(what, takes))


def _weight(name: str, literal: Any) -> Schedule:
    if not is_number(literal):
        raise SettingError(
            f"{f'loss term {name!r}: its' if name else 'the'} weight is {literal!r}. Write a finite number or a "
            f'schedule of numbers, as in {name or "name"!r}: ("mse", 0.5).'
        )
    return schedule(literal)


def _named(name: str, what: str, weight: Schedule, is_error: bool) -> Term:
    if what == OUTPUT:
        return Term(name, _output_itself, weight, "output")
    low = what.lower()
    if low in _ERRORS:
        if not is_error:
            raise SettingError(f"loss={what!r}: no gradient comes from it. To report it write error({what!r}).")
        return Term(name, _ERRORS[low], weight, wants=frozenset({"mask"}))
    found = BY_NAME.get(_ALIASES.get(low, low))
    if found is None:
        names = [*BY_NAME, *_ALIASES, OUTPUT, *(_ERRORS if is_error else ())]
        raise SettingError(f"There is no loss {what!r}. Known: {', '.join(names)}.{nearest(what, names)}")
    return Term(name, found, weight, function_of_each=element_wise(found))


def _output_itself(output: Any) -> Any:
    """The net computes its loss: a tensor, `output["loss"]`, or `output.loss`."""
    if isinstance(output, Mapping):
        return output["loss"]
    return output if isinstance(output, Tensor | tuple) else output.loss


def _check_reduction(name: str, module: nn.Module) -> None:
    if getattr(module, "weight", None) is not None and getattr(module, "reduction", "mean") == "none":
        raise SettingError(
            f"loss {name!r}: with class weights, one value a sample cannot be averaged. Leave reduction."
        )


def _takes(function: LossFunction) -> str:
    """What a function takes: told by the names and number of its parameters."""
    parameters = _parameters(function)
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if needed and needed[0].name in ("net", "model", "module"):
        return "net"
    needed = [p for p in needed if p.name not in _WANTED]
    return "output" if len(needed) == 1 and not any(p.kind is p.VAR_POSITIONAL for p in parameters) else "pair"


def _wants(function: LossFunction, takes: str) -> frozenset[str]:
    """What a function of outputs and targets is given by name besides."""
    return frozenset() if takes == "net" else _WANTED & {p.name for p in _parameters(function)[1:]}


def _parameters(function: LossFunction) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []
