"""The first and the third layer take turns; the second never moves. The picture is two staircases and a flat line.

    python examples/alternating.py [--quick] [--out FOLDER]

What to look at: `update_schedule=[0, 4]` is the whole of it. The count of steps runs on across epochs (seven batches
an epoch, two layers in turn), and a layer is held exactly between its turns, whatever the optimizer remembers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from etude import Plan, Run, events

LAYERS = {"0.weight": "first", "2.weight": "second", "4.weight": "third"}


def main(quick: bool = False, out: str | Path = "out") -> dict[str, list[float]]:
    """The first number of each weight after every step, the first entry before any."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2))
    x = torch.randn(56, 3)
    y = torch.stack([x[:, 0] * x[:, 1], x.sum(1)], 1)

    # 0 and 4 are the first and the last child of the net, counted as Python counts. Between its turns a layer feels
    # neither momentum nor weight decay.
    plan = Plan(
        "mse", optimizer="adamw", learning_rate=0.02, weight_decay=0.1, update_schedule=[0, 4], epochs=3, batch_size=8
    )
    arrays = net.state_dict()
    record = {name: [float(arrays[name][0, 0])] for name in LAYERS}
    # A run is an iterator of events. Settled is the one moment at which a step is wholly done.
    for event in Run(plan, net, (x, y)):
        if isinstance(event, events.Settled):
            for name, values in record.items():
                values.append(float(arrays[name][0, 0]))

    draw(record, Path(out) / "alternating.png")
    return record


def draw(record: dict[str, list[float]], path: Path) -> None:
    """How far each number has come after each step."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, values in record.items():
        axes.step(range(len(values)), [value - values[0] for value in values], where="post", label=LAYERS[name])
    for epoch in (7, 14):
        axes.axvline(epoch, color="0.85", linewidth=0.8, zorder=0)
    axes.set(xlabel="steps (grey: a new epoch)", ylabel="change of one weight", title="Layers that take turns")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds, for tests (the example is quick anyway)")
    parser.add_argument("--out", default="out", help="where the picture goes")
    given = parser.parse_args()
    main(given.quick, given.out)
