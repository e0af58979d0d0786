"""Run the comparisons, print tables, write JSON, and a page of it where one is wanted."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

import batching
import checkpoints
import imports
import knobs
import loading
import loops
import optimizers
import schedules
import whole_steps
from measure import Timing, table, written
from page import page

Results = Callable[[int], Iterator[tuple[str, list[Timing]]]]


def main() -> None:
    """Do what was asked for."""
    options = _parser().parse_args()
    if options.read is None:
        torch.set_num_threads(1)
        record = written(options.out, _measured(options), _command(), options.rounds)
        print(f"Written: {options.out}")
    else:
        record = json.loads(options.read.read_text())
    if options.page is not None:
        options.page.write_text(page(record))
        print(f"Written: {options.page}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="how often each contender runs, at least 2 (default 9)")
    parser.add_argument("--only", choices=_files(False), help="one file of comparisons instead of all")
    parser.add_argument(
        "--all", action="store_true", help="every update rule at every size, other libraries on a million"
    )
    parser.add_argument("--out", type=Path, default=Path("out/bench.json"), help="where the JSON goes")
    parser.add_argument("--page", type=Path, help="write the results as a page of Markdown too")
    parser.add_argument("--read", type=Path, metavar="JSON", help="measure nothing: take the results of an earlier run")
    return parser


def _files(wide: bool) -> dict[str, Results]:
    return {
        "imports": imports.results,
        "optimizers": partial(optimizers.results, wide=wide),
        "whole_steps": partial(whole_steps.results, wide=wide),
        "schedules": schedules.results,
        "knobs": knobs.results,
        "loops": loops.results,
        "checkpoints": checkpoints.results,
        "batching": partial(batching.results, wide=wide),
        "loading": loading.results,
    }


def _measured(options: argparse.Namespace) -> dict[str, list[Timing]]:
    found: dict[str, list[Timing]] = {}
    for name, results in _files(options.all).items():
        if options.only in (None, name):
            for title, timings in results(options.rounds):
                found[title] = timings
                print(table(title, timings) + "\n", flush=True)
    return found


def _command() -> str:
    return " ".join(["python bench", *sys.argv[1:]])


if __name__ == "__main__":
    main()
