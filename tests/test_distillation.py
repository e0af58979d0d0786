"""A net that learns from another's outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import etude
from etude import losses
from etude.errors import DataError, SettingError
from etude.step.loss import Losses, terms
from etude.step.reading import Reader
from etude.values.curves import linear
from etude.values.progress import Progress
from small import Noisy, arrays, classified, mlp, same, trained


def measure(loss: Any, net: nn.Module, batch: Any) -> Tensor:
    made = Losses(terms(loss), net)
    return made.measure(net, Reader(net), batch, made.now(Progress()))[0]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_it_is_the_divergence_times_the_square_of_the_temperature(temperature: float) -> None:
    net, teacher, (x, y) = mlp(), mlp(2), classified()
    found = measure(losses.distillation(teacher, temperature), net, (x, y))
    wanted, said = (teacher(x) / temperature).softmax(1), (net(x) / temperature).softmax(1)
    expected = (wanted * (wanted.log() - said.log())).sum(1).mean() * temperature**2
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    found.backward()
    assert all(array.grad is None for array in teacher.parameters())
    assert all(array.grad is not None for array in net.parameters())
    assert float(measure(losses.distillation(net, temperature), net, (x, y)).detach()) == pytest.approx(0, abs=1e-7)


def test_of_nets_in_double_precision_it_is_in_double_precision() -> None:
    net, teacher, x = mlp().double(), mlp(2).double(), classified()[0].double()
    found = measure(losses.distillation(teacher), net, (x, classified()[1]))
    wanted, said = teacher(x).log_softmax(1), net(x).log_softmax(1)
    assert float(found) == pytest.approx(float((wanted.exp() * (wanted - said)).sum(1).mean()), rel=1e-12)


def test_gradients_have_about_one_size_whatever_the_temperature() -> None:
    """At high temperatures that of half the squared distance of the logits, by the classes (section 2.1 there)."""
    output = torch.tensor([[0.2, -0.1, 0.3]], requires_grad=True)
    teacher = nn.Linear(3, 3)
    nn.init.eye_(teacher.weight)
    nn.init.zeros_(teacher.bias)
    x = torch.tensor([[0.5, 0.1, -0.6]])
    net = nn.Identity()
    loss = losses.distillation(teacher, 1000.0)
    made = Losses(terms(loss), net)
    named = {"batch": x, "mask": None, "temperature": 1000.0}
    total, count = made.terms[0].function(output, **named)
    (gradient,) = torch.autograd.grad(total / count, [output])
    mine, theirs = output.detach() - output.detach().mean(), x - x.mean()
    assert torch.allclose(gradient, (mine - theirs) / 3, atol=1e-3)


def test_the_teacher_is_in_evaluation_and_stays_as_it_is() -> None:
    teacher = Noisy(5).train()
    before = arrays(teacher)
    data = classified(12)
    first = trained(mlp(), data, loss=losses.distillation(teacher, 2.0), epochs=2)
    assert same(arrays(teacher), before)
    assert all(module.training for module in teacher.modules())
    second = trained(mlp(), data, loss=losses.distillation(teacher.eval(), 2.0), epochs=2)
    assert same(arrays(first.net), arrays(second.net))


def test_it_is_neither_saved_nor_moved(tmp_path: Any) -> None:
    place = etude.Directory(tmp_path / "kept", etude.every(etude.epochs(1)))
    trained(mlp(), loss={"ce": "cross_entropy", "kd": losses.distillation(mlp(7))}, checkpoint=place)
    (file,) = (tmp_path / "kept").glob("*.safetensors")
    from safetensors import safe_open

    with safe_open(file, "pt") as kept:
        names = list(kept.keys())
    assert not [name for name in names if "teacher" in name or "kd" in name.lower().split(":")[0]]
    assert len([name for name in names if name.endswith("0.weight")]) <= 4


def test_a_temperature_that_changes_is_in_the_history() -> None:
    loss = {"ce": ("cross_entropy", 0.1), "kd": (losses.distillation(mlp(2), linear(4.0, 1.0)), 0.9)}
    result = trained(data=classified(12), loss=loss, steps=3)
    assert result.history["setting.kd.temperature"].values == pytest.approx([4.0, 3.0, 2.0])
    assert result.history["kd"].values[0] > 0


def test_a_student_comes_closer_to_its_teacher() -> None:
    teacher, data = mlp(9), classified(64)
    result = trained(mlp(), data, loss=losses.distillation(teacher, 2.0), epochs=30, learning_rate=0.02)
    assert result.history["epoch.loss"].values[-1] < 0.1 * result.history["epoch.loss"].values[0]


def test_frames_of_padding_count_nowhere() -> None:
    class Frames(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.layer = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).transpose(1, 2)

    x = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([4, 2])
    batch = {"x": x, "x_lengths": lengths, "y": torch.zeros(2, 4).long(), "y_lengths": lengths}
    net, teacher = Frames(1), Frames(2)
    found = measure(losses.distillation(teacher), net, batch)
    inside = torch.arange(4) < lengths[:, None]
    said, wanted = (of.layer(x)[inside].log_softmax(1) for of in (net, teacher))
    expected = functional.kl_div(said, wanted, reduction="batchmean", log_target=True)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_outputs_by_name() -> None:
    class Named(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.inner = mlp(seed)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.inner(x), "size": x.sum(1)}

    net, teacher, data = Named(1), Named(2), classified()
    loss = losses.term(losses.distillation(teacher, of="logits"), of="logits")
    plain = losses.distillation(mlp(2))
    assert float(measure(loss, net, data).detach()) == pytest.approx(float(measure(plain, mlp(1), data).detach()))
    with pytest.raises(SettingError, match='Nearest: "logits"'):
        measure(losses.term(losses.distillation(teacher, of="logit"), of="logits"), net, data)
    with pytest.raises(DataError, match="gives a dict, and a tensor of logits is needed"):
        measure(losses.term(losses.distillation(teacher), of="logits"), net, data)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: losses.distillation("mlp"), "a net is needed as teacher"),
        (lambda: losses.distillation(mlp(), 0), "temperature is 0, and has to be from 0.001"),
        (lambda: losses.distillation(mlp(), "hot"), "Write a finite number"),
        (lambda: losses.distillation(mlp(), of=3), "the name of an output"),
        (lambda: losses.distillation(mlp(), temprature=3), 'Nearest: "temperature"'),
    ],
)
def test_wrong_options(make: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        make()


def test_what_cannot_be_is_an_error_before_the_first_step() -> None:
    with pytest.raises(DataError, match=r"the net's output is \(4, 3\), the teacher's \(4, 5\)"):
        trained(loss=losses.distillation(nn.Linear(4, 5)))
    with pytest.raises(SettingError, match=r"the teacher is on meta, the net on cpu. Write teacher.to\('cpu'\)"):
        trained(loss=losses.distillation(nn.Linear(4, 3, device="meta")))
    with pytest.raises(SettingError, match=r"'loss.temperature' is -?[0-9.]+ at a step, and has to be from 0.001"):
        trained(loss=losses.distillation(mlp(2), linear(2.0, -1.0)))


def test_it_prints_as_it_is_written() -> None:
    assert repr(losses.distillation(mlp(), 2.0)) == "distillation(Sequential, temperature=2.0)"
