"""What `import etude` adds to `import torch`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from measure import Contender, Timing, compare

_CODE = "import time; {before}; began = time.perf_counter(); import {name}; print(time.perf_counter() - began)"


def _seconds(name: str, before: str) -> Contender:
    code = _CODE.format(name=name, before=before)

    def run() -> float:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return float(done.stdout)

    return run


def results(rounds: int) -> Iterator[tuple[str, list[Timing]]]:
    """What étude adds to the import of torch; asked for is less than 0.2 s."""
    contenders = {
        "import torch": _seconds("torch", "pass"),
        "import etude, after it": _seconds("etude", "import torch"),
    }
    yield "import", compare(contenders, max(3, rounds // 3))
