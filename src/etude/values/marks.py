"""Values that are not numbers: `FROZEN` (does not move), `INHERIT` (the next rule decides), and choices."""

from __future__ import annotations

from typing import final


class Choice:
    """What a schedule can choose by its moment though it is no number and no part: a filter of data, say.

    What derives from it is frozen and prints as the expression that makes it.
    """

    __slots__ = ()


@final
class Frozen:
    """The type of `FROZEN`: held at every step, with no decay, no momentum and no optimizer memory.

    It is falsy, equal to itself alone, and absorbs arithmetic: a held array is held whatever its rate is
    multiplied by, so `0.5 * FROZEN` is `FROZEN`.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "FROZEN"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        # A name instead of a recipe: every copy is the one object.
        return "FROZEN"

    def __neg__(self) -> Frozen:
        return self

    def __mul__(self, other: object) -> Frozen:
        return self

    __rmul__ = __add__ = __radd__ = __sub__ = __rsub__ = __truediv__ = __rtruediv__ = __mul__


@final
class Inherit:
    """The type of `INHERIT`: this rule has no opinion; the next rule that matches decides."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "INHERIT"

    def __reduce__(self) -> str:
        return "INHERIT"


FROZEN = Frozen()
INHERIT = Inherit()
