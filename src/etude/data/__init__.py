"""Data: what samples there are, and how they become batches.

`Data` is the value that says both. What its options take is made by the functions here:

===============  ===================================================================================================
`source`         `hdf`, `arrow`, `tar`, `audio`, `hugging`, `memory_map`: files. `joined`, `concatenated`,
                 `interleaved`: several of them. `mapped`, `filtered`, `cached`, `shuffle_buffer`: around any of them
`order=`         `strata`, `random`, `in_order`, `reversed_order`, `by_length`, `laplace`, `pools`,
                 `sort_bin_shuffle`, `side_by_side`, `with_replacement`; or their names as text
`budget=`        `padded`, `packed`, `padding`, `cost`, `samples`
`keep=`          `length`, `mean_length`, `shortest`, `easiest`, `dropped`
`select=`        `weighted`, `mixed`, `sampled`, `round_robin`
`chunk=`         `chunk`
`buckets=`       `buckets`
===============  ===================================================================================================
"""

from etude.data.batch import Batch
from etude.data.buffer import shuffle_buffer
from etude.data.cached import cached
from etude.data.cursor import Cursor
from etude.data.data import Data
from etude.data.filtered import filtered
from etude.data.forms.arrow import arrow
from etude.data.forms.audio import audio
from etude.data.forms.hdf import hdf
from etude.data.forms.hugging import hugging
from etude.data.forms.tar import tar
from etude.data.joined import joined
from etude.data.mapped import mapped
from etude.data.mapped_memory import memory_map
from etude.data.mixture import concatenated, interleaved
from etude.data.plan.buckets import buckets
from etude.data.plan.budgets import cost, packed, padded, padding, samples
from etude.data.plan.chunks import chunk
from etude.data.plan.filters import dropped, length
from etude.data.plan.lengths import Lengths
from etude.data.plan.mixing import mixed, round_robin, sampled
from etude.data.plan.orders import (
    by_length,
    in_order,
    laplace,
    pools,
    random,
    reversed_order,
    side_by_side,
    sort_bin_shuffle,
    strata,
    with_replacement,
)
from etude.data.plan.ranking import easiest, mean_length, shortest
from etude.data.plan.selection import weighted
from etude.data.ragged import Ragged
from etude.data.report import Report

__all__ = [
    "Batch",
    "Cursor",
    "Data",
    "Lengths",
    "Ragged",
    "Report",
    "arrow",
    "audio",
    "buckets",
    "by_length",
    "cached",
    "chunk",
    "concatenated",
    "cost",
    "dropped",
    "easiest",
    "filtered",
    "hdf",
    "hugging",
    "in_order",
    "interleaved",
    "joined",
    "laplace",
    "length",
    "mapped",
    "mean_length",
    "memory_map",
    "mixed",
    "packed",
    "padded",
    "padding",
    "pools",
    "random",
    "reversed_order",
    "round_robin",
    "sampled",
    "samples",
    "shortest",
    "shuffle_buffer",
    "side_by_side",
    "sort_bin_shuffle",
    "strata",
    "tar",
    "weighted",
    "with_replacement",
]
