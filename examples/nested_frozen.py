"""A layer that is frozen when it is built, and stays so inside a bigger net.

    python examples/nested_frozen.py [--quick]

What to look at: whoever builds a part of a net knows how it should be trained. `set_rules` leaves that with the part.
It travels into any net the part is used in, can be read back, and counts wherever the call that trains says nothing.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import etude
from etude import FROZEN, set_rules


def averages() -> nn.Conv1d:
    """A layer that averages three neighbours: its weights are knowledge, not something to learn."""
    layer = nn.Conv1d(1, 1, 3, padding=1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1 / 3)
    return set_rules(layer, learning_rate=FROZEN)


class Smoother(nn.Module):
    """A block of somebody's library: it contains the layer, and has an opinion of its own on one more."""

    def __init__(self) -> None:
        super().__init__()
        self.average = averages()
        self.mix = nn.Conv1d(1, 4, 1)
        set_rules(self.mix, learning_rate_multipliers={"bias": 0.1})

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.mix(self.average(x)))


def main(quick: bool = False) -> etude.Result:
    torch.manual_seed(0)
    net = nn.Sequential(Smoother(), nn.Flatten(), nn.Linear(4 * 16, 1))

    print("before training, by what was left on the layers:")
    for name, multiplier in etude.learning_rate_multipliers(net).items():
        print(f"  {name:<20} {multiplier:g}")
    print(f"left on the layer itself: {etude.rules_of(net[0].average)}")

    waves = torch.sin(torch.rand(256, 1, 1) * 6 + torch.arange(16) * 0.3)
    noisy = waves + 0.3 * torch.randn_like(waves)
    # The call says nothing about multipliers, so the rules on the layers decide.
    result = etude.train(net, (noisy, waves[:, 0, -1:]), loss="mse", epochs=2 if quick else 20, learning_rate=3e-3)

    print("after training, what was really used:")
    for name, multiplier in result.learning_rate_multipliers.items():
        print(f"  {name:<20} {multiplier:g}")
    print(f"the averaging layer: {net[0].average.weight.flatten().tolist()}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds, for tests")
    main(parser.parse_args().quick)
