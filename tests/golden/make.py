"""Writes a checkpoint of each kind as this version writes it, in a folder of its name: `python tests/golden/make.py`.

Once for every released version; what is there is never written again.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

HERE = Path(__file__).parent
sys.path += [str(HERE.parent), str(HERE.parents[1] / "src")]

import etude  # noqa: E402
from small import Noisy, classified, options  # noqa: E402

PLAN = {
    "epochs": 3,
    "validation": 0.3,
    "averages": etude.ema(0.9),
    "learning_rate": 0.1 * etude.plateau("val.loss", patience=0),
    "update_schedule": [etude.part("body") * 2, "head"],
    "seed": 5,
}
"""What the run in the middle of which the file was written was told."""


def main() -> None:
    """Write the files of this version."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / etude.__version__
    folder.mkdir()
    plan = etude.Plan(**options(**PLAN, checkpoint=etude.File(folder / "run.safetensors", etude.every(etude.steps(4)))))
    for event in etude.Run(plan, Noisy(), classified(16)):
        if event.progress.step == 5:
            break
    net = Noisy()
    trainer = etude.Trainer(net, "adamw", averages=etude.ema(0.9))
    x, y = classified()
    torch.nn.functional.cross_entropy(net(x), y).backward()
    trainer.step()
    with TemporaryDirectory() as aside:
        with etude.Checkpoints(aside) as kept:
            shutil.copy(kept.save(step=1, net=net, trainer=trainer, note="kept"), folder / "loop.safetensors")
        result = etude.train(Noisy(), classified(), loss="cross_entropy", epochs=1, batch_size=4, progress=False)
        result.save(Path(aside) / "result.json", net=True)
        shutil.copy(Path(aside) / "result.safetensors", folder / "weights.safetensors")


if __name__ == "__main__":
    main()
