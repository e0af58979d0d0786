"""What every error and warning has in common."""

from __future__ import annotations

import inspect
import warnings

import torch
from torch import nn

import etude
from etude import everything

COVERED = [(everything, 1), (0, 2)]


def test_a_warning_points_at_the_line_that_called() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    data = (torch.randn(8, 2), torch.randn(8, 2))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        etude.Trainer(net, learning_rate_multipliers=COVERED, share=True)
        here = inspect.currentframe()
        assert here is not None
        first = here.f_lineno - 3
        etude.train(net, data, loss="mse", epochs=1, progress=False, learning_rate_multipliers=COVERED)
    found = [(one.filename, one.lineno) for one in told if "never decides" in str(one.message)]
    assert found[0] == (__file__, first)
    assert found[-1] == (__file__, first + 4)
