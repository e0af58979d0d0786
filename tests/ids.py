"""Names of cases that are the same in every process: sets in order, functions without where they lie in memory."""

from __future__ import annotations

from typing import Any


def steady(value: Any) -> str:
    """A value as text."""
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(steady, value)))}}}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{steady(key)}: {steady(each)}' for key, each in value.items())}}}"
    return getattr(value, "__name__", None) or str(value)
