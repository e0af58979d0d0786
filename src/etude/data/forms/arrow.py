"""Arrow and Parquet files as a data set: any row at any time, of the columns that are wanted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

from etude.arguments import named
from etude.data.forms.columns import PURPOSE, check, has_lengths
from etude.data.forms.files import Handles, Names, files_of, place_of, renamed, starts_of
from etude.data.forms.parts import Opened, Opening, Recent
from etude.data.plan.lengths import Whole
from etude.data.wanted import Windows
from etude.errors import DataError
from etude.needs import need


@final
@dataclass(frozen=True, slots=True, eq=False)
class Arrow:
    """Rows of Arrow or Parquet files; made by `arrow(...)`.

    An item is a dict with a value for every column: a number, a text, or an array of the type that the file has. Every
    process opens the files for itself; `close()` closes those of this one.

    Attributes:
        names: the values of an item.
        tags: ids of the samples, or None.
    """

    names: tuple[str, ...]
    tags: list[str] | None = field(repr=False)
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
        return self.part(index, {})

    def part(self, number: int, windows: Windows) -> dict[str, Any]:
        """An item of whose streams only windows are read, see `etude.data.windows`.

        Of files that are mapped into memory nothing else is read; row groups of Parquet are decoded whole.
        """
        place, row = place_of(number, self.starts, self.title)
        path, part = self.parts[place]
        with self.handles.reading(path) as opened:
            columns = opened.columns(part)
        return {called: columns[name].read(row, windows.get(called)) for name, called in self.chosen.items()}

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
        keep: row groups (or compressed record batches) of all files that stay decoded in each process.

    Raises:
        DataError: files that are missing or of another kind, columns that are not there, are of another type from file
            to file or hold what no tensor can. MissingPackageError: pyarrow is not installed.
    """
    need("pyarrow", PURPOSE)
    if type(keep) is not int or keep < 1:
        raise DataError(f"keep={keep!r} is no number of row groups. Write a whole number from 1 on.")
    files = files_of(path, "arrow")
    handles = Handles(Opening((), Recent(keep)), Opened.close)
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
    ids = None if tags is None else _ids(handles, parts, tags)
    handles.close()
    listed = tuple(name for name in chosen if has_lengths(first.field(name).type))
    title = f"arrow {files[0].name}" + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    opening = Opening(tuple(chosen), Recent(keep))
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
