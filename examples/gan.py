"""A generator and a discriminator that move in turn.

    python examples/gan.py [--quick] [--out FOLDER]

The generator turns pairs of random numbers into one number; the discriminator tells the generated ones from real ones,
which are normal with mean 3 and deviation 0.5. What to look at: a GAN is a net with two losses, each for its own part,
and `train` knows both. By default the discriminator and the generator move in turn, a batch each; an update schedule
says otherwise, `[part("discriminator") * 5, "generator"]`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

import etude
from etude import GAN, Plan, Run, events

MEAN, DEVIATION = 3.0, 0.5


def main(quick: bool = False, out: str | Path = "out") -> dict[str, float]:
    """Mean and deviation of what the generator makes, and those of the real numbers."""
    torch.manual_seed(0)
    net = GAN(
        generator=nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1)),
        discriminator=nn.Sequential(nn.Linear(1, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1)),  # logits: no sigmoid
        loss="non-saturating",  # or "js", "wasserstein", "hinge"
        latent=2,  # drawn anew for each batch
    )
    real = torch.normal(MEAN, DEVIATION, (4096, 1))
    plan = Plan(optimizer="adam", beta1=0.5, learning_rate=3e-3, steps=800 if quick else 6000, batch_size=128)
    run = Run(plan, net, real)
    for event in run:
        if isinstance(event, events.Stepped) and event.progress.step % (plan.steps // 8) == 0:
            mean, deviation = generated(net)
            print(f"step {event.progress.step:>5}  generated: mean {mean:+.2f}, deviation {deviation:.2f}")
    result = run.result()
    mean, deviation = generated(net)
    print(f"real: mean {MEAN:+.2f}, deviation {DEVIATION:.2f}")
    draw(result, Path(out) / "gan.png")
    return {"mean": mean, "deviation": deviation}


def generated(net: GAN) -> tuple[float, float]:
    """Mean and deviation of a thousand generated numbers, the same random pairs each time."""
    pairs = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made = net.generator(pairs)
    return made.mean().item(), made.std().item()


def draw(result: etude.Result, path: Path) -> None:
    """The two losses over the steps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    from etude.draw.plots import plot_series

    plot_series(result.history, ("discriminator.loss", "generator.loss"), path=path, title="The game")
    print(f"wrote {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds, for tests")
    parser.add_argument("--out", default="out", help="where the picture goes")
    given = parser.parse_args()
    main(given.quick, given.out)
