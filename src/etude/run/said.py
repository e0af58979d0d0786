"""What a plan was told, and with what it is carried out, as text that is the same in every process."""

from __future__ import annotations

import hashlib
import platform
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude._version import __version__
from etude.data.batch import each

_LOOKED_AT = 1 << 18
"""Numbers of an array of a batch that its digest is of: enough to tell other data, and no wait for large ones."""


def versions() -> dict[str, str]:
    """Versions of what computes."""
    return {
        "etude": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def first_batch(values: Any) -> str:
    """A digest of the numbers of a batch."""
    digest = hashlib.sha256()

    def take(value: Any) -> Any:
        if isinstance(value, Tensor):
            array = value.detach().cpu().contiguous()
            digest.update(f"{array.dtype}{tuple(array.shape)}".encode())
            if array.layout == torch.strided:
                digest.update(array.reshape(-1)[:_LOOKED_AT].view(torch.uint8).numpy().data)
        elif isinstance(value, np.ndarray):
            digest.update(np.ascontiguousarray(value).reshape(-1)[:_LOOKED_AT].data)
        return value

    each(values, take)
    return digest.hexdigest()[:12]
