"""Batches of sequences: what the net is given, and that what they are padded with counts in no loss and no metric."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import etude
from etude.errors import DataError, SettingError
from etude.run.events import EpochEnded, Evaluated
from etude.run.metrics import Metrics
from etude.step.loss import Losses, terms
from etude.step.reading import Reader, samples_in
from etude.values.progress import Progress
from nets import seeded

LENGTHS = [5, 1, 3]
FEATURES, CLASSES = 4, 3


def sequences(lengths: list[int], width: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, width, generator=generator) for length in lengths]


def labels(lengths: list[int], seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, CLASSES, (length,), generator=generator) for length in lengths]


def padded(rows: list[Tensor], value: float = 0.0, longest: int = 0) -> Tensor:
    made: Tensor = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
    more = max(longest - made.shape[1], 0)
    return functional.pad(made.movedim(1, -1), (0, more), value=value).movedim(-1, 1)


def batch(x: list[Tensor], y: list[Tensor], pad: float = 0.0, longest: int = 0) -> dict[str, Tensor]:
    of = torch.tensor([len(row) for row in x])
    return {"x": padded(x, pad, longest), "x_lengths": of, "y": padded(y, pad, longest), "y_lengths": of}


class Frames(nn.Module):
    """A linear layer over each frame; classes second where they are meant."""

    def __init__(self, outputs: int = CLASSES, classes: bool = True) -> None:
        super().__init__()
        self.body = nn.Linear(FEATURES, outputs)
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.body(x)
        return made.movedim(-1, 1) if self.classes else made


def net(outputs: int = CLASSES, classes: bool = True) -> Frames:
    made: Frames = seeded(lambda: Frames(outputs, classes))
    return made


def measured(loss: Any, module: nn.Module, values: Any) -> tuple[float, float]:
    """Mean and count of the only term."""
    (one,) = Losses(terms(loss)).measure(module, Reader(module), values, (1.0,))[1]
    return one.mean.item(), float(one.count)


# what the net is given


def arguments(of: Any, values: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Keyword arguments and target for a net with this `forward`."""
    made = type("Made", (nn.Module,), {"forward": of})()
    _, inputs, target = Reader(made)(values)
    return inputs, target


TOLD = {"audio": torch.zeros(2, 3, 4), "audio_lengths": torch.tensor([3, 1]), "label": torch.tensor([0, 1])}


def test_what_says_of_a_stream_is_never_a_target_by_itself() -> None:
    inputs, target = arguments(lambda self, audio: audio, TOLD)
    assert list(inputs) == ["audio"]
    assert target is TOLD["label"]


def test_lengths_and_masks_by_the_name_of_the_stream() -> None:
    inputs, target = arguments(lambda self, audio, audio_lengths, audio_mask: audio, TOLD)
    assert inputs["audio_lengths"] is TOLD["audio_lengths"]
    assert inputs["audio_mask"].tolist() == [[True, True, True], [True, False, False]]
    assert target is TOLD["label"]


def test_plain_names_where_one_input_has_lengths() -> None:
    inputs, _ = arguments(lambda self, audio, lengths, mask: audio, TOLD)
    assert inputs["lengths"] is TOLD["audio_lengths"]
    assert inputs["mask"].dtype == torch.bool
    assert inputs["mask"].sum() == 4


def test_a_target_with_lengths_does_not_make_plain_names_doubtful() -> None:
    values = {**TOLD, "label": torch.zeros(2, 7), "label_lengths": torch.tensor([7, 2])}
    inputs, target = arguments(lambda self, audio, lengths: audio, values)
    assert inputs["lengths"] is TOLD["audio_lengths"]
    assert target is values["label"]


def test_plain_names_of_several_inputs_are_refused_where_they_are_needed() -> None:
    values = {**TOLD, "words": torch.zeros(2, 5), "words_lengths": torch.tensor([5, 4])}
    with pytest.raises(SettingError, match=r"several inputs have lengths: audio, words\. Write audio_lengths"):
        arguments(lambda self, audio, words, lengths: audio, values)
    inputs, _ = arguments(lambda self, audio, words, mask=None: audio, values)
    assert list(inputs) == ["audio", "words"]


def test_what_the_data_call_so_is_taken_as_it_is() -> None:
    values = {**TOLD, "mask": torch.ones(2)}
    inputs, target = arguments(lambda self, audio, mask: audio, values)
    assert inputs["mask"] is values["mask"]
    assert target is TOLD["label"]


