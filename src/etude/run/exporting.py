"""A net as a `torch.export` archive beside its checkpoint: what runs without the program that built it."""

from __future__ import annotations

import copy
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from etude.errors import PlanError
from etude.keep import disk
from etude.run.check import Checked
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
        self._net = checked.net
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
    def take(self) -> None:
        """Copy the arrays of the net as they are now."""
        own = {**dict(self._net.named_parameters()), **dict(self._net.named_buffers())}
        for name, kept in self._program.state_dict.items():
            if name in own:
                kept.copy_(own[name])

    def write(self, path: Path) -> None:
        """Write the archive; a file that is there is replaced in one instant.

        Raises:
            OSError: the system refused something; nothing is left but what was there before.
        """
        part = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{SUFFIX}")
        try:
            torch.export.save(self._program, part)
            fd = disk.open_to_read(part)
            try:
                disk.sync(fd)
            finally:
                disk.close(fd)
            disk.rename(part, path)
        except BaseException:
            with suppress(OSError):
                disk.remove(part)
            raise
        disk.sync_folder(path.parent)


def _shapes(args: Any, kwargs: Any) -> Any:
    """Of every input: its first dimension has any length."""

    def free(value: Any) -> Any:
        return {0: torch.export.Dim.AUTO} if isinstance(value, Tensor) and value.dim() else None

    made = tree.tree_map(free, (tuple(args), dict(kwargs)))
    return made[0] if not kwargs else _by_name(made)


def _by_name(made: Any) -> Any:
    """Positional inputs and those by name, in the one form that torch.export takes for both."""
    return (*made[0], *made[1].values())
