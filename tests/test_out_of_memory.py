"""Where memory runs out in a step: the batch is split, and the step is that of the whole batch."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import etude
from etude import Directory, PlanError, Run, SettingError, Update, every, steps
from etude.errors import OutOfMemoryError
from etude.step.chance import Chance
from etude.step.splitting import Splitting, check_out_of_memory, halves, is_out_of_memory, size_of
from etude.values.progress import Progress
from small import arrays, classified, close, condition, mlp, options, randomness, run, same, trained

X, Y = classified(16)
SPLIT: dict[str, Any] = {"out_of_memory": "split", "shuffle": False}


class Small(nn.Module):
    """A net for which there is no memory above `room` rows: in the forward, or on the way back.

    It notes the rows of every call that was made in training.
    """

    def __init__(self, room: int = 4, back: bool = False, inside: nn.Module | None = None) -> None:
        super().__init__()
        self.inside = mlp() if inside is None else inside
        self.room, self.back = room, back
        self.rows: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.rows.append(len(x))
        if len(x) > self.room and self.training and not self.back:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(x)} GiB.")
        made: Tensor = self.inside(x)
        if self.training and self.back and len(x) > self.room:
            made.register_hook(_no_memory)  # type: ignore[no-untyped-call]
        return made


def _no_memory(_: Tensor) -> Tensor:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 12 GiB")


@contextmanager
def silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ------------------------------------------------------------------------------------------------------ the same step


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("room", [1, 3, 4, 7])
def test_the_step_is_that_of_the_whole_batch(room: int, back: bool) -> None:
    with silent():
        split = trained(Small(room, back), (X, Y), batch_size=8, epochs=3, **SPLIT)
    whole = trained(Small(99), (X, Y), batch_size=8, epochs=3, shuffle=False)
    assert close(arrays(split.net), arrays(whole.net))
    for name in ("loss", "epoch.loss"):
        assert split.history[name].values == pytest.approx(whole.history[name].values, rel=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        {"a": "cross_entropy", "b": (lambda output: output.square().mean(), 0.3)},
        {"a": lambda output, target: (functional.cross_entropy(output, target, reduction="sum"), len(target))},
        {"a": nn.CrossEntropyLoss(ignore_index=1), "b": ("cross_entropy", 0.5)},
    ],
)
def test_every_term_is_divided_by_its_whole_count(loss: Any) -> None:
    with silent():
        split = trained(Small(3), (X, Y), batch_size=7, epochs=2, loss=loss, **SPLIT)
    whole = trained(Small(99), (X, Y), batch_size=7, epochs=2, loss=loss, shuffle=False)
    assert close(arrays(split.net), arrays(whole.net))
    for name in whole.history:
        assert split.history[name].values == pytest.approx(whole.history[name].values, rel=1e-5), name


def test_micro_batches_are_split_as_well() -> None:
    with silent():
        split = trained(Small(3), (X, Y), batch_size=5, accumulate=2, epochs=2, **SPLIT)
    whole = trained(Small(99), (X, Y), batch_size=5, accumulate=2, epochs=2, shuffle=False)
    assert close(arrays(split.net), arrays(whole.net))


def test_a_step_in_which_nothing_moves_is_split_too() -> None:
    still: dict[str, Any] = {"batch_size": 8, "learning_rate": etude.pieces(0.0, (steps(1), 0.1))}
    with silent():
        split = trained(Small(4), (X, Y), **still, **SPLIT)
    whole = trained(Small(99), (X, Y), **still, shuffle=False)
    assert split.history["loss"].values == pytest.approx(whole.history["loss"].values)
    assert close(arrays(split.net), arrays(whole.net))


def test_what_fits_is_not_touched() -> None:
    net = Small(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split = trained(net, (X, Y), batch_size=8, epochs=2, **SPLIT)
    assert net.rows == [8] * 4
    assert same(arrays(split.net), arrays(trained(Small(8), (X, Y), batch_size=8, epochs=2, shuffle=False).net))


# ------------------------------------------------------------------------------------------------- what is remembered


def test_a_size_that_did_not_fit_is_cut_beforehand() -> None:
    net = Small(2)
    with silent():
        trained(net, (X, Y), batch_size=8, epochs=1, **SPLIT)
    assert net.rows == [8, 4, *[2] * 4, *[2] * 4]


def test_smaller_batches_are_left_whole() -> None:
    net = Small(3)
    with silent():
        trained(net, (X[:11], Y[:11]), batch_size=8, epochs=2, **SPLIT)
    assert net.rows == [8, 4, 2, 2, 2, 2, 3, 2, 2, 2, 2, 3]


def test_it_is_said_once_with_sizes() -> None:
    with pytest.warns(UserWarning, match="not enough memory") as told:
        trained(Small(2), (X, Y), batch_size=8, epochs=3, **SPLIT)
    (warning,) = told
    for piece in ("Step 1", "for 8 samples, batch[0] (8, 4), batch[1] (8,)", "here of 2, 2, 2, 2", "accumulate="):
        assert piece in str(warning.message)


def test_gone_on_with_anywhere_it_is_the_same(tmp_path: Path) -> None:
    plan = options(batch_size=4, epochs=2, **SPLIT)

    def net() -> nn.Module:
        inside = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
        with torch.no_grad():
            for number, parameter in enumerate(inside.parameters()):
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape) / (1 + number))
        return Small(2, inside=inside)

    with silent():
        saving = Directory(tmp_path, every(steps(1)), keep=None)
        whole = etude.train(net(), (X, Y), progress=False, checkpoint=saving, **plan)
        files = sorted(tmp_path.glob("*.safetensors"))
        assert len(files) >= 8
        for path in files:
            resumed = Run(etude.Plan(**plan), net(), (X, Y), resume=path).result()
            assert same(arrays(resumed.net), arrays(whole.net)), path.name
            assert isinstance(resumed.net, Small)
            assert resumed.net.rows.count(4) == 0, "what is known not to fit was tried again"


# ---------------------------------------------------------------------------------------------- nothing is left behind


class Drawing(nn.Module):
    """It draws from every generator, and counts its calls in a buffer."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inside = mlp()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        drawn = torch.rand(len(x), 1) + float(np.random.rand()) + random.random()
        made: Tensor = self.inside(x * drawn)
        return made