def test_packed_streams_have_offsets_and_no_mask() -> None:
    packed = {
        "x": torch.zeros(4, 2),
        "x_lengths": torch.tensor([3, 1]),
        "x_offsets": torch.tensor([0, 3, 4], dtype=torch.int32),
        "y": torch.zeros(2),
    }
    inputs, target = arguments(lambda self, x, offsets, lengths: x, packed)
    assert inputs["offsets"] is packed["x_offsets"]
    assert inputs["lengths"] is packed["x_lengths"]
    assert target is packed["y"]
    assert samples_in(packed) == 2
    with pytest.raises(SettingError, match="a mask of 'x', which is packed"):
        arguments(lambda self, x, mask: x, packed)


def test_several_targets_keep_what_is_known_of_them() -> None:
    values = {**TOLD, "words": torch.zeros(2, 5), "words_lengths": torch.tensor([5, 4])}
    _, target = arguments(lambda self, audio: audio, values)
    assert list(target) == ["label", "words", "words_lengths"]


def test_lengths_that_nobody_names_are_no_target_of_data_without_one() -> None:
    assert (
        arguments(lambda self, audio: audio, {"audio": TOLD["audio"], "audio_lengths": TOLD["audio_lengths"]})[1]
        is None
    )


# only true frames count

ELEMENTS = ["mse", "l1", "smooth_l1", "huber", "bce_with_logits", "soft_margin_loss", "poisson_nll_loss", nn.MSELoss()]
ELEMENTS += [nn.L1Loss(reduction="sum"), nn.HuberLoss(reduction="none"), nn.BCEWithLogitsLoss(pos_weight=torch.ones(2))]


@pytest.mark.parametrize("loss", ELEMENTS, ids=str)
def test_losses_of_elements_take_true_frames(loss: Any) -> None:
    x, y = sequences(LENGTHS, FEATURES), [row.sigmoid() for row in sequences(LENGTHS, 2, 5)]
    module = net(2, classes=False)
    flat = measured(loss, module, (torch.cat(x), torch.cat(y)))
    for pad in (0.0, 9.0, float("nan")):
        found = measured(loss, module, batch(x, y, pad))
        assert found == pytest.approx(flat, rel=1e-6)
        assert found[1] == 2 * sum(LENGTHS)


@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1}, {"weight": torch.tensor([0.2, 1.0, 3.0])}, {"reduction": "sum"}], ids=str
)
def test_losses_of_classes_take_true_frames(options: dict[str, Any]) -> None:
    x, y = sequences(LENGTHS, FEATURES), labels(LENGTHS)
    y[0][2] = -100  # ignored as ever
    loss, module = nn.CrossEntropyLoss(**options), net()
    flat = measured(loss, nn.Sequential(module.body), (torch.cat(x), torch.cat(y)))
    for pad in (0.0, 2.0, -100.0):
        assert measured(loss, module, batch(x, y, pad)) == pytest.approx(flat, rel=1e-6)


def test_one_value_a_frame_is_averaged_over_true_frames() -> None:
    x, y = sequences(LENGTHS, FEATURES), labels(LENGTHS)
    module = net()
    flat = measured("cross_entropy", nn.Sequential(module.body), (torch.cat(x), torch.cat(y)))
    assert measured(nn.CrossEntropyLoss(reduction="none"), module, batch(x, y)) == pytest.approx(flat, rel=1e-6)


def test_another_index_may_be_what_is_ignored() -> None:
    x, y = sequences(LENGTHS, FEATURES), labels(LENGTHS)
    module = net()
    loss = nn.CrossEntropyLoss(ignore_index=1)
    flat = measured(loss, nn.Sequential(module.body), (torch.cat(x), torch.cat(y)))
    assert measured(loss, module, batch(x, y)) == pytest.approx(flat, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8])
def test_class_indices_of_fewer_bits(dtype: torch.dtype) -> None:
    x, y = sequences(LENGTHS, FEATURES), labels(LENGTHS)
    module = net()
    flat = (torch.cat(x), torch.cat(y).to(dtype))
    wide = measured("cross_entropy", module.body, (torch.cat(x), torch.cat(y)))
    assert measured("cross_entropy", module.body, flat) == wide
    assert measured(nn.CrossEntropyLoss(), module.body, flat) == wide
    assert measured("cross_entropy", module, batch(x, [row.to(dtype) for row in y])) == pytest.approx(wide)


def test_probabilities_of_classes_have_time_second_as_all_sequences() -> None:
    x, y = sequences(LENGTHS, FEATURES), [row.softmax(-1) for row in sequences(LENGTHS, CLASSES, 5)]
    module = net()
    flat = measured("cross_entropy", nn.Sequential(module.body), (torch.cat(x), torch.cat(y)))
    assert measured("cross_entropy", module, batch(x, y, 0.5)) == pytest.approx(flat, rel=1e-6)


