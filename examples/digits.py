"""Handwritten digits: the whole of a training run in one call.

    python examples/digits.py [--quick] [--data FOLDER]

What to look at: everything that is said about the run stands in the call, and everything that came of it in the result.
"""

from __future__ import annotations

import torch
from torch import nn

import etude
from etude import cosine, part, steps, warmup
from pictures import arguments, digits


def net(size: int, channels: int = 16) -> nn.Sequential:
    """Two convolutions for pictures of `size` x `size` points, and a linear layer for ten classes."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        nn.BatchNorm2d(2 * channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * channels * (size // 4) ** 2, 10),
    )


def main(quick: bool = False, data: str | None = None) -> etude.Result:
    pictures, shown = digits(data)
    torch.manual_seed(0)  # the first weights are yours; everything after them follows from seed= below
    result = etude.train(
        net(pictures.shape[-1]),
        (pictures, shown),
        loss="cross_entropy",
        # The rate climbs for 20 steps, then falls to a hundredth. A schedule is a value: print it, plot it, compare it.
        learning_rate=warmup(steps(20)) * cosine(1e-2, 1e-4),
        # Weight decay for matrices and kernels; none for biases, and none for the normalisation.
        rules={"weight_decay": {part("*.bias") | nn.BatchNorm2d: 0}},
        weight_decay=0.05,
        epochs=3 if quick else 15,
        batch_size=64,
        validation=0.2,  # a fifth is set aside; result.net is the net that did best on it
        metrics="accuracy",
        patience=5,  # stop when more than five looks in a row brought nothing
        seed=1,
        progress=True,
    )
    print(result.optimizer["loss"])
    print(f"accuracy of the best net: {result.history['val.accuracy'].values[best(result)]:.4f}")
    return result


def best(result: etude.Result) -> int:
    """Which of the looks at the validation data found the best net."""
    assert result.best_step is not None
    return result.history["val.loss"].steps.index(result.best_step)


if __name__ == "__main__":
    given = arguments(__doc__)
    main(given.quick, given.data)
