"""Connectionist temporal classification: lengths, means, sequences without a path."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude import Data, losses
from etude.errors import DataError, SettingError
from etude.step.loss import Losses, terms
from etude.step.reading import Reader
from etude.values.progress import Progress

X = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
BATCH = {
    "input": X,
    "input_lengths": torch.tensor([6, 4, 5]),
    "spelt": torch.tensor([[1, 2, 0], [3, 3, 2], [1, 0, 0]]),
    "spelt_lengths": torch.tensor([2, 3, 1]),
}


def measure(loss: Any, batch: Any = BATCH, net: nn.Module | None = None) -> Any:
    made, net = Losses(terms({"ctc": loss})), net or nn.Identity()
    return made.measure(net, Reader(net), batch, made.now(Progress()))


def by_hand(logits: Tensor, labels: list[int], blank: int = 0) -> float:
    """Over every path of the frames that collapses to the labels."""
    logs, total = logits.log_softmax(-1), 0.0
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        said = [label for label, _ in itertools.groupby(path) if label != blank]
        if said == labels:
            total += math.exp(sum(float(logs[t, label]) for t, label in enumerate(path)))
    return -math.log(total)


def test_it_is_the_sum_over_all_paths() -> None:
    expected = [by_hand(X[0], [1, 2]), by_hand(X[1, :4], [3, 3, 2]), by_hand(X[2, :5], [1])]
    for per, over in (("sequence", 3), ("label", 6), ("frame", 15)):
        total, (main, without), _, _ = measure(losses.ctc(per=per))
        assert float(total) == pytest.approx(sum(expected) / over, rel=1e-5)
        assert (float(main.count), float(without.mean), float(without.count)) == (over, 0, 3)


def test_padding_of_frames_and_labels_is_not_read() -> None:
    other = {**BATCH, "input": X.clone(), "spelt": BATCH["spelt"].clone()}
    other["input"][1, 4:] = 50.0
    other["spelt"][2, 1:] = 99
    assert float(measure(losses.ctc(), other)[0]) == float(measure(losses.ctc())[0])


def test_a_sequence_without_a_path_has_loss_0_and_no_gradient_and_is_counted() -> None:
    logits = X.clone().requires_grad_()
    batch = {**BATCH, "input": logits, "input_lengths": torch.tensor([6, 3, 0])}
    total, (main, without), _, _ = measure(losses.ctc(), batch)
    total.backward()
    assert float(main.mean) == pytest.approx(by_hand(X[0], [1, 2]) / 3, rel=1e-5)
    assert float(without.mean) == pytest.approx(2 / 3)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert float(logits.grad[0].abs().sum()) > 0
    assert not logits.grad[1:].any()
    assert not without.mean.requires_grad


def test_the_last_class_as_blank_classes_in_the_second_dimension_and_float16() -> None:
    last = X[..., [1, 2, 3, 0]]
    moved = {**BATCH, "input": last, "spelt": BATCH["spelt"] - 1}
    expected = float(measure(losses.ctc())[0])
    assert float(measure(losses.ctc(-1), moved)[0]) == pytest.approx(expected)
    assert float(measure(losses.ctc(3), moved)[0]) == pytest.approx(expected)
    turned = {**BATCH, "input": X.transpose(1, 2)}
    assert float(measure(losses.ctc(classes=1), turned)[0]) == pytest.approx(expected)
    half = measure(losses.ctc(), {**BATCH, "input": X.half()})[0]
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(expected, rel=1e-3)


def test_lengths_of_a_net_that_makes_sequences_shorter() -> None:
    class Halved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, ::2]

    batch = {"x": X, "x_lengths": torch.tensor([6, 4, 5]), "y": torch.tensor([[1], [2], [3]])}
    with pytest.raises(DataError, match=r"has 3 frames, and a sequence is said to have 6.* ctc\(frames=lambda batch"):
        measure(losses.ctc(), batch, Halved())
    total = measure(losses.ctc(frames=lambda batch: (batch["x_lengths"] + 1) // 2), batch, Halved())[0]
    expected = [by_hand(X[i, ::2][:n], [i + 1]) for i, n in enumerate((3, 2, 3))]
    assert float(total) == pytest.approx(sum(expected) / 3, rel=1e-5)
    with pytest.raises(DataError, match="one whole number for each sample"):
        measure(losses.ctc(frames=lambda batch: torch.ones(2)), batch, Halved())


def test_without_names_all_frames_and_all_labels_are_true() -> None:
    total = measure(losses.ctc(), (X[:1], torch.tensor([[1, 2]])))[0]
    assert float(total) == pytest.approx(by_hand(X[0], [1, 2]), rel=1e-5)


def test_packed_labels() -> None:
    packed = {**BATCH, "spelt": torch.tensor([1, 2, 3, 3, 2, 1]), "spelt_offsets": torch.tensor([0, 2, 5, 6])}
    assert float(measure(losses.ctc(), packed)[0]) == float(measure(losses.ctc())[0])


@pytest.mark.parametrize(
    ("change", "loss", "error", "words"),
    [
        ({"spelt": torch.full((3, 3), 4)}, losses.ctc(), DataError, "4 classes, 0 to 3, and the labels go from"),
        (
            {"spelt": torch.full((3, 3), 0)},
            losses.ctc(),
            DataError,
            "stands for no label, and . of 3 sequences have it",
        ),
        ({"spelt": torch.full((3, 3), 3)}, losses.ctc(blank=-1), DataError, "class 3 stands for no label"),
        ({"input": X[..., 0]}, losses.ctc(), DataError, r"logits of shape \(samples, frames, classes\)"),
        ({}, losses.ctc(7), DataError, "the output has 4 classes, 0 to 3"),
        ({"spelt": torch.zeros(3, 3)}, losses.ctc(), DataError, "no tensor of class indices"),
        ({"spelt": torch.zeros(2, 3).long(), "spelt_lengths": torch.ones(2).long()}, losses.ctc(), DataError, "2 seq"),
        ({}, losses.ctc(frames="inputs"), SettingError, 'Nearest: "input"'),
        ({}, losses.ctc(labels="spel"), SettingError, 'Nearest: "spelt"'),
        ({"z": X, "z_lengths": BATCH["input_lengths"]}, losses.ctc(labels="spelt"), SettingError, "several streams"),
    ],
)
def test_what_does_not_go_together(change: Any, loss: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        measure(loss, {**BATCH, **change})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: losses.ctc(-2), "-1 for the last one"),
        (lambda: losses.ctc(per="sequences"), 'Nearest: "sequence"'),
        (lambda: losses.ctc(frames=3), "a function of the batch"),
        (lambda: losses.ctc(labels=3), "the name of the labels"),
        (lambda: losses.ctc(classes=2), "-1 .* or 1"),
        (lambda: losses.ctc(blanc=0), 'Nearest: "blank"'),
    ],
)
def test_wrong_options(make: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        make()


def spoken(n: int = 12) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    rows = []
    for i in range(n):
        labels = torch.randint(1, 4, (1 + i % 3,), generator=generator)
        frames = nn.functional.one_hot(labels.repeat_interleave(3), 4).float() if i % 4 else torch.zeros(1, 4)
        rows.append({"audio": frames, "spelt": labels if i % 4 else torch.tensor([1, 1])})
    return rows


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.layer = nn.Linear(4, 4)

    def forward(self, audio: Tensor) -> Tensor:
        made: Tensor = self.layer(audio)
        return made


def train(**options: Any) -> Any:
    data = Data(spoken(), lengths=("audio", "spelt"), batch_size=4)
    plan: dict[str, Any] = {"loss": {"ctc": losses.ctc()}, "learning_rate": 0.1, "epochs": 8, "progress": False}
    return etude.train(Tagger(), data, **{**plan, **options})


def test_a_run_learns_and_its_history_tells_the_share_without_a_path() -> None:
    result = train(validation=Data(spoken(), lengths=("audio", "spelt"), batch_size=5))
    history = result.history
    assert history["epoch.ctc"].values[-1] < 0.6 * history["epoch.ctc"].values[0]
    assert history["epoch.ctc.no_path"].values == pytest.approx([0.25] * 8)
    assert history["val.ctc.no_path"].values == pytest.approx([0.25] * 8)
    assert history["val.loss"].values == history["val.ctc"].values
    alone = train(loss=losses.ctc(), epochs=1)
    assert alone.history["epoch.loss.no_path"].values == [0.25]
    assert alone.history["epoch.loss"].values == history["epoch.ctc"].values[:1]


def test_parts_of_a_batch_are_the_whole_batch() -> None:
    loss = {"ctc": losses.ctc(per="label"), "l2": (losses.l2(), 0.1)}
    options: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.5, "steps": 1, "loss": loss}
    data = lambda n: Data(spoken(), lengths=("audio", "spelt"), batch_size=n, order="in_order")  # noqa: E731
    whole, parts = Tagger(), Tagger()
    etude.train(whole, data(12), progress=False, **options)
    etude.train(parts, data(5), accumulate=3, progress=False, **options)
    assert torch.allclose(whole.layer.weight, parts.layer.weight, atol=1e-6)


def test_it_prints_as_it_is_written() -> None:
    assert repr(losses.ctc()) == "ctc(blank=0)"
    made = losses.ctc(-1, per="frame", frames="audio", labels="spelt", classes=1)
    assert repr(made) == "ctc(blank=-1, per='frame', frames='audio', labels='spelt', classes=1)"
