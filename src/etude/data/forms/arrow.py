"""Arrow and Parquet files as a data set: any row at any time, of the columns that are wanted."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from etude.arguments import named
from etude.data.forms.columns import PURPOSE, Column, check, column, has_lengths
from etude.data.forms.files import Handles, Names, files_of, place_of, renamed, starts_of
from etude.data.plan.lengths import Whole
from etude.errors import DataError
from etude.needs import need

_PARQUET: Final = b"PAR1"
_FILE: Final = b"ARROW1"


@final
@dataclass(frozen=True, slots=True, eq=False)
class Arrow:
    """Rows of Arrow or Parquet files; made by `arrow(...)`.

    An item is a dict with a value for every column: a number, a text, or an array of the type that the file has. Every
    process opens the files for itself; `close()` closes those of this one.

    Attributes:
        names: the values of an item.
        tags: ids of the samples, or nothing.
    """

    names: tuple[str, ...]
    tags: list[str] = field(repr=False)
    title: str
    chosen: Mapping[str, str] = field(repr=False)
    listed: tuple[str, ...] = field(repr=False)
    parts: Sequence[tuple[Path, int]] = field(repr=False)
    starts: Whole = field(repr=False)
    handles: Handles[Opened] = field(repr=False)
    known: dict[str, Whole] = field(default_factory=dict, repr=False)

    @property
    def lengths(self) -> dict[str, Whole]:
        """Of every column of lists the lengths of its rows, int64.

        Arrow states them; of Parquet those columns are read through once, when the lengths are first asked for.
        """
        if self.listed and not self.known:
            self.known.update(self._measured())
        return self.known

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        part, row = place_of(index, self.starts, self.title)
        path, number = self.parts[part]
        columns = self.handles[path].columns(number)
        return {called: columns[name].row(row) for name, called in self.chosen.items()}

    def close(self) -> None:
        """Close the files of this process. They are opened again when something is read."""
        self.handles.close()

    def _measured(self) -> Iterator[tuple[str, Whole]]:
        pieces: dict[str, list[Whole]] = {name: [] for name in self.listed}
        for path, number in self.parts:
            found = self.handles[path].read(number, self.listed)
            for name in self.listed:
                lengths = found[name].lengths
                pieces[name].append(np.zeros(0, np.int64) if lengths is None else lengths)
        return ((self.chosen[name], np.concatenate(pieces[name])) for name in self.listed)


@named
def arrow(
    path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    names: Names | None = None,
    *,
    tags: str | None = None,
    keep: int = 8,
) -> Arrow:
    """Arrow files (of the IPC format, with or without a footer) and Parquet files as a data set.

    Columns hold numbers, texts, lists of numbers (arrays with a length of their own), lists of lists (frames by
    features) or lists of a fixed size. Arrow files are mapped into memory: only what is asked for is read. Parquet is
    decoded by row groups, so an order that jumps about decodes one for nearly every sample: write such data as Arrow,
    `pyarrow.feather.write_feather(table, path, compression="uncompressed")`. Needs pyarrow (`pip install
    'etude[arrow]'`).

    Args:
        path: of the file; or a pattern, or a list: several files are read one after another.
        names: columns to read; a dict renames them. Default: all but that of the ids.
        tags: the column that holds the ids.
        keep: row groups (or compressed record batches) of each file that stay decoded in every process.

    Raises:
        DataError: files that are missing or of another kind, columns that are not there, are of another type from file
            to file or hold what no tensor can. MissingPackageError: pyarrow is not installed.
    """
    need("pyarrow", PURPOSE)
    if type(keep) is not int or keep < 1:
        raise DataError(f"keep={keep!r} is no number of row groups. Write a whole number from 1 on.")
    files = files_of(path, "arrow")
    handles = Handles(_Opening((), keep), Opened.close)
    first = handles[files[0]].schema
    if tags is not None:
        renamed([tags], first.names, str(files[0]))
    chosen = renamed(names, [name for name in first.names if name != tags], str(files[0]))
    for file in files:
        _check_columns(file, handles[file].schema, files[0], first, [*chosen, *([] if tags is None else [tags])])
    parts = [(file, number) for file in files for number in range(len(handles[file].counts))]
    starts = starts_of([count for file in files for count in handles[file].counts])
    if not starts[-1]:
        raise DataError(f"The data are empty: {files[0]} has 0 rows. Give a file with at least one.")
    ids = [] if tags is None else _ids(handles, parts, tags)
    handles.close()
    listed = tuple(name for name in chosen if has_lengths(first.field(name).type))
    title = f"arrow {files[0].name}" + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    opening = _Opening(tuple(chosen), keep)
    return Arrow(tuple(chosen.values()), ids, title, chosen, listed, parts, starts, Handles(opening, Opened.close))


def _ids(handles: Handles[Opened], parts: Sequence[tuple[Path, int]], tags: str) -> list[str]:
    """The ids of all rows."""
    return [str(each) for path, number in parts for each in handles[path].arrays(number, [tags])[tags].to_pylist()]


def _check_columns(path: Path, schema: Any, first: Path, expected: Any, wanted: Sequence[str]) -> None:
    """Every file has the columns that are read, of the types of the first, and types that can be read."""
    renamed(wanted, schema.names, str(path))
    for name in wanted:
        check(schema.field(name).type, name, str(path))
        if schema.field(name).type != expected.field(name).type:
            raise DataError(
                f"The column {name!r} holds {schema.field(name).type} in {path}, and {expected.field(name).type} in "
                f"{first}. Give files of one schema."
            )


@dataclass(frozen=True, slots=True)
class _Opening:
    """Opens files for some of their columns."""

    wanted: tuple[str, ...]
    keep: int

    def __call__(self, path: Path) -> Opened:
        with path.open("rb") as file:
            top = file.read(8)
        with _told(path):
            if top[:4] == _PARQUET:
                return _parquet(path, self.wanted, self.keep)
            return _ipc(path, top[:6] == _FILE, self.wanted, self.keep)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Within it what pyarrow cannot read is a DataError that names the file."""
    pyarrow = need("pyarrow", PURPOSE)
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read: {text} Expected a file of Arrow (IPC) or Parquet.") from error


