"""Your own loop, the same control: the trainer replaces the optimizer, and nothing else.

    python examples/own_loop.py [--quick] [--data FOLDER]

What to look at: the loop is yours, forward and backward too. `trainer.step(n)` does what an optimizer, a learning-rate
scheduler, parameter groups and a freezing callback would do together, and there is no `zero_grad`: the net's next
forward starts afresh.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

import etude
from etude import FROZEN, cosine, epochs, part, steps, times, warmup
from pictures import arguments, digits


def main(quick: bool = False, data: str | None = None) -> float:
    """The share of pictures held back that are named rightly."""
    pictures, shown = digits(data)
    torch.manual_seed(0)
    order = torch.randperm(len(pictures))
    held_back, training = order[:300], order[300:1500]
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(pictures[0].numel(), 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 10)
    )

    batch, passes = 40, 3 if quick else 15
    trainer = etude.Trainer(
        net,
        "adamw",
        learning_rate=warmup(steps(20)) * cosine(3e-3, 3e-5),
        weight_decay=0.1,  # settings of the update rule are keywords, each a number or a schedule
        clip_norm=1.0,
        rules={
            # times(r) is relative to the learning rate above; the layer's bias is held, the head moves twice as fast.
            "learning_rate": {"1.bias": FROZEN, -1: times(2)},
            # No decay for biases and for the normalisation.
            "weight_decay": {part(nn.LayerNorm) | "*.bias": 0},
        },
        total=epochs(passes),  # the cosine ends with the run: so it has to be said how long that is
        steps_per_epoch=len(training) // batch,
    )
    print(trainer.table.show(trainer.progress.extent))

    for epoch in range(passes):
        total = 0.0
        for rows in training[torch.randperm(len(training))].split(batch):
            loss = functional.cross_entropy(net(pictures[rows]), shown[rows], reduction="sum")
            loss.backward()
            trainer.step(len(rows))  # the gradients of a sum, divided by how many there were
            total += loss.item()
        print(f"epoch {epoch + 1:>2}  loss {total / len(training):.4f}  next rate {trainer.learning_rate:.2e}")

    net.eval()
    with torch.no_grad():
        right = (net(pictures[held_back]).argmax(1) == shown[held_back]).float().mean().item()
    print(f"named rightly of those held back: {right:.1%}")
    return right


if __name__ == "__main__":
    given = arguments(__doc__)
    main(given.quick, given.data)
