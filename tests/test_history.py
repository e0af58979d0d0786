"""The record of a run."""

from __future__ import annotations

import json
import math

import pytest
import torch

from etude.errors import EtudeError, StateError
from etude.run.events import EpochEnded, Evaluated, Settled, Skipped, Stepped
from etude.run.history import BULK, History, Series, SeriesError
from told import a_run, at, reads_of, stepped


def recorded(**options: object) -> History:
    history = History()
    for event in a_run(**options):  # type: ignore[arg-type]
        history.see(event)
    return history


def test_names_come_in_the_order_in_which_things_happen() -> None:
    assert list(recorded()) == ["loss", "rate", "epoch.loss", "val.loss", "val.accuracy"]


def test_every_step_is_there_with_its_position() -> None:
    loss = recorded(epochs=3, per_epoch=50)["loss"]
    assert loss.steps == list(range(1, 151))
    assert loss.epochs == [step / 50 for step in range(1, 151)]
    assert loss.values == pytest.approx([1 / step for step in range(1, 151)])
    assert len(loss) == 150


def test_rates_epoch_means_and_scores_are_kept() -> None:
    history = recorded()
    assert history["rate"].values == [1e-3] * 20
    assert history["epoch.loss"].steps == [10, 20]
    assert history["epoch.loss"].epochs == [1.0, 2.0]
    assert history["val.accuracy"].values == [0.5, 0.75]


def test_a_term_has_the_steps_at_which_it_was_computed() -> None:
    history = History()
    for step in range(1, 7):
        own = {"critic.loss": float(step)} if step % 3 else {"generator.loss": -float(step)}
        history.see(stepped(at(step), 0.0, ("both",), loss=float(step), **own))
    assert history["critic.loss"].steps == [1, 2, 4, 5]
    assert history["generator.loss"].steps == [3, 6]
    assert history["generator.loss"].values == [-3.0, -6.0]
    assert history["rate"].steps == list(range(1, 7))


def test_losses_are_read_in_bulk(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = reads_of(monkeypatch)
    history = History()
    for step in range(1, 2 * BULK + 1):
        history.see(stepped(at(step)))
        history.see(Settled(at(step)))
    assert reads == [BULK, BULK]
    history.see(stepped(at(2 * BULK + 1)))
    assert len(history["loss"]) == 2 * BULK + 1
    assert reads == [BULK, BULK, 1]


def test_kinds_and_devices_of_losses_may_differ() -> None:
    history = History()
    losses = {
        "loss": torch.tensor(1.0, dtype=torch.float64),
        "half": torch.tensor(0.5, dtype=torch.bfloat16),
        "live": torch.tensor(2.0, requires_grad=True),
    }
    history.see(Stepped(at(1), losses, 32, 1e-3, ("loss",), 0.0))
    assert [history[name].values for name in losses] == [[1.0], [0.5], [2.0]]


def test_losses_that_cannot_be_stacked_are_read_one_by_one() -> None:
    history = History()
    history.see(Stepped(at(1), {"loss": torch.tensor(1.0), "odd": torch.tensor([2.0])}, 32, 1e-3, ("loss",), 0.0))
    assert history["odd"].values == [2.0]


def test_skipped_steps_show_what_was_measured() -> None:
    history = History()
    history.see(stepped(at(1)))
    history.see(Skipped(at(2), "not finite", {"loss": torch.tensor(math.nan)}))
    history.see(Skipped(at(3), "not finite", {"loss": torch.tensor(math.inf)}))
    assert history["loss"].steps == [1, 2, 3]
    assert [str(value) for value in history["loss"].values[1:]] == ["nan", "inf"]
    assert history["rate"].steps == [1]


def test_a_series_that_was_handed_out_grows() -> None:
    history = History()
    history.see(Evaluated(at(10), {"loss": 1.0}, True))
    series = history["val.loss"]
    history.see(Evaluated(at(20), {"loss": 0.5}, True))
    assert series.values == [1.0, 0.5]


def test_it_is_a_mapping() -> None:
    history = recorded()
    assert "val.loss" in history
    assert "val.los" not in history
    assert history.get("nothing") is None
    assert len(history) == 5
    assert len(History()) == 0
    assert "loss: 20" in repr(history)


def test_an_unknown_series_is_an_error_with_the_nearest() -> None:
    with pytest.raises(SeriesError, match=r'no series "val.los".*It has "loss", "rate".*Nearest: "val.loss"') as caught:
        recorded()["val.los"]
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, EtudeError)


def test_an_unknown_series_of_an_empty_history() -> None:
    with pytest.raises(SeriesError, match=r'no series "loss". It has nothing yet\.$'):
        History()["loss"]


def test_what_the_batches_of_epochs_held_is_a_series_each() -> None:
    history = recorded()
    history.see(EpochEnded(at(30), 3, {"loss": 1.0}, {"padding.audio": 0.25}))
    assert (history["data.padding.audio"].steps, history["data.padding.audio"].values) == ([30], [0.25])
    assert History.from_dict(history.to_dict())["data.padding.audio"] == history["data.padding.audio"]


def test_it_survives_strict_json() -> None:
    history = recorded(nan_from=15)
    history.see(EpochEnded(at(30), 3, {"loss": math.inf}))
    text = json.dumps(history.to_dict(), allow_nan=False)
    back = History.from_dict(json.loads(text))
    assert list(back) == list(history)
    assert back["epoch.loss"] == history["epoch.loss"]
    assert back["loss"].values[:14] == history["loss"].values[:14]
    assert all(math.isnan(value) for value in back["loss"].values[14:])


def test_what_is_asked_for_is_a_copy() -> None:
    history = recorded()
    history.to_dict()["loss"]["steps"].clear()
    assert len(history["loss"].steps) == 20


def test_a_record_without_a_column_is_refused() -> None:
    with pytest.raises(StateError, match='"loss" was saved without values: it has steps, epochs'):
        History.from_dict({"loss": {"steps": [1], "epochs": [0.1]}})


def test_a_record_with_columns_of_different_length_is_refused() -> None:
    with pytest.raises(StateError, match='"loss" was saved with 2 steps, 1 epochs, 1 values'):
        History.from_dict({"loss": {"steps": [1, 2], "epochs": [0.1], "values": [1.0]}})


def test_histories_are_compared_by_what_they_hold() -> None:
    assert recorded() == recorded()
    assert recorded() != recorded(epochs=3)
    assert History([Series("loss", [1], [0.1], [2.0])])["loss"].values == [2.0]
