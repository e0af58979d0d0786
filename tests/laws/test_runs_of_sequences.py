"""Laws of runs over sequences: one that was interrupted, wherever, is the run that was not, bit for bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import etude
from etude import Data, Directory, every, steps
from etude.data import chunk, dropped, length
from etude.keep.names import Name

LENGTHS = [3 + 7 * number % 19 for number in range(30)]


class Net(nn.Module):
    """Sequences to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRU(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor, x_mask: Tensor) -> Tensor:
        states = self.cell(x)[0] * x_mask[..., None]
        out: Tensor = self.out(states.sum(1) / x_mask.sum(1, keepdim=True))
        return out


def sample(number: int) -> dict[str, Any]:
    chance = torch.Generator().manual_seed(number)
    return {"x": torch.randn(LENGTHS[number], 2, generator=chance), "y": number % 3}


class Scratched(Dataset[Any]):
    """Samples with chance in them, some of which cannot be read."""

    bad: tuple[int, ...] = (4, 5, 17)

    def __len__(self) -> int:
        return len(LENGTHS)

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number in self.bad:
            raise OSError("a scratch")
        made = sample(number)
        return {**made, "x": made["x"] + 0.1 * torch.randn(())}


class Sound(Scratched):
    bad = ()


def in_memory(**options: Any) -> Data:
    return Data([sample(number) for number in range(len(LENGTHS))], lengths="x", **options)


def forward(**options: Any) -> Data:
    def passing() -> Iterator[Any]:
        yield from map(sample, range(len(LENGTHS)))

    return Data(passing, lengths="x", **options)


CASES: dict[str, tuple[Callable[[], Data], dict[str, Any]]] = {
    "strata": (lambda: in_memory(budget=60), {}),
    "a budget by steps": (lambda: in_memory(budget=lambda p: 40 + 3 * p.step), {}),
    "a budget by tokens, random": (lambda: in_memory(budget=lambda p: 40 + p.tokens // 50, order="random"), {}),
    "several batches for a step": (lambda: in_memory(budget=50), {"accumulate": 2}),
    "ever more batches for a step": (
        lambda: in_memory(budget=lambda p: 40 + 3 * p.step),
        {"accumulate": lambda p: 1 + p.step // 4},
    ),
    "filters and chunks": (
        lambda: in_memory(budget=60, keep=[length(most=lambda p: 12 + p.step), dropped(0.2)], chunk=chunk(8, 4)),
        {},
    ),
    "parts of a pass": (lambda: in_memory(batch_size=4, order="laplace:.6", subepochs=2, shuffle_batches=2), {}),
    "chance in samples": (lambda: Data(Sound(), lengths={"x": LENGTHS}, budget=60), {}),
    "unreadable samples": (lambda: Data(Scratched(), lengths={"x": LENGTHS}, budget=40, unreadable="skip"), {}),
    "read forward": (lambda: forward(budget=lambda p: 40 + p.samples, order="pools:8"), {}),
    "read forward, shuffled": (lambda: forward(batch_size=4, shuffle_buffer=6), {"accumulate": 2}),
}


def trained(name: str, **more: Any) -> etude.Result:
    data, options = CASES[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*can only be read forward")
        return etude.train(Net(), data(), loss="cross_entropy", learning_rate=0.1, epochs=2, seed=3, **options, **more)


def outcome(result: etude.Result) -> dict[str, Any]:
    """What came of a run, time aside."""
    columns = {name: list(result.history[name].values) for name in result.history if "seconds" not in name}
    return {"history": columns, "net": {name: value.tolist() for name, value in result.net.state_dict().items()}}


@pytest.mark.parametrize("name", CASES)
def test_a_run_goes_on_from_every_step_as_if_nothing_had_happened(name: str, tmp_path: Path) -> None:
    whole = trained(name)
    expected = outcome(whole)
    assert whole.steps > 5
    assert outcome(trained(name, checkpoint=Directory(tmp_path, every(steps(1))))) == expected
    found = sorted(tmp_path.glob("*.safetensors"), key=lambda path: Name.parse(path.name).step)  # type: ignore[union-attr]
    assert len(found) >= whole.steps
    for path in found:
        assert outcome(trained(name, resume=path)) == expected, path.name


@pytest.mark.parametrize("name", ["chance in samples", "unreadable samples"])
def test_workers_change_nothing_in_a_run(name: str) -> None:
    assert outcome(trained(name, workers=2)) == outcome(trained(name))


def test_what_could_not_be_read_is_in_the_history() -> None:
    history = trained("unreadable samples").history
    assert list(history["data.unreadable"].values) == [3, 3]


def test_every_case_is_another_run() -> None:
    seen = [str(outcome(trained(name))) for name in CASES]
    assert len(set(seen)) == len(CASES)
