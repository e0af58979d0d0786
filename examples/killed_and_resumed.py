"""A run that is killed in the middle, without a word, and goes on: the final weights are those of a run left alone.

    python examples/killed_and_resumed.py [--quick] [--data FOLDER]

What to look at: `work` is the whole program, and it is the same whether it begins or goes on. `checkpoint=` says where
the state is saved, `resume="auto"` that the newest good file there is gone on from, if there is one. Dropout, batch
norm, the average and the schedule go on as well: the weights are compared bit for bit.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

import etude
from etude import Directory, cosine, ema, events, every, last, steps, warmup
from pictures import arguments, digits

OUT = Path("out") / "killed_and_resumed"


def net(points: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(points, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10)
    )


def work(folder: str, epochs: int, data: str | None) -> None:
    """The program that is killed."""
    pictures, shown = digits(data)
    etude.train(
        net(pictures[0].numel()),
        (pictures, shown),
        loss="cross_entropy",
        learning_rate=warmup(steps(20)) * cosine(1e-2, 1e-4),
        epochs=epochs,
        batch_size=64,
        averages=ema(0.99),
        checkpoint=Directory(folder, every(steps(20)), keep=last(2)),
        resume="auto",
        listeners=[tell],
        seed=1,
        progress=False,
    )


def tell(event: events.Event) -> None:
    """Write the number of each step to whoever watches."""
    if isinstance(event, events.Stepped):
        print(int(event.progress.step), flush=True)


def run(folder: Path, epochs: int, data: str | None, kill_after: int = 0) -> tuple[int, int]:
    """Start the program in a process of its own, and kill it after a step; the first and the last step it told."""
    told = [0]
    command = [sys.executable, __file__, "--work", str(folder), str(epochs), *([data] if data else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told.append(int(line))
            if kill_after and told[-1] >= kill_after:
                process.kill()  # SIGKILL: nothing can be done about it, and nobody is told
                kill_after = 0
    if len(told) == 1:
        raise SystemExit("The program did not make a step; what it says is above.")
    return told[1], told[-1]


def newest(folder: Path) -> Path:
    return max(folder.glob("*.safetensors"))


def main(quick: bool = False, data: str | None = None) -> dict[str, object]:
    """Which steps each process made, and whether the weights are the same in the end."""
    shutil.rmtree(OUT, ignore_errors=True)
    epochs = 8 if quick else 20
    points = digits(data)[0][0].numel()
    _, total = run(OUT / "quiet", epochs, data)
    print(f"left alone: {total} steps")

    made = []
    for part in (0.3,) if quick else (0.2, 0.5, 0.8):
        made.append(run(OUT / "killed", epochs, data, kill_after=int(part * total)))
        step = int(newest(OUT / "killed").name.split("_")[3])
        print(f"killed after step {made[-1][1]}; the newest whole file is that of step {step}")
    made.append(run(OUT / "killed", epochs, data))
    print(f"started again: it made the steps {made[-1][0]} to {made[-1][1]}")

    same = {}
    for of in ("net", "ema"):
        quiet, killed = (
            etude.load_net(newest(OUT / name), net(points), of).state_dict() for name in ("quiet", "killed")
        )
        same[of] = all(torch.equal(array, killed[name]) for name, array in quiet.items())
        print(f"{of}: the same bits as that left alone: {same[of]}")
    return {"total": total, "made": made, **same}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        folder, epochs, *data = sys.argv[2:]
        work(folder, int(epochs), data[0] if data else None)
    else:
        given = arguments(__doc__)
        main(given.quick, given.data)
