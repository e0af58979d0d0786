"""Layers that act in training only: dropout with shared masks, stochastic depth, masked spectrograms.

What they draw comes from torch's generators, which a run seeds at each step, so that a resumed run draws the same. In
evaluation each of them gives what it is given. Their settings are plain attributes, and so can be knobs:

    etude.train(net, data, knobs={"p": {layers.StochasticDepth: times(linear(0, 1))}}, ...)
"""

from __future__ import annotations

from etude.layers.depth import StochasticDepth, drop_path, linear_depth
from etude.layers.dropout import Dropout
from etude.layers.spectrogram import SpecAugment

__all__ = ["Dropout", "SpecAugment", "StochasticDepth", "drop_path", "linear_depth"]
