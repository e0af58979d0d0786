"""A speedrun: a small transformer learns to write from real text, under a recipe of many moving settings.

    python examples/speedrun.py [--quick] [--data FILE]

The recipe is in the manner of modded-nanogpt (https://github.com/KellerJordan/modded-nanogpt): rows that set the size
of a batch, the length of its sequences and the rate together; Muon for the matrices and AdamW for all else; a momentum
that warms up and cools down; embeddings, head and scalars that are stepped at every other step, with the gradients of
both; a head that is the embedding until two thirds of the run, and goes on with its optimizer memory from there.

What to look at: `recipe` and `plan` are all of it. The durations are shares, so that the whole stretches by one number,
`steps`; and the picture of it, drawn before anything is trained, is out/speedrun.png.

The text is a file, named by --data or the environment variable ETUDE_DATA: tinyshakespeare.txt of
https://github.com/karpathy/char-rnn/tree/master/data/tinyshakespeare, or any text of half a million characters.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import etude
from etude import Data, Plan, Result, everything, fraction, linear, part, phase, phases, pieces, times

WINDOW, WIDTH, HEADS, DEPTH = 256, 96, 4, 3
OUT = Path("out")

# ---- the recipe

recipe = phases(
    phase(1 / 10, batch_size=4, length=64, learning_rate=linear(0.002, 0.02), momentum=linear(0.85, 0.95)),
    phase(3 / 10, batch_size=4, length=64, learning_rate=0.02, momentum=0.95),
    phase(3 / 10, batch_size=6, length=128, learning_rate=0.02, momentum=0.95),
    phase(2 / 10, batch_size=8, length=256, learning_rate=linear(0.02, 0.005), momentum=0.95),
    phase(1 / 10, batch_size=8, length=256, learning_rate=linear(0.005, 0), momentum=linear(0.95, 0.85)),
)
"""What is set together, row by row."""

matrices = part("blocks.*.*.weight")
words = part("embed.weight") | "head.weight"


def plan(steps: int, text: Data) -> Plan:
    """The run: `steps` is the number by which it stretches."""
    return Plan(
        "cross_entropy",
        steps=steps,
        optimizer={matrices: "muon", everything: "adamw"},
        learning_rate=recipe["learning_rate"],
        rules={
            "learning_rate": {matrices: times(1), words: times(0.3), everything: times(0.15)},
            "momentum": {matrices: recipe["momentum"]},
            "weight_decay": {matrices: 0.01, everything: 0},
            # Until two thirds of the run these are one array in two places; then each goes its own way.
            "tie": {words: pieces(True, (fraction(2 / 3), False))},
            # What waits for its turn keeps the gradients of the steps between.
            "carry": {everything - matrices: "mean"},
        },
        update_schedule=[matrices, everything],
        knobs={"length": recipe["length"]},
        clip_norm=1.0,
        validation=text,
        seed=1,
    )


# ---- the net and the text


class Attention(nn.Module):
    """Causal attention; queries and keys have one length, and are turned by their place (rotary embeddings)."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, _ = x.shape
        q, k, v = self.into(x).view(rows, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        q, k = (turned(functional.rms_norm(x, x.shape[-1:])) for x in (q, k))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
        return self.out(mixed.transpose(1, 2).reshape(rows, length, WIDTH))


def turned(x: Tensor) -> Tensor:
    """Pairs of numbers turned by an angle in proportion to their place: x has shape (rows, heads, length, size)."""
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[-2]).float(), 1000.0 ** -torch.linspace(0, 1, half))
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()], -1)


class Block(nn.Module):
    """Attention, then two matrices with squared ReLU between them; each adds to what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)
        self.scales = nn.Parameter(torch.ones(2))
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scales[0] * self.attention(functional.rms_norm(x, (WIDTH,)))
        return x + self.scales[1] * self.down(self.up(functional.rms_norm(x, (WIDTH,))).relu().square())


class Writer(nn.Module):
    """Characters in, scores of the next ones out. `length`: how many characters are read as one sequence."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.length = WINDOW
        self.embed = nn.Embedding(characters, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.head = nn.Linear(WIDTH, characters, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.head.weight.data.copy_(self.embed.weight.data)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.rms_norm(self.embed(x.reshape(-1, self.length)), (WIDTH,))
        for block in self.blocks:
            hidden = block(hidden)
        scores = self.head(functional.rms_norm(hidden, (WIDTH,)))
        return scores.reshape(len(x), x.shape[1], -1).transpose(1, 2)


def windows(path: str | Path | None) -> tuple[Tensor, Tensor, str]:
    """Characters and the next ones, each of shape (windows, WINDOW); and the characters that there are."""
    found = Path(path or os.environ.get("ETUDE_DATA") or "tinyshakespeare.txt")
    found = found / "tinyshakespeare.txt" if found.is_dir() else found
    if not found.is_file():
        raise SystemExit(f"{found} is not there: name a text, --data FILE (see the head of this file).")
    text = found.read_text(encoding="utf-8")
    characters = "".join(sorted(set(text)))
    place = {character: number for number, character in enumerate(characters)}
    numbers = torch.tensor([place[character] for character in text])
    whole = (len(numbers) - 1) // WINDOW * WINDOW
    return numbers[:whole].view(-1, WINDOW), numbers[1 : whole + 1].view(-1, WINDOW), characters


def main(quick: bool = False, data: str | None = None) -> Result:
    """What came of the run: its history has the settings beside the losses."""
    x, y, characters = windows(data)
    training = Data((x[:-64], y[:-64]), batch_size=recipe["batch_size"])
    torch.manual_seed(1)
    net = Writer(len(characters))
    made = plan(60 if quick else 600, Data((x[-64:], y[-64:]), batch_size=16))
    made.plot(net, training, OUT / "speedrun.png")
    print(made.check(net, training).show())
    result = etude.train(net, training, made, progress=True)
    print(f"validation: {result.history['val.loss'].values[-1]:.3f} nats a character after {result.steps} steps")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps, for tests")
    parser.add_argument("--data", help="the text (default: the environment variable ETUDE_DATA)")
    given = parser.parse_args()
    main(given.quick, given.data)
