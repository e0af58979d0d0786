"""The page."""

from typing import Any


def page(record: Any) -> str:
    return ""
