"""The results as a page of Markdown."""
from __future__ import annotations
from typing import Any
def page(record: dict[str, Any]) -> str:
    return ""
