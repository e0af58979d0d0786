"""The files of one destination: who may write, which are there, which is the newest good one, which go."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from etude.errors import CheckpointError, SettingError, StateError
from etude.keep import disk, files, folder
from etude.keep.destination import Directory, File
from etude.keep.files import Saved
from etude.keep.lock import Lock
from etude.keep.names import Name
from etude.keep.plain import unpack
from etude.keep.retain import Entry, Keep

ARCHIVE = ".pt2"
"""How the name of a net that was exported beside its checkpoint ends."""


class Store:
    """The files of one destination. Whoever writes opens it first and closes it at the end; reading needs neither.

    While it is open no other run writes there (see `Lock` for where that cannot be known). Files are written by
    `etude.keep.files`; this says where to, and looks after those that are there.

    Args:
        destination: a `File` or a `Directory`.
        keep: which files stay, with the directions of its scores known; None: the destination's own `keep`.
    """

    def __init__(self, destination: File | Directory, keep: Keep | None = None) -> None:
        self.destination = destination
        self._path = Path(destination.absolute)
        self._many = isinstance(destination, Directory)
        self._folder = self._path if self._many else self._path.parent
        self._lock = Lock(self._folder / (".lock" if self._many else _lock_name(self._path.name)))
        self._keep = keep if keep is not None or not isinstance(destination, Directory) else destination.keep
        self._entries: dict[str, Entry] = {}
        self._given: set[str] = set()
        self._newest = ""

    def open(self, need_bytes: int = 0) -> None:
        """Make the folder, lock it, remove what writers that were killed left behind, and see that there is room.

        Args:
            need_bytes: the size of one checkpoint, where it is known.

        Raises:
            SettingError: nothing can be written there; the message says why and what to write.
            StateError: another run writes there, or there is less room than one checkpoint needs.
        """
        self.destination.check()
        try:
            disk.make_folder(self._folder)
            self._lock.acquire()
            try:
                folder.sweep(self._folder)
                free = folder.probe(self._folder)
                if free < need_bytes:
                    raise StateError(
                        f"{self.destination!r}: a checkpoint takes {need_bytes:,} bytes, and {free:,} are free in "
                        f"{self._folder}. Make room there, or write to another disk."
                    )
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise SettingError(self._refusal(error)) from error

    def close(self) -> None:
        """Let others write there. Nothing happens where it is not open."""
        self._lock.release()

    def paths(self) -> list[Path]:
        """The checkpoints that are there, newest first, by their names alone.

        Raises:
            CheckpointError: nobody can say, as the folder cannot be looked at. That is not the same as an empty one.
        """
        if not self._many:
            return [self._path] if folder.is_there(self._path) else []
        named = [name for text in folder.listed(self._folder) if (name := Name.parse(text)) is not None]
        return [self._folder / moment[-1] for moment in sorted(map(Name.moment, named), reverse=True)]

    def target(self, name: Name) -> Path:
        """Where the next checkpoint goes: in a folder under a name that no file has, "-2" behind it if need be.

        Raises:
            CheckpointError: this store is not open, another writer has its lock by now, or what is there is not known.
        """
        if not os.path.isdir(self._folder):
            self._come_back()
        self._lock.check()
        if not self._many:
            self._set_aside_foreign()
            return self._path
        while folder.is_there(self._folder / name.text()):
            name = replace(name, again=name.again + 1)
        return self._folder / name.text()

    def _come_back(self) -> None:
        """The folder was removed while the run went on: it is made anew."""
        if self._lock.held:
            disk.make_folder(self._folder)
            self._lock.release()
            self._lock.acquire()

    def adopt(self, entries: Iterable[Entry]) -> None:
        """Take over what is known of files from before a resume. Of others of the same run the headers are read."""
        self._entries = {os.path.basename(entry.path): entry for entry in entries} | self._entries

    def committed(self, path: str | os.PathLike[str], entry: Entry) -> None:
        """Note that a checkpoint was written, as the newest."""
        self._newest = os.path.basename(path)
        self._entries.pop(self._newest, None)
        self._entries[self._newest] = entry

    def retain(self) -> list[Path]:
        """Remove the files of the newest one's run that are not kept, once the newest was read back and found good.

        What is read back may come from the memory of the system rather than from the disk: it is what was written, and
        the disk has said that it has it.

        Returns:
            The files that were removed, oldest first.

        Raises:
            CheckpointError: the newest is not what was written (it is set aside then, and nothing is removed), or a
                file could not be removed.
        """
        if self._keep is None or not self._newest:
            return []
        self._lock.check()
        entries = self._of_this_run()
        kept = self._keep.kept(entries)
        names = {os.path.basename(entry.path): entry.number for entry in entries}
        going = [name for name, number in names.items() if number not in kept and name != self._newest]
        if not going:
            return []
        self._verify()
        return self._remove(going)

    def newest_good(self, start: str | None = None) -> tuple[Saved | None, list[CheckpointError]]:
        """The newest checkpoint that is whole.

        Those that are damaged are set aside, if this store is open: they are called "....damaged" from then on. One
        that merely could not be read stays where it is.

        Args:
            start: of a folder, only the files of runs that began then; None: those of all runs.

        Returns:
            What was read, None where there is no good one; and for each file that was passed over why, newest first.

        Raises:
            CheckpointError: the folder cannot be looked at.
        """
        refused: list[CheckpointError] = []
        for path in self.paths():
            name = Name.parse(path.name)
            if start is not None and self._many and (name is None or name.start != start):
                continue
            try:
                return files.read(path), refused
            except CheckpointError as error:
                refused.append(error)
                self._set_aside(path, error)
        return None, refused

    def _refusal(self, error: OSError) -> str:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{self.destination!r}: no space left in {self._folder}. Make room there, or write to another disk."
        example = f'{type(self.destination).__name__}("runs/{self._path.name}")'
        place = "" if error.filename is None else f"{error.filename}: "
        return (
            f"{self.destination!r}: nothing can be written in {self._folder} ({place}{error.strerror or error}). "
            f"Name a place where you may write, such as {example}."
        )

    # ----------------------------------------------------------------------------------------------- retaining

    def _of_this_run(self) -> list[Entry]:
        """What is there of the newest file's run, in the order of saving, each with a number of its own."""
        run = _run(self._newest)
        there = [path.name for path in reversed(self.paths()) if _run(path.name) == run]
        unknown = {name: entry for name in there if name not in self._entries and (entry := self._looked_up(name))}
        self._entries = {**unknown, **self._entries}
        entries: list[Entry] = []
        for name, entry in self._entries.items():
            if name in there:
                number = max(entry.number, entries[-1].number + 1 if entries else 1)
                entries.append(replace(entry, path=str(self._folder / name), number=number))
        return entries

    def _looked_up(self, text: str) -> Entry | None:
        """What a file of an earlier process says of itself; None where it cannot be read, and it is let be then."""
        name = Name.parse(text)
        if name is None:
            return None
        try:
            record = files.read_record(self._folder / text)
        except CheckpointError:
            return None
        told = record.get("scores", {"loss": name.loss, "val.loss": name.val})
        return Entry(str(self._folder / text), _number(record, name.step), name.step, name.epoch, _numbers(told))

    def _verify(self) -> None:
        path = self._folder / self._newest
        try:
            files.verify(path)
        except CheckpointError as error:
            if error.damaged:
                self._set_aside(path, error)
                self._newest = ""
            raise

    def _remove(self, names: list[str]) -> list[Path]:
        removed: list[Path] = []
        failed: OSError | None = None
        for path in (self._folder / name for name in names):
            try:
                with contextlib.suppress(FileNotFoundError):
                    disk.remove(path)
                    removed.append(path)
                with contextlib.suppress(FileNotFoundError):
                    disk.remove(path.with_suffix(ARCHIVE))
            except OSError as error:
                failed = failed or error
        try:
            disk.sync_folder(self._folder)
        except OSError as error:
            failed = failed or error
        if failed is not None:
            found = failed.strerror or str(failed)
            path = failed.filename or self._folder
            raise CheckpointError(str(path), "to remove it, as newer ones are kept", found, damaged=False) from failed
        return removed

    # ----------------------------------------------------------------------------------------- setting aside

    def _set_aside(self, path: Path, error: CheckpointError) -> None:
        if error.damaged and self._lock.held:
            folder.set_aside(path, ".damaged")

    def _set_aside_foreign(self) -> None:
        """Before the first save to a file: what is there and is no checkpoint, or a damaged one, is kept."""
        if self._path.name not in self._given and folder.is_there(self._path):
            try:
                files.read_record(self._path)
            except CheckpointError as error:
                if error.damaged or error.__cause__ is None:
                    folder.set_aside(self._path, ".before")
        self._given.add(self._path.name)


def _lock_name(name: str) -> str:
    """The name of the lock of one file; names have 255 bytes at most."""
    made = f".{name}.lock"
    return made if len(os.fsencode(made)) <= 255 else f".etude-{sha256(os.fsencode(name)).hexdigest()[:16]}.lock"


def _run(text: str) -> tuple[str, int] | None:
    """The run that a file belongs to, by its name."""
    name = Name.parse(text)
    return None if name is None else (name.start, name.counter)


def _number(record: Mapping[str, Any], step: int) -> int:
    """The how manieth save of its run a file was, as its record says; 1 where it does not."""
    try:
        saves = unpack(record.get("saves"), {})
    except StateError:
        return 1
    told = [save for save in saves if isinstance(save, Mapping)] if isinstance(saves, list) else []
    numbers = [save.get("number") for save in told if save.get("kind") == "Directory" and save.get("step") == step]
    return max((number for number in numbers if type(number) is int), default=1)


def _numbers(given: Any) -> dict[str, float]:
    """The scores of a record, as far as they are numbers."""
    if not isinstance(given, Mapping):
        return {}
    return {str(name): float(value) for name, value in given.items() if type(value) in (int, float)}
