"""Where arrays lie in a file and in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude.keep import files
from etude.keep.layout import Layout, kind, memory

DTYPES = [torch.bool, torch.int16, torch.bfloat16, torch.float32, torch.float64, torch.complex128]
SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(SHAPES, st.sampled_from(DTYPES)), max_size=8),
    st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(SHAPES, st.sampled_from(DTYPES)), max_size=8),
    st.lists(st.integers(0, 9), max_size=3),
)
def test_any_arrays_lie_without_holes_where_their_numbers_have_to(
    arrays: dict[str, tuple[tuple[int, ...], torch.dtype]],
    before: dict[str, tuple[tuple[int, ...], torch.dtype]],
    history: list[int],
) -> None:
    """And a layout that takes from another what is the same is that which is made anew."""
    kinds = {name: kind(torch.empty(shape, dtype=dtype)) for name, (shape, dtype) in arrays.items()}
    kinds |= {f"history:{i}": kind(torch.empty(n, dtype=torch.float64)) for i, n in enumerate(history)}
    old = Layout({name: kind(torch.empty(shape, dtype=dtype)) for name, (shape, dtype) in before.items()})
    layout = Layout(kinds, old)
    at = 0
    for name, entry in layout.entries.items():
        assert entry.begin == at
        assert entry.begin % entry.dtype.itemsize == 0
        assert (entry.name, entry.shape, entry.dtype) == (name, *kinds[name][:2])
        assert entry.end - entry.begin == torch.Size(entry.shape).numel() * entry.dtype.itemsize
        at = entry.end
    assert layout.size == at
    assert layout.entries == Layout(kinds).entries
    assert list(layout.entries) == list(Layout(kinds).entries)


def test_what_grows_moves_nothing_whose_size_is_a_multiple_of_eight() -> None:
    net = {"weight": kind(torch.empty(9, 8)), "bias": kind(torch.empty(10)), "odd": kind(torch.empty(3))}
    places = set()
    for n in range(20):
        layout = Layout(net | {"history:loss": kind(torch.empty(n, dtype=torch.float64))})
        places.add((layout.entries["weight"].begin, layout.entries["bias"].begin))
        assert list(layout.entries) == ["weight", "bias", "history:loss", "odd"]
    assert places == {(0, 288)}


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 10**6])
def test_memory_begins_with_a_line(size: int) -> None:
    found = memory(size)
    assert found.shape == (size,)
    assert found.dtype == torch.uint8
    assert not size or found.data_ptr() % 64 == 0


def test_memory_is_not_filled_where_torch_is_deterministic() -> None:
    """Filling a gigabyte takes longer than reading it."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1000, dtype=torch.uint8).unique().tolist() == [255]
        assert memory(100 << 20).unique().tolist() == [0]
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("size", [1 << 61, 1 << 63])
def test_memory_that_is_not_there(size: int) -> None:
    with pytest.raises(MemoryError, match=f"{size:,} bytes"):
        memory(size)


def test_arrays_that_were_read_begin_with_a_line_as_in_the_file(tmp_path: Path) -> None:
    files.write(tmp_path / "a", {}, {f"{i}": torch.ones(16 * i) for i in range(1, 6)})
    assert all(array.data_ptr() % 64 == 0 for array in files.read(tmp_path / "a").tensors.values())
    assert all(array.data_ptr() % 64 == 0 for array in files.read_arrays(tmp_path / "a", {"2", "5"}).values())
