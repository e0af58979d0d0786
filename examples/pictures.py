"""Pictures of handwritten digits for the examples: scikit-learn's own, or MNIST's where a folder has them.

scikit-learn ships 1,797 real digits of 8x8 points: nothing has to be downloaded. With `--data FOLDER` (or the
environment variable ETUDE_DATA) the examples take MNIST's 10,000 test pictures of 28x28 points instead: the files
t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz, which https://ossci-datasets.s3.amazonaws.com/mnist/ has.
"""

from __future__ import annotations

import argparse
import gzip
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

PREFIXES = ("t10k", "mnist10k")


def digits(folder: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """Pictures of shape (n, 1, height, width), values 0 to 1, and what they show, shape (n,)."""
    folder = folder or os.environ.get("ETUDE_DATA")
    if folder:
        return mnist(Path(folder))
    from sklearn.datasets import load_digits

    pictures, shown = load_digits(return_X_y=True)
    return torch.tensor(pictures, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(shown)


def mnist(folder: Path) -> tuple[Tensor, Tensor]:
    """MNIST's 10,000 test pictures."""
    for prefix in PREFIXES:
        images, labels = (folder / f"{prefix}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
        if images.exists() and labels.exists():
            return idx(images).unsqueeze(1).float() / 255, idx(labels).long()
    raise SystemExit(f"{folder} has no t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz. {__doc__}")


def idx(path: Path) -> Tensor:
    """An array of bytes from an IDX file: two zeros, the type (8), the number of axes, their lengths, the data."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\0\0\x08":
        raise SystemExit(f"{path} is no IDX file of bytes.")
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy())


def arguments(doc: str | None) -> argparse.Namespace:
    """The command line of an example that takes pictures: --quick, --data."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds, for tests")
    parser.add_argument("--data", help="a folder with MNIST (default: the environment variable ETUDE_DATA)")
    return parser.parse_args()