def test_chance_and_statistics_begin_again() -> None:
    """The step after a split that was found out is that of one that was known, to the bit."""
    with silent():
        found = Small(4, inside=Drawing())
        first = trained(found, (X[:8], Y[:8]), batch_size=8, **SPLIT)
    assert found.rows == [8, 4, 4]
    known = Small(4, inside=Drawing())
    made = run(known, (X[:8], Y[:8]), batch_size=8, **SPLIT)
    made.checked.works[0]._splitting.load(size_of((X[:8], Y[:8])))
    second = made.result()
    assert known.rows == [4, 4]
    assert same(arrays(first.net), arrays(second.net))
    assert float(found.inside.get_buffer("calls")) == 2


def test_generators_are_as_they_were() -> None:
    before = randomness()
    chance = Chance([torch.device("cpu")])
    torch.rand(3), np.random.randn(3), random.random()
    assert randomness() != before
    chance.restore()
    assert randomness() == before


def test_an_error_of_another_kind_passes_through() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = mlp()

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("shapes do not fit")
            made: Tensor = self.inside(x)
            return made

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        trained(Wrong(), (X, Y), **SPLIT)


def test_without_being_asked_it_is_the_error_of_torch() -> None:
    net = Small(2)
    before = arrays(net)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate 4 GiB"):
        trained(net, (X, Y))
    assert same(arrays(net), before)


def test_one_sample_that_does_not_fit_is_an_error_that_names_all_of_it() -> None:
    net = Small(0)
    before, kept = arrays(net), condition(net)
    with pytest.raises(OutOfMemoryError) as caught:
        trained(net, (X, Y), batch_size=4, **SPLIT)
    error = caught.value
    assert isinstance(error, MemoryError)
    assert error.step == 1
    for piece in (
        "Step 1: there is not enough memory for one sample, batch[0] (1, 4), batch[1] (1,)",
        'out_of_memory="split" cannot cut it',
        "Nothing was changed.",
        "torch says: CUDA out of memory. Tried to allocate 1 GiB.",
    ):
        assert piece in str(error)
    assert net.rows == [4, 2, 1]
    assert same(arrays(net), before)
    assert condition(net)[1:] == kept[1:]


