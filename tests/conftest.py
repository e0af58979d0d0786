"""What is done once, before the first test."""

from __future__ import annotations

import gc

import torch

# A process that is forked after two threads have computed together waits for ever for the second.
torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Leave torch and thousands of tests out of every later collection of garbage, which would look at all of them."""
    gc.collect()
    gc.freeze()
