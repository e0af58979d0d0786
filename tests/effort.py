"""How hard the laws are tried: a little in `make test`, much in `make soak`."""

from __future__ import annotations

import os


def examples(usual: int) -> int:
    """How many examples a law is tried on: `usual`, times ETUDE_SOAK."""
    return usual * int(os.environ.get("ETUDE_SOAK", "1"))
