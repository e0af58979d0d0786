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

import torch
from torch import Tensor, nn

import etude
from etude import Bar, cosine, epochs, events, linear, steps, warmup
from etude.data import audio, cached, mapped, shortest

RATE, WINDOW, HOP, BANDS = 8000, 256, 80, 40


def recordings(folder: str | Path | None) -> tuple[list[Path], list[Path]]:
    """The files for training and for the test. Recordings 0 to 4 of each digit and speaker are for the test."""
    given = Path(folder or os.environ.get("ETUDE_DATA") or "free-spoken-digit-dataset")
    for place in (given / "recordings", given / "fsdd", given):
        if files := sorted(place.glob("[0-9]_*_*.wav")):
            held_back = [path for path in files if int(path.stem.split("_")[2]) < 5]
            return sorted(set(files) - set(held_back)), held_back
    raise SystemExit(
        f"{given} has no recordings of spoken digits: clone https://github.com/Jakobovski/free-spoken-digit-dataset "
        "and name its folder, --data FOLDER."
    )


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


def features(files: list[Path]) -> etude.data.cached:
    """Features of recordings: each is made once, when it is first asked for. The headers tell how long they will be."""
    sounds = audio(files, labels=lambda path: int(path.name[0]), rate=RATE)
    return cached(mapped(sounds, log_mel, lengths=lambda told: {"mel": 1 + (told["audio"] - WINDOW) // HOP}))


class Listener(nn.Module):
    """A GRU from left to right, and the mean of what it says at the true frames."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.frames = nn.Sequential(nn.LayerNorm(BANDS), nn.Linear(BANDS, width), nn.ReLU())
        self.memory = nn.GRU(width, width, batch_first=True)
        self.digits = nn.Linear(width, 10)

    def forward(self, mel: Tensor, mel_mask: Tensor) -> Tensor:
        said = self.memory(self.frames(mel))[0]
        # What comes after the last true frame cannot reach the frames before it.
        true = mel_mask[..., None].to(said.dtype)
        return self.digits((said * true).sum(1) / true.sum(1))
