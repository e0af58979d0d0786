"""Train only the last layer, and see that nothing else moved by a single bit.

    python examples/last_layer.py [--quick]

What to look at: one line of multipliers freezes a net except for its last layer. Frozen is exact: no momentum, no
weight decay and no rounding reaches a frozen array, and the optimizer keeps no memory for it.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

import etude
from etude import FROZEN, everything, part


def main(quick: bool = False) -> etude.Result:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    x = torch.randn(200, 3)
    y = torch.stack([x[:, 0] * x[:, 1], x.sum(1)], 1)
    before = {name: array.clone() for name, array in net.state_dict().items()}

    result = etude.train(
        net,
        (x, y),
        loss="mse",
        optimizer="adam",
        learning_rate=0.01,
        # The first rule that has an array decides. part(-1) is the last layer; everything is the whole net.
        learning_rate_multipliers={part(-1): 1, everything: FROZEN},
        weight_decay=0.1,
        epochs=2 if quick else 20,
        batch_size=20,
    )

    print(f"multipliers really used: {result.learning_rate_multipliers}")
    for name, array in net.state_dict().items():
        same = torch.equal(array, before[name])
        print(f"{name:<9} {'the same, bit for bit' if same else 'moved'}")
    losses = result.history["epoch.loss"].values
    print(f"mean loss of the first epoch {losses[0]:.4f}, of the last {losses[-1]:.4f}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds, for tests")
    main(parser.parse_args().quick)
