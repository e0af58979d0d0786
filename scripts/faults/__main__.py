"""Put checkpoints to the test: kill, cut the power, damage, fill the disk, fail every call, and look what is left.

    python scripts/faults                             every harness, short
    python scripts/faults --only kill --full          one of them, with the full count
    python scripts/faults --planted                   faults are planted in the library: does every harness notice?
    python scripts/faults --full --page docs/reliability.md

The exit code is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from findings import SOURCE, Finding, Harness, entry, read, write
from page import page

NAMES = (
    *("kill", "power_loss", "damage", "full_disk", "io_errors", "background", "signals", "two_writers"),
    *("bad_configs", "not_finite"),
)
"""The harnesses, each a module of this folder, in the order of the page."""


def main() -> int:
    """Do what was asked for."""
    # Before torch is imported: processes are forked from this one, which threads do not survive.
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(SOURCE))
    options = _parser().parse_args()
    record = read(options.out)
    wrong = 0
    for name in [] if options.read else _chosen(options.only):
        for planted in _kinds(options):
            wrong += _one(name, planted, options, record)
            write(options.out, record)
    if options.page is not None:
        options.page.write_text(page(record))
        print(f"Written: {options.page}")
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="faults", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", action="append", choices=NAMES, help="one harness instead of all; may be repeated")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--count", type=int, help="how much each harness tries (each has a short count of its own)")
    amount.add_argument("--full", action="store_true", help="the full counts, minutes for each harness")
    parser.add_argument("--planted", action="store_true", help="plant faults in the library instead of looking for any")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn (default 1)")
    parser.add_argument("--out", type=Path, default=Path("out/faults.json"), help="where the findings are kept")
    parser.add_argument("--page", type=Path, help="look, plant, and write all that is kept as a page of Markdown")
    parser.add_argument("--read", action="store_true", help="try nothing: take what is kept")
    return parser


def _chosen(only: list[str] | None) -> Iterator[str]:
    for name in NAMES:
        if (only is None or name in only) and importlib.util.find_spec(name) is not None:
            yield name


def _kinds(options: argparse.Namespace) -> tuple[bool, ...]:
    return (False, True) if options.page is not None else (options.planted,)


def _one(name: str, planted: bool, options: argparse.Namespace, record: dict[str, Any]) -> int:
    """Run a harness, print what it finds as it is found, and keep it; how many things were wrong."""
    harness = cast(Harness, importlib.import_module(name))
    count = harness.FULL if options.full else options.count or harness.SHORT
    print(f"\n{name}: {'planted faults' if planted else harness.ASKED}", flush=True)
    began = time.monotonic()
    found: list[Finding] = []
    for finding in harness.planted(options.seed) if planted else harness.look(count, options.seed):
        found.append(finding)
        print("  " + finding.line(), flush=True)
        for line in finding.wrong[:10]:
            print(f"      wrong: {line}", flush=True)
    kept = record.setdefault(name, {"asked": harness.ASKED})
    kept["asked"] = harness.ASKED
    kept["planted" if planted else "looked"] = entry(found, _command(name, planted, options), time.monotonic() - began)
    return sum(len(finding.wrong) for finding in found)


def _command(name: str, planted: bool, options: argparse.Namespace) -> str:
    count = " --full" if options.full else f" --count {options.count}" if options.count else ""
    return f"python scripts/faults --only {name}{' --planted' if planted else count} --seed {options.seed}"


if __name__ == "__main__":
    sys.exit(main())
