"""Initialisers and growing arrays as RETURNN recorded them: limits, widths, leading blocks of gates and inputs."""

from __future__ import annotations

import json
from math import inf, sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude import initial
from etude.errors import SettingError
from etude.initial.growing import grown, parts_of
from etude.initial.units import layout_of

RECORDED: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "fixtures" / "initialisers.json").read_text(encoding="utf-8")
)
LEFT = 0.87962566103423978
"""Standard deviation of a standard normal distribution cut at two of them."""

CLASSES = {
    "Glorot": initial.glorot_uniform,
    "He": initial.he_normal,
    "HeUniform": initial.he_uniform,
    "Normal": lambda stddev: initial.normal(stddev, truncated=True),
    "VarianceScaling": initial.variance_scaling,
}


def ids(section: str) -> list[str]:
    return [recorded["id"] for recorded in RECORDED[section]]


class One(nn.Module):
    """One array of any shape."""

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))


def drawn(shape: list[int], how: Any, times: int = 1) -> Tensor:
    """The numbers of `times` arrays of this shape, each from another seed."""
    net, found = One(shape), []
    for seed in range(times):
        initial.initialize(net, {"weight": how}, seed)
        found.append(net.weight.detach().flatten().clone())
    return torch.cat(found)


def of_class(settings: dict[str, Any], dimensions: int) -> Any:
    options = {name: value for name, value in settings.items() if name != "class"}
    if options.get("distribution") == "untruncated_normal":
        options["distribution"] = "normal"
    made = CLASSES[settings["class"]](**options)
    # Its matrices are (in, out); kernels are (out, in, kernel...), as torch's.
    return initial.transposed(made) if dimensions == 2 else made


@pytest.mark.parametrize("recorded", RECORDED["init"], ids=ids("init"))
def test_classes_have_their_distributions(recorded: dict[str, Any]) -> None:
    shape, expect = recorded["shape"], recorded["expect"]
    count = 40_000 // int(torch.tensor(shape).prod()) if len(shape) > 1 else 4000
    found = drawn(shape, of_class(recorded["settings"], len(shape)), count).double()
    if expect["distribution"] == "uniform":
        low, high, std = expect["minval"], expect["maxval"], (expect["maxval"] - expect["minval"]) / sqrt(12)
        assert found.max() > 0.98 * high
        assert found.min() < 0.98 * low
    else:
        cut = expect["distribution"] == "truncated_normal"
        std = expect["stddev"] * (LEFT if cut else 1)
        high = 2 * expect["stddev"] if cut else inf
        low = -high
        # What is not cut has one number in twenty beyond two standard deviations.
        assert (found.abs() > 2 * std).double().mean() > (0.01 if cut else 0.035)
    assert low * (1 + 1e-6) <= found.min()
    assert found.max() <= high * (1 + 1e-6)
    assert found.std().item() == pytest.approx(std, rel=0.02)
    assert abs(found.mean().item()) < 4 * std / sqrt(len(found))


ALIASES = {
    "truncated_normal(mean=0.0, stddev=0.05)": initial.truncated_normal(0.05),
    "random_uniform_initializer(minval=-0.1, maxval=0.1)": initial.uniform(-0.1, 0.1),
    "variance_scaling_initializer(mode='fan_in', distribution='uniform', scale=0.78)": initial.transposed(
        initial.variance_scaling(0.78, "fan_in", "uniform")
    ),
}
"""What was written as an expression, as a call."""


@pytest.mark.parametrize("recorded", RECORDED["tf_initializers"], ids=ids("tf_initializers"))
def test_names_have_their_distributions(recorded: dict[str, Any]) -> None:
    said = recorded["settings"]["init"]
    if recorded["kind"] == "quirk":
        # The expression failed, and the unknown name only when the net was built.
        with pytest.raises(SettingError, match="text is not evaluated" if "(" in said else "there is no initialiser"):
            initial.Initial({"weight": said})
        return
    if isinstance(said, str) and "(" in said:
        with pytest.raises(SettingError, match="text is not evaluated"):
            initial.Initial({"weight": said})
        how = ALIASES[said]
    else:
        how = said if isinstance(said, float) else initial.transposed(said)
    expect = recorded["expect"]
    found = drawn(expect["shape"], how)
    assert found.std().item() == pytest.approx(expect["std"], rel=0.015, abs=1e-7)
    assert found.mean().item() == pytest.approx(expect["mean"], abs=max(1e-6, 5 * expect["std"] / sqrt(len(found))))
    # The largest of many normal numbers varies more than that of others.
    tolerance = 0.25 if said == "orthogonal" else 0.03
    assert found.min().item() == pytest.approx(expect["min"], rel=tolerance)
    assert found.max().item() == pytest.approx(expect["max"], rel=tolerance)
    if said == "orthogonal":
        matrix = found.reshape(expect["shape"])
        assert (matrix @ matrix.T - torch.eye(len(matrix))).abs().max() < 1e-5


def test_a_truncated_normal_by_its_standard_deviation() -> None:
    found = drawn([200, 300], ALIASES["truncated_normal(mean=0.0, stddev=0.05)"])
    assert found.std().item() == pytest.approx(0.05 * LEFT, rel=0.01)
    assert found.abs().max() <= 0.1


@pytest.mark.parametrize("recorded", RECORDED["param_growth"], ids=ids("param_growth"))
def test_an_array_grows_part_by_part(recorded: dict[str, Any]) -> None:
    fresh, old = torch.tensor(recorded["fresh"]), torch.tensor(recorded["old"])
    before = fresh.clone()
    new_parts, old_parts = (tuple(map(tuple, recorded[key])) for key in ("new_parts", "old_parts"))
    made = grown(fresh, old, new_parts, old_parts)
    assert made.tolist() == recorded["expect"]
    assert fresh.equal(before)


@pytest.mark.parametrize("name", ["dev/matrix", "dev/shrink", "dev/inferred_gates"])
def test_parts_that_need_not_be_said(name: str) -> None:
    """Gates are known from the module; torch keeps them along the first axis, the recorded ones along the second."""
    recorded = next(one for one in RECORDED["param_growth"] if one["id"] == name)
    fresh, old, expect = (torch.tensor(recorded[key]) for key in ("fresh", "old", "expect"))
    layout = layout_of(nn.LSTM(2, 2), "weight_ih_l0") if "gates" in name else layout_of(nn.Linear(2, 2), "weight")
    new, had = parts_of(tuple(fresh.T.shape), layout), parts_of(tuple(old.T.shape), layout)
    assert new is not None
    assert had is not None
    assert torch.equal(grown(fresh.T, old.T, new, had).T, expect)
