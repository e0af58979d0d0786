"""`python bench [--rounds N] [--only NAME] [--out FILE]`: run the comparisons, print tables, write JSON."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import imports
import loops
import optimizers
import schedules
from measure import Timing, table, write

FILES = {"imports": imports, "optimizers": optimizers, "schedules": schedules, "loops": loops}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="how often each contender runs (default 9)")
    parser.add_argument("--only", choices=FILES, help="one file of comparisons instead of all")
    parser.add_argument("--out", type=Path, default=Path("out/bench.json"), help="where the JSON goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[Timing]] = {}
    for name, file in FILES.items():
        if options.only in (None, name):
            made = file.results(options.rounds)
            found.update(made)
            print("\n\n".join(table(title, timings) for title, timings in made.items()) + "\n", flush=True)
    write(options.out, found)
    print(f"Written: {options.out}")


if __name__ == "__main__":
    main()
