"""Masked spectrograms: numbers, widths, starts, lengths, bounds, and what RETURNN was recorded to do."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.errors import ScheduleError, SettingError
from etude.layers import SpecAugment
from etude.layers.bands import draw_bands
from etude.values.progress import Progress
from etude.values.spans import steps

RECORDED = json.loads((Path(__file__).parent / "fixtures" / "returnn_specaugment.json").read_text())


def drawn(layer: nn.Module, x: Tensor, lengths: Any = None, seed: int = 0) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out: Tensor = layer(x, lengths)
    return out


def at_step(step: int, **widths: Any) -> SpecAugment:
    """RETURNN's preset with the numbers that its knobs give at a step."""
    layer = SpecAugment.returnn(**widths)
    for name, rules in SpecAugment.returnn_knobs().items():
        setattr(layer, name, rules[SpecAugment].at(Progress(step=step)))
    return layer


def recorded_layer(case: Any) -> SpecAugment:
    settings = case["settings"]
    width, features = (settings.get(f"max_consecutive_{name}_dims") for name in ("spatial", "feature"))
    return at_step(settings["step"], time_width=width or 20, feature_width=features or 0)


@pytest.mark.parametrize("case", RECORDED, ids=[case["id"] for case in RECORDED])
def test_the_masked_shares_are_those_recorded(case: Any) -> None:
    lengths, features = torch.tensor(case["settings"]["lens"]), case["settings"]["num_features"]
    layer, many = recorded_layer(case), 500
    x = torch.ones(len(lengths) * many, int(lengths.max()), features)
    masked = drawn(layer, x, lengths.repeat(many)) == 0
    inside = torch.arange(x.shape[1]) < lengths.repeat(many)[:, None]
    time = (masked.all(2) & inside).sum(1) / lengths.repeat(many)
    feature = (masked | ~inside[:, :, None]).all(1).float().mean(1)
    expect = case["expect"]
    for found, key in ((time, "mean_fully_masked_time_fraction"), (feature, "mean_fully_masked_feature_fraction")):
        own = found.view(many, -1)
        error = own.std(0) * (1 / expect["draws"] + 1 / many) ** 0.5
        assert bool(((own.mean(0) - torch.tensor(expect[key])).abs() <= 3.5 * error).all())


