"""The tutorial of Gluon's Trainer, W1 to W13, as `examples/gluon_trainer.py` walks through it.

W8 and W9 are about several devices: tested is what one process can show of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
import gluon_trainer

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"
FILES = ("gluon_dev.json", "gluon_mx2_dev.json")
recorded_only = pytest.mark.skipif(
    not all((FIXTURES / name).exists() for name in FILES), reason="the recorded numbers are not here"
)

Seen = dict[str, Any]


@pytest.fixture(scope="module")
def seen() -> Seen:
    """What the example sees with numbers of its own."""
    return gluon_trainer.main(quick=True)


def close(one: Tensor, other: Any, tolerance: float = 2e-5) -> bool:
    return torch.allclose(one.flatten(), torch.as_tensor(other).flatten(), rtol=tolerance, atol=tolerance)


def same_arrays(one: Seen, other: Seen) -> bool:
    return all(torch.equal(one[name], other[name]) for name in ("weight", "bias"))


def test_w1_a_trainer_is_made_before_shapes_are_known() -> None:
    net = nn.LazyLinear(1)
    trainer = etude.Trainer(net, "sgd", learning_rate=1.0)
    assert trainer.learning_rate == 1.0


def test_w2_backward_sums_over_samples_and_moves_nothing(seen: Seen) -> None:
    before, (x, y) = seen["a step"]["before"], seen["data"]
    off = x @ before["weight"][0] + before["bias"] - y
    assert before["losses"].shape == (8,)
    assert close(before["losses"], off.square() / 2, 1e-6)
    assert close(before["weight.grad"], off @ x, 1e-5)
    assert close(before["bias.grad"], off.sum(), 1e-5)


def test_w3_a_step_without_backward_is_refused(seen: Seen) -> None:
    assert "'weight', 'bias' have no shape yet. Call the net once" in seen["a step"]["unshaped"]
    assert "no new gradient since the last step in 'weight', 'bias'. Nothing was changed" in seen["a step"]["stale"]


def test_w4_w5_a_step_is_gradient_descent_to_the_bit(seen: Seen) -> None:
    step = seen["a step"]
    assert not torch.equal(step["after"]["weight"], step["before"]["weight"])
    assert not torch.equal(step["after"]["bias"], step["before"]["bias"])
    assert step["difference"].abs().max() == 0
    assert torch.equal(step["after"]["weight.grad"], step["before"]["weight.grad"])


def test_w6_the_size_of_the_batch_is_divided_out(seen: Seen) -> None:
    once, twice = seen["twice the batch"]["once"], seen["twice the batch"]["twice"]
    assert close(once["weight"], twice["weight"], 1e-6)
    assert close(twice["weight.grad"], 2 * once["weight.grad"], 1e-5)


def test_w7_adam_moves_by_its_rate_at_first(seen: Seen) -> None:
    before, after = seen["an instance"]["moments"][:2]
    for name in ("weight", "bias"):
        assert close(after[name], before[name] - before[f"{name}.grad"].sign(), 1e-5)
    assert "no setting 'lr'" in seen["an instance"]["misspelt"]
    assert "The learning rate is given as learning_rate=" in seen["an instance"]["misspelt"]


def test_w8_gradients_of_pieces_add_up(seen: Seen) -> None:
    pieces = seen["in pieces"]
    assert pieces["made"] == [False, True]
    assert close(pieces["whole"]["weight"], pieces["pieces"]["weight"], 1e-6)
    assert close(pieces["whole"]["bias"], pieces["pieces"]["bias"], 1e-6)


def test_w9_nothing_is_compressed_in_one_process() -> None:
    with pytest.raises(etude.SettingError, match="no setting 'compression_params'"):
        etude.Trainer(nn.Linear(4, 1), "sgd", compression_params={"type": "2bit", "threshold": 0.5})


def test_w10_a_step_taken_apart_is_the_step(seen: Seen) -> None:
    apart = seen["taken apart"]
    assert apart["norm"] > 0.1
    assert close(apart["apart"]["weight"], apart["whole"]["weight"], 1e-6)
    moved = torch.cat([apart["apart"][name].flatten() for name in ("weight.grad", "bias.grad")]) / 8
    assert moved.norm().item() == pytest.approx(0.1, rel=1e-4)


def test_w11_the_rate_is_set_on_the_way(seen: Seen) -> None:
    assert [moment["rate"] for moment in seen["an instance"]["moments"]] == [1.0, 1.0, 0.1, 0.1]


def test_w11_a_tenth_of_the_rate_is_a_tenth_of_the_step() -> None:
    array = nn.Parameter(torch.zeros(2))
    trainer = etude.Trainer({"x": array}, "sgd", learning_rate=1.0)
    for rate, total in ((1.0, -1.0), (0.1, -1.1)):
        trainer.set_learning_rate(rate)
        trainer.zero_grad()
        array.sum().backward()
        trainer.step()
        assert array.tolist() == pytest.approx([total, total])


def test_w12_a_warm_up_by_hand_is_the_schedule(seen: Seen) -> None:
    assert len(seen["warm-up"]) == 4
    assert all(same_arrays(by_hand, given) for by_hand, given in seen["warm-up"].values())


def test_w13_a_schedule_acts_at_its_multiples(seen: Seen) -> None:
    assert seen["schedule"]["rates"] == pytest.approx([0.5] * 10 + [0.05] * 10)
    assert seen["schedule"]["losses"][-1] < seen["schedule"]["losses"][0] / 10
    assert "the learning rate follows the schedule step_decay(0.5, 0.1, steps(10)" in seen["schedule"]["refused"]


def test_w13_the_rates_of_ten_steps() -> None:
    array = nn.Parameter(torch.zeros(2))
    trainer = etude.Trainer({"x": array}, "sgd", learning_rate=etude.step_decay(1.0, 0.1, etude.steps(2)))
    rates = []
    for _ in range(10):
        rates.append(trainer.learning_rate)
        trainer.zero_grad()
        array.sum().backward()
        trainer.step()
    assert rates == pytest.approx([10.0 ** -(n // 2) for n in range(10)])


@recorded_only
@pytest.mark.parametrize("file", FILES)
def test_the_recorded_walkthrough(file: str) -> None:
    """Gluon's numbers of W2 to W7 and W11, each weight, gradient, loss and rate."""
    given = json.loads((FIXTURES / file).read_text())["walkthrough"]
    x, y = torch.tensor(given["X"]).view(given["X_shape"]), torch.tensor(given["y"])
    found = gluon_trainer.main(True, (x, y), torch.tensor(given["weight0"]).view(1, -1))
    step = found["a step"]
    moments = [{**step["before"], "rate": 1.0}, {**step["after"], "rate": 1.0}, *found["an instance"]["moments"]]
    assert len(moments) == len(given["log"])
    for moment, recorded in zip(moments, given["log"], strict=True):
        if recorded["loss_per_sample"] is not None:
            assert close(moment["losses"], recorded["loss_per_sample"])
        for mine, theirs in (
            ("weight", "weight"),
            ("bias", "bias"),
            ("weight.grad", "weight_grad"),
            ("bias.grad", "bias_grad"),
        ):
            assert close(moment[mine], recorded[theirs]), (recorded["after"], mine)
        assert moment["rate"] == pytest.approx(recorded["learning_rate"])


