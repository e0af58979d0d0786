"""Spoken digits: real recordings of 0.1 to 2.3 seconds, in batches with next to no padding.

    python examples/spoken_digits.py [--quick] [--data FOLDER]

What to look at: `sequences` says what the data are and how they become batches, in one value. What will be in the
batches is printed and drawn before anything is trained, beside the padding that other orders would cost. The net takes
`mel`, padded, and `mel_mask`, which says which frames are true.

The data are the Free Spoken Digit Dataset, 3,000 recordings of 6 people, CC BY-SA 4.0: a clone of
https://github.com/Jakobovski/free-spoken-digit-dataset, named by --data or the environment variable ETUDE_DATA.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import etude
from etude import Data, cosine, epochs, fraction, linear, warmup
from etude.data import audio, cached, mapped, shortest

RATE, WINDOW, HOP, BANDS = 8000, 256, 80, 40
OUT = Path("out")


def recordings(folder: str | Path | None) -> dict[str, list[Path]]:
    """The files for the test (of each speaker and digit recordings 0 to 4), for validation (5 to 9), for training."""
    given = Path(folder or os.environ.get("ETUDE_DATA") or "free-spoken-digit-dataset")
    found = (sorted(place.glob("[0-9]_*_*.wav")) for place in (given / "recordings", given / "fsdd", given))
    files = next(filter(None, found), None)
    if files is None:
        raise SystemExit(
            f"{given} has no recordings of spoken digits: clone "
            "https://github.com/Jakobovski/free-spoken-digit-dataset and name its folder, --data FOLDER."
        )
    split: dict[str, list[Path]] = {"test": [], "validation": [], "training": []}
    for path in files:
        number = int(path.stem.split("_")[2])
        split["test" if number < 5 else "validation" if number < 10 else "training"].append(path)
    return split


def mel_bands() -> Tensor:
    """Triangles that overlap by half, equally wide on the mel scale (2595 log10(1 + f / 700)): shape (bins, BANDS)."""
    top = 2595 * torch.log10(torch.tensor(1 + RATE / 2 / 700))
    edges = 700 * (10 ** (torch.linspace(0, float(top), BANDS + 2) / 2595) - 1)
    bins = torch.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    return torch.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)).clamp(min=0)


TRIANGLES = mel_bands()


def log_mel(sample: dict[str, Tensor]) -> dict[str, Tensor]:
    """100 frames a second of log-mel features, shape (frames, BANDS), without the loudness of the recording."""
    wave = torch.as_tensor(sample["audio"])
    spectrum = torch.stft(wave, WINDOW, HOP, window=torch.hann_window(WINDOW), center=False, return_complex=True)
    mel = (spectrum.abs().square().T @ TRIANGLES + 1e-8).log()
    return {"mel": mel - mel.mean(), "label": sample["label"]}


def sequences(files: list[Path], **options: Any) -> Data:
    """Recordings as sequences of features; each is made once, when it is first asked for.

    The headers of the files say how many samples there are, so how many frames there will be is known beforehand.
    """
    sounds = audio(files, labels=lambda path: int(path.name[0]), rate=RATE)
    features = mapped(sounds, log_mel, lengths=lambda told: {"mel": 1 + (told["audio"] - WINDOW) // HOP})
    return Data(cached(features), budget=2000, **options)


class Listener(nn.Module):
    """A GRU from left to right, and the mean of what it says at the true frames."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.frames = nn.Sequential(nn.LayerNorm(BANDS), nn.Linear(BANDS, width), nn.ReLU())
        self.memory = nn.GRU(width, width, batch_first=True)
        self.digits = nn.Linear(width, 10)

    def forward(self, mel: Tensor, mel_mask: Tensor) -> Tensor:
        said = self.memory(self.frames(mel))[0]
        # It hears from left to right, so what fills up at the end cannot reach the true frames.
        true = mel_mask[..., None].to(said.dtype)
        return self.digits((said * true).sum(1) / true.sum(1))


def main(quick: bool = False, data: str | None = None) -> dict[str, Any]:
    """The result of training, what was in the batches of each epoch, and the accuracy on the test recordings."""
    files, passes = recordings(data), 4 if quick else 12
    # A curriculum: the shorter half at first, all of them from the fourth epoch on.
    training = sequences(files["training"], keep=shortest(linear(0.5, 1, over=epochs(3))))

    for order in ("random", "sorted", "laplace:.100", "strata"):
        print(f"padding in order {order:<14}{training.but(order=order, keep=None).report()[0].padding:6.1%}")
    reports = training.report(passes, seed=1)
    print(*reports[:4], sep="\n")
    training.plot(OUT / "spoken_digits.png", epochs=passes, seed=1)

    torch.manual_seed(0)
    result = etude.train(
        Listener(),
        training,
        loss="cross_entropy",
        learning_rate=warmup(fraction(0.1)) * cosine(5e-3, 1e-4),
        epochs=passes,
        validation=sequences(files["validation"]),
        metrics="accuracy",
        seed=1,
        progress=True,
    )
    for report, accuracy in zip(reports, result.history["val.accuracy"].values, strict=True):
        batches = f"{report.batches} batches of {report.samples:,} recordings, {report.padding:.1%} padding"
        print(f"epoch {report.epoch + 1:>2}  {batches}, accuracy {accuracy:.1%}")
    right = accuracy_of(result.net, sequences(files["test"]))
    print(f"{len(files['test'])} recordings of the test, named rightly: {right:.1%}")
    return {"result": result, "reports": reports, "test": right}


@torch.no_grad()
def accuracy_of(net: nn.Module, data: Data) -> float:
    """The share of recordings that are named rightly, in a loop of one's own."""
    right = 0
    for batch in data.batches(epochs=1):
        said = net(batch.values["mel"], batch.mask("mel"))
        right += int((said.argmax(1) == batch.values["label"]).sum())
    return right / len(data)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer epochs, for tests")
    parser.add_argument("--data", help="the folder of the recordings (default: the environment variable ETUDE_DATA)")
    given = parser.parse_args()
    main(given.quick, given.data)
