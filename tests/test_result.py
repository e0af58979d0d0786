"""Results: every attribute is what it says; files come back as they were, and damaged ones are refused."""

from __future__ import annotations

import copy
import io
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import nn

from etude import (
    FROZEN,
    Evaluate,
    Plan,
    Result,
    StateError,
    Update,
    cosine,
    cycle,
    everything,
    linear,
    minutes,
    part,
    reached,
    train,
    warmup,
)
from etude import steps as steps_
from etude.errors import EtudeError
from small import Noisy, arrays, classified, same, trained

VALIDATION = classified(6, seed=5)


def rich() -> Result:
    """A result in which most things were said."""
    return trained(
        Noisy(),
        epochs=2,
        validation=Evaluate(VALIDATION, "accuracy"),
        learning_rate=cosine(0.1, 0.01),
        learning_rate_multipliers={"head": 2, "body.0.bias": FROZEN, everything: linear(1, 0)},
        update_schedule=[part("body") * 2, everything],
        rules={"clip_value": {"head": 0.5}},
        weight_decay=0.1,
        seed=3,
    )


# ------------------------------------------------------------------------------------------------- what it says


def test_the_amounts_done() -> None:
    result = trained(epochs=3)
    assert (result.steps, result.epochs, result.samples) == (9, 3, 30)
    assert (result.batch_size, result.batches_per_epoch) == (4, 3)
    assert (result.training_samples, result.validation_samples) == (10, None)
    shorter = trained(steps=4)
    assert (shorter.steps, shorter.samples) == (4, 14)
    assert shorter.epochs == pytest.approx(4 / 3)


