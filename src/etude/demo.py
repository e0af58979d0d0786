"""The demonstration, written as anybody's experiment file: `etude demo` trains it, `etude train` would too.

A small convolutional net learns handwritten digits (1,797 real pictures of 8x8 points that come with scikit-learn). The
plan says three things about its parts: the first layer is slowed, and its bias never moves; the two convolutions take
turns, while the head moves at every step; and the rate warms up, then falls along a cosine.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from etude.needs import need
from etude.run.plan import Plan
from etude.values.curves import cosine, warmup
from etude.values.marks import FROZEN
from etude.values.part import part
from etude.values.spans import fraction


def experiment(
    width: int = 16,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 1e-2,
    slowed: float = 0.2,
    seed: int = 1,
) -> tuple[nn.Module, tuple[Tensor, Tensor], Plan]:
    """Handwritten digits: a slowed layer, layers that take turns, and warm-up before a cosine.

    Args:
        width: channels of the first layer.
        epochs: passes over the training pictures.
        batch_size: pictures in a batch.
        learning_rate: the highest learning rate.
        slowed: what the rate of the first layer is multiplied by.
        seed: of the first weights, the order of the pictures and the choice of the validation pictures.
    """
    plan = Plan(
        loss="cross_entropy",
        optimizer="adamw",
        learning_rate=warmup(fraction(0.1)) * cosine(learning_rate, learning_rate / 100),
        learning_rate_multipliers={"edges.bias": FROZEN, "edges": slowed},
        update_schedule=[part("shapes") | "head", part("edges") | "head"],
        epochs=epochs,
        batch_size=batch_size,
        validation=0.2,
        metrics="accuracy",
        seed=seed,
    )
    return digit_net(width, seed), digits(), plan


def digits() -> tuple[Tensor, Tensor]:
    """The pictures, shape (1797, 1, 8, 8), values 0 to 1; and what they show, 0 to 9, shape (1797,).

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    pictures, shown = need("sklearn.datasets", "The digits").load_digits(return_X_y=True)
    return torch.tensor(pictures, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(shown)


def digit_net(width: int, seed: int) -> nn.Module:
    """Two convolutions and a linear layer, from pictures of 8x8 points to scores of ten classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            OrderedDict(
                edges=nn.Conv2d(1, width, 3, padding=1),
                bend=nn.ReLU(),
                shapes=nn.Conv2d(width, 2 * width, 3, padding=1),
                bend_again=nn.ReLU(),
                pool=nn.MaxPool2d(2),
                flat=nn.Flatten(),
                head=nn.Linear(2 * width * 16, 10),
            )
        )