@final
@dataclass(slots=True, eq=False)
class Opened:
    """An open file, read in parts: row groups of Parquet, record batches of Arrow.

    Attributes:
        part: gives a part by number, with some columns. close: closes the file.
        counts: rows in each part. keep: parts that stay decoded; None: all, as they take no memory.
    """

    path: Path
    schema: Any
    counts: Sequence[int]
    part: Callable[[int, Sequence[str]], Any]
    wanted: tuple[str, ...]
    keep: int | None
    file: Any
    decoded: OrderedDict[int, dict[str, Column]] = field(default_factory=OrderedDict)

    def columns(self, number: int) -> dict[str, Column]:
        """The wanted columns of a part."""
        if number not in self.decoded:
            self.decoded[number] = self.read(number, self.wanted)
        self.decoded.move_to_end(number)
        while self.keep is not None and len(self.decoded) > self.keep:
            self.decoded.popitem(last=False)
        return self.decoded[number]

    def read(self, number: int, names: Sequence[str]) -> dict[str, Column]:
        """Some columns of a part."""
        found = self.arrays(number, names)
        return {name: column(found[name], name, f"{self.path} (part {number})") for name in names}

    def arrays(self, number: int, names: Sequence[str]) -> dict[str, Any]:
        """Some columns of a part as Arrow has them."""
        with _told(self.path):
            part = self.part(number, names)
        return {name: _one(part.column(name)) for name in names}

    def close(self) -> None:
        """Let go of the file and all that was decoded."""
        self.decoded.clear()
        self.file.close()


def _one(found: Any) -> Any:
    """A column that may come in pieces as one array."""
    return found.combine_chunks() if hasattr(found, "combine_chunks") else found


def _parquet(path: Path, wanted: tuple[str, ...], keep: int) -> Opened:
    file = need("pyarrow.parquet", PURPOSE).ParquetFile(path, memory_map=True)
    counts = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]

    def part(number: int, names: Sequence[str]) -> Any:
        return file.read_row_group(number, columns=list(names))

    return Opened(path, file.schema_arrow, counts, part, wanted, keep, file)


def _ipc(path: Path, footer: bool, wanted: tuple[str, ...], keep: int) -> Opened:
    """A file of record batches: with a footer any of them can be read alone, otherwise all are looked at once."""
    pyarrow, ipc = need("pyarrow", PURPOSE), need("pyarrow.ipc", PURPOSE)
    mapped = pyarrow.memory_map(str(path))
    memory = mapped.read_buffer()
    reader = (ipc.open_file if footer else ipc.open_stream)(pyarrow.BufferReader(memory))
    if not footer:
        batches = list(reader)
        counts = [batch.num_rows for batch in batches]
        return Opened(path, reader.schema, counts, lambda number, names: batches[number], wanted, None, mapped)
    counts, decoded = [], False
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        counts.append(batch.num_rows)
        decoded = decoded or not _inside(batch, memory)

    def part(number: int, names: Sequence[str]) -> Any:
        return reader.get_batch(number)

    return Opened(path, reader.schema, counts, part, wanted, keep if decoded else None, mapped)


def _inside(batch: Any, memory: Any) -> bool:
    """Whether all of a record batch lies in the file as mapped, so that holding it takes no memory."""
    buffers = [each for one in batch.columns for each in one.buffers() if each is not None and each.size]
    return all(memory.address <= each.address < memory.address + memory.size for each in buffers)
