"""The harnesses of scripts/faults, called as people call them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def looked(name: str, out: Path, *arguments: str) -> list[dict[str, Any]]:
    """What a harness finds; nothing of it may be wrong."""
    return _found(name, "looked", out, arguments)


def planted(name: str, out: Path, *arguments: str) -> list[dict[str, Any]]:
    """What a harness finds of the faults planted in the library; it must have noticed every one."""
    return _found(name, "planted", out, ("--planted", *arguments))


def full(name: str, out: Path) -> list[dict[str, Any]]:
    """The same as `looked`, with the full count."""
    return _found(name, "looked", out, ("--full",))


def _found(name: str, kind: str, out: Path, arguments: tuple[str, ...]) -> list[dict[str, Any]]:
    kept = out / "faults.json"
    command = [sys.executable, str(ROOT / "scripts" / "faults"), "--only", name, "--out", str(kept), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(out)}
    limit = 7200 if "--full" in arguments else 900
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=limit)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: list[dict[str, Any]] = json.loads(kept.read_text())[name][kind]["findings"]
    assert found
    assert not [line for finding in found for line in finding["wrong"]]
    return found