def data_parallel() -> list[tuple[str, Seen]]:
    found = []
    for name in FILES:
        path = FIXTURES / name
        if path.exists():
            found += [(f"{name} {each['id']}", each) for each in json.loads(path.read_text())["data_parallel"]]
    return found


@recorded_only
@pytest.mark.parametrize(("name", "case"), data_parallel(), ids=[name for name, _ in data_parallel()])
def test_w8_w10_the_sum_over_devices_is_what_a_step_divides(name: str, case: Seen) -> None:
    """The gradients of two devices, one backward for each, move one copy as the store moved two."""
    arrays = {
        str(i): nn.Parameter(torch.tensor(values).view(shape))
        for i, (values, shape) in enumerate(zip(case["init"], case["shapes"], strict=True))
    }
    told = {"l2" if key == "wd" else key: value for key, value in case["optimizer_params"].items()}
    trainer = etude.Trainer(arrays, case["optimizer"], **told)
    for number, devices in enumerate(case["grads"]):
        trainer.zero_grad()
        for gradients in devices:
            for array, gradient in zip(arrays.values(), gradients, strict=True):
                (array * torch.tensor(gradient).view_as(array)).sum().backward()
        trainer.step(case["batch_size"])
        for array, *stores in zip(arrays.values(), *(of[number] for of in case["weights"].values()), strict=True):
            assert all(close(array.detach(), weights) for weights in stores), number