def test_one_sample_alone_for_batch_norm_is_an_error_that_says_what_to_do() -> None:
    net = Small(2, inside=nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)))
    before = arrays(net)
    with silent(), pytest.raises(OutOfMemoryError, match=r"(?s)one sample.*batch norm.*{'inside.1': FROZEN}") as told:
        trained(net, (X[:6], Y[:6]), batch_size=3, epochs=1, **SPLIT)
    assert told.value.step == 1
    assert same(arrays(net), before)
    with silent():
        trained(net, (X[:6], Y[:6]), batch_size=3, epochs=1, learning_rate_multipliers={"inside.1": 0}, **SPLIT)
    assert net.rows[-1] == 1


def test_numbers_that_are_not_finite_are_found_in_parts_too() -> None:
    x = X.clone()
    x[6] = torch.nan
    net = Small(2)
    with silent(), pytest.raises(etude.NonFiniteError, match="Step 1 is refused") as caught:
        for _ in run(net, Rows(x, Y), batch_size=8, **SPLIT):
            pass
    assert caught.value.rows == (6,)
    assert "Samples: 6." in str(caught.value)
    with silent():
        result = trained(Small(2), (x, Y), batch_size=8, non_finite="skip", **SPLIT)
    assert result.history["rate"].steps == [2]


