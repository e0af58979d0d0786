"""Two branches side by side: ten steps for the one, then one step for the other, over and over.

    python examples/ten_to_one.py [--quick] [--out FOLDER]

What to look at: `part("a") * 10` in an update schedule is ten steps in a row. The plan can be asked which arrays move
at which step before anything is trained, and the answer is compared here with what really moved.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn

from etude import Plan, Run, events, part


class Branches(nn.Module):
    """Two named branches and a layer that joins them."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(4, 6)
        self.out = nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([torch.tanh(self.a(x)), torch.relu(self.b(x))], 1))


def main(quick: bool = False, out: str | Path = "out") -> Counter[str]:
    """How often each array moved."""
    torch.manual_seed(0)
    net, x = Branches(), torch.randn(400, 4)
    plan = Plan(
        "mse",
        learning_rate=0.01,
        update_schedule=[part("a") * 10, "b"],  # a cycle of eleven steps; `out` is in no entry, so it never moves
        steps=44 if quick else 440,
        batch_size=32,
    )
    run = Run(plan, net, (x, x.prod(1, keepdim=True)))
    print(run.checked.show())  # array, shape, rate, the rule that decided, the steps at which it moves
    path = Path(out) / "ten_to_one.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    run.checked.plot(path)
    print(f"wrote {path}")

    moved: Counter[str] = Counter()
    before = {name: array.clone() for name, array in net.state_dict().items()}
    for event in run:
        if isinstance(event, events.Settled):
            for name, array in net.state_dict().items():
                moved[name] += not torch.equal(array, before[name])
                before[name] = array.clone()
    print(f"moved in {run.progress.step} steps: {dict(moved)}")
    return moved


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds, for tests")
    parser.add_argument("--out", default="out", help="where the picture goes")
    given = parser.parse_args()
    main(given.quick, given.out)