def test_a_mean_by_samples_counts_those_that_have_frames() -> None:
    x = sequences(LENGTHS, FEATURES)
    y = [row.softmax(-1) for row in sequences(LENGTHS, 2, 5)]
    module = nn.Sequential(net(2, classes=False), nn.LogSoftmax(-1))
    values = batch(x, y)
    values["input"] = values.pop("x")
    values["input_lengths"] = values.pop("x_lengths")
    one_by_one = [measured(nn.KLDivLoss(reduction="sum"), module, (a, b)) for a, b in zip(x, y, strict=True)]
    total = sum(mean * count for mean, count in one_by_one)
    assert measured(nn.KLDivLoss(reduction="batchmean"), module, values) == (pytest.approx(total / 3, rel=1e-5), 3)


def test_rows_that_only_fill_a_batch_up_count_nowhere() -> None:
    class Sums(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return (x * mask[..., None]).sum((1, 2))

    x = [*sequences([3, 2], FEATURES), torch.zeros(0, FEATURES)]
    values = {"x": padded(x), "x_lengths": torch.tensor([3, 2, 0]), "y": torch.tensor([1.0, 2.0, 0.0])}
    short = {key: value[:2] for key, value in values.items()}
    assert measured("mse", Sums(), {**values, "y": torch.tensor([1.0, 2.0, 7.0])}) == measured("mse", Sums(), short)


def test_functions_of_the_user_get_the_plain_values() -> None:
    seen: list[tuple[int, ...]] = []

    def mine(output: Tensor, target: Tensor) -> Tensor:
        seen.append(tuple(target.shape))
        return (output.mean(1) - target).square().mean()

    x, y = sequences(LENGTHS, FEATURES), labels(LENGTHS)
    measured(mine, net(), batch(x, y))
    assert seen == [(3, 5)]


def test_shapes_that_do_not_belong_together_are_told() -> None:
    values = batch(sequences(LENGTHS, FEATURES), sequences(LENGTHS, 1))
    with pytest.raises(DataError, match="compares elements"):
        measured("soft_margin_loss", net(2, classes=False), values)


def test_terms_find_the_lengths_of_their_own_targets() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            frames = self.body(x)
            return {"y": frames, "size": x[:, 0, 0]}

    x, y = sequences(LENGTHS, FEATURES), labels(LENGTHS)
    values = {**batch(x, y), "size": torch.tensor([1.0, 2.0, 3.0])}
    module = Both()
    losses = Losses(terms({"y": "cross_entropy", "size": ("mse", 0.5)}))
    total, (first, second), _, _ = losses.measure(module, Reader(module), values, losses.weights(Progress()))
    flat = measured("cross_entropy", nn.Sequential(module.body.body), (torch.cat(x), torch.cat(y)))
    assert (first.mean.item(), float(first.count)) == pytest.approx(flat)
    assert float(second.count) == 3
    assert total.item() == pytest.approx(flat[0] + 0.5 * second.mean.item())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(0, 6), st.sampled_from(["mse", "l1", "huber"]))
def test_the_loss_of_a_sequence_does_not_depend_on_its_batch(lengths: list[int], longer: int, loss: str) -> None:
    """Gradients of the sum over a batch are those of its sequences, each alone, added up."""
    x, y = sequences(lengths, FEATURES), sequences(lengths, CLASSES, 4)
    module = net(classes=False)

    def gradient(rows: list[Tensor], targets: list[Tensor], longest: int = 0) -> Tensor:
        module.zero_grad()
        (one,) = Losses(terms(loss)).measure(module, Reader(module), batch(rows, targets, 3.0, longest), (1.0,))[1]
        (one.mean * one.count).backward()
        assert module.body.weight.grad is not None
        return module.body.weight.grad.clone()

    alone = [gradient([a], [b]) for a, b in zip(x, y, strict=True)]
    torch.testing.assert_close(gradient(x, y, max(lengths) + longer), torch.stack(alone).sum(0))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(0, 6), st.integers(0, CLASSES - 1))
def test_class_losses_of_sequences_add_up(lengths: list[int], longer: int, pad: int) -> None:
    x, y = sequences(lengths, FEATURES), labels(lengths)
    module = net()
    alone = [measured("cross_entropy", module, batch([a], [b])) for a, b in zip(x, y, strict=True)]
    mean, count = measured("cross_entropy", module, batch(x, y, float(pad), max(lengths) + longer))
    assert count == sum(lengths)
    assert mean * count == pytest.approx(sum(one * of for one, of in alone), rel=1e-5)


# in runs


