"""Small training jobs, each made from a number, that between them use everything a run can do.

What a job is made of is made anew for each run, so that two runs share nothing but the number.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data import Subset as TorchSubset

import etude
from etude import (
    FROZEN,
    GAN,
    Evaluate,
    Update,
    cosine,
    cycle,
    ema,
    epochs,
    every,
    everything,
    linear,
    part,
    pieces,
    plateau,
    seconds,
    steps,
    swa,
    warmup,
    when,
)
from nets import seeded
from rules_at_hand import CASES, MATRICES, Case

SIZE, WIDTH, CLASSES = 10, 5, 3
"""Samples, inputs (the first is the number of the sample) and classes of every job."""


# ------------------------------------------------------------------------------------------------------------- nets


class Net(nn.Module):
    """A body and a head."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out


class Embedded(nn.Module):
    """Tokens as the inputs' first digits: a table whose gradients are sparse, or not."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.body = nn.Embedding(7, 6, sparse=sparse)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body((x * 3).long() % 7).mean(1))
        return out


class Counting(nn.Module):
    """State in every place where a module may keep it: buffers, one that is not in the state_dict, and extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(6), persistent=False)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.seen += len(x)
                self.mean.lerp_(x.detach().mean(0).to(self.mean.dtype), 0.3)
            self.calls += 1
        return x + self.mean.to(x.dtype) + 0.01 * self.seen + 0.1 * (self.calls % 3)

    def get_extra_state(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.calls = int(state["calls"])


class Recurrent(nn.Module):
    """The inputs as a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(1, 4, num_layers=2, dropout=0.2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.cell(x.unsqueeze(-1))[0][:, -1]
        return out


class Turned(nn.Module):
    """A layer of complex numbers, and one that is held by nobody but its user."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, 4, dtype=torch.complex64))
        self.still = nn.Parameter(torch.randn(4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.weight.dtype) @ self.weight).abs() + self.still


def _images() -> Net:
    """A net whose arrays lie in memory with the channels last."""
    body = nn.Sequential(
        nn.Unflatten(1, (1, 1, WIDTH)), nn.Conv2d(1, 4, (1, 2)), nn.ReLU(), nn.Conv2d(4, 3, (1, 2)), nn.Flatten()
    )
    return Net(body.to(memory_format=torch.channels_last), nn.Linear(9, CLASSES))


def _tied() -> Net:
    first, second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
    second.weight = first.weight
    return Net(nn.Sequential(first, nn.Tanh(), second), nn.Linear(WIDTH, CLASSES))


def _wrapped() -> Net:
    from torch.nn.utils.parametrizations import spectral_norm, weight_norm

    body = nn.Sequential(spectral_norm(nn.Linear(WIDTH, 6)), nn.ReLU(), weight_norm(nn.Linear(6, 6)))
    return Net(body, nn.Linear(6, CLASSES))


def _convolved() -> Net:
    body = nn.Sequential(
        nn.Unflatten(1, (1, WIDTH)), nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Dropout(0.2), nn.Flatten()
    )
    return Net(body, nn.Linear(9, CLASSES))


NETS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: Net(nn.Sequential(nn.Linear(WIDTH, 6), nn.Tanh()), nn.Linear(6, CLASSES)),
    "norms": lambda: Net(
        nn.Sequential(nn.Linear(WIDTH, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3)), nn.Linear(6, CLASSES)
    ),
    "wrapped": _wrapped,
    "tied": _tied,
    "convolved": _convolved,
    "counting": lambda: Net(nn.Sequential(nn.Linear(WIDTH, 6), Counting()), nn.Linear(6, CLASSES)),
    "recurrent": lambda: Net(Recurrent(), nn.Linear(4, CLASSES)),
    "images": _images,
    "lazy": lambda: Net(nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.ReLU()), nn.LazyLinear(CLASSES)),
    "sparse": lambda: Embedded(True),
}


def _turned() -> Net:
    return Net(Turned(), nn.Linear(4, CLASSES))


