"""What a chart of series is called, and the lines in it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from etude.draw import paper

LONGEST_TITLE: Final = 60  # characters
LEAST_NAME: Final = 16  # characters of a name in a title that is cut
ABBREVIATED: Final = 3  # letters up to which a name may be short for something: "ce", "rms"
_KINDS: Final = ("probe.", "knob.", "setting.", "data.")


def named(names: Sequence[str]) -> tuple[str, list[str]]:
    """The title of a chart, and the label of each line, by the names of series in a history.

    What sort of series it is goes without saying ("probe."), and what all names end with is said in the title alone:
    "critic.loss" and "gen.loss" are "Loss of critic and gen".
    """
    plain = [_plain(name) for name in names]
    heads, ending = _apart(plain)
    if not ending:
        return _listed([_capital(plain[0]), *plain[1:]], LONGEST_TITLE), plain
    what = paper.cut([_capital(ending)], LONGEST_TITLE)[0]
    of = _listed(heads, LONGEST_TITLE - len(what) - len(" of "))
    return f"{what} of {of}" if of else what, heads


def _plain(name: str) -> str:
    """A name without its sort; the weight of a term is said to be one."""
    if name.startswith("weight."):
        return f"weight of {name.removeprefix('weight.')}"
    return next((name.removeprefix(kind) for kind in _KINDS if name.startswith(kind)), name)


def _apart(names: Sequence[str]) -> tuple[list[str], str]:
    """What each name begins with, and what all of them end with; parts in brackets are left whole."""
    if len(names) < 2 or any("[" in name for name in names):
        return list(names), ""
    words = [name.split(".") for name in names]
    room = min(map(len, words)) - 1
    backwards = zip(*(reversed(each) for each in words), strict=False)
    shared = min(room, sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, backwards)))
    if not shared:
        return list(names), ""
    return [".".join(each[:-shared]) for each in words], ".".join(words[0][-shared:])


def _listed(names: Sequence[str], most: int) -> str:
    """The names in a row of at most so many characters, or the first and how many more there are; "" without room."""
    told = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    if len(told) <= most:
        return told
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    room = most - len(more)
    return paper.cut([names[0]], room)[0] + more if room >= LEAST_NAME else ""


def _capital(name: str) -> str:
    """A word begins with a capital; a path and an abbreviation are as they are written."""
    return name[:1].upper() + name[1:] if name.isalpha() and len(name) > ABBREVIATED else name
