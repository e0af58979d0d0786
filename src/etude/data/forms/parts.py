"""Open files of Arrow and Parquet, read in the parts that they are written in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from etude.data.forms.columns import PURPOSE, Column, column
from etude.errors import DataError
from etude.needs import need

_PARQUET: Final = b"PAR1"
_FILE: Final = b"ARROW1"
"""How files begin; one of Arrow without a footer begins like nothing else."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Opens files for some of their columns."""

    wanted: tuple[str, ...]
    recent: Recent

    def __call__(self, path: Path) -> Opened:
        with path.open("rb") as file:
            top = file.read(8)
        with _told(path):
            if top[:4] == _PARQUET:
                return _parquet(path, self.wanted, self.recent)
            return _ipc(path, top[:6] == _FILE, self.wanted, self.recent)


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
class Recent:
    """The parts that were decoded last, of all files; the one not used for longest is let go first.

    A pickle holds none.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.parts: OrderedDict[tuple[Path, int], dict[str, Column]] = OrderedDict()

    def __getstate__(self) -> int:
        return self.keep

    def __setstate__(self, keep: int) -> None:
        self.keep = keep
        self.parts = OrderedDict()

    def get(self, key: tuple[Path, int], decode: Callable[[], dict[str, Column]]) -> dict[str, Column]:
        """A part, decoded if it is not here."""
        if key not in self.parts:
            while len(self.parts) >= self.keep:
                self.parts.popitem(last=False)
            self.parts[key] = decode()
        self.parts.move_to_end(key)
        return self.parts[key]

    def forget(self, path: Path) -> None:
        """Let go of the parts of a file."""
        for key in [key for key in self.parts if key[0] == path]:
            del self.parts[key]


@final
@dataclass(slots=True, eq=False)
class Opened:
    """An open file, read in parts: row groups of Parquet, record batches of Arrow.

    Attributes:
        counts: rows in each part. part: gives a part by number, with some columns.
        recent: where decoded parts are kept; None: all stay in `decoded`, as they take no memory.
    """

    path: Path
    schema: Any
    counts: Sequence[int]
    part: Callable[[int, Sequence[str]], Any]
    wanted: tuple[str, ...]
    recent: Recent | None
    file: Any
    decoded: dict[int, dict[str, Column]] = field(default_factory=dict)

    def columns(self, number: int) -> dict[str, Column]:
        """The wanted columns of a part."""
        if self.recent is not None:
            return self.recent.get((self.path, number), lambda: self.read(number, self.wanted))
        if number not in self.decoded:
            self.decoded[number] = self.read(number, self.wanted)
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
        if self.recent is not None:
            self.recent.forget(self.path)
        self.file.close()


def _one(found: Any) -> Any:
    """A column that may come in pieces as one array."""
    return found.combine_chunks() if hasattr(found, "combine_chunks") else found


def _parquet(path: Path, wanted: tuple[str, ...], recent: Recent) -> Opened:
    file = need("pyarrow.parquet", PURPOSE).ParquetFile(path, memory_map=True)
    counts = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]

    def part(number: int, names: Sequence[str]) -> Any:
        return file.read_row_group(number, columns=list(names))

    return Opened(path, file.schema_arrow, counts, part, wanted, recent, file)


def _ipc(path: Path, footer: bool, wanted: tuple[str, ...], recent: Recent) -> Opened:
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

    return Opened(path, reader.schema, counts, part, wanted, recent if decoded else None, mapped)


def _inside(batch: Any, memory: Any) -> bool:
    """Whether all of a record batch lies in the file as mapped, so that holding it takes no memory."""
    buffers = [each for one in batch.columns for each in one.buffers() if each is not None and each.size]
    return all(memory.address <= each.address < memory.address + memory.size for each in buffers)
