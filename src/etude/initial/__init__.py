"""First values of a net's arrays: drawn from a seed by name, set, computed, or loaded from files.

`initialize=` of a plan, or `initialize(net, ...)` in a loop of one's own:

initialize(net, {"*.bias": 0, nn.Embedding: initial.normal(0.02), everything: "glorot_uniform"}, seed=1)
initialize(net, [Load("pretrained.safetensors", prefix="encoder"), Fresh("head", "orthogonal")])

Names of initialisers, each also a function here with options: zeros, ones, normal, truncated_normal, uniform,
glorot_uniform, glorot_normal, xavier_uniform, xavier_normal, he_uniform, he_normal, kaiming_uniform, kaiming_normal,
lecun_uniform, lecun_normal, variance_scaling, orthogonal, identity, dirac. With a number: constant, sparse. Around
others: blocks, transposed.
"""

from etude.initial.draws import (
    constant,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    normal,
    ones,
    sparse,
    truncated_normal,
    uniform,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
    zeros,
)
from etude.initial.entries import InitialLike
from etude.initial.initial import Initial, initialize
from etude.initial.initialiser import Initialiser
from etude.initial.load import Fresh, Load
from etude.initial.matrices import dirac, identity, orthogonal
from etude.initial.names import blocks, transposed
from etude.initial.origins import Origin, Origins

__all__ = [
    "Fresh",
    "Initial",
    "InitialLike",
    "Initialiser",
    "Load",
    "Origin",
    "Origins",
    "blocks",
    "constant",
    "dirac",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "initialize",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "sparse",
    "transposed",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]
