"""Batches by length as RETURNN, lhotse and Hugging Face make them. What is not installed is left out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from lengths import Case

Batches = Callable[[int], Iterator[Any]]
"""The batches of an epoch, one after another, each as the numbers of its units."""


def rivals() -> dict[str, Callable[[Case], Batches]]:
    """What there is, by name; what is missing is said."""
    found: dict[str, Callable[[Case], Batches]] = {}
    for packages, made in _KNOWN.items():
        missing = [package for package in packages if not find_spec(package)]
        if missing:
            print(f"{', '.join(missing)}: not installed, so {', '.join(made)} are left out.\n")
        else:
            found |= made
    return found


# ---------------------------------------------------------------------------------------------------------- RETURNN


def _returnn(case: Case) -> Batches:
    """Its order, and the pipe that its PyTorch engine cuts batches with; sequences are views of one that is there."""
    from returnn.datasets.basic import Dataset
    from returnn.torch.data.pipeline import BatchingIterDataPipe

    class Known(Dataset):  # type: ignore[misc]
        """Sequences of which the lengths are known."""

    order, lengths = Known(seq_ordering="laplace:.1000"), case.lengths
    frames, numbers = np.zeros(int(lengths.max()), np.int8), np.arange(case.number)

    def batches(epoch: int) -> Iterator[Any]:
        places = order.get_seq_order_for_epoch(epoch + 1, case.number, lengths.__getitem__)
        samples = ({"data": frames[: lengths[place]], "number": numbers[place]} for place in places)
        for batch in BatchingIterDataPipe(samples, batch_size=case.budget):
            yield [sample["number"] for sample in batch]

    return batches


# ----------------------------------------------------------------------------------------------------------- lhotse

_PER_SECOND = 100


@cache
def _cuts(case: Case) -> Any:
    from lhotse import CutSet
    from lhotse.cut import MonoCut

    seconds = enumerate((case.lengths / _PER_SECOND).tolist())
    return CutSet.from_cuts([MonoCut(str(number), 0.0, length, 0) for number, length in seconds])


def forget() -> None:
    """Let go of what is kept of a case: a million of lhotse's cuts take a gigabyte."""
    _cuts.cache_clear()


def _lhotse(case: Case, sampler: str, **options: Any) -> Batches:
    """Cuts are there before the clock starts."""
    import lhotse.dataset.sampling as sampling

    warnings.filterwarnings("ignore", message=".*eagerly read CutSet")
    kind, cuts = getattr(sampling, sampler), _cuts(case)
    # Sums of seconds are rounded: a budget that is met exactly is not to be exceeded by that.
    most = case.budget / _PER_SECOND + 1e-6

    def batches(epoch: int) -> Iterator[Any]:
        made = kind(cuts, max_duration=most, shuffle=True, seed=0, **options)
        made.set_epoch(epoch)
        for batch in made:
            yield [int(cut.id) for cut in batch]

    return batches


# ----------------------------------------------------------------------------------------------------- Hugging Face


def _hugging(case: Case) -> Batches:
    """It knows no budget: batches of as many units as fit at mean length."""
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    size, lengths = case.fits, case.lengths.tolist()

    def batches(epoch: int) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(epoch)
        order = list(LengthGroupedSampler(size, lengths=lengths, generator=generator))
        for start in range(0, len(order), size):
            yield order[start : start + size]

    return batches


_KNOWN: dict[tuple[str, ...], dict[str, Callable[[Case], Batches]]] = {
    ("returnn", "tree"): {"RETURNN, laplace:.1000": _returnn},
    ("lhotse",): {
        "lhotse, dynamic, 30 buckets": partial(_lhotse, sampler="DynamicBucketingSampler", num_buckets=30),
        "lhotse, dynamic, 100 buckets": partial(
            _lhotse, sampler="DynamicBucketingSampler", num_buckets=100, buffer_size=100_000
        ),
        "lhotse, 30 buckets": partial(_lhotse, sampler="BucketingSampler", num_buckets=30),
    },
    ("transformers",): {"Hugging Face, group by length": _hugging},
}