class Rows(torch.utils.data.Dataset[Any]):
    """Samples that are read one by one, so that nobody has looked at them before."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.x[index], self.y[index]


def test_of_several_updates_each_splits_its_own() -> None:
    both = [Update("one", "cross_entropy", "inside.0"), Update("two", "cross_entropy", "inside.2")]
    with silent():
        split = trained(Small(3), (X, Y), batch_size=8, loss=None, updates=both, **SPLIT)
    whole = trained(Small(99), (X, Y), batch_size=8, loss=None, updates=both, shuffle=False)
    assert close(arrays(split.net), arrays(whole.net))


def test_a_loss_scale_and_autocast_go_with_it() -> None:
    with silent():
        split = trained(Small(2), (X, Y), batch_size=8, epochs=2, precision="bf16", **SPLIT)
    known = trained(Small(99), (X, Y), batch_size=2, accumulate=4, epochs=2, precision="bf16", shuffle=False)
    assert close(arrays(split.net), arrays(known.net))


@pytest.mark.parametrize("padded", [False, True])
def test_probes_see_each_sample_once(padded: bool) -> None:
    lengths = torch.tensor([3, 1, 2, 3, 1, 2, 2, 3])
    x = torch.randn(8, 3, 4) if padded else X[:8]
    data: Any = {"x": x, "x_lengths": lengths, "y": Y[:8]} if padded else (x, Y[:8])

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output.mean(1) if padded else output, target)

    def found(room: int) -> dict[str, list[float]]:
        probes = [etude.Probe("inside.0", "rms"), etude.Probe("inside.0", "rms", of="gradient")]
        with silent():
            result = trained(Small(room), data, loss=loss, batch_size=8, epochs=2, probes=probes, **SPLIT)
        return {name: list(one.values) for name, one in result.history.items() if name.startswith("probe.")}

    split, whole = found(3), found(99)
    assert len(whole) == 2
    for name, values in whole.items():
        assert split[name] == pytest.approx(values, rel=1e-5)


def test_noise_on_arrays_is_one_for_all_parts_of_a_step() -> None:
    noisy: dict[str, Any] = {
        "batch_size": 8,
        "epochs": 2,
        "weight_noise": 0.1,
        "optimizer": "sgd",
        "learning_rate": 0.1,
    }
    with silent():
        split = trained(Small(3), (X, Y), **noisy, **SPLIT)
    whole = trained(Small(99), (X, Y), **noisy, shuffle=False)
    assert close(arrays(split.net), arrays(whole.net))


# --------------------------------------------------------------------------------------------------------- what is cut


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


def test_a_batch_is_halved_between_samples() -> None:
    first, second = halves((X[:5], {"y": Y[:5], "names": ["a", "b", "c", "d", "e"], "kind": "train"}))
    assert torch.equal(torch.cat([first[0], second[0]]), X[:5])
    assert (len(first[0]), len(second[0])) == (3, 2)
    assert torch.equal(second[1]["y"], Y[3:5])
    assert (first[1]["names"], second[1]["names"]) == (["a", "b", "c"], ["d", "e"])
    assert first[1]["kind"] == second[1]["kind"] == "train"
    pair, _ = halves(Pair(X[:4], Y[:4]))
    assert isinstance(pair, Pair)
    assert [part.shape for part in halves(X)] == [(8, 4), (8, 4)]


def test_padded_sequences_keep_their_padding() -> None:
    lengths = torch.tensor([3, 1, 2])
    batch = {"x": torch.randn(3, 3, 2), "x_lengths": lengths, "x_mask": torch.ones(3, 3, dtype=torch.bool), "y": Y[:3]}
    first, second = halves(batch)
    assert {name: tuple(own.shape) for name, own in first.items()} == {
        "x": (2, 3, 2),
        "x_lengths": (2,),
        "x_mask": (2, 3),
        "y": (2,),
    }
    assert second["x_lengths"].tolist() == [2]


def test_packed_sequences_are_cut_where_one_begins() -> None:
    lengths, starts = torch.tensor([3, 1, 2, 0, 4]), torch.tensor([0, 3, 4, 6, 6, 10], dtype=torch.int32)
    frames = torch.arange(12.0)  # two more fill up
    batch = {"x": frames, "x_lengths": lengths, "x_offsets": starts, "y": torch.arange(5)}
    first, second = halves(batch)
    assert first["x"].tolist() == [0, 1, 2, 3, 4, 5]
    assert first["x_offsets"].tolist() == [0, 3, 4, 6]
    assert second["x"].tolist() == [6, 7, 8, 9, 10, 11]
    assert second["x_offsets"].tolist() == [0, 0, 4]
    assert second["x_offsets"].dtype == torch.int32
    assert (first["x_lengths"].tolist(), second["x_lengths"].tolist()) == ([3, 1, 2], [0, 4])
    for half in (first, second):
        begin, end = half["x_offsets"][:-1], half["x_offsets"][1:]
        assert torch.equal(end - begin, half["x_lengths"])


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ((torch.zeros(4, 3), torch.zeros(5)), ["batch[1]", "of shape (5,)", "of which it has 4"]),
        ({"x": torch.zeros(4, 3), "scale": torch.tensor(2.0)}, ["scale is of shape ()"]),
        ({"x": torch.zeros(4, 3), "epoch": 3}, ["epoch is int 3"]),
        ({"x": torch.zeros(4, 3), "of": object()}, ["of is object"]),
        ({"x": torch.eye(4).to_sparse(), "y": Y[:4]}, ["x is of shape (4, 4) and of layout torch.sparse_coo"]),
        (
            {"x": torch.zeros(6), "x_lengths": torch.tensor([4, 2]), "x_offsets": torch.tensor([0, 4])},
            ["x_offsets is of shape (2,) where (3,) is needed"],
        ),
    ],
)
def test_what_has_no_row_for_each_sample_is_refused(batch: Any, said: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        halves(batch)
    for piece in (*said, 'out_of_memory="raise"'):
        assert piece in str(caught.value)


def test_data_that_cannot_be_cut_are_refused_before_the_first_step() -> None:
    class Columns(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield from [{"x": X[:4], "bias": torch.zeros(3), "target": Y[:4]}] * 3

    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = mlp()

        def forward(self, x: Tensor, bias: Tensor) -> Tensor:
            made: Tensor = self.inside(x) + bias
            return made

    loader = torch.utils.data.DataLoader(Columns(), batch_size=None)
    assert run(Biased(), loader, batch_size=None, round_length=3).checked
    with pytest.raises(EtudeOrSetting, match="bias is of shape"):
        run(Biased(), loader, batch_size=None, round_length=3, out_of_memory="split")


EtudeOrSetting = (SettingError, PlanError)


# ------------------------------------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ({"out_of_memory": "splt"}, SettingError, r"out_of_memory='splt'.*Nearest: \"split\""),
        ({"out_of_memory": None}, SettingError, "out_of_memory=None"),
        ({"out_of_memory": "split", "compile": True}, PlanError, "compile=True makes a program for a whole"),
        ({"out_of_memory": "split", "optimizer": "lbfgs"}, PlanError, "LBFGS computes the loss of a whole batch"),
    ],
)
def test_what_cannot_be_split_is_said_before_the_first_step(changed: Any, kind: Any, said: str) -> None:
    with pytest.raises(kind, match=said):
        run(**changed)


@pytest.mark.parametrize("asked", ["splt", None, True, "SPLIT"])
def test_the_option_is_one_of_two(asked: Any) -> None:
    with pytest.raises(SettingError, match='"raise" or "split" is needed'):
        check_out_of_memory(asked)
    assert check_out_of_memory("split") == "split"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("whatever"), True),
        (MemoryError(), True),
        (np._core._exceptions._ArrayMemoryError((2,), np.dtype(float)), True),  # type: ignore[attr-defined]
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.86 GB)"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_every_allocator_are_known(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_memory_that_really_is_not_there() -> None:
    """torch's own allocator refuses what no machine has."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 62, dtype=torch.int8)
    assert is_out_of_memory(caught.value)


