"""A net as a `torch.export` archive beside its checkpoint: what runs without the program that built it."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from etude.errors import PlanError
from etude.keep import disk
from etude.keep.whole import write_whole
from etude.run.checked import Checked
from etude.step.reading import Reader

SUFFIX = ".pt2"
"""What the name of an archive ends in; the rest is that of its checkpoint."""


class Exporter:
    """The program of a net, traced once in evaluation mode; each archive gets the arrays of its moment.

    The first dimension of every input may have any length. Archives hold no example inputs, and so nothing pickled.

    Raises:
        PlanError: the net cannot be exported; the message says why.
    """

    def __init__(self, checked: Checked) -> None:
        args, kwargs, _ = Reader(checked.net)(checked.example)
        try:
            with torch.no_grad():
                still = copy.deepcopy(checked.net).eval()
                self._program = torch.export.export(still, tuple(args), kwargs, dynamic_shapes=_shapes(args, kwargs))
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise PlanError(
                f"export=True: torch.export cannot make an archive of the net: {reason} Leave export out, or change "
                "what its forward does."
            ) from error
        self._program.example_inputs = None

    @torch.no_grad()
    def write(self, path: Path, arrays: Mapping[str, Tensor]) -> None:
        """Write the archive of the net with these arrays; a file that is there is replaced in one instant.

        Raises:
            OSError: the system refused something; nothing is left but what was there before.
        """
        # Buffers that a state_dict leaves out are constants of the program.
        for name, kept in (*self._program.state_dict.items(), *self._program.constants.items()):
            key = name if name in arrays else f"buffer:{name}"
            if key in arrays and isinstance(kept, Tensor):
                kept.copy_(arrays[key])
        made = io.BytesIO()
        torch.export.save(self._program, made)
        write_whole(path, lambda fd: disk.write_at(fd, made.getbuffer(), 0))


def _shapes(args: Any, kwargs: Any) -> Any:
    """Of every input: its first dimension has any length."""

    def free(value: Any) -> Any:
        return {0: torch.export.Dim.AUTO} if isinstance(value, Tensor) and value.dim() else None

    made = tree.tree_map(free, (tuple(args), dict(kwargs)))
    return made[0] if not kwargs else _by_name(made)


def _by_name(made: Any) -> Any:
    """Positional inputs and those by name, in the one form that torch.export takes for both."""
    return (*made[0], *made[1].values())
