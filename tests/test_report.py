"""What is told of the batches of an epoch before they are read, at its end, and as text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import etude
from etude.data.account import account, page
from etude.data.assembled import Assembled, batching_for, planner_for
from etude.data.data import Data
from etude.data.flow import Flow
from etude.data.plan.budgets import cost, packed, padding
from etude.data.plan.chunks import chunk
from etude.data.plan.filters import length
from etude.data.plan.measures import Measures, measure
from etude.data.report import Report
from etude.errors import DataError
from etude.run.events import EpochEnded
from etude.run.foreseen import foresee
from etude.run.plan import Plan
from etude.values.progress import Extent

LENGTHS = [5, 3, 4, 2, 6, 1, 3, 5, 2, 4]


def samples(lengths: list[int] | None = None) -> list[dict[str, Any]]:
    """Sequences x of 2 features, with a second stream z one longer, and a class."""
    return [
        {"x": torch.ones(n, 2), "z": torch.ones(n + 1), "y": n % 3} for n in (LENGTHS if lengths is None else lengths)
    ]


def measured(data: Data, epoch: int = 0) -> Measures:
    source = data.assembled
    planner = planner_for(source, batching_for(source, None, None, False), 0, Extent(), None)
    return measure(planner, epoch, source.packed)


# ------------------------------------------------------------------------------------------------- batches in numbers


def test_what_is_measured_is_what_the_batches_are() -> None:
    data = Data(samples(), budget={"x": 12})
    found, batches = measured(data), list(data.batches(epochs=1))
    assert found.sizes.tolist() == found.rows.tolist() == [batch.samples for batch in batches]
    for name in ("x", "z"):
        assert found.longest[name].tolist() == [batch.values[name].shape[1] for batch in batches]
        assert found.frames[name].tolist() == [batch.frames[name] for batch in batches]
        shares = [1 - float(batch.mask(name).float().mean()) for batch in batches]
        assert found.padding(name) == pytest.approx(shares, abs=1e-6)
    assert found.shapes == len({tuple(batch.values[name].shape for name in ("x", "z")) for batch in batches})


@pytest.mark.parametrize("buckets", [3, ((3, 4), (6, 2))])
def test_of_batches_that_are_filled_up_the_rows_count_too(buckets: Any) -> None:
    data = Data(samples(), budget={"x": 12} if buckets == 3 else None, buckets=buckets)
    found, batches = measured(data), list(data.batches(epochs=1))
    assert found.rows.tolist() == [len(batch.values["x"]) for batch in batches]
    assert found.longest["x"].tolist() == [batch.values["x"].shape[1] for batch in batches]
    assert found.fill.tolist() == pytest.approx((found.sizes / found.rows).tolist())
    assert found.padding("x") == pytest.approx([1 - float(batch.mask("x").float().mean()) for batch in batches])


@pytest.mark.parametrize(
    ("budget", "of"),
    [
        ({"x": 12}, lambda each: max(each) * len(each) / 12),
        (packed(x=12), lambda each: sum(each) / 12),
        (padding(x=5), lambda each: (max(each) * len(each) - sum(each)) / 5),
        (cost(lambda lengths: lengths["x"] ** 2, 60), lambda each: sum(n * n for n in each) / 60),
        ([{"x": 12}, {"z": 13}], lambda each: max(max(each) * len(each) / 12, (max(each) + 1) * len(each) / 13)),
    ],
    ids=["padded", "packed", "padding", "cost", "the nearest of two"],
)
def test_fill_is_the_share_of_the_budget(budget: Any, of: Any) -> None:
    data = Data(samples(), budget=budget, order="random")
    wanted = [of(batch.lengths["x"].tolist()) for batch in data.batches(epochs=1)]
    assert measured(data).fill == pytest.approx(wanted)
    assert data.report()[0].fill == pytest.approx(sum(wanted) / len(wanted))


def test_fill_of_a_number_of_samples() -> None:
    assert measured(Data(torch.ones(10, 2), batch_size=4)).fill == pytest.approx([1, 1, 0.5])


def test_a_sample_beyond_the_budget_is_more_than_full() -> None:
    assert measured(Data(samples([3, 9]), budget={"x": 6}, order="in_order")).fill == pytest.approx([0.5, 1.5])


def test_fill_is_of_the_budget_at_that_moment() -> None:
    data = Data(samples([2] * 12), lengths="x", budget={"x": lambda now: 4 + 4 * now.step}, order="in_order")
    assert [batch.samples for batch in data.batches(epochs=1)] == [2, 4, 6]
    assert measured(data).fill == pytest.approx([1, 1, 1])


def test_packed_sequences_have_no_padding() -> None:
    found = measured(Data(samples(), budget=packed(x=12), pack=True))
    assert not found.padding("x").any()
    assert not found.padding("z").any()


def test_a_million_lengths_are_reported_without_reading_one() -> None:
    lengths = np.random.default_rng(0).integers(10, 1500, 1_000_000)
    flow = Flow(Data(Told(lengths), lengths="x", budget=32_000))
    found = flow.report(0)
    assert found is not None
    assert found.samples == 1_000_000


class Told:
    """A data set that tells its lengths, and must not be read but for its first sample."""

    def __init__(self, lengths: np.ndarray[Any, Any]) -> None:
        self.lengths = {"x": lengths}

    def __len__(self) -> int:
        return len(self.lengths["x"])

    def __getitem__(self, number: int) -> dict[str, Any]:
        assert number == 0, "a sample was read"
        return {"x": torch.zeros(int(self.lengths["x"][number]))}


# ----------------------------------------------------------------------------------------------------------- reports


def test_a_report_counts_what_is_in_no_batch() -> None:
    (found,) = Data(samples(), budget={"x": 5}, too_long="drop").report()
    assert found.left_out == {"samples beyond the budget": 1}
    assert found.samples == 9
    assert found.numbers["left_out"] == 1


def test_the_numbers_of_a_report() -> None:
    data = Data(samples(), budget={"x": 12}, chunk=chunk({"x": 2}, {"x": 3}), keep=length(least=2))
    (found,) = data.report()
    assert list(found.numbers) == [
        *("batches", "samples", "fill", "padding.x", "padding.z", "left_out", "lost_frames.x"),
    ]
    assert found.numbers["lost_frames.x"] == found.lost["x"] > 0
    assert found.numbers["padding.x"] == found.padding_of("x") == found.padding


def test_a_report_is_a_table() -> None:
    found = Report(
        *(2, 1, 1200),
        {"audio": 90_000, "y": 5}, {"audio": 100_000, "y": 5},
        {"samples by length(most=9)": 12, "samples beyond the budget": 3}, {"audio": 70}, 1, 0.9444, 31,
    )  # fmt: skip
    assert str(found).splitlines() == [
        "epoch 3: 1 batch of 1,200 samples, 94.4% full, 31 shapes",
        "  stream  frames  with padding  padding  in no chunk",
        "  audio   90,000       100,000   10.00%           70",
        "  y            5             5    0.00%            -",
        "  left out  12 samples by length(most=9)",
        "            3 samples beyond the budget",
        "  not readable: 1 sample",
    ]


def test_a_report_without_lengths_is_one_line() -> None:
    assert str(Report(0, 3, 10)) == "epoch 1: 3 batches of 10 samples"
    assert math.isnan(Report(0, 3, 10).fill)
    assert Report(0, 3, 10).numbers == {"batches": 3, "samples": 10, "left_out": 0}


# ------------------------------------------------------------------------------------------------------------- in runs


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(2, 3)

    def forward(self, x: Tensor, x_mask: Tensor) -> Tensor:
        kept: Tensor = self.last((x * x_mask[..., None]).sum(1) / x_mask.sum(1, keepdim=True))
        return kept


def plain(lengths: list[int] | None = None) -> list[dict[str, Any]]:
    return [{"x": each["x"], "y": each["y"]} for each in samples(lengths)]


def test_the_end_of_an_epoch_says_what_its_batches_held() -> None:
    data = Data(plain(), budget=12, keep=length(least=2))
    run = etude.Run(Plan("cross_entropy", epochs=2), Mean(), data)
    ended = [event for event in run if isinstance(event, EpochEnded)]
    assert [event.data for event in ended] == [each.numbers for each in data.report(2)]
    assert ended[0].data["left_out"] == 1
    history = run.result().history
    assert history["data.padding.x"].values == [event.data["padding.x"] for event in ended]
    assert history["data.batches"].epochs == [1.0, 2.0]


def test_so_does_that_of_data_that_are_read_forward() -> None:
    def read() -> Iterator[dict[str, Any]]:
        yield from plain()

    data = Data(read, lengths="x", budget=12)
    ended = [each for each in etude.Run(Plan("cross_entropy", epochs=2), Mean(), data) if isinstance(each, EpochEnded)]
    assert [event.data["samples"] for event in ended] == [10, 10]
    assert 0 < ended[0].data["padding.x"] < 1


def test_other_data_have_nothing_to_say() -> None:
    x, y = torch.randn(8, 2), torch.zeros(8, dtype=torch.int64)
    run = etude.Run(Plan("cross_entropy", epochs=1, batch_size=4), nn.Linear(2, 3), (x, y))
    assert [event.data for event in run if isinstance(event, EpochEnded)] == [{}]
    assert not [name for name in run.result().history if name.startswith("data.")]


def test_the_shares_of_a_run_can_be_drawn() -> None:
    result = etude.train(Mean(), Data(plain(), budget=12), loss="cross_entropy", epochs=3, progress=False)
    figure = result.plot("data.padding.x")
    (line,) = [line for line in figure.axes[0].get_lines() if line.get_gid() == "data.padding.x"]
    assert len(line.get_xdata()) == 3  # type: ignore[arg-type]
    assert "dots: epochs" in {text.get_text() for text in figure.axes[0].texts}


# ----------------------------------------------------------------------------------------------------- before training


def test_an_account_of_data() -> None:
    data = Data(samples(), budget={"x": 12}, keep=length(least=2), subepochs=2, too_long="drop")
    told = account(Flow(data), 2)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["title"] == "Data(list)"
    assert told["samples"] == 10
    spread = {"least": 1, "tenth": 2, "median": 3, "ninetieth": 5, "most": 6, "total": 35}
    assert told["lengths"]["x"] == spread
    assert list(told["lengths"]) == ["x", "z"]
    assert told["batching"] == {
        "order": "strata()",
        "budget": "padded(x=12)",
        "subepochs": "2",
        "too_long": "'drop'",
        "keep": "length(least=2)",
    }
    assert told["random_access"]
    assert [each["samples"] for each in told["epochs"]] == [report.samples for report in data.report(2)]
    assert told["epochs"][0]["streams"]["x"]["padding"] == data.report()[0].padding


def test_an_account_of_data_as_a_page() -> None:
    data = Data(samples(), budget={"x": 12}, order="sorted", keep=length(most=6))
    text = page("training data", account(Flow(data), 2)).splitlines()
    assert text[0] == "training data: Data(list), 10 samples"
    assert "  parts            x, z, y" in text
    assert "  budget           padded(x=12)" in text
    assert "  length  least  10%  median  90%  most  total" in text
    assert "  x           1    2       3    5     6     35" in text
    assert text[-4].split("  ")[1:3] == ["epoch", "batches"]
    assert text[-4].endswith("padding of x  padding of z  left out")
    assert text[-2].split()[0] == "2"
    assert text[-2].split()[-1] == "1"
    assert text[-1] == "  left out in epoch 1: 1 samples by length(most=6)"  # z is one longer than x


def test_an_account_of_arrays() -> None:
    flow = Flow((torch.ones(10, 3), torch.zeros(10, dtype=torch.int64)), batch_size=4)
    text = page("data", account(flow, 1))
    for part in ("data: tuple, 10 samples", "0 float32 (3,), 1 int64 ()", "random()", "samples(4)", "found at once"):
        assert part in text
    assert text.splitlines()[-1].split() == ["1", "3", "10"]


def test_an_account_of_what_is_read_forward() -> None:
    read: list[int] = []

    def forward() -> Iterator[dict[str, Any]]:
        read.append(1)
        yield from plain()

    text = page("data", account(Flow(Data(forward, lengths="x", budget=12)), 3))
    assert not read
    for part in ("an unknown number of samples", "forward only", "reading all that comes before", "not known before"):
        assert part in text


def test_what_is_foreseen_is_what_is_trained_and_evaluated_on() -> None:
    net, data = Mean(), Data(plain(), budget=12)
    plan = Plan("cross_entropy", epochs=1, validation=0.3)
    seen, checked = foresee(plan, net, data), plan.check(net, data)
    assert seen.training.report(0) == checked.flow.report(0)
    assert seen.validation is not None
    assert checked.evaluator is not None
    assert seen.validation.report(0) == checked.evaluator.flow.report(0)
    assert isinstance(seen.validation.source, Assembled)
    assert "3 of 10 samples set aside" in seen.chosen["validation"]


def test_nothing_is_read_to_foresee() -> None:
    data = Data(Told(np.arange(1, 30)), lengths="x", budget=60)
    assert foresee(Plan("mse", epochs=2), Mean(), data).validation is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (lambda: Data(lambda: iter(plain()), lengths="x", budget=12), r"Data\(.*\) is read forward: .* before they"),
        (lambda: (torch.ones(4, 2), torch.ones(4, 1)), r"tuple is not planned: .* etude.Data\(samples, budget="),
    ],
)
def test_what_is_not_planned_cannot_be_drawn(data: Any, why: str, tmp_path: Path) -> None:
    given = data()
    flow = Flow(given) if isinstance(given, Data) else Flow(given, batch_size=2)
    with pytest.raises(DataError, match=why):
        flow.plot(tmp_path / "batches.png")