@pytest.mark.parametrize("case", RECORDED, ids=[case["id"] for case in RECORDED])
def test_the_numbers_of_masks_are_those_recorded(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, features = torch.tensor(case["settings"]["lens"]), case["settings"]["num_features"]
    asked: list[tuple[list[int], list[int], int]] = []

    def recording(lengths: Tensor, size: int, most: int, low: Tensor, high: Tensor, width: int, chance: float) -> Any:
        asked.append((low.minimum(lengths).tolist(), high.minimum(lengths).tolist(), width))
        return draw_bands(lengths, size, most, low, high, width, chance)

    monkeypatch.setattr("etude.layers.spectrogram.draw_bands", recording)
    recorded_layer(case)(torch.ones(len(lengths), int(lengths.max()), features), lengths)
    for (low, high, width), call in zip(asked, case["expect"]["calls"], strict=True):
        wide = isinstance(call["min_num"], list)
        assert low == (call["min_num"] if wide else [call["min_num"]] * len(lengths))
        assert high == (call["max_num"] if wide else [call["max_num"]] * len(lengths))
        assert width == call["max_width"]


def test_starts_are_drawn_without_repetition_within_the_length() -> None:
    lengths = torch.tensor([3, 7, 20]).repeat(200)
    high = torch.full_like(lengths, 5)
    found = draw_bands(lengths, 20, 5, high, high, 4, 1.0)
    for starts, ends, used, length in zip(found.starts, found.ends, found.used, lengths, strict=True):
        own = starts[used]
        assert len(own) == len(own.unique()) == min(5, length)
        assert bool((own < length).all())
        assert bool((ends[used] > own).all() and (ends[used] <= length).all() and (ends[used] - own <= 4).all())


def test_numbers_and_widths_are_uniform() -> None:
    lengths = torch.full((9000,), 1000)
    found = draw_bands(lengths, 1000, 3, torch.full_like(lengths, 1), torch.full_like(lengths, 3), 4, 1.0)
    number = found.used.sum(1).bincount() / 9000
    assert torch.allclose(number, torch.tensor([0, 1 / 3, 1 / 3, 1 / 3]), atol=0.02)
    width = (found.ends - found.starts)[found.starts < 990].bincount().float()
    assert torch.allclose(width / width.sum(), torch.tensor([0, 0.25, 0.25, 0.25, 0.25]), atol=0.02)


def test_a_sequence_is_masked_by_its_own_length_alone() -> None:
    layer = SpecAugment((3, 3), 5, (0, 0), max_fraction=1.0)
    out = drawn(layer, torch.ones(200, 50, 4), torch.full((200,), 10))
    assert bool((out[:, 10:] == 1).all())
    assert bool((out[:, :10] == 0).any(1).all())


def test_the_mean_share_does_not_depend_on_what_else_is_in_the_batch() -> None:
    layer = SpecAugment((0, 2), 8, (0, 0), per_frames=(20, 1), max_fraction=1.0)
    alone = drawn(layer, torch.ones(3000, 30, 1), torch.full((3000,), 30))
    beside = drawn(layer, torch.ones(3000, 90, 1), torch.tensor([30, 90]).repeat(1500))[::2, :30]
    assert abs(float((alone == 0).float().mean() - (beside == 0).float().mean())) < 0.015


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5])
def test_the_masked_share_is_bounded(share: float) -> None:
    lengths = torch.tensor([1, 3, 17, 40, 100]).repeat(40)
    layer = SpecAugment((5, 9), 20, (5, 9), 8, max_fraction=(share, share))
    masked = drawn(layer, torch.ones(200, 100, 24), lengths) == 0
    inside = torch.arange(100) < lengths[:, None]
    assert bool(((masked.all(2) & inside).sum(1) <= (share * lengths + 1e-6).floor()).all())
    features = (masked | ~inside[:, :, None]).all(1)
    # A sequence that is masked at every time says nothing of its features.
    whole = (masked.all(2) | ~inside).all(1)
    assert bool((features.sum(1)[~whole] <= int(share * 24)).all())


def test_the_bound_is_used_up_where_masks_are_many() -> None:
    layer = SpecAugment((20, 20), 20, (0, 0), max_fraction=0.3)
    masked = drawn(layer, torch.ones(50, 100, 2)) == 0
    assert masked.all(2).sum(1).tolist() == [30] * 50


def test_a_bound_that_is_not_reached_changes_nothing() -> None:
    x = torch.ones(20, 100, 8)
    some = {"time_masks": (1, 2), "time_width": 5, "feature_masks": (1, 1), "feature_width": 2}
    one, other = SpecAugment(**some, max_fraction=1.0), SpecAugment(**some, max_fraction=0.9)
    assert torch.equal(drawn(one, x), drawn(other, x))


def test_masks_are_stretches_of_time_and_of_features() -> None:
    out = drawn(SpecAugment((1, 1), 10, (1, 1), 3), torch.ones(20, 40, 12))
    for one in out == 0:
        time, feature = one.all(1), one.all(0)
        assert torch.equal(one, time[:, None] | feature[None, :])
        assert 1 <= int(time.sum()) <= 10
        assert 1 <= int(feature.sum()) <= 3
        assert int((time[1:] != time[:-1]).sum()) <= 2


def test_strength_is_the_share_of_masks_that_are_made() -> None:
    x = torch.ones(4000, 60, 1)
    layer = SpecAugment((1, 1), 1, (0, 0))
    for strength in (0.0, 0.3, 1.0):
        layer.strength = strength
        assert abs(float((drawn(layer, x) == 0).any(1).float().mean()) - strength) < 0.03


