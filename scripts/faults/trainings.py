"""The runs that are killed. Each tells where it is, and at its end what its state is."""

from __future__ import annotations

import hashlib
import json
import random
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

STEPS, EVERY = 36, 3
"""How many steps a run has, and after how many it is saved."""

Tell = Callable[[str], None]
Job = Callable[[Path, Tell], None]
"""Trains, saved in a folder, from wherever it was; tells how far it is."""

_OURS = ("seconds", "saves", "files", "run", "machine", "version", "plan")
"""What a record says of this run alone, or of its clock on the wall."""


class Drawn(Dataset[tuple[Tensor, Tensor]]):
    """Items that chance has a part in: of torch, NumPy and Python."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.randn(self.x.shape[1]) + 0.1 * float(np.random.rand()) + 0.1 * random.random()
        return self.x[number] + noise, self.y[number]


class Told:
    """A listener with a state of its own, which tells what it hears."""

    def __init__(self, folder: Path, tell: Tell) -> None:
        self._folder, self._tell = folder, tell
        self._mean = 0.0

    def __call__(self, event: Any) -> None:
        match type(event).__name__:
            case "Began":
                strays = [path.name for path in self._folder.glob("*.part")]
                if strays:
                    self._tell(f"wrong {strays} were left behind")
                self._tell(f"began {int(event.progress.step)}")
            case "Stepped":
                loss = float(event.losses["loss"])
                self._mean += 0.1 * (loss - self._mean)
                self._tell(f"loss {int(event.progress.step)} {loss.hex()}")
            case "SaveFailed":
                self._tell(f"wrong a save failed: {event.message}")


def plain(folder: Path, tell: Tell) -> None:
    """Batch norm, dropout, an average, the best net, a schedule; data as arrays."""
    import etude

    rate = etude.warmup(etude.steps(5)) * etude.cosine(0.02, 0.001)
    _run(folder, tell, _net(), _data(), learning_rate=rate)


def large(folder: Path, tell: Tell) -> None:
    """The same with megabytes of arrays, which take a while to write."""
    _run(folder, tell, _net(6000), _data(), learning_rate=0.02)


def rich(folder: Path, tell: Tell) -> None:
    """The same read by two workers with random augmentation, in bfloat16, under a schedule that listens, with logs."""
    import etude

    rate = 0.02 * etude.plateau("val.loss", factor=0.5, patience=0)
    listeners = [etude.JsonLines(folder.parent / "log.jsonl")]
    data = Drawn(*_data())
    _run(folder, tell, _net(), data, listeners, learning_rate=rate, workers=2, precision="bf16")


def half(folder: Path, tell: Tell) -> None:
    """In float16, whose loss scale is part of the state, under a schedule that listens, with an item's chance."""
    import etude

    rate = 0.02 * etude.plateau("val.loss", factor=0.5, patience=0)
    _run(folder, tell, _net(), Drawn(*_data(1e4)), learning_rate=rate, precision="fp16")


def loop(folder: Path, tell: Tell) -> None:
    """A loop written by hand: gradients of three batches for one step, saved in the middle of them too."""
    import etude

    _tell_saves(tell)
    net, (x, y) = _net(), _data()
    trainer = etude.Trainer(net, "adamw", learning_rate=0.02, accumulate=3, averages=etude.ema(0.9))
    with etude.Checkpoints(folder) as checkpoints:
        saved = checkpoints.load(net=net, trainer=trainer)
        strays = [path.name for path in folder.glob("*.part")] if folder.exists() else []
        if strays:
            tell(f"wrong {strays} were left behind")
        first = saved.get("batch", 0)
        if first == 0:
            torch.manual_seed(7)
            random.seed(7)
        tell(f"began {first}")
        for batch in range(first, STEPS):
            at = torch.randint(0, len(x), (8,))
            loss = nn.functional.cross_entropy(net(x[at] + random.random()), y[at], reduction="sum")
            torch.autograd.backward(loss)
            trainer.step(len(at))
            tell(f"loss {batch + 1} {float(loss.detach()).hex()}")
            if (batch + 1) % EVERY == 0:
                checkpoints.save(step=batch + 1, batch=batch + 1, net=net, trainer=trainer)
    _tell_end(folder, net, tell)


JOBS: Mapping[str, Job] = {"plain": plain, "large": large, "rich": rich, "half": half, "loop": loop}


def _net(width: int = 16) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.Dropout(0.2), nn.Linear(width, 3))


def _data(large: float = 1.0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(60, 6, generator=draw)
    # A sample that is large has large gradients.
    x[7] *= large
    return x, torch.randint(0, 3, (60,), generator=draw)


def _run(folder: Path, tell: Tell, net: nn.Module, data: Any, listeners: Any = (), **options: Any) -> None:
    import etude

    _tell_saves(tell)
    plan: dict[str, Any] = {
        "loss": "cross_entropy",
        "steps": STEPS,
        "batch_size": 8,
        "averages": etude.ema(0.9),
        "validation": 0.2,
        "seed": 11,
        "checkpoint": etude.Directory(folder, etude.every(etude.steps(EVERY)), keep=etude.last(2)),
    }
    told = [*listeners, Told(folder, tell)]
    result = etude.train(net, data, resume="auto", progress=False, listeners=told, **(plan | options))
    assert result.net is not None
    _tell_end(folder, result.net, tell)


def _tell_saves(tell: Tell) -> None:
    """Tell when a save begins and when it is safe; and what is warned of."""
    from etude.keep.image import Image

    write = Image.write

    def told(self: Any, path: Any, record: Any) -> int:
        step = record["progress"]["step"]
        tell(f"saving {step}")
        size = write(self, path, record)
        tell(f"safe {step}")
        return size

    Image.write = told  # type: ignore[method-assign]
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *_: tell(f"wrong a warning: {str(message)[:200]!r}")


def _tell_end(folder: Path, net: nn.Module, tell: Tell) -> None:
    """Tell the digests of the last state: of its file, part by part, and of the net that came out."""
    from etude.keep.files import read

    saved = read(max(folder.glob("*.safetensors"), key=_step))
    parts: dict[str, Any] = {}
    for name, array in sorted(saved.tensors.items()):
        kind = name.partition(":")[0] if ":" in name else "arrays"
        digest = parts.setdefault(kind, hashlib.sha256())
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode() + array.contiguous().numpy().tobytes())
    with suppress(KeyError, TypeError):
        # When the best net was found is told in seconds too.
        del saved.record["best"]["last"]
    for name, value in sorted(saved.record.items()):
        if name not in _OURS:
            parts[f"record.{name}"] = hashlib.sha256(json.dumps(value, sort_keys=True).encode())
    parts["net"] = hashlib.sha256(b"".join(array.numpy().tobytes() for array in net.state_dict().values()))
    tell("end " + " ".join(f"{name}={digest.hexdigest()[:16]}" for name, digest in parts.items()))


def _step(path: Path) -> int:
    from etude.keep.names import Name

    name = Name.parse(path.name)
    return -1 if name is None else name.step