def _idle() -> Net:
    """A net of which one array has no part in the loss."""
    net = NETS["norms"]()
    assert isinstance(net, Net)
    net.body.register_parameter("idle", nn.Parameter(torch.ones(3)))
    return net


# ------------------------------------------------------------------------------------------------------------- data


def table(size: int = SIZE, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Inputs (size, WIDTH), of which the first is the number of the sample / 64; classes (size,)."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(size, WIDTH, generator=generator), torch.randint(0, CLASSES, (size,), generator=generator)
    x[:, 0] = torch.arange(size) / 64
    return x.to(dtype), y


class Pairs(Dataset[Any]):
    """Items that are drawn anew each time, by the generators of torch, numpy and Python; some may be spoiled."""

    def __init__(self, size: int = SIZE, dtype: torch.dtype = torch.float32, spoiled: float = 0.0) -> None:
        self.x, self.y = table(size, dtype=dtype)
        self.spoiled = spoiled

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Any:
        x = self.x[index].clone()
        x[1] += 0.1 * torch.randn(())
        x[2] += 0.1 * float(np.random.randn())
        x[3] += 0.1 * random.gauss(0, 1)
        if self.spoiled and np.random.rand() < self.spoiled:
            x[4] = torch.nan
        return x, self.y[index]


class Still(Pairs):
    """Items that are the same each time."""

    def __getitem__(self, index: int) -> Any:
        return self.x[index], self.y[index]


class Passing(IterableDataset[Any]):
    """Items one after another, in an order of its own for each epoch."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.pairs, self.epoch = Pairs(dtype=dtype), 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        order = list(range(len(self.pairs)))
        random.shuffle(order)
        return (self.pairs[i] for i in order[self.epoch % 2 :] + order[: self.epoch % 2])


class Batches:
    """Two batches, the same in each epoch."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.x, self.y = table(dtype=dtype)

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Any]:
        return ((self.x[i : i + 5], self.y[i : i + 5]) for i in (0, 5))


class Shared(IterableDataset[Any]):
    """Items that the workers of a loader share among them, each its own in an order of its own."""

    def __init__(self) -> None:
        self.pairs = Pairs()

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        own = list(range(len(self.pairs)))[worker.id if worker else 0 :: worker.num_workers if worker else 1]
        random.shuffle(own)
        return (self.pairs[i] for i in own)


