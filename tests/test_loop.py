"""Checkpoints of hand-written loops: to the same bits, all or nothing, and said before it is too late."""

from __future__ import annotations

import math
import random
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import lr_scheduler

import etude
from etude import cosine, ema, plateau, steps, swa, warmup
from etude.data.cursor import Cursor
from etude.errors import CheckpointError, SettingError, StateError
from etude.keep import disk, files
from etude.keep.loop import Checkpoints
from etude.keep.retain import best, last
from small import CLASSES, Noisy, classified, mlp

X, Y = classified(32)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sow(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


# to the same bits


class Counting(nn.Module):
    """All that may be lost of a net: an array under two names, extra state, buffers that no state_dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4, bias=False)
        self.again.weight = self.first.weight
        self.head = nn.Linear(4, CLASSES)
        self.calls = 0
        self.register_buffer("level", torch.zeros(4), persistent=False)
        self.register_buffer("seen", None, persistent=False)

    def get_extra_state(self) -> dict[str, Any]:
        return {"calls": self.calls, "half": torch.tensor([self.calls / 2])}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.level = 0.9 * self.level + 0.1 * x.mean(0)
        self.seen = x[: min(self.calls, 4)].detach() if self.seen is None else self.seen + 0.01
        head: Tensor = self.head(self.again(self.first(x + self.level)) * math.sin(self.calls) + self.seen.mean())
        return head


class Job:
    """A small loop: its objects by name, and one step of it. `values` are plain values that it keeps."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.values: dict[str, Any] = {}

    def step(self, number: int) -> None:
        raise NotImplementedError


def drawn() -> Tensor:
    """Inputs with noise from all three generators of the process."""
    noise = torch.randn(len(X), 1) + float(np.random.normal()) + random.gauss(0, 1)
    return X + 0.1 * noise


class WithTrainer(Job):
    """Accumulation, averages, a loss scale, a schedule with a warm-up and one that listens."""

    def __init__(self) -> None:
        super().__init__()
        net = Noisy()
        rate = warmup(steps(3)) * cosine(1e-2, 1e-4, over=steps(9)) * plateau("loss", patience=0)
        late = swa("head", every=steps(2))
        self.net, self.trainer = (
            net,
            etude.Trainer(
                net, "adamw", learning_rate=rate, accumulate=3, averages=(ema(0.9), late), loss_scale="dynamic"
            ),
        )
        self.objects = {"net": net, "trainer": self.trainer}

    def step(self, number: int) -> None:
        loss = functional.cross_entropy(self.net(drawn()), Y, reduction="sum")
        self.trainer.scale(loss).backward()
        self.trainer.step(len(X))
        self.trainer.see({"loss": loss.item()})


class WithTorch(Job):
    """Optimizers, schedulers and scalers of torch."""

    def __init__(self, optimizer: Any, scheduler: Any, scale: bool = False) -> None:
        super().__init__()
        self.net = Noisy()
        self.optimizer = optimizer(self.net.parameters())
        self.scheduler = scheduler(self.optimizer)
        self.scaler = torch.amp.GradScaler("cpu", enabled=scale)
        self.objects = {"net": self.net, "optimizer": self.optimizer}
        self.objects |= {"scheduler": self.scheduler, "scaler": self.scaler}

    def step(self, number: int) -> None:
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self.net(drawn()), Y)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        listens = isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau)
        self.scheduler.step(loss.item()) if listens else self.scheduler.step()


class WithLbfgs(Job):
    """An optimizer whose memory are lists of arrays."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.optimizer = torch.optim.LBFGS(self.net.parameters(), lr=0.1, max_iter=3, history_size=4)
        self.objects = {"net": self.net, "optimizer": self.optimizer}

    def step(self, number: int) -> None:
        def closure() -> float:
            self.optimizer.zero_grad()
            loss = functional.cross_entropy(self.net(X), Y)
            loss.backward()
            return loss.item()

        self.optimizer.step(closure)


class WithGenerators(Job):
    """A net of many kinds of state, generators of the program's own, and values."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Counting()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)
        self.torch, self.numpy = torch.Generator().manual_seed(3), np.random.default_rng(3)
        self.legacy, self.python = np.random.RandomState(3), random.Random(3)
        self.objects = {"net": self.net, "optimizer": self.optimizer}
        self.objects |= {"torch": self.torch, "numpy": self.numpy, "legacy": self.legacy, "python": self.python}
        self.values = {"losses": [], "rows": torch.arange(4)}

    def step(self, number: int) -> None:
        noise = torch.randn(len(X), 1, generator=self.torch) + self.numpy.normal() + self.legacy.normal()
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self.net(X + 0.1 * (noise + self.python.gauss(0, 1))), Y)
        loss.backward()
        self.optimizer.step()
        self.values["losses"].append(loss.item())
        self.values["rows"] = self.values["rows"].roll(1)


