"""One sentence for every optional package: what needs it and how to install it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from etude.errors import MissingPackageError

_EXTRAS = {
    "torchmetrics": "metrics",
    "datasets": "datasets",
    "h5py": "hdf",
    "pyarrow": "arrow",
    "soundfile": "audio",
    "sklearn": "examples",
    "pytorch_optimizer": "optimizers",
    "schedulefree": "optimizers",
    "timm": "timm",
}


def need(package: str, purpose: str) -> ModuleType:
    """Import an optional package, or say in one sentence how to get it.

    Raises:
        MissingPackageError: the package is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        extra = _EXTRAS.get(package.split(".")[0])
        how = f"pip install 'etude[{extra}]'" if extra else f"pip install {package}"
        raise MissingPackageError(f"{purpose} needs the package {package!r}. Install it with: {how}") from error
