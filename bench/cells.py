"""Numbers and tables of a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def marked(ratio: float, bound: Mapping[str, Any] | None = None) -> str:
    """A ratio, bold where less was asked; a third digit where two do not show the difference."""
    if bound is None or ratio <= bound["at_most"]:
        return f"{ratio:.2f}"
    return f"**{ratio:.2f}**" if round(ratio, 2) > bound["at_most"] else f"**{ratio:.3f}**"


def many(number: float) -> str:
    """A whole number, thousands apart."""
    return f"{number:,.0f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under a head; the first column to the left, the others to the right."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