class Buckets:
    """A batch sampler: samples of like numbers together, the batches in an order of its own for each epoch."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[list[int]]:
        made = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        random.Random(self.epoch).shuffle(made)
        return iter(made)


def _batches(dtype: torch.dtype) -> Callable[[int], Iterator[Any]]:
    x, y = table(dtype=dtype)

    def batches(epoch: int) -> Iterator[Any]:
        order = np.random.permutation(SIZE)
        for rows in (order[:4], order[4:8], order[8:]):
            yield (
                x[rows] + torch.cat([torch.zeros(len(rows), 1), torch.randn(len(rows), WIDTH - 1) / 9], 1).to(dtype),
                y[rows],
            )

    return batches


def _loader(dtype: torch.dtype, **more: Any) -> DataLoader[Any]:
    return DataLoader(Pairs(dtype=dtype), **{"batch_size": 4, "shuffle": True, **more})


@dataclass(frozen=True)
class Data:
    """A kind of data: what makes them, and the options that go with them."""

    make: Callable[[torch.dtype], Any]
    options: Mapping[str, Any] = field(default_factory=lambda: {"batch_size": 4})
    slow: bool = False


_OWN: Mapping[str, Any] = {}
DATA: dict[str, Data] = {
    "arrays": Data(lambda dtype: table(dtype=dtype)),
    "items": Data(lambda dtype: Pairs(dtype=dtype)),
    "spoiled items": Data(lambda dtype: Pairs(dtype=dtype, spoiled=0.1), {"batch_size": 4, "non_finite": "skip"}),
    "dict": Data(lambda dtype: dict(zip(("x", "y"), table(dtype=dtype), strict=True))),
    "iterable": Data(lambda dtype: Passing(dtype)),
    "loader": Data(_loader, _OWN),
    "function": Data(_batches, {"round_length": 3}),
    "loader with a generator": Data(lambda dtype: _loader(dtype, generator=torch.Generator().manual_seed(5)), _OWN),
    "in order": Data(lambda dtype: table(dtype=dtype), {"batch_size": 8, "shuffle": False}),
    "rows": Data(lambda dtype: torch.utils.data.TensorDataset(*table(dtype=dtype)), {"batch_size": 6}),
    "part of a set": Data(lambda dtype: TorchSubset(Still(14, dtype), range(SIZE))),
    "buckets": Data(lambda dtype: DataLoader(Pairs(dtype=dtype), batch_sampler=Buckets()), _OWN),
    "batches": Data(lambda dtype: Batches(dtype), _OWN),
    "two workers": Data(lambda dtype: Pairs(dtype=dtype), {"batch_size": 4, "workers": 2}, slow=True),
    "loader with workers": Data(lambda dtype: _loader(dtype, num_workers=2), _OWN, slow=True),
}
WORKERS = (0, 1, 2, 4)


# ---------------------------------------------------------------------------------------------------------- options


def _elsewhere() -> Iterator[Case]:
    """Optimizers of packages that may be there."""
    if find_spec("schedulefree"):
        import schedulefree

        for name in ("AdamWScheduleFree", "SGDScheduleFree", "RAdamScheduleFree"):
            yield Case(name, getattr(schedulefree, name), own=False, decays=False)
    if find_spec("pytorch_optimizer"):
        import pytorch_optimizer

        names = ("Prodigy", "AdaBound", "Ranger", "DAdaptAdam", "SOAP", "Adan", "CAME", "ScheduleFreeRAdam", "AdaPNM")
        for name in names:
            yield Case(name, getattr(pytorch_optimizer, name), own=False, decays=False)


# Of the rules at hand those that a run takes: it does not know which rules a test has registered.
RULES: tuple[Case, ...] = (
    *(case for case in CASES if case.name not in ("registered", "sparseadam")),
    Case("sparseadam", {"body": "sparseadam", everything: "adamw"}, own=False, decays=False, sparse=True),
    *_elsewhere(),
)


def mixed(net: nn.Module, batch: Any) -> Tensor:
    """A loss that draws from all three generators: samples mixed in pairs."""
    x, y = (batch["x"], batch["y"]) if isinstance(batch, Mapping) else batch
    share = float(np.random.beta(0.5, 0.5)) * (0.9 + 0.1 * random.random())
    other = torch.randperm(len(y))
    output = net(x.lerp(x[other], 1 - share))
    of = nn.functional.cross_entropy
    return share * of(output, y) + (1 - share) * of(output, y[other])


def sizes(output: Tensor) -> Tensor:
    return (output**2).mean(1)


LOSSES: tuple[Any, ...] = (
    "cross_entropy",
    "cross_entropy",
    mixed,
    {"ce": "cross_entropy", "size": (sizes, linear(0.1, 0))},
    nn.CrossEntropyLoss(label_smoothing=0.1),
)

RATES: tuple[Callable[[], Any], ...] = (
    lambda: 0.02,
    lambda: warmup(steps(2)) * cosine(0.05),
    lambda: pieces(0.05, (steps(3), 0.01), (epochs(2), 0.02)),
    lambda: cycle(0.05, 0.01, 0.02),
    lambda: 0.05 * plateau("val.loss", patience=0, factor=0.5),
    lambda: lambda progress: 0.05 / (1 + progress.step),
    lambda: etude.optim.from_torch(lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5), rate=0.05),
)

PLACES: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"learning_rate_multipliers": {"head": FROZEN}},
    {"learning_rate_multipliers": {"body": pieces(FROZEN, (steps(3), 1.0)), everything: 0.5}},
    {"update_schedule": [part("body") * 2, "head"]},
    {"update_schedule": cycle("body", everything, "head")},
    {"learning_rate_multipliers": {"head": linear(0, 1)}, "rules": {"weight_decay": {"*bias": 0}}},
    {"learning_rate_multipliers": {"head": -0.5, everything: 1}},
)

GRADIENTS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"clip_norm": 0.5},
    {"noise": 0.05},
    {"l2": 0.1, "clip_value": 0.2},
    {"shrink": 0.1, "clip_array_norm": 0.3},
    {"clip_weights": 0.4},
    {"centralise": True, "noise": linear(0.1, 0)},
)

PRECISIONS: tuple[str, ...] = ("fp32", "fp32", "fp32", "bf16", "fp16", "fp64", "net in bf16", "net in fp16")

AVERAGES: tuple[Callable[[], dict[str, Any]], ...] = (
    dict,
    lambda: {"averages": ema(0.9)},
    lambda: {"averages": (ema(0.8, warm_up=True, buffers="copy"), swa("head", every=steps(2)))},
    lambda: {"averages": ema(0.9, when=pieces(False, (steps(3), True))), "evaluate_with": "ema"},
    lambda: {"averages": (swa(), ema(linear(0.5, 0.99), "body", name="fast", every=steps(3))), "evaluate_with": "swa"},
)


def _aside() -> Any:
    return table(6, seed=3)


LOOKS: tuple[Callable[[torch.dtype], dict[str, Any]], ...] = (
    lambda dtype: {},
    lambda dtype: {"validation": tuple(a.to(dtype) if a.is_floating_point() else a for a in _aside())},
    lambda dtype: {"validation": Evaluate(table(6, 3, dtype), ["accuracy"], every=every(steps(2)), best="accuracy")},
    lambda dtype: {"validation": Evaluate(Pairs(6, dtype), every=every(epochs(0.5)), batch_size=4), "patience": 1},
    lambda dtype: {
        "validation": Evaluate(table(6, 3, dtype), every=every(seconds(2))),
        "patience": 2,
        "min_delta": 0.01,
    },
)

ENDS: tuple[dict[str, Any], ...] = (
    {"epochs": 3},
    {"epochs": 3},
    {"steps": 8},
    {"epochs": 9, "time_limit": seconds(7)},
    {"epochs": 4, "steps": 9},
)


@dataclass(frozen=True)
class Job:
    """What a run is of. Each of its parts is made anew when it is asked for.

    Attributes:
        number: from which it was made; -1: by hand. title: what is in it.
        net: from a seed. data: as `train` takes them. options: of the plan, for the net that is trained.
        numbered: whether the net sees the numbers of its samples. slow: processes are started in it.
    """

    number: int
    title: str
    net: Callable[[int], nn.Module]
    data: Callable[[], Any]
    options: Callable[[nn.Module], dict[str, Any]]
    numbered: bool = True
    slow: bool = False

    def __str__(self) -> str:
        return str(self.number) if self.number >= 0 else self.title


def job(number: int) -> Job:
    """The job of a number: a net, data, an update rule, schedules, precision, averages, looks and an end."""
    chance = random.Random(number)
    case = RULES[number % len(RULES)]
    kind = list(DATA)[(number + number // len(RULES)) % len(DATA)]
    return _several(number, chance, kind) if number % 8 == 7 else _single(number, chance, case, kind)


def _single(number: int, chance: random.Random, case: Case, kind: str) -> Job:
    # Muon itself takes matrices alone.
    able = (
        ("plain", "tied", "counting") if case.part else tuple(name for name in NETS if name not in ("sparse", "lazy"))
    )
    net = "sparse" if case.sparse else chance.choice(able)
    precision = _precision(chance, case, net)
    dtype = {"net in bf16": torch.bfloat16, "net in fp16": torch.float16, "fp64": torch.float64}.get(precision)
    dtype = dtype or torch.float32
    data = DATA[kind]
    looks, rate = chance.choice(LOOKS), chance.choice(RATES)
    if "plateau" in repr(rate()) and not looks(dtype):
        looks = LOOKS[1]
    average, place, gradient = chance.choice(AVERAGES), _place(chance, case), _gradient(chance, case, precision)
    loss = "cross_entropy" if case.closure or kind == "dict" else chance.choice(LOSSES)
    end = chance.choice(ENDS)
    non_finite = chance.choice(("raise", "skip"))

    def made(seed: int) -> nn.Module:
        found: nn.Module = seeded(NETS[net], seed)
        return found.to(dtype) if precision.startswith("net") else found

    def options(of: nn.Module) -> dict[str, Any]:
        optimizer = case.optimizer(of) if case.of_net else case.optimizer or case.name
        found = {
            "loss": loss,
            "optimizer": optimizer,
            "learning_rate": rate(),
            "non_finite": non_finite,
            "seed": number,
        }
        found |= {**case.settings, **data.options, **end, **place, **gradient, **average(), **looks(dtype)}
        if precision in ("bf16", "fp16", "fp64"):
            found["precision"] = precision
        if not found.get("validation"):
            found.pop("evaluate_with", None)
        return found

    said = [getattr(loss, "__name__", loss), rate(), place, gradient, end]
    title = ", ".join([str(case), net, kind, precision, *(re.sub(" at 0x[0-9a-f]+", "", repr(one)) for one in said)])
    return Job(number, title, made, lambda: data.make(dtype), options, not case.sparse and loss is not mixed, data.slow)


def _precision(chance: random.Random, case: Case, net: str) -> str:
    found = chance.choice(PRECISIONS)
    if case.closure or case.sparse or not case.own:
        return found if found in ("fp32", "bf16", "fp64") and not case.sparse else "fp32"
    # What torch computes on the CPU in float16 itself is not all there is.
    return "net in bf16" if found == "net in fp16" and net in ("convolved", "recurrent", "wrapped") else found


def _place(chance: random.Random, case: Case) -> dict[str, Any]:
    if case.part is not None:
        return {"learning_rate_multipliers": {MATRICES: 1, everything: FROZEN}}
    if case.closure:
        return chance.choice(({}, {"update_schedule": [part("body") * 2, "head"]}))
    # Who climbs has to have an option for it, and who has no decay takes no rule for it.
    able = len(PLACES) if case.own else len(PLACES) - 1
    place = dict(chance.choice(PLACES[:able]))
    if not case.decays:
        place.pop("rules", None)
    return place


def _gradient(chance: random.Random, case: Case, precision: str) -> dict[str, Any]:
    if case.sparse:
        return chance.choice(GRADIENTS[:3])
    if case.closure:
        return chance.choice((GRADIENTS[0], GRADIENTS[2], GRADIENTS[4]))
    return chance.choice(GRADIENTS)


def _several(number: int, chance: random.Random, kind: str) -> Job:
    """A job of several updates: a game of two nets, or two losses on parts of one."""
    data, end = DATA[kind], chance.choice(ENDS)
    average, precision = chance.choice(AVERAGES[:3]), chance.choice(("fp32", "bf16"))
    game = chance.random() < 0.4 and kind != "dict"
    turn = chance.choice((cycle(1, 2), cycle(True, False, True), when("head.loss", above=0.9, at_most=2), 1))
    head = chance.choice(("sgd", "lion", torch.optim.RMSprop))
    look = chance.choice(LOOKS[:3])(torch.float32)
    net = chance.choice(("norms", "counting", "wrapped"))

    def made(seed: int) -> nn.Module:
        if not game:
            found: nn.Module = seeded(NETS[net], seed)
            return found
        maker = lambda: GAN(  # noqa: E731
            nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, WIDTH)),
            nn.Sequential(nn.Linear(WIDTH, 6), nn.Dropout(0.2), nn.ReLU(), nn.Linear(6, 1)),
            loss=("js", "wasserstein", "hinge")[number % 3],
            latent=3,
        )
        game_of: nn.Module = seeded(maker, seed)
        return game_of

    def options(of: nn.Module) -> dict[str, Any]:
        found: dict[str, Any] = {"seed": number, "precision": precision, "non_finite": "skip", **data.options, **end}
        found |= {**average(), **look}
        if game:
            found["averages"] = ema(0.9, "generator")
            found.pop("validation", None)
            return {**found, "optimizer": head, "learning_rate": 0.01}
        body = Update("body", "cross_entropy", "body", learning_rate=cosine(0.05), turn=turn, noise=0.01)
        other = {"ce": "cross_entropy", "size": (sizes, linear(1, 0))}
        last = Update("head", other, "head", own_batch=number % 16 == 15, optimizer=head, learning_rate=0.02)
        return {**found, "updates": [body, last]}

    what = "a game" if game else f"two updates, {turn!r}"
    return Job(
        number,
        f"{what}, {head}, {kind}, {precision}",
        made,
        lambda: data.make(torch.float32),
        options,
        False,
        data.slow,
    )


# ---------------------------------------------------------------------------------------------------------- by hand


class Wilful(torch.optim.Optimizer):
    """Somebody's optimizer: it remembers in other numbers and another memory order, counts, and may set its rate."""

    def __init__(self, params: Any, lr: float = 0.1, falls: float = 1.0) -> None:
        super().__init__(params, {"lr": lr, "turns": 0, "falls": falls})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["turns"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["fine"] = torch.zeros_like(p, dtype=torch.float64)
                    state["rough"] = torch.zeros_like(p, dtype=torch.bfloat16)
                    state["turned"] = torch.linalg.qr(torch.ones(33, 33).tril())[0]
                state["fine"].add_(p.grad.double() / 3)
                state["rough"].lerp_(p.grad.bfloat16(), 0.3)
                share = (state["turned"] @ torch.linspace(0, 1, 33)).mean()
                p.add_((state["fine"].float() + state["rough"].float() * group["turns"] * share), alpha=-group["lr"])
            group["lr"] *= group["falls"]


class Noticing(nn.Module):
    """A loss with a memory of its own: the mean of what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(output, target)
        if output.requires_grad:
            self.mean.lerp_(loss.detach(), 0.5)
        return loss * (1 + self.mean)


def _by_hand(title: str, net: str, data: str, numbered: bool = True, **options: Any) -> Job:
    """A job said in full; an option that is a function of nothing is made anew for each run."""
    kind = DATA[data]

    def made(of: nn.Module) -> dict[str, Any]:
        given: dict[str, Any] = {"loss": "cross_entropy", "seed": 3, "epochs": 3, **kind.options}
        fresh = {"optimizer", "validation", "updates", "averages", "learning_rate", "loss"}
        return given | {key: own() if key in fresh else own for key, own in options.items()}

    net_of = lambda seed: seeded({**NETS, "idle": _idle, "turned": _turned}[net], seed)  # noqa: E731
    return Job(-1, title, net_of, lambda: kind.make(torch.float32), made, numbered, kind.slow)


def _loud(output: Tensor, target: Tensor) -> Tensor:
    return 200 * nn.functional.cross_entropy(output, target)


def _metrics() -> Any:
    """Metrics that are streamed: one of torchmetrics, where that is there."""
    if not find_spec("torchmetrics"):
        return ["accuracy", "error_rate"]
    from torchmetrics.classification import MulticlassF1Score

    return {"f1": MulticlassF1Score(CLASSES), "accuracy": "accuracy"}


def _taking_turns() -> list[Update]:
    """Two updates: one trains the statistics of a batch norm, the other, when its turn comes, holds them."""
    rule = {"body.1": FROZEN}
    return [
        Update(
            "head",
            "cross_entropy",
            part("head") | "body.1",
            learning_rate_multipliers=rule,
            turn=cycle(False, False, True, False),
        ),
        Update("body", "cross_entropy", "body", turn=when("body.loss", above=0.1, at_most=5), noise=0.01),
    ]


def _with_own_batches() -> list[Update]:
    """Two updates, each with batches of its own, so that epochs end within steps."""
    return [
        Update(
            "body", {"ce": "cross_entropy", "size": (sizes, linear(1, 0))}, "body", turn=cycle(1, 2), optimizer="lion"
        ),
        Update("head", mixed, "head", own_batch=True, optimizer="adagrad", turn=cycle(2, 1, 0)),
    ]


HAND: dict[str, Job] = {
    made.title: made
    for made in (
        _by_hand(
            "everything",
            "norms",
            "items",
            optimizer=lambda: {"head": "lion", everything: "adamw"},
            learning_rate=lambda: warmup(steps(2)) * plateau("val.loss", patience=0, factor=0.5) * 0.05,
            averages=lambda: (ema(0.8, warm_up=True), swa(every=steps(2))),
            evaluate_with="swa",
            validation=lambda: Evaluate(table(6, 3), ["accuracy"], every=every(steps(2))),
            patience=3,
            precision="fp16",
            clip_norm=0.5,
        ),
        _by_hand("statistics held in turn", "norms", "arrays", False, loss=lambda: None, updates=_taking_turns),
        _by_hand("own batches", "wrapped", "function", False, loss=lambda: None, updates=_with_own_batches, epochs=4),
        _by_hand(
            "momentum that goes and comes",
            "plain",
            "arrays",
            optimizer=lambda: "sgd",
            momentum=pieces(0.9, (steps(3), 0.0), (steps(6), 0.5)),
            learning_rate=lambda: 0.1,
        ),
        _by_hand("amsgrad now and then", "tied", "arrays", optimizer=lambda: "adam", amsgrad=cycle(True, False, False)),
        _by_hand("never looked", "norms", "rows", validation=lambda: Evaluate(table(6, 3), every=every(steps(100)))),
        _by_hand(
            "no patience", "norms", "arrays", validation=lambda: table(6, 3), patience=0, learning_rate=lambda: 2.0
        ),
        _by_hand("patience for the loss of an epoch", "norms", "items", patience=0, min_delta=5.0),
        _by_hand("stopped by a sample", "norms", "spoiled items", non_finite="stop", epochs=5, seed=27),
        _by_hand(
            "refused by a sample", "counting", "spoiled items", averages=lambda: ema(0.5, every=steps(2)), epochs=4
        ),
        _by_hand("all is frozen", "plain", "arrays", learning_rate_multipliers={everything: FROZEN}),
        _by_hand(
            "line search",
            "plain",
            "arrays",
            False,
            optimizer=lambda: "lbfgs",
            line_search_fn="strong_wolfe",
            max_iter=3,
        ),
        _by_hand(
            "line search in turn",
            "plain",
            "arrays",
            False,
            optimizer=lambda: "lbfgs",
            update_schedule=cycle("head", "body", everything),
        ),
        _by_hand(
            "an average that listens",
            "norms",
            "arrays",
            averages=lambda: ema(0.5, when=when("val.loss", below=1.05, at_most=2)),
            validation=lambda: Evaluate(table(6, 3), every=every(steps(1))),
        ),
        _by_hand("a wilful optimizer", "plain", "arrays", optimizer=lambda: Wilful),
        _by_hand("an optimizer that sets its own rate", "plain", "arrays", optimizer=lambda: Wilful, falls=0.9),
        _by_hand("a loss that remembers", "plain", "arrays", loss=Noticing),
        _by_hand(
            "patience that runs out",
            "norms",
            "arrays",
            validation=lambda: Evaluate(table(6, 3), every=every(steps(1))),
            patience=2,
            learning_rate=lambda: 0.5,
        ),
        _by_hand("shapes that come with the data", "lazy", "loader", averages=lambda: ema(0.9)),
        _by_hand("complex numbers", "turned", "arrays", averages=lambda: ema(0.9), clip_norm=0.5),
        _by_hand("scale that falls", "norms", "items", loss=lambda: _loud, precision="fp16", averages=lambda: swa()),
        _by_hand("applied unseen", "plain", "spoiled items", non_finite="apply", seed=27),
        _by_hand(
            "metrics of others",
            "plain",
            "arrays",
            validation=lambda: Evaluate(_loader(torch.float32, generator=torch.Generator().manual_seed(1)), _metrics()),
        ),
        _by_hand("time by the clock", "norms", "items", epochs=30, time_limit=seconds(11)),
        _by_hand(
            "looks by the clock", "norms", "rows", validation=lambda: Evaluate(table(6, 3), every=every(seconds(2)))
        ),
        _by_hand("rates that fall", "norms", "spoiled items", learning_rate=lambda: linear(0.1, 0.01), seed=7),
        _by_hand("loader", "norms", "loader"),
        _by_hand("iterable", "norms", "iterable"),
        _by_hand("loader with a generator", "norms", "loader with a generator"),
    )
}
"""Jobs of which each has something that is easily forgotten."""

LONG_EPOCH = Job(
    -1,
    "an epoch of 70 batches",
    lambda seed: seeded(NETS["norms"], seed),
    lambda: table(140),
    lambda of: {"loss": "cross_entropy", "batch_size": 2, "epochs": 2, "validation": table(6, 3)},
    False,
)
"""More steps than are read from the device together, in one epoch."""

COMPILED: dict[str, Job] = {
    made.title: made
    for made in (
        _by_hand("compiled", "norms", "arrays", batch_size=5, epochs=1, compile=True, averages=lambda: ema(0.9)),
        _by_hand("compiled, bf16", "norms", "items", epochs=2, compile=True, precision="bf16"),
        _by_hand(
            "compiled, in turn",
            "convolved",
            "arrays",
            epochs=2,
            compile=True,
            update_schedule=cycle("body", "head"),
            learning_rate=lambda: warmup(steps(2)) * cosine(0.05),
        ),
        _by_hand("compiled, refused", "norms", "spoiled items", epochs=2, compile=True, non_finite="skip"),
        _by_hand(
            "compiled up to the gradients",
            "norms",
            "arrays",
            batch_size=5,
            epochs=2,
            accumulate=2,
            compile=True,
            optimizer=lambda: "torch.adamw",
            clip_norm=linear(1.0, 0.1),
            noise=0.01,
            weight_dropout=0.1,
            precision="fp16",
        ),
        _by_hand("compiled, out of reach", "idle", "arrays", epochs=2, compile=True, ignore_stale_grad=True),
    )
}
"""Jobs whose steps are compiled, which takes its time."""


def _long(kind: str, workers: int) -> Job:
    """60 steps with chance, memory and precision of every kind, and so many workers."""
    made: dict[str, Callable[[], Any]] = {
        "map": Pairs,
        "iterable": lambda: DataLoader(Shared(), batch_size=5, num_workers=workers),
        "buckets": lambda: DataLoader(Pairs(), batch_sampler=Buckets(), num_workers=workers),
    }

    def options(of: nn.Module) -> dict[str, Any]:
        own: dict[str, Any] = {"batch_size": 4, "workers": workers} if kind == "map" else {}
        return own | {
            "loss": "cross_entropy",
            "optimizer": {"head": "lion", everything: "adamw"},
            "learning_rate": warmup(steps(10)) * cosine(0.02),
            "steps": 60,
            "averages": (ema(0.9), swa()),
            "evaluate_with": "ema",
            "validation": Evaluate(table(6, 3), every=every(steps(7))),
            "precision": "fp16",
            "clip_norm": 1.0,
            "seed": workers,
        }

    net = lambda seed: seeded(NETS["norms"], seed)  # noqa: E731
    return Job(-1, f"60 steps, {kind}, {workers} workers", net, made[kind], options, True, True)


LONG: dict[str, Job] = {
    made.title: made
    for made in (_long(kind, workers) for kind in ("map", "iterable", "buckets") for workers in WORKERS)
}
"""Long jobs, for new processes."""


def named(name: str) -> Job:
    """The job of a number, or of a title."""
    return job(int(name)) if name.isdecimal() else {**HAND, **COMPILED, **LONG}[name]
