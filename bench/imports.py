"""What `import etude` adds to `import torch`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from measure import Contender, Timing, compare

_CODE = "import time; import torch; began = time.perf_counter(); {}; print(time.perf_counter() - began)"


def _seconds(code: str) -> Contender:
    def run() -> float:
        done = subprocess.run([sys.executable, "-c", _CODE.format(code)], capture_output=True, text=True, check=True)
        return float(done.stdout)

    return run


def results(rounds: int) -> Iterator[tuple[str, list[Timing]]]:
    """Seconds over `import torch`; asked for is less than 0.2 s."""
    contenders = {
        "import torch.utils.data": _seconds("import torch.utils.data"),
        "import etude": _seconds("import etude"),
    }
    yield "import, after torch", compare(contenders, max(3, rounds // 3))