def test_parts_may_be_computed_without_a_net_of_ours() -> None:
    def computed(parts: Any) -> list[int]:
        if any(len(part) > 2 for part in parts):
            raise MemoryError
        return [len(part) for part in parts]

    splitting = Splitting("split", mlp())
    with pytest.warns(UserWarning, match="for 5 samples"):
        parts, made = splitting.compute(Progress(), [X[:5]], computed)
    assert made == [2, 1, 2]
    assert torch.equal(torch.cat(list(parts)), X[:5])
    assert splitting.state() == 12
    assert Splitting("raise", mlp()).state() == 0


class Looked(nn.Module):
    """A net for which there is no memory above `room` rows when it is looked at."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.inside = mlp()
        self.room = room

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.inside(x)
        if not self.training and len(x) > self.room:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(x)} GiB.")
        return made


def test_validation_data_are_looked_at_in_parts() -> None:
    looks = etude.Evaluate(classified(15, seed=5), ["accuracy", etude.Probe("inside.0", "rms")], batch_size=8)
    plan = options(epochs=2, validation=looks, out_of_memory="split")
    with pytest.warns(UserWarning, match=r"Looking at validation data .* for 8 samples.*in parts, here of 4, 4"):
        result = Run(etude.Plan(**plan), Looked(4), classified(12)).result()
    whole = Run(etude.Plan(**plan), Looked(8), classified(12)).result()
    for name in ("val.loss", "val.accuracy", "val.inside.0.rms"):
        assert result.history[name].values == pytest.approx(whole.history[name].values, rel=1e-6)


def test_what_a_look_was_cut_into_is_remembered(tmp_path: Path) -> None:
    looks = etude.Evaluate(classified(15, seed=5), ["accuracy"], batch_size=15, every=every(steps(1)))
    plan = options(steps=4, batch_size=4, validation=looks, out_of_memory="split")
    with silent():
        saving = Directory(tmp_path, every(steps(1)), keep=None)
        whole = etude.train(Looked(4), classified(12), progress=False, checkpoint=saving, **plan)
    for path in sorted(tmp_path.glob("*.safetensors"))[:-1]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing is found out again: there is room for all in the new proof
            again = Run(etude.Plan(**plan), Looked(15), classified(12), resume=path).result()
        assert again.history["val.loss"].values == whole.history["val.loss"].values, path.name


def test_without_being_asked_a_look_without_memory_is_torchs_error() -> None:
    with pytest.raises((torch.OutOfMemoryError, PlanError), match="out of memory"):
        Run(
            etude.Plan(**options(validation=etude.Evaluate(classified(15, seed=5), batch_size=8))),
            Looked(4),
            classified(12),
        ).result()
