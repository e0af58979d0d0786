"""Losses as RETURNN recorded them: padded frames, terms, scales, accumulated gradients, CTC, smoothed targets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude import losses
from etude.run.evaluate import Means
from etude.run.events import EpochEnded, Stepped
from etude.step.loss import Losses, terms
from etude.step.reading import Reader
from etude.values.progress import Progress

RECORDED: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "fixtures" / "losses.json").read_text(encoding="utf-8")
)
PAD = 77.0
"""What padding holds here: a number that would be seen in any sum."""


class AsItIs(nn.Module):
    """The recorded values of the losses, as outputs of these names."""

    def forward(self, x: Tensor, sequences: Tensor, errors: Tensor) -> dict[str, Tensor]:
        return {"ce": x, "seq": sequences, "fer": errors}


def padded(rows: list[list[float]]) -> Tensor:
    made = torch.full((len(rows), max(map(len, rows))), PAD, dtype=torch.float64)
    for place, row in enumerate(rows):
        made[place, : len(row)] = torch.tensor(row, dtype=torch.float64)
    return made


def batch_of(recorded: dict[str, Any]) -> dict[str, Tensor]:
    lengths = torch.tensor(recorded["lens"])
    frames = [row[:length] for row, length in zip(recorded["ce"], recorded["lens"], strict=True)]
    wrong = [row[:length] for row, length in zip(recorded["fer"], recorded["lens"], strict=True)]
    x = padded(frames)
    return {
        "x": x,
        "x_lengths": lengths,
        "sequences": torch.tensor(recorded["seq"], dtype=torch.float64),
        "errors": padded(wrong),
        "ce": torch.zeros_like(x),
        "ce_lengths": lengths,
        "fer": torch.zeros_like(x),
        "fer_lengths": lengths,
        "seq": torch.zeros(len(lengths), dtype=torch.float64),
    }


def by_sequences(net: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    """A sum over true frames, and as count the number of sequences."""
    true = torch.arange(batch["x"].shape[1]) < batch["x_lengths"][:, None]
    return (batch["x"] * true).sum(), len(batch["x"])


def said(settings: dict[str, Any]) -> Losses:
    """The recorded options as terms: the values are their own absolute difference from 0."""
    made: dict[str, Any] = {}
    for name, options in settings.items():
        what: Any = by_sequences if "custom_inv_norm_factor" in options else "l1"
        made[name] = losses.error(what) if options.get("as_error") else losses.term(what, options.get("scale", 1.0))
    return Losses(terms(made))


@pytest.mark.parametrize("case", RECORDED["losses"], ids=lambda case: case["id"])
def test_sums_counts_and_epoch_scores(case: dict[str, Any]) -> None:
    made, net, epoch = said(case["settings"]), AsItIs(), Means()
    for recorded, expected in zip(case["batches"], case["expect"]["per_batch"], strict=True):
        total, measured, _, _ = made.measure(net, Reader(net), batch_of(recorded), made.now(Progress()))
        found = dict(zip(case["settings"], measured, strict=True))
        for name, numbers in expected["losses"].items():
            assert float(found[name].mean) == pytest.approx(numbers["reported"])
            assert float(found[name].count) == numbers["count"]
            assert float(found[name].mean * found[name].count) == pytest.approx(numbers["sum"])
        # RETURNN's total takes the sum of a loss that is not normalised; ours are means, with the same scales.
        whole = sum(
            float(found[name].mean)
            * (1.0 if options.get("use_normalized_loss") else float(found[name].count))
            * options.get("scale", 1.0)
            for name, options in case["settings"].items()
            if not options.get("as_error")
        )
        assert whole == pytest.approx(expected["total_loss_for_backward"])
        if all("use_normalized_loss" in options or "as_error" in options for options in case["settings"].values()):
            assert float(total) == pytest.approx(expected["total_loss_for_backward"])
        epoch.add(found)
    scores = epoch.values()
    for name, score in case["expect"]["epoch_scores"].items():
        assert scores[name] == pytest.approx(score)


# smoothed targets


@pytest.mark.parametrize("case", RECORDED["label_smoothing"], ids=lambda case: case["id"])
def test_smoothed_targets_in_both_conventions(case: dict[str, Any]) -> None:
    smoothing, net = case["settings"]["smoothing"], nn.Identity()
    for share, expected in (
        ("others", case["expect"]["cross_entropy"]),
        ("all", case["torch_cross_entropy_same_smoothing"]),
    ):
        made = Losses(terms(losses.cross_entropy(smoothing, share=share)))
        for logits, target, value in zip(case["logits"], case["targets"], expected, strict=True):
            batch = (torch.tensor([logits]), torch.tensor([target]))
            assert float(made.measure(net, Reader(net), batch, made.now(Progress()))[0]) == pytest.approx(
                value, rel=1e-6
            )
    # The same of the distribution: it is the gradient of the loss by the logarithms of the output.
    logs = torch.tensor(case["logits"]).log_softmax(1).requires_grad_()
    made = Losses(terms(losses.cross_entropy(smoothing, share="others")))
    made.measure(net, Reader(net), (logs, torch.tensor(case["targets"])), made.now(Progress()))[0].backward()
    assert logs.grad is not None
    softmax = logs.detach().exp()
    found = softmax - logs.grad * len(logs)
    assert torch.allclose(found, torch.tensor(case["expect"]["distribution"]), atol=1e-6)


# connectionist temporal classification


@pytest.mark.parametrize("case", RECORDED["ctc"], ids=lambda case: case["id"])
def test_losses_over_all_alignments(case: dict[str, Any]) -> None:
    longest = max(map(len, case["targets"]))
    logits = torch.tensor(case["logits"]).requires_grad_()
    batch = {
        "input": logits,
        "input_lengths": torch.tensor(case["lens"]),
        "labels": torch.tensor([row + [0] * (longest - len(row)) for row in case["targets"]]),
        "labels_lengths": torch.tensor([len(row) for row in case["targets"]]),
    }
    net, made = nn.Identity(), Losses(terms({"ctc": losses.ctc(case["blank"])}))
    total, (main, without), _, _ = made.measure(net, Reader(net), batch, made.now(Progress()))
    expected = case["expect"]["loss"]
    assert float(total) == float(main.mean) == pytest.approx(sum(expected) / len(expected), rel=1e-6)
    # What has no path is 0 there without a word; here it is counted too.
    assert float(without.mean * without.count) == sum(value == 0 for value in expected)
    total.backward()
    assert logits.grad is not None
    sums = (logits.grad.abs().sum((1, 2)) * len(expected)).tolist()
    for found, recorded in zip(sums, case["expect"].get("grad_abs_sum_per_seq", sums), strict=True):
        assert found == pytest.approx(recorded, rel=1e-5)
    for place, value in enumerate(expected):
        alone = {name: tensor[place : place + 1] for name, tensor in batch.items()}
        assert float(made.measure(net, Reader(net), alone, made.now(Progress()))[0]) == pytest.approx(value, rel=1e-6)


# whole runs of y = w·x + b from zero, of which every frame of a sequence of length n has x = 1/n and the target 1


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x + self.bias


class Recorded:
    """The batches of one epoch, padded."""

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for lens in self.batches:
            lengths = torch.tensor(lens)
            x = padded([[1 / n] * n for n in lens]).float()
            yield {"x": x, "x_lengths": lengths, "y": torch.ones_like(x), "y_lengths": lengths}


def micro_batches(case: dict[str, Any]) -> Recorded:
    return Recorded([step["lens"] for step in case["expect"]["train_steps"] if step["epoch"] == 1])


def added(net: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    """The mean of a micro-batch, counted once: RETURNN adds gradients of means."""
    lengths = batch["x_lengths"]
    true = torch.arange(batch["x"].shape[1]) < lengths[:, None]
    return (((net(batch["x"]) - batch["y"]) ** 2) * true).sum() / lengths.sum(), 1


def engine(name: str) -> dict[str, Any]:
    return next(case for case in RECORDED["engine"] if case["id"] == f"dev/engine_{name}")


def run(case: dict[str, Any], **options: Any) -> list[Any]:
    plan = {"optimizer": "sgd", "epochs": 3, "shuffle": False, **options}
    return list(etude.Run(etude.Plan(**plan), Line(), micro_batches(case)))


def assert_scores(events: list[Any], case: dict[str, Any], train: str) -> None:
    ended = [event for event in events if isinstance(event, EpochEnded)]
    for number, scores in case["expect"]["scores"].items():
        assert ended[int(number) - 1].means[train] == pytest.approx(scores["train_loss_mse"], rel=1e-5)


def test_a_run_on_padded_batches() -> None:
    case = engine("plain")
    rates = [update["rate"] for update in case["expect"]["updates"]]
    assert_scores(run(case, loss="mse", learning_rate=lambda p: rates[min(int(p.step), 17)]), case, "loss")


def test_accumulated_gradients_that_are_added() -> None:
    """Ours are those of the whole; a mean that counts once for each micro-batch, and twice the rate, are the same."""
    case = engine("accumulate_2")
    rates = [2 * update["rate"] for update in case["expect"]["updates"]]
    events = run(
        case,
        loss={"added": added, "mse": ("mse", 0.0)},
        accumulate=2,
        learning_rate=lambda p: rates[min(int(p.step), 8)],
    )
    assert len([event for event in events if isinstance(event, Stepped)]) == len(rates)
    assert_scores(events, case, "mse")


def test_what_is_left_at_the_end_of_an_epoch_makes_a_step() -> None:
    """RETURNN, told to take as many micro-batches as the number of the epoch, lost one of nine in the second."""
    case = engine("accumulate_callable")
    assert case["expect"]["micro_batches_lost_at_epoch_end"]["2"] == 1
    events = run(case, loss="mse", learning_rate=0.1, accumulate=lambda p: 1 + int(p.epoch))
    stepped = [event for event in events if isinstance(event, Stepped)]
    lens = [sequence for batch in micro_batches(case).batches for sequence in batch]
    assert sum(event.samples for event in stepped) == 3 * len(lens)
    groups = [event.samples for event in stepped]
    assert groups == [1] * 9 + [2, 2, 2, 2, 1] + [3, 3, 3]
