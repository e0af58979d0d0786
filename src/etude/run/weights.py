"""The arrays of a net and its averages in one file, beside the record of a result.

It is a safetensors file with digests, as a checkpoint is. The net's arrays have the names of its `state_dict`; those of
an average stand beside them as "average:<name>:<array>".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from etude.errors import CheckpointError, StateError
from etude.keep import state
from etude.keep.arrays import of_net
from etude.keep.files import read_arrays, read_record
from etude.keep.image import write

_MARK = "result"
"""Under what the file says of which record it is."""


def save_weights(path: Path, net: nn.Module, averages: Mapping[str, Mapping[str, Tensor]], mark: str) -> None:
    """Write the arrays of a net and its averages; a file that is there is replaced in one instant.

    Args:
        path: of the file. net: arrays that are shared are written once.
        averages: each by name of the array. mark: what `SavedAverages` knows the file by.

    Raises:
        CheckpointError: it could not be written; what was there is as it was.
    """
    record, tensors = of_net(net)
    tensors |= {_key(name, array): value for name, of in averages.items() for array, value in of.items()}
    names = {name: list(of) for name, of in averages.items()}
    write(path, state.stamped({"net": record, "averages": names, _MARK: mark}, state.WEIGHTS), tensors)


class SavedAverages(Mapping[str, dict[str, Tensor]]):
    """The averages in a file, by name; each is read when it is asked for.

    Args:
        path: of the file. names: of the arrays of each average. mark: what the file must say of itself.
    """

    def __init__(self, path: Path, names: Mapping[str, list[str]], mark: str) -> None:
        self._path, self._names, self._mark = path, dict(names), mark

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        """The arrays of one average, on the CPU.

        Raises:
            KeyError: none has that name.
            StateError: the file is not there, is damaged, or was written with another result.
        """
        names = self._names[name]
        try:
            found = read_record(self._path).get(_MARK)
            if found != self._mark:
                raise StateError(f"{self._path} was written with another result: save this one with net=True again.")
            arrays = read_arrays(self._path, {_key(name, array) for array in names})
            return {array: arrays[_key(name, array)] for array in names}
        except CheckpointError as error:
            raise StateError(f"The average {name!r} cannot be read from {self._path}: {error}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"SavedAverages({str(self._path)!r}, {', '.join(map(repr, self._names))})"


def _key(name: str, array: str) -> str:
    return f"average:{name}:{array}"
