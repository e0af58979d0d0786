"""One run with every kind of loss at once: minimised, weighted, reported, of weight 0, without a target."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import etude
from etude import Data, losses
from etude.run.events import Stepped
from etude.values.curves import linear
from small import arrays, same


class Recogniser(nn.Module):
    """Frames to states and to labels, and the frames again."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.2))
            self.states, self.labels, self.decoder = nn.Linear(8, 3), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        hidden = self.encoder(audio)
        return {
            "states": self.states(hidden).transpose(1, 2),
            "labels": self.labels(hidden),
            "again": self.decoder(hidden),
        }


def spoken(n: int = 14) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(n):
        length = 3 + i % 4
        rows.append(
            {
                "audio": torch.randn(length, 4, generator=generator),
                "states": torch.randint(0, 3, (length,), generator=generator),
                "labels": torch.randint(1, 4, (1 + i % 2,), generator=generator),
            }
        )
    return rows


def data(size: int = 5) -> Data:
    return Data(spoken(), lengths=("audio", "states", "labels"), batch_size=size, order="in_order")


def again(net: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """The audio from what is made of it: there is no target."""
    true = (torch.arange(batch["audio"].shape[1]) < batch["audio_lengths"][:, None])[..., None]
    lost = (net(batch["audio"])["again"] - batch["audio"]).square() * true
    return lost.sum(), 4 * true.sum()


def all_of_it(**more: Any) -> dict[str, Any]:
    return {
        "states": losses.cross_entropy(smoothing=linear(0.1, 0.0)),
        "labels": losses.term(losses.ctc(frames="audio", labels="labels"), 0.3, exponent=True),
        "again": losses.term(again, 0.1, reaches=etude.part("encoder") | "decoder"),
        "fer": losses.error("error_rate", of="states"),
        **more,
    }


def train(loss: dict[str, Any], **options: Any) -> Any:
    plan: dict[str, Any] = {"learning_rate": 0.01, "epochs": 3, "seed": 2, "progress": False, **options}
    return etude.train(Recogniser(), data(), loss=loss, **plan)


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"precision": "bf16"}])
def test_a_loss_of_weight_0_has_no_influence_on_any_array(options: dict[str, Any]) -> None:
    beside = {"size": losses.term(lambda net, batch: net(batch["audio"])["states"].square().mean(), 0)}
    with_it, without = train(all_of_it(**beside), **options), train(all_of_it(), **options)
    assert same(arrays(with_it.net), arrays(without.net))
    assert with_it.history["epoch.loss"].values == without.history["epoch.loss"].values
    assert with_it.history["epoch.size"].values[0] > 0


def test_the_total_is_the_weighted_sum_and_the_epoch_is_exact() -> None:
    result = train(all_of_it())
    history = result.history
    for step in range(len(history["loss"].values)):
        parts = [history[name].values[step] for name in ("states", "labels", "again")]
        total = parts[0] + 0.3 * parts[1] + 0.1 * parts[2]
        assert history["loss"].values[step] == pytest.approx(total, rel=1e-5)
    assert {"epoch.fer", "epoch.labels.no_path", "epoch.labels.perplexity", "setting.states.smoothing"} <= set(history)


def test_validation_scores_are_those_of_one_batch_of_all() -> None:
    validation = data(14)
    small = train(all_of_it(), validation=data(3)).history
    whole = train(all_of_it(), validation=validation).history
    for name in ("loss", "states", "labels", "again", "fer", "labels.no_path", "labels.perplexity"):
        assert small[f"val.{name}"].values == pytest.approx(whole[f"val.{name}"].values, rel=1e-5), name


def test_accumulated_batches_are_one_batch() -> None:
    options: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.5, "steps": 1, "progress": False}
    made = []
    for size, several in ((14, 1), (4, 4)):
        net = Recogniser()
        net.encoder[2].p = 0.0
        etude.train(net, data(size), loss=all_of_it(), accumulate=several, **options)
        made.append(arrays(net))
    for name, array in made[0].items():
        assert torch.allclose(array, made[1][name], atol=1e-6), name


def test_each_head_learns_from_its_own_loss_alone() -> None:
    net, before = Recogniser(), arrays(Recogniser())
    loss = {
        "states": "cross_entropy",
        "labels": losses.term(losses.ctc(frames="audio", labels="labels"), reaches="labels"),
    }
    plan = etude.Plan(loss=loss, steps=1, learning_rate=0.1, optimizer="sgd", learning_rate_multipliers={"decoder": 0})
    net.encoder[2].p = 0.0
    run = etude.Run(plan, net, data(14))
    assert [event for event in run if isinstance(event, Stepped)]
    reference = Recogniser()
    reference.encoder[2].p = 0.0
    after = arrays(net)
    assert not torch.equal(after["labels.weight"], before["labels.weight"])
    assert torch.equal(after["decoder.weight"], before["decoder.weight"])
    rows = spoken()
    frames = torch.cat([row["audio"] for row in rows])
    states = torch.cat([row["states"] for row in rows])
    functional.cross_entropy(reference.states(reference.encoder(frames)), states).backward()
    for name in ("encoder.0.weight", "encoder.0.bias", "states.weight"):
        expected = before[name] - 0.1 * dict(reference.named_parameters())[name].grad
        assert torch.allclose(after[name], expected, atol=1e-6), name