class WithTwoNets(Job):
    """Two nets and a trainer for each, with an average each."""

    def __init__(self) -> None:
        super().__init__()
        self.maker, self.judge = nn.Linear(2, 1), nn.Linear(1, 1)
        self.make = etude.Trainer(self.maker, "adam", learning_rate=1e-2, averages=ema(0.9))
        self.judged = etude.Trainer(self.judge, "sgd", learning_rate=1e-2, momentum=0.9, averages=ema(0.5))
        self.objects = {"maker": self.maker, "judge": self.judge, "make": self.make, "judging": self.judged}

    def step(self, number: int) -> None:
        made = self.maker(torch.randn(8, 2))
        if number % 2:
            functional.softplus(self.judge(made.detach())).sum().backward()
            self.judged.step(8)
        else:
            functional.softplus(-self.judge(made)).sum().backward()
            self.judge.zero_grad()
            self.make.step(8)


def chained(optimizer: Any) -> Any:
    first, second = lr_scheduler.ConstantLR(optimizer, 0.5), lr_scheduler.ExponentialLR(optimizer, 0.9)
    return lr_scheduler.SequentialLR(optimizer, [first, second], [3])


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True)


def adam(parameters: Any) -> Any:
    return torch.optim.AdamW(parameters, lr=0.01, amsgrad=True)


JOBS: dict[str, Callable[[], Job]] = {
    "trainer": WithTrainer,
    "one cycle": lambda: WithTorch(sgd, lambda o: lr_scheduler.OneCycleLR(o, 0.1, 20)),
    "cyclic": lambda: WithTorch(sgd, lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3)),
    "milestones": lambda: WithTorch(adam, lambda o: lr_scheduler.MultiStepLR(o, [2, 4, 4])),
    "restarts": lambda: WithTorch(adam, lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3)),
    "plateau, scaled": lambda: WithTorch(adam, lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0), scale=True),
    "sequence": lambda: WithTorch(sgd, chained),
    "rmsprop": lambda: WithTorch(torch.optim.RMSprop, lambda o: lr_scheduler.LambdaLR(o, lambda e: 0.9**e)),
    "lbfgs": WithLbfgs,
    "generators": WithGenerators,
    "two nets": WithTwoNets,
}
STEPS = 7


def made(kind: str, seed: int) -> Job:
    sow(seed)
    return JOBS[kind]()


def written(job: Job, folder: Path) -> files.Saved:
    """All that a job is, chance included."""
    with Checkpoints(folder) as checkpoints:
        return files.read(checkpoints.save(step=STEPS, **job.objects, **job.values))


def go_on(job: Job, folder: Path) -> int:
    """Load a job, and make the steps that are left; the steps that had been made."""
    with Checkpoints(folder) as checkpoints:
        saved = checkpoints.load(**job.objects)
    job.values = {key: saved[key] for key in job.values}
    for number in range(saved["step"], STEPS):
        job.step(number)
    return int(saved["step"])


@pytest.mark.parametrize("kind", JOBS)
def test_a_loop_that_goes_on_ends_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    whole = made(kind, 1)
    with Checkpoints(tmp_path / "run", keep=None) as checkpoints:
        assert checkpoints.load(**whole.objects) == {}
        for number in range(STEPS):
            whole.step(number)
            checkpoints.save(step=number + 1, **whole.objects, **whole.values)
    expected = written(whole, tmp_path / "expected")
    for cut in range(STEPS - 1, 0, -1):
        last_file = sorted((tmp_path / "run").glob("*.safetensors"))[-1]
        last_file.unlink()
        again = made(kind, 2)
        shutil.copytree(tmp_path / "run", tmp_path / f"from {cut}")
        assert go_on(again, tmp_path / f"from {cut}") == cut
        found = written(again, tmp_path / f"found {cut}")
        assert found.tensors.keys() == expected.tensors.keys()
        differ = [name for name, array in expected.tensors.items() if not torch.equal(array, found.tensors[name])]
        assert not differ, f"from step {cut}: {differ}"
        assert {**found.record, "number": 0} == {**expected.record, "number": 0}


class Writing(nn.Linear):
    """A layer that writes more than its arrays into a state_dict, by hand."""

    def __init__(self) -> None:
        super().__init__(4, CLASSES)
        self.seen = 0

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "seen"] = self.seen

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        self.seen = state_dict.pop(prefix + "seen")
        super()._load_from_state_dict(state_dict, prefix, *rest)


