"""A whole step: étude's one call and its trainer in a hand-written loop, beside hand-written PyTorch.

All loops see as many batches of the same size from the same data, use AdamW with the same rate, and keep the mean loss
of each epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import etude
from etude import events
from measure import Contender, Target, Timing, compare

RATE = 1e-3


class Attention(nn.Module):
    """One block of a small transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, length, width)
        x = x + self.out(mixed)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """A next-token predictor: logits of shape (n, vocabulary, length)."""

    def __init__(self, vocabulary: int = 64, width: int = 128, layers: int = 4, length: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.place = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.Sequential(*(Attention(width, 4) for _ in range(layers)))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x) + self.place)).transpose(1, 2)


def mlp() -> nn.Module:
    """64-64-10."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    """Two convolutions on 8x8 images."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def digits(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """1,600 images of 64 pixels in ten classes that can be told apart."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1600, 64, generator=generator)
    y = (x @ torch.randn(64, 10, generator=generator)).argmax(1)
    return x.reshape(1600, *shape), y


def text() -> tuple[Tensor, Tensor]:
    """64 windows of 64 tokens, and the tokens that follow."""
    tokens = torch.randint(0, 64, (64, 65), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def contenders(make: Callable[[], nn.Module], data: tuple[Tensor, Tensor], size: int, compile: bool) -> dict[str, Any]:
    """The loops to compare; the first is the DataLoader loop (without `compile`), or the hand-compiled step."""
    x, y = data
    steps = len(x) // size

    def timed(loop: Callable[[nn.Module], None]) -> Contender:
        def run() -> float:
            torch.manual_seed(0)
            net = make()
            began = time.perf_counter()
            loop(net)
            return (time.perf_counter() - began) / steps

        return run

    def loader(net: nn.Module) -> None:
        optimizer = torch.optim.AdamW(net.parameters(), lr=RATE)
        total = 0.0
        for xb, yb in DataLoader(TensorDataset(x, y), batch_size=size, shuffle=True):
            loss = F.cross_entropy(net(xb), yb)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(xb)

    def fastest(net: nn.Module) -> None:
        optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, fused=True)
        total, order = 0.0, torch.randperm(len(x))
        for start in range(0, len(x), size):
            rows = order[start : start + size]
            loss = F.cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)

    def trainer(net: nn.Module) -> None:
        ours = etude.Trainer(net, "adamw", learning_rate=RATE)
        total, order = 0.0, torch.randperm(len(x))
        for start in range(0, len(x), size):
            rows = order[start : start + size]
            loss = F.cross_entropy(net(x[rows]), y[rows])
            loss.backward()
            ours.step()
            total += loss.item() * len(rows)

    def one_call() -> float:
        torch.manual_seed(0)
        result = etude.train(
            make(), data, loss="cross_entropy", learning_rate=RATE, epochs=1, batch_size=size, progress=False
        )
        return result.seconds / steps

    if compile:
        return {
            "hand-compiled step": hand_compiled(make, data, size),
            "etude.train(compile=True)": ours_compiled(make, data, size),
        }
    return {
        "DataLoader loop": timed(loader),
        "fastest eager loop": timed(fastest),
        "etude.Trainer": timed(trainer),
        "etude.train": one_call,
    }


def hand_compiled(make: Callable[[], nn.Module], data: tuple[Tensor, Tensor], size: int) -> Contender:
    """Forward, loss, gradients and AdamW in one torch.compile region, as an engineer would write it for one net."""
    import torch._dynamo

    torch._dynamo.config.trace_autograd_ops = True
    torch.manual_seed(0)
    net, (x, y) = make(), data
    arrays = list(net.parameters())
    means, squares = ([torch.zeros_like(a) for a in arrays] for _ in range(2))
    # Rate / (1 - b1^t) and sqrt(1 - b2^t), computed outside so that a step count makes no new program.
    scales = torch.ones(2)

    @torch.compile(fullgraph=True, dynamic=False)
    def step(xb: Tensor, yb: Tensor) -> Tensor:
        loss = F.cross_entropy(net(xb), yb)
        gradients = torch.autograd.grad(loss, arrays)
        with torch.no_grad():
            for array, gradient, mean, square in zip(arrays, gradients, means, squares, strict=True):
                mean.lerp_(gradient, 0.1)
                square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
                array.mul_(1 - RATE * 0.01).sub_(scales[0] * mean / (square.sqrt() / scales[1] + 1e-8))
        return loss.detach()

    count = 0

    def run() -> float:
        nonlocal count
        total, order = 0.0, torch.randperm(len(x))
        began = time.perf_counter()
        for start in range(0, len(x), size):
            rows = order[start : start + size]
            count += 1
            scales[0], scales[1] = RATE / (1 - 0.9**count), (1 - 0.999**count) ** 0.5
            total += step(x[rows], y[rows]).item() * len(rows)
        return (time.perf_counter() - began) / (len(x) // size)

    return run


def ours_compiled(make: Callable[[], nn.Module], data: tuple[Tensor, Tensor], size: int) -> Contender:
    """The same through `train`; a run of many epochs of which the first, in which it is compiled, is not counted."""

    def run() -> float:
        torch.manual_seed(0)
        plan = etude.Plan("cross_entropy", learning_rate=RATE, epochs=8, batch_size=size, compile=True)
        began, ended, steps = 0.0, 0.0, 0
        for event in etude.Run(plan, make(), data):
            if isinstance(event, events.EpochEnded) and not began:
                began = time.perf_counter()
            elif isinstance(event, events.Stepped) and began:
                steps += 1
            elif isinstance(event, events.Ended):
                ended = time.perf_counter()
        return (ended - began) / steps

    return run


def results(rounds: int) -> Iterator[tuple[str, list[Timing]]]:
    """All comparisons of this file, each with its title."""
    nets: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, Tensor], int, float | None]] = {
        "MLP 64-64-10, batch 32": (mlp, digits((64,)), 32, 0.5),
        "CNN on 8x8 images, batch 32": (cnn, digits((1, 8, 8)), 32, 0.82),
        "transformer, 4 layers, width 128, length 64, batch 8": (Transformer, text(), 8, None),
    }
    for title, (make, data, size, target) in nets.items():
        targets = [] if target is None else [Target("etude.train", target)]
        yield title, compare(contenders(make, data, size, False), rounds, targets)
        compiled = contenders(make, data, size, True)
        yield f"compiled: {title}", compare(compiled, max(3, rounds // 3), [Target("etude.train(compile=True)", 1.15)])
