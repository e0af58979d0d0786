"""Pieces of schedules that begin when the run is over, and so are never asked."""

from __future__ import annotations

from collections.abc import Iterator

from etude.values.algebra import Constant, Schedule, Then, Until
from etude.values.lengths import cut, surplus
from etude.values.newbob import Newbob
from etude.values.progress import TINY, Extent
from etude.values.schedule import Cycle, Pieces
from etude.values.spans import Span, epochs


def never_begun(made: Schedule, life: Extent) -> Iterator[tuple[tuple[Span, ...], Schedule]]:
    """Pieces of a schedule that begin at the end of its life or after it: when, on the clock there, and which.

    The values of pinned epochs are pieces, too.

    Args:
        made: a schedule. life: how long it is asked; what is not known of it leaves nothing to tell.
    """
    if isinstance(made, Pieces):
        yield from _of_pieces(made, life)
    elif isinstance(made, Then):
        yield from _of_then(made, life)
    elif isinstance(made, Cycle):
        for item in made.items:
            yield from never_begun(item, cut(Extent(run=life.run or life), item.length or ()))
    elif isinstance(made, Newbob):
        begins = [(epochs(epoch - 1), Constant(value)) for epoch, value in made.pinned]
        yield from (((when,), value) for when, value in begins if _is_over(life, when))
    else:
        inside = life.cut(made.span) if isinstance(made, Until) else life
        for child in made.children:
            yield from never_begun(child, inside)


def _of_pieces(made: Pieces, life: Extent) -> Iterator[tuple[tuple[Span, ...], Schedule]]:
    moments = [when for when, _ in made.rest]
    yield from never_begun(made.first, life.cut(moments[0]))
    for (when, piece), following in zip(made.rest, [*moments[1:], None], strict=True):
        if _is_over(life, when):
            yield (when,), piece
        else:
            here = life if following is None else life.cut(following)
            yield from never_begun(piece, here.after(when))


def _of_then(made: Then, life: Extent) -> Iterator[tuple[tuple[Span, ...], Schedule]]:
    spans, rest, over = made.first.length or (), life, False
    for span in spans:
        over = over or _is_over(rest, span)
        rest = rest.after(span)
    yield from never_begun(made.first, cut(life, spans))
    if over:
        yield spans, made.second
    else:
        yield from never_begun(made.second, rest)


def _is_over(life: Extent, when: Span) -> bool:
    left = surplus(life, when)
    return left is not None and left <= TINY