def test_what_a_layer_writes_by_hand_is_kept(tmp_path: Path) -> None:
    one, two = nn.Sequential(Writing()), nn.Sequential(Writing())
    one[0].seen = 7
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(step=1, net=one)
        checkpoints.load(net=two)
    assert two[0].seen == 7
    assert torch.equal(one[0].weight, two[0].weight)


def test_modes_are_kept(tmp_path: Path) -> None:
    one, two = Noisy(), Noisy()
    one.body[1].eval()
    two.head.eval()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(step=1, net=one)
        checkpoints.load(net=two)
    assert [module.training for module in two.modules()] == [module.training for module in one.modules()]


def test_a_scheduler_gets_back_what_it_had_by_type(tmp_path: Path) -> None:
    job = made("milestones", 1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(step=0, **job.objects)
        checkpoints.load(**job.objects)
    assert list(job.objects["scheduler"].milestones.elements()) == [2, 4, 4]


def test_a_window_of_accumulation_is_kept_open(tmp_path: Path) -> None:
    job = made("trainer", 1)
    for number in range(4):
        job.step(number)
    with Checkpoints(tmp_path) as checkpoints:
        path = checkpoints.save(step=4, **job.objects)
    assert "state:trainer.gradients.head.weight" in files.read(path).tensors


def test_gradients_of_torch_are_not_kept(tmp_path: Path) -> None:
    job = made("lbfgs", 1)
    job.step(0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(step=1, **job.objects)
        again = made("lbfgs", 2)
        checkpoints.load(**again.objects)
    assert all(array.grad is None for array in again.objects["net"].parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_generators_of_cuda_are_put_back(tmp_path: Path) -> None:
    torch.cuda.manual_seed(1)
    own = torch.Generator("cuda").manual_seed(2)
    net = mlp().cuda()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(step=1, net=net, own=own)
        expected = torch.randn(3, device="cuda"), torch.randn(3, device="cuda", generator=own)
        checkpoints.load(net=net, own=own)
    assert torch.equal(torch.randn(3, device="cuda"), expected[0])
    assert torch.equal(torch.randn(3, device="cuda", generator=own), expected[1])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_shuffles_goes_on_from_the_end_of_an_epoch(workers: int, tmp_path: Path) -> None:
    def seen(folder: Path, epochs: int) -> list[Any]:
        loader = torch.utils.data.DataLoader(range(20), batch_size=4, shuffle=True, num_workers=workers)
        with Checkpoints(folder) as checkpoints:
            saved = checkpoints.load(net=(net := mlp()))
            found: list[Any] = saved.get("found", [])
            for epoch in range(saved.get("epoch", 0), epochs):
                found += [batch.tolist() for batch in loader]
                checkpoints.save(step=5 * epoch, epoch=epoch + 1, net=net, found=found)
        return found

    sow(1)
    whole = seen(tmp_path / "whole", 3)
    sow(1)
    seen(tmp_path / "parts", 2)
    sow(2)
    assert seen(tmp_path / "parts", 3) == whole


# what comes back


def test_plain_values_come_back_as_they_were(tmp_path: Path) -> None:
    values = {
        "place": (1, 2),
        "cursor": Cursor(3, 4),
        "history": [0.5, math.inf],
        "table": {"a": None, 3: True},
        "rows": torch.tensor([1, 2]),
        "array": np.array([1.0, 2.0]),
    }
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(step=7, epoch=2, loss=torch.tensor(0.25), net=mlp(), **values)
        saved = checkpoints.load(net=mlp())
    assert {key: saved.pop(key) for key in ("step", "epoch", "loss")} == {"step": 7, "epoch": 2, "loss": 0.25}
    assert torch.equal(saved.pop("rows"), values.pop("rows"))
    assert np.array_equal(saved.pop("array"), values.pop("array"))
    assert saved == values
    assert isinstance(saved["cursor"], Cursor)


def test_nothing_is_there_yet(tmp_path: Path) -> None:
    sow(1)
    drawn()
    before = torch.get_rng_state()
    with Checkpoints(tmp_path / "a" / "b") as checkpoints:
        assert checkpoints.load(net=mlp()) == {}
    assert torch.equal(torch.get_rng_state(), before)


def test_names_say_when_and_where(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=None) as checkpoints:
        one = checkpoints.save(step=16, epoch=2.5, loss=0.1234, net=mlp())
        two = checkpoints.save(step=16, epoch=2.5, loss=0.1234, net=mlp())
    form = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d_\d+_0002_00000016_1\.234e-01(-2)?\.safetensors"
    assert re.fullmatch(form, one.name)
    assert two.name == one.name.replace(".safetensors", "-2.safetensors")
    assert one.parent == tmp_path


def test_arrays_of_the_net_have_their_own_names(tmp_path: Path) -> None:
    net = Counting()
    net(X)
    with Checkpoints(tmp_path) as checkpoints:
        found = files.read(checkpoints.save(step=1, model=net))
    names = {name for name in found.tensors if ":" not in name}
    assert names == {"first.weight", "first.bias", "head.weight", "head.bias"}
    assert {"buffer:level", "buffer:seen"} <= found.tensors.keys()
    assert found.record["net"]["ties"] == [["first.weight", "again.weight"]]


def test_of_several_nets_the_one_called_net_has_its_own_names(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        found = files.read(checkpoints.save(step=1, net=mlp(), teacher=mlp(2))).tensors
        other = files.read(checkpoints.save(step=2, student=mlp(), teacher=mlp(2))).tensors
    assert {"0.weight", "state:teacher.0.weight"} <= found.keys()
    assert {"state:student.0.weight", "state:teacher.0.weight"} <= other.keys()
    assert not [name for name in other if ":" not in name]


def test_averages_have_names_of_their_own(tmp_path: Path) -> None:
    job = made("trainer", 1)
    for number in range(6):
        job.step(number)
    with Checkpoints(tmp_path) as checkpoints:
        names = files.read(checkpoints.save(step=3, **job.objects)).tensors.keys()
    assert {"average:ema:head.weight", "average:swa:head.bias", "optimizer:trainer:head.weight:square"} <= names


def test_a_compiled_net_has_the_names_of_its_own(tmp_path: Path) -> None:
    net = mlp()
    with Checkpoints(tmp_path) as checkpoints:
        names = files.read(checkpoints.save(step=1, net=torch.compile(net))).tensors
        other = mlp(2)
        checkpoints.load(net=other)
    assert "0.weight" in names
    assert torch.equal(other[0].weight, net[0].weight)


def test_load_net_takes_the_net_and_its_averages(tmp_path: Path) -> None:
    job = made("trainer", 1)
    for number in range(6):
        job.step(number)
    trainer = job.objects["trainer"]
    with Checkpoints(tmp_path) as checkpoints:
        path = checkpoints.save(step=6, **job.objects)
        others = checkpoints.save(step=6, one=mlp(), other=mlp())
    net, smooth = etude.load_net(path, Noisy(2)), etude.load_net(path, Noisy(2), of="ema")
    assert torch.equal(net.head.weight, job.objects["net"].head.weight)
    assert torch.equal(smooth.head.weight, trainer.averages["ema"].arrays["head.weight"])
    with pytest.raises(CheckpointError, match="or one that was saved as net=; found several nets, or none"):
        etude.load_net(others, mlp())


# which files stay


def saved_steps(folder: Path) -> list[int]:
    return [int(path.name.split("_")[3]) for path in sorted(folder.glob("*.safetensors"))]


def test_two_files_stay(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(4):
            checkpoints.save(step=step, net=mlp())
    assert saved_steps(tmp_path) == [2, 3]


def test_the_best_stay_by_a_number_that_is_given(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=last(1) | best("accuracy", 2, "max")) as checkpoints:
        for step, accuracy in enumerate((0.5, 0.9, math.nan, 0.7, 0.6, 0.2)):
            checkpoints.save(step=step, net=mlp(), accuracy=accuracy)
    assert saved_steps(tmp_path) == [1, 3, 5]


def test_a_later_process_removes_what_an_earlier_one_kept(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=last(1) | best("loss")) as checkpoints:
        for step, loss in enumerate((0.5, 0.1, 0.3)):
            checkpoints.save(step=step, loss=loss, net=mlp())
    with Checkpoints(tmp_path, keep=last(1) | best("loss")) as checkpoints:
        assert checkpoints.load(net=mlp())["step"] == 2
        checkpoints.save(step=3, loss=0.2, net=mlp())
    assert saved_steps(tmp_path) == [1, 3]


def test_a_loop_that_did_not_load_leaves_the_files_of_others(tmp_path: Path) -> None:
    for _ in range(2):
        with Checkpoints(tmp_path, keep=last(1)) as checkpoints:
            checkpoints.save(step=5, net=mlp())
    assert saved_steps(tmp_path) == [5, 5]


def test_a_file_that_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with Checkpoints(tmp_path, keep=last(1)) as checkpoints:
        checkpoints.save(step=1, net=mlp())
        monkeypatch.setattr(disk, "remove", refuse)
        with pytest.warns(UserWarning, match="to remove it, as newer ones are kept; found Permission denied"):
            checkpoints.save(step=2, net=mlp())
    assert saved_steps(tmp_path) == [1, 2]


# damage


def damage(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)


def test_a_damaged_file_is_passed_over_and_set_aside(tmp_path: Path) -> None:
    nets = [mlp(seed) for seed in (1, 2)]
    with Checkpoints(tmp_path) as checkpoints:
        paths = [checkpoints.save(step=step, net=net) for step, net in enumerate(nets)]
    damage(paths[1])
    net = mlp(3)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.warns(UserWarning, match=rf"(?s){re.escape(str(paths[1]))}: expected .*An earlier file is taken"):
            assert checkpoints.load(net=net)["step"] == 0
        checkpoints.save(step=1, net=net)
    assert torch.equal(net[0].weight, nets[0][0].weight)
    assert paths[1].with_name(paths[1].name + ".damaged").exists()


def test_where_no_file_is_good_the_loop_begins_anew(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        damage(checkpoints.save(step=1, net=mlp()))
        with pytest.warns(UserWarning, match="There is no earlier one: the loop begins anew"):
            assert checkpoints.load(net=mlp()) == {}


def test_a_file_that_cannot_be_read_now_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = mlp(2)
    before = net[0].weight.clone()
    with Checkpoints(tmp_path) as checkpoints:
        paths = [checkpoints.save(step=step, net=mlp()) for step in range(2)]
        fails = iter([OSError(5, "Input/output error")])
        real = disk.open_to_read

        def once(path: Any) -> int:
            for error in fails:
                raise error
            return real(path)

        monkeypatch.setattr(disk, "open_to_read", once)
        with pytest.raises(CheckpointError, match="expected a checkpoint; found Input/output error"):
            checkpoints.load(net=net)
        assert torch.equal(net[0].weight, before)
        assert checkpoints.load(net=net)["step"] == 1
    assert all(path.exists() for path in paths)


def test_a_save_that_fails_leaves_what_there_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = mlp()
    with Checkpoints(tmp_path, keep=last(1)) as checkpoints:
        first = checkpoints.save(step=1, net=net)
        with monkeypatch.context() as patched:
            patched.setattr(disk, "sync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(CheckpointError, match=r"room for [\d,]+ bytes; found no space"):
                checkpoints.save(step=2, net=net)
        assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == [first.name]
        checkpoints.save(step=3, net=net)
    assert saved_steps(tmp_path) == [3]


def test_a_file_of_a_run_is_no_file_of_a_loop(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        path = checkpoints.save(step=1, net=mlp())
        saved = files.read(path)
        files.write(path, {**saved.record, "kind": "run"}, saved.tensors)
        with pytest.raises(CheckpointError, match=r"expected the state of a hand-written loop.*the state of a run"):
            checkpoints.load(net=mlp())


def test_a_record_that_lacks_something_is_refused_before_anything_changes(tmp_path: Path) -> None:
    net = mlp(2)
    before = net[0].weight.clone()
    with Checkpoints(tmp_path) as checkpoints:
        path = checkpoints.save(step=1, net=mlp(1))
        saved = files.read(path)
        for lack in ("objects", "net", "random", "machine", "progress", "number"):
            files.write(path, {key: own for key, own in saved.record.items() if key != lack}, saved.tensors)
            with pytest.raises(CheckpointError, match=r"expected (the state of a loop|'\w+' in its record)"):
                checkpoints.load(net=net)
    assert torch.equal(net[0].weight, before)


def test_a_value_that_stands_for_none_is_refused_before_anything_changes(tmp_path: Path) -> None:
    net = mlp(2)
    before = net[0].weight.clone()
    with Checkpoints(tmp_path) as checkpoints:
        path = checkpoints.save(step=1, net=mlp(1), rows=3)
        saved = files.read(path)
        for place in (saved.record["progress"], saved.record["objects"]["rows"]):
            place["value"] = {"~": "number"}
            files.write(path, saved.record, saved.tensors)
            del place["value"]
            with pytest.raises(CheckpointError, match=r"expected the state of a loop; found .*stands for no value"):
                checkpoints.load(net=net)
    assert torch.equal(net[0].weight, before)


# one at a time


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with Checkpoints(tmp_path):
        with pytest.raises(StateError, match="is held by this process"):
            Checkpoints(tmp_path).load(net=mlp())
        Checkpoints(tmp_path)  # nothing was asked of it yet
    with Checkpoints(tmp_path) as later:
        later.save(step=1, net=mlp())


def test_what_is_closed_stays_closed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(step=1, net=mlp())
    checkpoints.close()
    checkpoints.close()
    for use in (lambda: checkpoints.save(step=2, net=mlp()), lambda: checkpoints.load(net=mlp())):
        with pytest.raises(StateError, match=r"Checkpoints\(.*, keep=last\(2\)\) is closed. Make a new one."):
            use()


# what does not fit


class Remembering:
    """Something with a state that can refuse one."""

    def __init__(self, state: Any = 0, refuses: bool = False) -> None:
        self.state, self.refuses = state, refuses

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.refuses and state["state"] != self.state:
            raise RuntimeError("I would rather not")
        self.state = state["state"]


def wide(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, CLASSES))


def tied_net(tie: bool) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    if tie:
        net[1].weight = net[0].weight
    return net


def hidden_net(hidden: bool) -> nn.Module:
    net = nn.Linear(4, 4)
    if hidden:
        net.register_buffer("table", torch.ones(3), persistent=False)
    return net


def of_adam(net: nn.Module, turned: bool = False) -> torch.optim.Optimizer:
    return torch.optim.Adam([*net.parameters()][:: -1 if turned else 1])


NET, TURNED = mlp(), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
MISFITS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"net": mlp()}, {"net": wide(6)}, "net: the file has '0.weight' of shape (8, 4), in the net it has (6, 4)."),
    (
        {"net": mlp()},
        {"net": mlp().double()},
        "the file has '0.bias' of torch.float32, in the net it is torch.float64.",
    ),
    ({"net": mlp()}, {"net": mlp()[:1]}, "net: the file has '2.weight', '2.bias', which the net does not have."),
    ({"net": mlp()[:1]}, {"net": mlp()}, "net: the file has no '2.weight', '2.bias', which the net has."),
    (
        {"net": mlp()},
        {"net": mlp().to("meta")},
        "the file has '0.weight', which has no numbers in the net; net.to_empty(",
    ),
    (
        {"net": tied_net(True)},
        {"net": tied_net(False)},
        "net: the file has '0.weight', '1.weight' as one array; tie them in the net.",
    ),
    (
        {"net": tied_net(False)},
        {"net": tied_net(True)},
        "net: the file has '0.weight', '1.weight' as arrays of their own, in the net they are one.",
    ),
    ({"net": hidden_net(True)}, {"net": hidden_net(False)}, "the file has 'table', which the net does not have."),
    (
        {"net": NET, "optimizer": of_adam(NET)},
        {"net": NET, "optimizer": torch.optim.SGD(NET.parameters())},
        "optimizer: it is of class SGD, in the file of Adam.",
    ),
    (
        {"net": TURNED, "optimizer": of_adam(TURNED)},
        {"net": TURNED, "optimizer": of_adam(TURNED, True)},
        "optimizer: its array 0 is net.1.bias (4), in the file net.0.weight (4x4).",
    ),
    (
        {"net": NET, "optimizer": of_adam(NET)},
        {"net": NET, "optimizer": of_adam(NET[0])},
        "optimizer: it moves 2 arrays, in the file 4.",
    ),
    (
        {"net": NET, "a": torch.Generator()},
        {"net": NET, "a": random.Random()},
        "a: it is random.Random, in the file torch.Generator on cpu.",
    ),
    (
        {"net": NET, "a": np.random.default_rng()},
        {"net": NET, "a": np.random.Generator(np.random.SFC64())},
        "a: it is numpy.random.Generator(SFC64), in the file numpy.random.Generator(PCG64).",
    ),
    ({"net": NET}, {"net": NET, "a": Remembering()}, "a: the file has no a; it has 'net', 'mark'."),
    ({"net": NET, "a": 3}, {"net": NET, "a": Remembering()}, "a: the file has a plain value. Leave a out: load() re"),
    ({"net": NET, "a": Remembering()}, {"net": NET}, "a: the file has the state of Remembering. Write load(a=a, ...)."),
    (
        {"net": NET, "a": Remembering()},
        {"net": NET, "a": random.Random()},
        "a: it is a generator, in the file an object with a state_dict.",
    ),
]


@pytest.mark.parametrize(("saved", "given", "message"), MISFITS, ids=[message for _, _, message in MISFITS])
def test_what_does_not_fit_is_named_and_nothing_is_changed(
    saved: dict[str, Any], given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(step=1, **saved, mark=0)
        before = state_of(given)
        with pytest.raises(StateError, match=re.escape(message)) as raised:
            checkpoints.load(**given)
    assert str(raised.value).startswith(str(tmp_path))
    assert alike(state_of(given), before)


def state_of(given: dict[str, Any]) -> list[Any]:
    """A copy of all that `load` could change."""
    nets = [own for own in given.values() if isinstance(own, nn.Module)]
    arrays = [array.clone() for net in nets for array in net.state_dict().values()]
    return [*arrays, torch.get_rng_state(), [np.random.get_state()[1].tolist(), random.getstate()]]


def alike(mine: list[Any], theirs: list[Any]) -> bool:
    def same(a: Any, b: Any) -> bool:
        return a.is_meta or torch.equal(a, b) if isinstance(a, Tensor) else a == b

    return len(mine) == len(theirs) and all(map(same, mine, theirs))


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(step=1, net=NET, optimizer=of_adam(NET), own=Remembering())
        net = wide(6)
        with pytest.raises(StateError) as raised:
            checkpoints.load(net=net, optimizer=torch.optim.SGD(net.parameters()))
    lines = str(raised.value).splitlines()
    assert "does not fit what load() was given" in lines[0]
    assert lines[-1] == "  Nothing was changed."
    assert len(lines) == 1 + 1 + 3 + 1 + 1


def test_of_very_many_differences_the_first_are_named(tmp_path: Path) -> None:
    many = {f"own{i}": Remembering() for i in range(50)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(step=1, net=NET, **many)
        with pytest.raises(StateError, match=r"And 30 more\.\n  Nothing was changed\."):
            checkpoints.load(net=NET)


def test_numpy_with_another_generator_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        path = checkpoints.save(step=1, net=mlp())
        saved = files.read(path)
        numpy = {**saved.record["random"]["numpy"], "bit_generator": "PCG64"}
        record = {**saved.record, "random": {**saved.record["random"], "numpy": numpy}}
        files.write(path, record, saved.tensors)
        with pytest.raises(StateError, match="NumPy's own generator is MT19937 here, PCG64 in the file"):
            checkpoints.load(net=mlp())


def test_what_an_object_refuses_undoes_the_others(tmp_path: Path) -> None:
    saved, given = made("trainer", 1), made("trainer", 2)
    for number in range(4):
        saved.step(number)
    given.step(0)
    with Checkpoints(tmp_path / "b") as checkpoints:
        before = files.read(checkpoints.save(step=1, **given.objects))
    sow(2)
    with Checkpoints(tmp_path / "a") as checkpoints:
        checkpoints.save(step=4, **saved.objects, own=Remembering(1))
        sow(3)
        message = r"own cannot take what was kept of it \(RuntimeError: I would rather not\). Everything is as it was"
        with pytest.raises(StateError, match=message):
            checkpoints.load(**given.objects, own=Remembering(2, refuses=True))
        assert torch.initial_seed() == 3
    with Checkpoints(tmp_path / "c") as checkpoints:
        after = files.read(checkpoints.save(step=1, **given.objects))
    names = [name for name in before.tensors if not name.startswith("state:random")]
    assert all(torch.equal(before.tensors[name], after.tensors[name]) for name in names)
    assert before.record["objects"] == after.record["objects"]


def test_what_cannot_be_undone_is_said(tmp_path: Path) -> None:
    class Stubborn(Remembering):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.state = None
            raise RuntimeError("no")

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(step=4, net=NET, own=Stubborn(1))
        with pytest.raises(StateError, match=r"own cannot take what was kept .* Lost is what there was of 'own'"):
            checkpoints.load(net=NET, own=Stubborn(2))


def test_a_trainer_says_what_differs_or_is_told_what_holds(tmp_path: Path) -> None:
    def objects(rate: float) -> dict[str, Any]:
        net = mlp()
        return {"net": net, "trainer": etude.Trainer(net, "sgd", learning_rate=rate)}

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(step=1, **objects(0.1))
        with pytest.warns(UserWarning, match="other settings than this trainer, and they are used: learning_rate"):
            checkpoints.load(**(given := objects(0.2)))
        assert given["trainer"].learning_rate == 0.1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            checkpoints.load(keep="saved", **(given := objects(0.2)))
            assert given["trainer"].learning_rate == 0.1
            checkpoints.load(keep="new", **(given := objects(0.2)))
            assert given["trainer"].learning_rate == 0.2
        with pytest.raises(StateError, match=r"trainer cannot take .*the optimizer 'sgd', the trainer has"):
            checkpoints.load(net=NET, trainer=etude.Trainer(NET, "adamw"))


def test_another_machine_is_told(tmp_path: Path) -> None:
    net = mlp()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(step=1, net=net)
        torch.set_num_threads(2)
        with pytest.warns(UserWarning, match=r"was saved elsewhere \(threads 1 -> 2\): the loop goes on"):
            checkpoints.load(net=net)


# what cannot be kept


def test_what_cannot_be_kept_is_an_error_before_the_first_step(tmp_path: Path) -> None:
    one, two = Remembering({"f": lambda: 0}), Remembering([{1, 2}])
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(StateError) as raised:
        checkpoints.load(net=mlp(), one=one, two=two)
    lines = str(raised.value).splitlines()
    assert lines[0] == "Not all of it can be kept:"
    assert "one.state.f: a function cannot be kept." in lines[1]
    assert "two.state[0]: a value of type set cannot be kept." in lines[2]
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(StateError, match=r"log: a value of type bytes cannot be"):
        checkpoints.save(step=1, net=mlp(), log=b"")
    assert saved_steps(tmp_path) == []


def test_what_moves_arrays_that_nobody_keeps_is_an_error(tmp_path: Path) -> None:
    net, prompt = mlp(), nn.Parameter(torch.zeros(2, 3))
    optimizer = torch.optim.SGD([*net.parameters(), prompt], lr=0.1)
    trainer = etude.Trainer(mlp(), "sgd", learning_rate=0.1)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(StateError, match="optimizer moves arrays that are in nothing given: 1 of shape 2x3"):
            checkpoints.save(step=1, net=net, optimizer=optimizer)
        with pytest.raises(StateError, match="trainer moves arrays that are in nothing given: 4 of shape 8x4, 8"):
            checkpoints.save(step=1, net=net, trainer=trainer)
        checkpoints.save(step=1, net=net, optimizer=optimizer, prompt=prompt)


def test_save_and_load_are_given_the_same_objects(tmp_path: Path) -> None:
    net = mlp()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.load(net=net, one=Remembering())
        with pytest.raises(StateError) as raised:
            checkpoints.save(step=1, net=net, two=Remembering())
        checkpoints.save(step=1, net=net, one=Remembering(), epochs=3)
    assert str(raised.value).splitlines() == [
        "save(): from this no loop could go on to the same bits:",
        "  one was given to load(): give it to save() too",
        "  two has a state: give it to load() too",
    ]


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(2)


class Colon(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.add_module("a:b", nn.Linear(1, 1))


WRONG: list[tuple[type[Exception], str, Callable[[Checkpoints], Any]]] = [
    (SettingError, "save(): nothing to keep is given. Write save(step=step, net=net", lambda c: c.save(step=1)),
    (SettingError, "save(step=-1): how many steps were made is a whole", lambda c: c.save(step=-1, net=NET)),
    (SettingError, "save(step=True): how many steps", lambda c: c.save(step=True, net=NET)),
    (SettingError, "save(step=1.5): how many steps", lambda c: c.save(step=1.5, net=NET)),
    (SettingError, "save(epoch=-1): a number of at least 0", lambda c: c.save(step=1, epoch=-1, net=NET)),
    (SettingError, "save(epoch='1'): a number of at least 0", lambda c: c.save(step=1, epoch="1", net=NET)),
    (SettingError, "save(loss='low'): a number is needed, or a", lambda c: c.save(step=1, loss="low", net=NET)),
    (SettingError, "'a b': give what is kept under words", lambda c: c.save(step=1, **{"a b": 1})),
    (SettingError, "load(): 'place', 'x' has no state to put back.", lambda c: c.load(net=NET, place=(0, 1), x=1)),
    (SettingError, "load(keep='new'): that is about the settings of a Trainer", lambda c: c.load(net=NET, keep="new")),
    (SettingError, "keep='old': \"saved\"", lambda c: c.load(net=NET, keep="old")),
    (StateError, "net: 'layer.weight', 'layer.bias' without a shape as yet. Call", lambda c: c.load(net=Lazy())),
    (StateError, "net: 'a:b.weight', 'a:b.bias': a name with a colon cannot be kept", lambda c: c.load(net=Colon())),
]


@pytest.mark.parametrize(("kind", "message", "use"), WRONG, ids=[message for _, message, _ in WRONG])
def test_wrong_use_says_what_to_write(
    kind: type[Exception], message: str, use: Callable[[Checkpoints], Any], tmp_path: Path
) -> None:
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(kind, match=re.escape(message)):
        use(checkpoints)
    assert saved_steps(tmp_path) == []


def test_wrong_rules_are_errors_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"3 does not say what is kept. Write last\(3\)"):
        Checkpoints(tmp_path, keep=3)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"Write best\('f1', 3, 'max'\) or 'min'"):
        Checkpoints(tmp_path, keep=best("f1", 3))
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="a folder is needed there"):
        Checkpoints(tmp_path / "file")


def test_a_score_that_is_not_given_is_an_error(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=best("accuracy", 2, "max")) as checkpoints:
        with pytest.raises(SettingError, match=r"goes by 'accuracy', which is not given.* Nearest: \"acuracy\""):
            checkpoints.save(step=1, net=NET, acuracy=0.5)
        checkpoints.save(step=1, net=NET, accuracy=math.nan)
    assert saved_steps(tmp_path) == [1]