def test_time_and_throughput(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    now = [0.0]

    def tick() -> float:
        now[0] = float(next(clock))
        return now[0]

    monkeypatch.setattr("etude.run.run.time.perf_counter", tick)
    result = trained(epochs=2)
    assert result.seconds == now[0]
    assert result.throughput == 20 / result.seconds


def test_what_it_ran_with() -> None:
    result = trained(seed=7, precision="bf16")
    assert (result.seed, result.device, result.precision) == (7, "cpu", "bf16")
    assert result.versions["torch"] == torch.__version__
    assert result.versions["numpy"] == np.__version__
    assert result.versions["python"] == platform.python_version()
    assert trained().precision == "fp32"


def test_the_rates_of_the_last_step_are_those_that_were_used() -> None:
    result = trained(epochs=2, learning_rate=warmup(steps_(2)) * cosine(0.1, 0.01), steps=5)
    used = result.history["rate"].values
    assert set(result.learning_rates.values()) == {used[-1]}
    assert used[-1] == pytest.approx(0.01 + 0.09 * (1 + np.cos(np.pi * 4 / 5)) / 2)


def test_a_step_that_was_left_out_counts_for_the_clock_of_the_rates() -> None:
    x, y = classified()
    x[5] = float("nan")
    result = trained(data=(x, y), shuffle=False, non_finite="skip", learning_rate=linear(0.3, 0))
    assert result.history["rate"].values == pytest.approx([0.3, 0.1])
    assert set(result.learning_rates.values()) == {result.history["rate"].values[-1]}
    assert (result.steps, result.skipped) == (3, 1)


def test_rates_and_multipliers_by_array() -> None:
    result = trained(
        epochs=2,
        learning_rate=0.1,
        learning_rate_multipliers={"0.bias": FROZEN, "0": 0.5, "2.bias": -2, "2": linear(1, 0)},
    )
    assert result.learning_rate_multipliers == {
        "0.weight": 0.5,
        "0.bias": 0.0,
        "2.weight": "linear(1, 0)",
        "2.bias": -2,
    }
    assert result.learning_rates == pytest.approx(
        {"0.weight": 0.05, "0.bias": 0.0, "2.weight": 0.1 / 6, "2.bias": -0.2}
    )


def test_arrays_that_several_updates_move_have_an_entry_for_each() -> None:
    updates = [
        Update("a", "cross_entropy", learning_rate=0.1),
        Update("b", "cross_entropy", "2", learning_rate=0.2, learning_rate_multipliers={"2.bias": 3}),
    ]
    result = trained(loss=None, updates=updates)
    assert result.learning_rates == pytest.approx(
        {
            "0.weight": 0.1,
            "0.bias": 0.1,
            "a: 2.weight": 0.1,
            "a: 2.bias": 0.1,
            "b: 2.weight": 0.2,
            "b: 2.bias": 0.6,
        }
    )
    assert result.learning_rate_multipliers["b: 2.bias"] == 3


def test_the_optimizer_with_every_setting() -> None:
    result = trained(optimizer="sgd", learning_rate=linear(0.1, 0), momentum=0.9)
    assert result.optimizer["loss"] == {
        "name": "sgd",
        "learning_rate": "linear(0.1, 0)",
        "momentum": 0.9,
        "dampening": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
    }
    updates = [Update("a", "cross_entropy", "0"), Update("b", "cross_entropy", "2", optimizer=torch.optim.RMSprop)]
    several = trained(loss=None, updates=updates).optimizer
    assert [(name, settings["name"]) for name, settings in several.items()] == [("a", "adamw"), ("b", "RMSprop")]
    assert several["b"]["alpha"] == 0.99


def test_the_update_schedule_as_text() -> None:
    assert trained().update_schedule == {"loss": None}
    assert trained(update_schedule=["0", part("2") * 2]).update_schedule == {"loss": "cycle(part('0'), part('2') * 2)"}


def test_what_was_chosen_is_told() -> None:
    x, y = classified()
    result = trained(data=(x.numpy().astype("float64"), y.numpy()), batch_size=None)
    assert result.chosen == {"batch_size": 10, "converted": ["0: float64 -> float32"]}
    assert trained(device="auto").chosen.keys() >= {"device"}
    assert trained().chosen == {}


def test_why_it_stopped() -> None:
    assert trained().stop_reason == "finished"
    assert trained(epochs=9, patience=0, learning_rate=1e-9, min_delta=1).stop_reason == "patience"
    assert trained(epochs=9, time_limit=minutes(1e-9)).stop_reason == "time"
    assert "the time limit of seconds(" in trained(epochs=9, time_limit=minutes(1e-9)).stop_message
    with pytest.warns(UserWarning, match="Every array is frozen"):
        assert trained(learning_rate_multipliers={everything: 0}).stop_reason == "frozen"
    assert trained(loss=lambda o, y: o.mean() / 0, non_finite="stop").stop_reason == "non-finite"


def test_the_last_value_of_each_mean_and_score() -> None:
    result = trained(epochs=3, validation=Evaluate(VALIDATION, "accuracy"))
    assert result.losses == {
        name: result.history[name].values[-1] for name in ("epoch.loss", "val.loss", "val.accuracy")
    }


def test_the_call_holds_what_was_said_as_text() -> None:
    result = trained(
        loss=nn.CrossEntropyLoss(),
        learning_rate=cosine(0.1),
        validation=VALIDATION,
        metrics={"m": own_metric},
        learning_rate_multipliers={"0": FROZEN},
        weight_decay=0.1,
    )
    assert result.call == {
        "loss": "CrossEntropyLoss()",
        "learning_rate": "cosine(0.1, 0.0)",
        "learning_rate_multipliers": "{'0': FROZEN}",
        "epochs": "1",
        "batch_size": "4",
        "validation": "(Tensor float32 (6, 4), Tensor int64 (6,))",
        "metrics": f"{{'m': {own_metric.__module__}.own_metric}}",
        "weight_decay": "0.1",
    }
    assert isinstance(result.plan, Plan)


def own_metric(output: Any, target: Any) -> Any:
    return (output.argmax(1) == target).float()


def test_the_score_is_the_rate_of_every_array_at_every_step() -> None:
    result = trained(epochs=2, learning_rate=linear(0.6, 0), update_schedule=["0", "2"])
    score = result.score
    assert score["names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    first = [pytest.approx(rate) if step % 2 == 0 else None for step, rate in enumerate((0.6, 0.5, 0.4, 0.3, 0.2, 0.1))]
    second = [pytest.approx(rate) if step % 2 else None for step, rate in enumerate((0.6, 0.5, 0.4, 0.3, 0.2, 0.1))]
    assert score["rates"] == [first, first, second, second]


def test_it_prints_in_a_line() -> None:
    text = repr(trained(epochs=2, validation=VALIDATION))
    assert text.startswith("Result(6 steps, 2 epochs in ")
    assert "val.loss" in text
    assert text.endswith("finished)")
    assert "\n" not in text
    stopped = trained(epochs=9, stop=reached("epoch.loss", below=1e9))
    assert repr(stopped).endswith(f"stop: {stopped.stop_message})")


# ---------------------------------------------------------------------------------------------------- the two nets


def test_the_net_is_an_ordinary_module_again() -> None:
    net = Noisy()
    result = trained(net, validation=VALIDATION)
    assert result.net is net
    assert all(not module._forward_pre_hooks and not module._forward_hooks for module in net.modules())
    copied = copy.deepcopy(net)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    read = torch.load(file, weights_only=False)
    x, _ = classified()
    assert torch.equal(copied(x), net(x))
    assert torch.equal(read(x), net(x))
    assert all(array.requires_grad for array in net.parameters())


def test_the_final_net_without_validation_is_the_net() -> None:
    result = trained()
    assert result.final_net is result.net


# ---------------------------------------------------------------------------------------------------------- plots


@pytest.mark.parametrize("what", ["loss", "rates", "score", "accuracy", "val.accuracy", "epoch.loss"])
def test_it_draws(what: str, tmp_path: Path) -> None:
    figure = rich().plot(what, tmp_path / "figure.png")
    assert isinstance(figure, Figure)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_what_is_not_there_is_an_error() -> None:
    with pytest.raises(EtudeError, match="accuracy"):
        trained().plot("accuracy")


def test_a_loaded_result_draws_too(tmp_path: Path) -> None:
    rich().save(tmp_path / "run.json")
    result = Result.load(tmp_path / "run.json")
    for what in ("loss", "rates", "score", "accuracy"):
        assert isinstance(result.plot(what), Figure)


# ---------------------------------------------------------------------------------------------------------- files

RESULTS: dict[str, Any] = {
    "plain": trained,
    "rich": rich,
    "tuples": lambda: trained(optimizer=torch.optim.Adam, betas=(0.8, 0.9)),
    "infinite": lambda: trained(rules={"clip_value": {"0": 1.0}}),
    "nan": lambda: trained(loss=lambda o, y: o.mean() * float("nan"), non_finite="apply"),
    "updates": lambda: trained(
        loss=None, updates=[Update("a", "cross_entropy", "0", turn=cycle(1, 2)), Update("b", "cross_entropy", "2")]
    ),
}


def kept(result: Result) -> dict[str, Any]:
    """What a file holds, but for the history."""
    return {name: value for name, value in vars(result).items() if name not in ("net", "plan", "_final", "history")}


@pytest.mark.parametrize("name", RESULTS)
def test_a_file_holds_all_but_the_net(name: str, tmp_path: Path) -> None:
    result = RESULTS[name]()
    result.save(tmp_path / "run.json")
    read = Result.load(tmp_path / "run.json")
    assert read.net is None
    assert read.final_net is None
    assert read.plan is None
    mine, theirs = (
        {k: v for k, v in vars(r).items() if k not in ("net", "plan", "_final", "history")} for r in (result, read)
    )
    assert repr(theirs) == repr(mine)
    assert read.history.to_dict() == result.history.to_dict()
    assert repr(read) == repr(result)
    if name != "nan":
        assert result.diff(read) == ""


def test_a_file_is_strict_json(tmp_path: Path) -> None:
    RESULTS["nan"]().save(tmp_path / "run.json")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((tmp_path / "run.json").read_text(), parse_constant=refuse)


def test_the_net_goes_beside_it(tmp_path: Path) -> None:
    result = trained(Noisy(), validation=VALIDATION)
    result.save(tmp_path / "deep" / "run.json", net=True)
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["run.json", "run.safetensors"]
    assert same(load_file(tmp_path / "deep" / "run.safetensors"), arrays(result.net))


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    trained(epochs=1).save(tmp_path / "run.json")
    trained(epochs=2).save(tmp_path / "run.json")
    assert Result.load(tmp_path / "run.json").epochs == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_where_the_net_cannot_go(tmp_path: Path) -> None:
    result = trained()
    with pytest.raises(StateError, match=r'Write save\("run.json", net=True\)'):
        result.save(tmp_path / "run.safetensors", net=True)
    result.save(tmp_path / "run.json")
    with pytest.raises(StateError, match="has no net"):
        Result.load(tmp_path / "run.json").save(tmp_path / "again.json", net=True)
    assert not (tmp_path / "run.safetensors").exists()
    assert not (tmp_path / "again.json").exists()


def damaged() -> list[tuple[str, Any]]:
    """Ways to spoil the record of a result."""

    def without(name: str) -> Any:
        return lambda record: {key: value for key, value in record.items() if key != name}

    def with_(**more: Any) -> Any:
        return lambda record: {**record, **more}

    return [
        ("no format", without("format")),
        ("another format", with_(format=99)),
        ("a list", lambda record: [record]),
        ("text", lambda record: "result"),
        ("no history", without("history")),
        ("no steps", without("steps")),
        ("more", with_(what=1)),
        ("text for steps", with_(steps="many")),
        ("a bool for steps", with_(steps=True)),
        ("half a step", with_(steps=1.5)),
        ("a list for rates", with_(learning_rates=[])),
        ("nothing for a dict", with_(score=None)),
        ("a number for text", with_(stop_reason=3)),
        ("history is a list", with_(history=[])),
        ("history of numbers", with_(history={"loss": 3})),
        ("a series without values", with_(history={"loss": {"steps": [], "epochs": []}})),
        ("a short series", with_(history={"loss": {"steps": [1], "epochs": [1.0], "values": []}})),
        ("values of text", with_(history={"loss": {"steps": [1], "epochs": [1.0], "values": ["much"]}})),
        ("values are a number", with_(history={"loss": {"steps": 1, "epochs": 1, "values": 1}})),
        ("a mark that is none", with_(seconds={"$": 3})),
    ]


@pytest.mark.parametrize(("name", "spoil"), damaged(), ids=[each[0] for each in damaged()])
def test_a_damaged_file_is_refused(name: str, spoil: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    rich().save(path)
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(StateError, match=r"run\.json is"):
        Result.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\x00\xff\xfe", b"null", b"[]", b"3"])
def test_what_is_no_result_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(StateError, match="no result"):
        Result.load(path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    trained().save(path)
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, len(whole) // 25):
        path.write_bytes(whole[:end])
        with pytest.raises(StateError):
            Result.load(path)


def test_a_file_that_is_not_there_is_the_usual_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Result.load(tmp_path / "run.json")


# ----------------------------------------------------------------------------------------------------- differences


def test_equal_runs_do_not_differ() -> None:
    assert rich().diff(rich()) == ""
    own: dict[str, Any] = {"loss": lambda output, target: (output**2).mean()}
    assert trained(**own).diff(trained(**own)) == ""


def test_differences_are_named() -> None:
    one, other = trained(learning_rate=0.1), trained(learning_rate=0.2, epochs=2, momentum=0.9, optimizer="sgd")
    lines = one.diff(other).splitlines()
    assert "call.learning_rate: '0.1' -> '0.2'" in lines
    assert "call.epochs: '1' -> '2'" in lines
    assert "optimizer.loss.name: 'adamw' -> 'sgd'" in lines
    assert "steps: 3 -> 6" in lines
    assert any(line.startswith("losses.epoch.loss: ") for line in lines)
    assert trained(seed=1).diff(trained(seed=2)).splitlines()[0] == "call.seed: '1' -> '2'"


def test_the_best_scores_are_those_of_the_net_that_is_returned() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 4)
    result = train(
        nn.Linear(4, 1), (x, x[:, :1]), loss="mse", epochs=4, learning_rate=0.3, validation=0.25, progress=False
    )
    assert result.best_scores == {"val.loss": min(result.history["val.loss"].values)}
    assert f"best after epoch {result.best_epoch:g}: val.loss" in repr(result)