def test_evaluation_gives_the_input_itself_and_draws_nothing() -> None:
    x, layer = torch.randn(2, 9, 4), SpecAugment().eval()
    before = torch.get_rng_state()
    assert layer(x, [9, 3]) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_the_input_is_not_written_to_and_masked_places_get_no_gradient() -> None:
    x = torch.ones(5, 30, 6, requires_grad=True)
    out = drawn(SpecAugment((2, 2), 5, (1, 1), value=-3.0), x)
    out.sum().backward()
    assert bool((x == 1).all())
    assert set(out.unique().tolist()) == {-3.0, 1.0}
    assert x.grad is not None
    assert torch.equal(x.grad == 0, out == -3)


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 0)])
@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_nothing_is_masked_in_nothing(shape: tuple[int, ...], fraction: float) -> None:
    assert SpecAugment((2, 2), 3, (1, 2), max_fraction=fraction)(torch.ones(shape)).shape == shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_stays(dtype: torch.dtype) -> None:
    assert drawn(SpecAugment(), torch.ones(2, 9, 4, dtype=dtype)).dtype == dtype


def test_equal_chance_gives_equal_masks() -> None:
    x = torch.randn(3, 40, 8)
    assert torch.equal(drawn(SpecAugment(), x, seed=4), drawn(SpecAugment(), x, seed=4))


def test_numbers_grow_at_moments_of_ones_own() -> None:
    knobs = SpecAugment.returnn_knobs(steps(10), steps(30), where="augment")
    table = {
        name: [rules["augment"].at(Progress(step=step)) for step in (0, 9, 10, 29, 30)] for name, rules in knobs.items()
    }
    assert table == {
        "min_time_masks": [0, 0, 1, 1, 2],
        "max_time_masks": [1, 1, 2, 2, 4],
        "min_feature_masks": [0, 0, 1, 1, 2],
        "max_feature_masks": [2, 2, 3, 3, 5],
    }
    with pytest.raises(ScheduleError):
        SpecAugment.returnn_knobs(steps(30), steps(10))


def test_a_misspelt_argument_of_the_preset() -> None:
    with pytest.raises(SettingError, match=r"returnn\(\): There is no argument 'max_share'"):
        SpecAugment.returnn(max_share=0.5)  # type: ignore[call-arg]
    assert SpecAugment.returnn(max_fraction=0.5).max_time_fraction == 0.5


def test_it_prints_as_it_is_made() -> None:
    made = repr(SpecAugment.returnn())
    assert made == "SpecAugment((0, 1), 20, (0, 2), 0, per_frames=(100, 2), max_fraction=(1.0, 1.0), strength=1.0)"
    assert repr(eval(made, {"SpecAugment": SpecAugment})) == made


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"time_masks": 2}, r"time_masks=2: a pair of whole numbers is needed, as in time_masks=\(0, 2\)"),
        ({"time_masks": (3, 2)}, r"time_masks=\(3, 2\): the least number is above the largest"),
        ({"feature_masks": (0, 1.5)}, r"feature_masks=1\.5: a whole number of at least 0 is needed"),
        ({"time_width": 0}, r"time_width=0: a whole number of at least 1 is needed"),
        ({"feature_width": -1}, r"feature_width=-1: a whole number of at least 0"),
        ({"per_frames": (0, 2)}, r"per_frames=0: a whole number of at least 1"),
        ({"max_fraction": 1.2}, r"max_fraction=1\.2: a number from 0 to 1 is needed"),
        ({"max_fraction": (0.5, True)}, r"max_fraction=\(0\.5, True\): a number from 0 to 1"),
        ({"strength": -1}, r"strength=-1: a number from 0 to 1"),
        ({"value": inf}, r"value=inf: a finite number is needed"),
        ({"time_mask": (0, 1)}, r"There is no argument 'time_mask'\. Nearest: \"time_masks\""),
    ],
)
def test_what_cannot_be_made(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        SpecAugment(**settings)


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ([4, 5, 6], r"lengths of the shape \(3,\) and torch\.int64 for a batch of 2: one whole number"),
        ([0.5, 1.0], r"lengths of the shape \(2,\) and torch\.float32 for a batch of 2"),
        ([4, 11], r"lengths from 4 to 11 for 10 frames"),
        ([-1, 4], r"lengths from -1 to 4 for 10 frames"),
    ],
)
def test_lengths_that_do_not_fit(lengths: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        SpecAugment()(torch.ones(2, 10, 3), lengths)


def test_an_input_of_another_shape() -> None:
    with pytest.raises(
        SettingError, match=r"the shape \(10, 3\); \(batch, time, features\) is needed\. Write x\[None\]"
    ):
        SpecAugment()(torch.ones(10, 3))
