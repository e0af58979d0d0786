"""Looking at a place in the file system before anything is written there; nothing is made, opened or followed."""

from __future__ import annotations

import os
import stat

from etude.errors import SettingError


def is_folder(path: str, said: str) -> bool:
    """Whether a folder has the name that a file is to have; False where there is a file, or nothing.

    Args:
        said: what was asked for, for the message.

    Raises:
        SettingError: something else has the name, a link or a device; or the name cannot be used.
    """
    there = _there(path, said)
    if there is None or stat.S_ISREG(there.st_mode):
        return False
    if stat.S_ISDIR(there.st_mode):
        return True
    raise SettingError(
        f"{said}: {path} is {_kind(there)}, and only a file is overwritten. Remove it, or give another path."
    )


def check_folder(path: str, said: str) -> None:
    """Whether there is a folder that can be written to, or can be made: the nearest one above it is looked at.

    Args:
        path: from the root. said: what was asked for, for the message.

    Raises:
        SettingError: something else has the name or stands in the way; or nothing may be written there.
    """
    place, there = path, _there(path, said)
    while there is None:
        place = os.path.dirname(place)
        there = _there(place, said)
    if not os.path.isdir(place):
        what = "a link that leads to no folder" if stat.S_ISLNK(there.st_mode) else _kind(there)
        raise SettingError(f"{said}: {place} is {what}, and a folder is needed there. Move it, or give another path.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise SettingError(
            f"{said}: nothing can be written in the folder {place}. Give a path where you may write, or change its "
            "permissions."
        )


def _there(path: str, said: str) -> os.stat_result | None:
    """What is at a path, links not followed; None where there is nothing."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SettingError(f"{said}: {path} cannot be used: {error.strerror}. Give another path.") from error


def _kind(there: os.stat_result) -> str:
    kinds = {stat.S_IFREG: "a file", stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(there.st_mode), "a device")