def test_all_targets_in_memory_are_looked_at_without_their_padding() -> None:
    values = batch(sequences(LENGTHS, FEATURES), labels(LENGTHS))
    for row, length in enumerate(LENGTHS):
        values["y"][row, length:] = 99
    events = list(etude.Run(etude.Plan("cross_entropy", epochs=1, batch_size=2), net(), values))
    assert any(isinstance(event, EpochEnded) for event in events)
    values["y"][0, 0] = 99
    with pytest.raises(DataError, match="the targets have 99"):
        etude.Plan("cross_entropy", epochs=1).check(net(), values)


def test_means_over_an_epoch_and_metrics_are_over_true_frames() -> None:
    x, y = sequences([4, 1, 6, 2, 3], FEATURES), labels([4, 1, 6, 2, 3])
    module = net()
    with torch.no_grad():
        scores = module.body(torch.cat(x))
        loss = functional.cross_entropy(scores, torch.cat(y)).item()
        right = (scores.argmax(1) == torch.cat(y)).double().mean().item()
    plan = etude.Plan(
        "cross_entropy",
        optimizer="sgd",
        learning_rate=1e-12,
        epochs=1,
        batch_size=2,
        validation=batch(x, y),
        metrics=["accuracy", "error_rate"],
    )
    events = list(etude.Run(plan, module, batch(x, y)))
    (ended,) = [event for event in events if isinstance(event, EpochEnded)]
    (looked,) = [event for event in events if isinstance(event, Evaluated)]
    assert ended.means["loss"] == pytest.approx(loss, rel=1e-5)
    assert looked.scores["loss"] == pytest.approx(loss, rel=1e-5)
    assert looked.scores["accuracy"] == pytest.approx(right)
    assert looked.scores["error_rate"] == pytest.approx(1 - right)


@pytest.mark.parametrize("name", ["mse", "mae"])
def test_metrics_of_elements_over_true_frames(name: str) -> None:
    x, y = sequences(LENGTHS, 2), sequences(LENGTHS, 2, 4)
    mask = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
    masked, flat = Metrics([name]), Metrics([name])
    masked.update(padded(x), padded(y, 9.0), mask)
    flat.update(torch.cat(x), torch.cat(y))
    assert masked.values() == pytest.approx(flat.values())


def test_accuracy_of_logits_and_of_probabilities_over_true_frames() -> None:
    mask = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
    logits = [row[:, 0] for row in sequences(LENGTHS, 1)]
    truth = [(row[:, 0] > 0).float() for row in sequences(LENGTHS, 1, 4)]
    masked, flat = Metrics(["accuracy"]), Metrics(["accuracy"])
    masked.update(padded(logits), padded(truth, 1.0), mask)
    flat.update(torch.cat(logits), torch.cat(truth))
    assert masked.values() == pytest.approx(flat.values())
    scores, shares = sequences(LENGTHS, CLASSES), [row.softmax(-1) for row in sequences(LENGTHS, CLASSES, 4)]
    masked, flat = Metrics(["accuracy"]), Metrics(["accuracy"])
    masked.update(padded(scores).movedim(-1, 1), padded(shares), mask)
    flat.update(torch.cat(scores), torch.cat(shares))
    assert masked.values() == pytest.approx(flat.values())


def test_compiled_steps_leave_padding_out() -> None:
    lengths = [4, 1, 3, 4]
    x, y = sequences(lengths, FEATURES), labels(lengths)
    plain, compiled = net(), net()
    for module, compile in ((plain, False), (compiled, True)):
        plan = etude.Plan(
            "cross_entropy", optimizer="sgd", learning_rate=0.1, steps=3, batch_size=4, shuffle=False, compile=compile
        )
        list(etude.Run(plan, module, batch(x, y, 1.0)))
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one, other)


# ----------------------------------------------------------------------------------------------- numbers of functions


@pytest.mark.parametrize(
    ("loss", "setting", "classes"),
    [("cross_entropy", ("label_smoothing", 0.3), True), ("huber", ("delta", 0.2), False)],
)
def test_settings_of_torchs_losses_hold_where_there_is_padding(
    loss: str, setting: tuple[str, float], classes: bool
) -> None:
    net = seeded(lambda: Frames(classes=classes))
    x = sequences(LENGTHS, FEATURES)
    y = labels(LENGTHS) if classes else sequences(LENGTHS, CLASSES, 2)
    made = Losses(terms(etude.losses.term(loss, settings=dict([setting]))), net)
    _, (found,), _, _ = made.measure(net, Reader(net), batch(x, y), made.now(Progress()))
    torchs = functional.cross_entropy if classes else functional.huber_loss
    alone = [torchs(net(a[None]), b[None], reduction="sum", **dict([setting])) for a, b in zip(x, y, strict=True)]
    torch.testing.assert_close(found.mean, sum(alone) / found.count)
