"""What every form of data states about itself, and the sentence that lists the forms."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

FORMS = (
    "Known forms: a tensor or array, a tuple or dict of them, a list of (x, y) pairs, a Dataset, an "
    "IterableDataset, a DataLoader, a Hugging Face dataset, a function that yields batches (with round_length=), "
    "etude.Data(...) around samples of different lengths."
)


class Source(ABC):
    """Data in one of the forms that a `Flow` can read; made by `source(data)`.

    Attributes:
        title: what the data are, for messages.
        names: the arrays of a sample: keys of dicts, otherwise positions as text; empty where only reading
            would tell.
        length: samples in one pass, or None where that is not known beforehand.
        batches: batches in one pass where that does not depend on a batch size; otherwise, or unknown, None.
        random_access: whether samples can be read in any order, and so be shuffled and found again at once.
        batched: whether the data come in batches of their own, which no batch size changes.
        by_item: whether samples are read by number, so that worker processes can read them.
        converted: what was changed on the way in, one line for each array.
    """

    __slots__ = ()

    title: str
    names: tuple[str, ...]
    length: int | None
    batches: int | None
    random_access: bool
    batched: bool
    by_item: bool
    converted: list[str]

    @abstractmethod
    def cast(self, dtype: torch.dtype) -> Source:
        """The same data with every floating array in `dtype`."""
