"""What RETURNN wrote, read here: its learning-rate files, and its options for learning rates.

    file = etude.returnn.rate_file("learning_rates")       # parsed, never evaluated
    file.schedule()                                        # the same rates again, epoch by epoch
    etude.returnn.newbob_from({"learning_rate": 1e-3, "learning_rate_control": "newbob", ...}, "val.ce")
    etude.returnn.piecewise_linear({0: 1.0, 1000: 0.1})

RETURNN counts epochs from 1, and so do these functions.
"""

from __future__ import annotations

from etude.returnn.lines import piecewise_linear
from etude.returnn.options import newbob_from
from etude.returnn.rate_file import EpochRecord, RateFile, rate_file

__all__ = ["EpochRecord", "RateFile", "newbob_from", "piecewise_linear", "rate_file"]
