"""Cross entropy with smoothed targets, by both conventions, over true targets only."""

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
from etude.values.progress import Extent, Progress
from small import classified, trained


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


LOGITS = torch.randn(5, 4, 3, generator=chance())
TARGET = torch.randint(0, 4, (5, 3), generator=chance(1))


def measured(loss: Any, output: Tensor = LOGITS, target: Tensor = TARGET, progress: Progress | None = None) -> Any:
    made, net = Losses(terms(loss)), nn.Identity()
    total, (one,), _, _ = made.measure(net, Reader(net), (output, target), made.now(progress or Progress()))
    return float(total), float(one.count)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weight", [None, [0.5, 1.0, 2.0, 0.0]])
@pytest.mark.parametrize("scheduled", [False, True])
def test_a_share_for_all_is_that_of_torch(smoothing: float, weight: Any, scheduled: bool) -> None:
    classes = None if weight is None else torch.tensor(weight)
    target = TARGET.clone()
    target[0, 1] = -100
    expected = functional.cross_entropy(LOGITS, target, classes, label_smoothing=smoothing)
    given: Any = (lambda progress: smoothing) if scheduled else smoothing
    total, count = measured(losses.cross_entropy(given, weight=weight), target=target)
    assert total == pytest.approx(float(expected), rel=1e-5)
    assert count == pytest.approx(14 if classes is None else float(classes[target[target >= 0]].sum()))


def test_a_share_for_the_others_is_that_of_all_with_more() -> None:
    others = measured(losses.cross_entropy(0.3, share="others"))
    assert others[0] == pytest.approx(measured(losses.cross_entropy(0.3 * 4 / 3))[0], rel=1e-6)


def test_smoothing_follows_its_schedule_and_counts_nowhere_else() -> None:
    loss, extent = losses.cross_entropy(linear(0.4, 0.0)), Extent(steps=4)
    found = [measured(loss, progress=Progress(step, extent=extent))[0] for step in range(5)]
    for step, total in enumerate(found):
        smoothing = 0.4 * (1 - step / 4)
        assert total == pytest.approx(
            float(functional.cross_entropy(LOGITS, TARGET, label_smoothing=smoothing)), rel=1e-5
        )
    result = trained(data=classified(16), loss={"ce": loss}, steps=4)
    assert result.history["setting.ce.smoothing"].values == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_padding_and_narrow_class_indices() -> None:
    lengths = torch.tensor([3, 1, 2, 2, 3])
    batch = {"input": LOGITS, "y": TARGET.to(torch.uint8), "y_lengths": lengths}
    net, made = nn.Identity(), Losses(terms(losses.cross_entropy(0.1, ignore_index=255)))
    spoilt = {**batch, "y": batch["y"].clone()}
    spoilt["y"][1, 2] = 9
    inside = torch.arange(3) < lengths[:, None]
    expected = functional.cross_entropy(LOGITS.movedim(1, -1)[inside], TARGET[inside], label_smoothing=0.1)
    for given in (batch, spoilt):
        total, (one,), _, _ = made.measure(net, Reader(net), given, made.now(Progress()))
        assert float(total) == pytest.approx(float(expected), rel=1e-5)
        assert float(one.count) == int(lengths.sum())
    made.learn(net, Reader(net), batch, Progress())
    assert made.counts_known
    assert [float(count) for count in made.counts(Reader(net), batch)] == [float(lengths.sum())]


def test_accumulated_parts_are_the_whole() -> None:
    data = (LOGITS.reshape(5, -1), TARGET[:, 0])
    net = lambda: nn.Sequential(nn.Linear(12, 4))  # noqa: E731
    torch.manual_seed(0)
    one, other = net(), net()
    other.load_state_dict(one.state_dict())
    options: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 1.0, "steps": 1, "shuffle": False}
    options |= {"loss": {"a": losses.cross_entropy(0.1, weight=[1, 2, 3, 4]), "b": "cross_entropy"}, "progress": False}
    etude.train(one, data, batch_size=5, **options)
    etude.train(other, data, batch_size=2, accumulate=3, **options)
    assert torch.allclose(one[0].weight, other[0].weight, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: losses.cross_entropy(1.5), "smoothing is 1.5, and has to be from 0 to 1"),
        (lambda: losses.cross_entropy("much"), "Write a finite number or a schedule"),
        (lambda: losses.cross_entropy(share="other"), 'Nearest: "others"'),
        (lambda: losses.cross_entropy(weight=[[1.0]]), "one number from 0 on for each class"),
        (lambda: losses.cross_entropy(weight=[-1.0]), "one number from 0 on for each class"),
        (lambda: losses.cross_entropy(ignore_index=None), "a whole number"),
        (lambda: losses.cross_entropy(label_smoothing=0.1), 'Nearest: "smoothing"'),
    ],
)
def test_wrong_options(make: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        make()


@pytest.mark.parametrize(
    ("loss", "output", "target", "words"),
    [
        (losses.cross_entropy(), LOGITS, TARGET.float(), "class indices are needed"),
        (losses.cross_entropy(), LOGITS, TARGET[:, :2], "has all the others"),
        (losses.cross_entropy(share="others"), LOGITS[:, :1], TARGET, "one class has no others"),
        (losses.cross_entropy(weight=[1, 2]), LOGITS, TARGET, "2 class weights, and the output has 4"),
    ],
)
def test_what_does_not_go_together(loss: Any, output: Tensor, target: Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        measured(loss, output, target)


def test_wrong_classes_and_a_smoothing_out_of_bounds_are_errors_before_the_first_step() -> None:
    x, y = classified(8)
    with pytest.raises(DataError, match="has 3 classes, 0 to 2, and the targets have 8"):
        trained(data=(x, y + 7 * (y == 1)), loss=losses.cross_entropy(0.1))
    with pytest.raises(SettingError, match=r"'loss.smoothing' is 1.5 at a step, and has to be from 0 to 1"):
        trained(data=(x, y), loss=losses.cross_entropy(linear(0, 2)), epochs=2)


def test_it_prints_as_it_is_written() -> None:
    made = losses.cross_entropy(0.25, share="others", weight=[1, 2], ignore_index=0)
    assert repr(made) == "cross_entropy(smoothing=0.25, share='others', weight=[1.0, 2.0], ignore_index=0)"
    assert repr(losses.cross_entropy()) == "cross_entropy()"
