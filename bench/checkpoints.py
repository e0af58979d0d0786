"""Checkpoints of 50 MB and 1 GB: how long training stands still, how long until they are durable, and in what memory.

A state is 50 arrays of a net with two memories of AdamW each. Everybody writes a new file on the same disk and syncs
it: who does not sync by itself gets an fsync after it. Removing the file of before is outside of the time.
"""

from __future__ import annotations

import gc
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from etude.keep import files
from measure import Contender, Target, Timing, compare

COPY, WRITE, READ = "one memory copy", "write and sync the same bytes", "read and digest"
OURS, TORCH, SAFE, LIGHTNING = "étude", "torch.save, fsync", "safetensors, fsync", "Lightning, fsync"
DCP, DCP_ASYNC = "torch.distributed.checkpoint", "torch.distributed.checkpoint, async"

STILL, DURABLE, MEMORY = "training stands still", "until durable", "memory beyond the state"
COMMIT, LOAD = "a durable commit", "loading"
SIZES = {"50 MB": 50, "1 GB": 1024}
SMALL = {"1 MB": 1, "128 MB": 128}

Wait = Callable[[], object]
State = Mapping[str, Tensor]

_MIB = 1 << 20
_AT_ONCE = 16 * _MIB


def title(what: str, size: str) -> str:
    """The title of a comparison."""
    return f"Checkpoint of {size}: {what}"


