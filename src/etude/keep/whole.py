"""A file that is there as a whole, or not at all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress

from etude.keep import disk

PART = re.compile(r"\.etude-[0-9a-f]{8}\.part\Z")
"""Names of files that are being written; without a writer they are strays."""


def part_in(folder: str | os.PathLike[str]) -> str:
    """A name for a file that is being written."""
    return os.path.join(folder, f".etude-{secrets.token_hex(4)}.part")


def write_whole(path: str | os.PathLike[str], fill: Callable[[int], None]) -> None:
    """Write a file aside, make it durable, and give it its name in one instant; that, too, is durable on return.

    Args:
        path: one that is there is replaced. fill: writes to the descriptor it is given.

    Raises:
        OSError: the system refused something; what was at `path` is still there, and nothing besides.
    """
    folder = os.path.dirname(os.path.abspath(path))
    part = part_in(folder)
    fd = disk.create(part)
    try:
        try:
            fill(fd)
            disk.sync(fd)
        finally:
            disk.close(fd)
        disk.rename(part, path)
    except BaseException:
        # What cannot be removed is swept when the folder is next opened.
        with suppress(OSError):
            disk.remove(part)
        raise
    disk.sync_folder(folder)