def results(rounds: int) -> Iterator[tuple[str, list[Timing]]]:
    """Asked: stand still for 1.2 of a copy and a tenth of torch.save; commit and load in 1.3 of what the disk takes."""
    if not find_spec("lightning"):
        print("Lightning is not installed and left out.\n")
    warnings.filterwarnings("ignore", message="torch.distributed is .*unavailable")
    Path("out").mkdir(exist_ok=True)
    for size, mib in SIZES.items():
        few = max(3, rounds // 2) if mib > 500 else rounds
        with tempfile.TemporaryDirectory(dir="out") as folder:
            yield from _saving(size, state(mib), Path(folder), few)
    for size, mib in SMALL.items():
        with tempfile.TemporaryDirectory(dir="out") as folder:
            asked = [Target(OURS, 1.3)] if mib > 1 else []
            yield title(COMMIT, size), _committing(state(mib), Path(folder), rounds, asked)
    for size, mib in SIZES.items():
        with tempfile.TemporaryDirectory(dir="out") as folder:
            yield title(LOAD, size), _loading(state(mib), Path(folder), max(3, rounds // 2))


def state(mib: int) -> dict[str, Tensor]:
    """25 square weights and their biases, and two memories of each: so many MiB in all, to a few hundredths."""
    width = round(math.sqrt(mib * _MIB / 300) / 16) * 16
    net = {f"{i}.{name}": torch.randn(shape) for i in range(25) for name, shape in _shapes(width)}
    memories = {
        f"optimizer:0:{name}:{memory}": torch.randn_like(array)
        for name, array in net.items()
        for memory in ("exp_avg", "exp_avg_sq")
    }
    return net | memories


def _shapes(width: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return ("weight", (width, width)), ("bias", (width,))


# ------------------------------------------------------------------------------------------------------ the ways


@dataclass(frozen=True)
class Way:
    """A way to save.

    Attributes:
        name: who. begin: begins to save at a path; when it returns, training goes on, and what it returns waits until
            the file is durable.
    """

    name: str
    begin: Callable[[Path], Wait]


def _ways(given: State) -> list[Way]:
    return [make(given) for make in _makers()]


def _makers() -> list[Callable[[State], Way]]:
    makers = [_ours, _torch, _safe, _dcp, _dcp_async]
    return [*makers, _lightning] if find_spec("lightning") else makers


def _torch(given: State) -> Way:
    return Way(TORCH, lambda path: _synced(path, lambda: torch.save(given, path)))


def _safe(given: State) -> Way:
    return Way(SAFE, lambda path: _synced(path, lambda: safetensors.torch.save_file(dict(given), path)))


def _dcp(given: State) -> Way:
    return Way(DCP, lambda path: _done(lambda: dcp.save(dict(given), checkpoint_id=path, no_dist=True)))


def _dcp_async(given: State) -> Way:
    return Way(DCP_ASYNC, lambda path: dcp.async_save(dict(given), checkpoint_id=path, no_dist=True).result)


def _ours(given: State) -> Way:
    """As a run does it: a copy, and a thread that writes."""
    image = files.Image()
    image.prepare(given)

    def begin(path: Path) -> Wait:
        image.take(given)
        thread = Thread(target=image.write, args=(path, {}))
        thread.start()
        return thread.join

    return Way(OURS, begin)


def _lightning(given: State) -> Way:
    from lightning.pytorch.plugins.io import TorchCheckpointIO

    plugin = TorchCheckpointIO()
    return Way(LIGHTNING, lambda path: _synced(path, lambda: plugin.save_checkpoint(dict(given), path)))


def _done(save: Callable[[], object]) -> Wait:
    save()
    return lambda: None


def _synced(path: Path, save: Callable[[], object]) -> Wait:
    save()
    _sync(path, path.parent)
    return lambda: None


def _sync(*paths: Path) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def _written(path: Path, flat: Tensor) -> None:
    """The same bytes, without anything else."""
    view = flat.numpy().data
    with open(path, "xb", buffering=0) as file:
        for at in range(0, len(view), _AT_ONCE):
            file.write(view[at : at + _AT_ONCE])
        os.fsync(file.fileno())
    _sync(path.parent)


def _plain(given: State) -> Way:
    flat = torch.cat([array.view(-1).view(torch.uint8) for array in given.values()])
    return Way(WRITE, lambda path: _done(lambda: _written(path, flat)))


# -------------------------------------------------------------------------------------------------- comparisons


def _saving(size: str, given: State, folder: Path, rounds: int) -> Iterator[tuple[str, list[Timing]]]:
    yield title(STILL, size), _standing_still(given, folder, rounds)
    yield title(DURABLE, size), _until_durable(given, folder, rounds)
    if Path("/proc/self/clear_refs").exists():
        yield title(MEMORY, size), _memory(given, folder)


def _standing_still(given: State, folder: Path, rounds: int) -> list[Timing]:
    timed = {COPY: _copying(given)} | {way.name: _timed(way, folder, False) for way in _ways(given)}
    return compare(timed, rounds, [Target(OURS, 1.2), Target(OURS, 0.1, TORCH)])


def _until_durable(given: State, folder: Path, rounds: int) -> list[Timing]:
    return compare({way.name: _timed(way, folder, True) for way in (_plain(given), *_ways(given))}, rounds)


def _memory(given: State, folder: Path) -> list[Timing]:
    whole = sum(array.nbytes for array in given.values()) / _MIB
    peaks: dict[str, Contender] = {"the state": lambda: whole}
    peaks |= {make({}).name: _peak(given, make, folder) for make in _makers()}
    return compare(peaks, 2, unit="MiB")


def _copying(given: State) -> Contender:
    places = [torch.empty_like(array).zero_() for array in given.values()]
    arrays = list(given.values())

    def run() -> float:
        began = time.perf_counter()
        torch._foreach_copy_(places, arrays)
        return time.perf_counter() - began

    return run


def _timed(way: Way, folder: Path, durable: bool) -> Contender:
    path = folder / "checkpoint"

    def run() -> float:
        _remove(path)
        began = time.perf_counter()
        wait = way.begin(path)
        after = time.perf_counter()
        wait()
        return (time.perf_counter() if durable else after) - began

    return run


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    _sync(path.parent)


def _peak(given: State, make: Callable[[State], Way], folder: Path) -> Contender:
    """The most memory that a save takes, from nothing: what is kept for the next one counts."""
    path = folder / "checkpoint"

    def run() -> float:
        _remove(path)
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        make(given).begin(path)()
        return (_resident("VmHWM") - before) / 1024

    return run


def _resident(which: str) -> int:
    """Kilobytes of memory of this process, now ("VmRSS") or at most since that was set back ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(which)).split()[1])


def _committing(given: State, folder: Path, rounds: int, asked: list[Target]) -> list[Timing]:
    """Digests and header included; the copy is made before."""
    image = files.Image()
    image.take(given)
    ours = Way(OURS, lambda path: _done(lambda: image.write(path, {})))
    contenders = {way.name: _timed(way, folder, True) for way in (_plain(given), ours)}
    return compare(contenders, 3 * rounds, asked)


def _loading(given: State, folder: Path, rounds: int) -> list[Timing]:
    """Into new memory, from a file that the system has in its own."""
    path, other, third = folder / "a", folder / "b", folder / "c"
    files.write(path, {}, given)
    torch.save(given, other)
    safetensors.torch.save_file(dict(given), third)
    return compare(
        {
            READ: _loaded(lambda: _read(path)),
            OURS: _loaded(lambda: files.read(path)),
            "torch.load": _loaded(lambda: torch.load(other, weights_only=True)),
            "safetensors, mapped": _loaded(lambda: _touched(safetensors.torch.load_file(third))),
        },
        rounds,
        [Target(OURS, 1.3)],
    )


def _loaded(load: Callable[[], object]) -> Contender:
    def run() -> float:
        began = time.perf_counter()
        found = load()
        took = time.perf_counter() - began
        del found
        return took

    return run


def _read(path: Path) -> Tensor:
    flat = torch.empty(path.stat().st_size, dtype=torch.uint8)
    with open(path, "rb", buffering=0) as file:
        view, at = flat.numpy().data, 0
        while at < len(view):
            at += file.readinto(view[at : at + _AT_ONCE]) or 0
    sha256(view).hexdigest()
    return flat


def _touched(arrays: State) -> State:
    """With every page looked at once: a mapped file is read when it is used."""
    for array in arrays.values():
        array.view(-1)[::1024].sum()
    return arrays
