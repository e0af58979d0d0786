"""Averages of arrays: what is said, what is taken and when, and a net that computes with them and stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from etude.errors import EtudeError, SettingError
from etude.step.averages import Average, ema, swa
from etude.step.averaging import Averages
from etude.values.cadence import every
from etude.values.part import everything, part
from etude.values.progress import Extent, Progress
from etude.values.reactive import when
from etude.values.schedule import cycle, pieces, schedule
from etude.values.spans import epochs, steps
from etude.values.tree import Tree
from nets import alike, arrays, chain, seeded, tied
from told_averages import AVERAGES

START = pieces(False, (steps(2), True), (steps(4), False))


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def averages_of(net: nn.Module, *averages: Average, extent: Extent | None = None) -> Averages:
    return Averages(averages, Tree(net), *([extent] if extent else []))


@torch.no_grad()
def move(net: nn.Module, step: int) -> None:
    """Another value in every floating-point array, and whole numbers one more."""
    generator = torch.Generator().manual_seed(step)
    for array in (*net.parameters(), *net.buffers()):
        if array.is_floating_point() or array.is_complex():
            drawn = torch.randn(array.shape, generator=generator, dtype=torch.float64)
            # Statistics of a batch norm are positive.
            array.copy_(drawn if isinstance(array, nn.Parameter) else drawn.abs())
        else:
            array.add_(1)


def walk(net: nn.Module, averages: Averages, count: int, first: int = 0) -> list[dict[str, Tensor]]:
    """Steps of a run of 4 steps an epoch; what the arrays were after each."""
    seen = []
    for step in range(first, first + count):
        move(net, step)
        averages.update(clock(step), clock(step + 1))
        seen.append(arrays(net))
    return seen


def clock(step: int) -> Progress:
    return Progress(step, step / 4, 8 * step)


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean(0)


def close(mine: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-6) -> bool:
    return mine.keys() == theirs.keys() and all(
        torch.allclose(mine[n].to(theirs[n].dtype), theirs[n], rtol=tolerance, atol=tolerance) for n in mine
    )


def normed(seed: int = 1) -> nn.Sequential:
    made: nn.Sequential = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), seed)
    return made


# ------------------------------------------------------------------------------------------------- what is said


SAID: list[tuple[Average, str]] = [
    (ema(), "ema(0.999)"),
    (ema(0.99, "0", name="fast"), "ema(0.99, part('0'), name='fast')"),
    (ema(pieces(0.9, (steps(10), 0.99)), warm_up=True), "ema(pieces(0.9, (steps(10), 0.99)), warm_up=True)"),
    (ema(1), "ema(1)"),
    (swa(), "swa()"),
    (swa(everything, every=steps(5), buffers="copy"), "swa(every=steps(5), buffers='copy')"),
    (swa(when=START), f"swa(when={START!r})"),
    (ema(every=steps(3)), "ema(0.999, every=steps(3))"),
]


@pytest.mark.parametrize(("average", "text"), SAID, ids=[text for _, text in SAID])
def test_an_average_prints_as_the_call_that_makes_it(average: Average, text: str) -> None:
    assert repr(average) == text
    names = {"ema": ema, "swa": swa, "part": part, "pieces": pieces, "steps": steps}
    assert eval(text, names) == average


def test_averages_are_values() -> None:
    assert ema(0.9) == ema(0.9)
    assert len({ema(0.9), ema(0.9), ema(0.9, name="b"), swa()}) == 3
    assert swa(every=every(steps(5))) == swa(every=steps(5))
    with pytest.raises(AttributeError):
        ema().name = "b"  # type: ignore[misc]


@pytest.mark.parametrize("name", AVERAGES)
def test_what_is_wrong_is_said(name: str) -> None:
    call, kind, said = AVERAGES[name]
    with pytest.raises(EtudeError) as error:
        call()
    assert type(error.value) is kind
    for piece in said:
        assert piece in str(error.value)


# ------------------------------------------------------------------------------------------------- the formulas


def test_ema_by_hand() -> None:
    net = chain()
    averages = averages_of(net, ema(0.75))
    seen = walk(net, averages, 4)
    expected = seen[0]
    for now in seen[1:]:
        expected = {name: 0.75 * expected[name] + 0.25 * now[name] for name in now}
    assert close(averages.of("ema"), expected)
    assert averages.each["ema"].count == 4


def test_swa_by_hand() -> None:
    net = chain()
    averages = averages_of(net, swa(every=steps(1)))
    seen = walk(net, averages, 5)
    assert close(averages.of("swa"), {name: mean([now[name] for now in seen]) for name in seen[0]})


def test_a_decay_may_follow_a_schedule() -> None:
    net = chain()
    averages = averages_of(net, ema(schedule(lambda progress: progress.step / 10)), extent=Extent(steps=8))
    seen = walk(net, averages, 3)
    expected = seen[0]["0.weight"]
    for step in (1, 2):
        expected = step / 10 * expected + (1 - step / 10) * seen[step]["0.weight"]
    assert torch.allclose(averages.of("ema")["0.weight"], expected)


def test_the_warm_up_of_a_decay() -> None:
    net = chain()
    averages = averages_of(net, ema(0.25, warm_up=True))
    seen = walk(net, averages, 4)
    expected = seen[0]["0.weight"]
    for count, decay in ((1, 2 / 11), (2, 0.25), (3, 0.25)):
        expected = decay * expected + (1 - decay) * seen[count]["0.weight"]
    assert torch.allclose(averages.of("ema")["0.weight"], expected)


@pytest.mark.parametrize("decay", [0, 1])
def test_the_bounds_of_a_decay(decay: int) -> None:
    net = chain()
    averages = averages_of(net, ema(decay))
    seen = walk(net, averages, 3)
    assert close(averages.of("ema"), seen[0 if decay else -1], 0)


@pytest.mark.parametrize("buffers", ["average", "copy"])
@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_as_torch_does(kind: str, buffers: str) -> None:
    net = normed()
    average = ema(0.9, buffers=buffers) if kind == "ema" else swa(every=steps(1), buffers=buffers)
    averages = averages_of(net, average)
    formula = get_ema_multi_avg_fn(0.9) if kind == "ema" else None
    theirs = AveragedModel(net, multi_avg_fn=formula, use_buffers=buffers == "average")
    for step in range(6):
        move(net, step)
        averages.update(clock(step), clock(step + 1))
        theirs.update_parameters(net)
    expected = dict(theirs.module.state_dict())
    if buffers == "average":
        # Torch averages counts too, which leaves them where they were; here they are the latest.
        expected["1.num_batches_tracked"] = net[1].num_batches_tracked
    assert close(averages.of(kind), expected)
    assert averages.of(kind)["1.num_batches_tracked"].dtype == torch.int64


# ------------------------------------------------------------------------------------------------- when and where


def test_a_schedule_starts_and_stops_it() -> None:
    net = chain()
    averages = averages_of(net, ema(0.5, when=START))
    walk(net, averages, 2)
    assert averages.each["ema"].count == 0
    assert close(averages.of("ema"), arrays(net), 0)
    seen = walk(net, averages, 2, 2)
    expected = {name: 0.5 * seen[0][name] + 0.5 * seen[1][name] for name in seen[0]}
    assert close(averages.of("ema"), expected)
    kept = {name: array.clone() for name, array in averages.of("ema").items()}
    walk(net, averages, 3, 4)
    assert averages.each["ema"].count == 2
    assert close(averages.of("ema"), kept, 0)


def test_started_again_it_goes_on() -> None:
    net = chain()
    averages = averages_of(net, swa(every=steps(1), when=cycle(True, False)))
    seen = walk(net, averages, 6)
    assert close(averages.of("swa"), {name: mean([now[name] for now in seen[::2]]) for name in seen[0]})


def test_it_may_listen() -> None:
    net = chain()
    averages = averages_of(net, ema(0.5, when=when("val.loss", below=1.0)))
    walk(net, averages, 1)
    averages.see({"val.loss": 2.0})
    walk(net, averages, 2, 1)
    assert averages.each["ema"].count == 1
    saved = averages.state()
    averages.see({"val.loss": 0.5})
    walk(net, averages, 1, 3)
    assert averages.each["ema"].count == 2
    other = averages_of(net, ema(0.5, when=when("val.loss", below=1.0)))
    other.load(saved)
    walk(net, other, 1, 3)
    assert other.each["ema"].count == 1, "what it had heard was saved"


@pytest.mark.parametrize(("span", "taken"), [(epochs(1), [3, 7]), (steps(3), [2, 5, 8]), (epochs(0.5), [1, 3, 5, 7])])
def test_a_span_says_how_often(span: Any, taken: list[int]) -> None:
    net = chain()
    averages = averages_of(net, swa(every=span))
    seen = walk(net, averages, 9)
    assert averages.each["swa"].count == len(taken)
    assert close(averages.of("swa"), {name: mean([seen[i][name] for i in taken]) for name in seen[0]})


def test_what_was_due_at_a_step_that_was_not_made_is_taken_after_the_next() -> None:
    net = chain()
    averages = averages_of(net, swa(every=steps(4)))
    walk(net, averages, 3)
    assert averages.each["swa"].count == 0
    seen = walk(net, averages, 2, 4)
    assert averages.each["swa"].count == 1
    assert close(averages.of("swa"), seen[0], 0)


def test_a_part_and_several_at_once() -> None:
    net = chain()
    averages = averages_of(net, ema(0.5, "2"), ema(0.9, "*.weight", name="slow"))
    seen = walk(net, averages, 2)
    assert list(averages.of("ema")) == ["2.weight", "2.bias"]
    assert list(averages.of("slow")) == ["0.weight", "2.weight"]
    assert torch.allclose(averages.of("slow")["2.weight"], 0.9 * seen[0]["2.weight"] + 0.1 * seen[1]["2.weight"])
    with averages.use("ema"):
        assert alike(net[2].weight, averages.of("ema")["2.weight"])
        assert alike(net[0].weight, seen[1]["0.weight"])


# ------------------------------------------------------------------------------------------------- kinds of arrays


def test_a_shared_array_is_averaged_once_and_used_under_every_name() -> None:
    net = tied()
    averages = averages_of(net, ema(0.5))
    walk(net, averages, 3)
    assert list(averages.of("ema")) == ["emb.weight", "emb.bias", "out.bias"]
    with averages.use("ema"):
        assert net.emb.weight is net.out.weight
        assert alike(net.out.weight, averages.of("ema")["emb.weight"])
    assert net.emb.weight is net.out.weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_arrays_of_few_bits_are_averaged_in_float32(dtype: torch.dtype) -> None:
    net = chain().to(dtype)
    averages = averages_of(net, ema(0.999))
    walk(net, averages, 1)
    kept = averages.of("ema")["0.weight"].clone()
    assert kept.dtype == torch.float32
    for step in range(50):
        averages.update(clock(step + 1), clock(step + 2))
        assert alike(averages.of("ema")["0.weight"], kept), "what does not change is its own average"
    seen = walk(net, averages, 1, 60)
    expected = 0.999 * kept + 0.001 * seen[0]["0.weight"].float()
    assert torch.allclose(averages.of("ema")["0.weight"], expected, atol=1e-7)
    with averages.use("ema"):
        assert net[0].weight.dtype == dtype
        assert alike(net[0].weight, expected.to(dtype))


def test_many_arrays_of_few_bits() -> None:
    net = nn.ParameterList([nn.Parameter(torch.zeros(3, dtype=torch.bfloat16)) for _ in range(70)])
    averages = averages_of(net, swa(every=steps(1)))
    seen = walk(net, averages, 3)
    expected = {name: mean([now[name].float() for now in seen]) for name in seen[0]}
    assert close(averages.of("swa"), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.complex128])
def test_other_numbers_are_averaged_in_their_own(dtype: torch.dtype) -> None:
    net = nn.ParameterDict({"a": nn.Parameter(torch.zeros(3, 2, dtype=dtype))})
    averages = averages_of(net, ema(0.5))
    for step in range(3):
        with torch.no_grad():
            net["a"].copy_(torch.randn(3, 2, dtype=dtype, generator=torch.Generator().manual_seed(step)))
        averages.update(clock(step), clock(step + 1))
    draws = [torch.randn(3, 2, dtype=dtype, generator=torch.Generator().manual_seed(step)) for step in range(3)]
    assert averages.of("ema")["a"].dtype == dtype
    assert torch.allclose(averages.of("ema")["a"], 0.25 * draws[0] + 0.25 * draws[1] + 0.5 * draws[2])


@pytest.mark.parametrize("layout", ["transposed", "gaps", "channels last", "empty", "scalar"])
def test_arrays_of_any_layout(layout: str) -> None:
    made: dict[str, Callable[[], Tensor]] = {
        "transposed": lambda: torch.zeros(4, 3).t(),
        "gaps": lambda: torch.zeros(4, 6)[:, ::2],
        "channels last": lambda: torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "empty": lambda: torch.zeros(0, 3),
        "scalar": lambda: torch.zeros(()),
    }
    net = nn.ParameterDict({"a": nn.Parameter(made[layout]())})
    averages = averages_of(net, swa(every=steps(1)))
    seen = walk(net, averages, 3)
    before = (net["a"].data_ptr(), net["a"].stride())
    assert close(averages.of("swa"), {"a": mean([now["a"] for now in seen])})
    with averages.use("swa"):
        assert torch.equal(net["a"], averages.of("swa")["a"])
    assert (net["a"].data_ptr(), net["a"].stride()) == before


def test_a_mask_of_infinities_stays_one() -> None:
    net = chain()
    net.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))
    averages = averages_of(net, ema(0.9))
    for step in range(3):
        averages.update(clock(step), clock(step + 1))
    assert alike(averages.of("ema")["mask"], net.mask)
    saved = averages.state()
    other = averages_of(net, ema(0.9))
    other.load(saved)
    other.update(clock(3), clock(4))
    assert alike(other.of("ema")["mask"], net.mask)


def test_lazy_arrays_are_averaged_from_when_they_have_a_shape() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(2), nn.LazyBatchNorm1d())
    averages = averages_of(net, ema(0.5))
    assert list(averages.of("ema")) == ["0.weight", "0.bias", "2.num_batches_tracked"]
    with torch.no_grad():
        averages.update(clock(0), clock(1))
        assert "1.weight" not in averages.of("ema")
        net(torch.randn(5, 3))
    seen = walk(net, averages, 2, 1)
    expected = 0.5 * seen[0]["1.weight"] + 0.5 * seen[1]["1.weight"]
    assert torch.allclose(averages.of("ema")["1.weight"], expected)
    fresh = nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(2), nn.LazyBatchNorm1d())
    other = averages_of(fresh, ema(0.5))
    other.load(averages.state())
    assert close(other.of("ema"), averages.of("ema"), 0)
    fresh(torch.randn(5, 3))
    with other.use("ema"):
        assert alike(fresh[1].weight, averages.of("ema")["1.weight"])


def test_a_net_that_is_moved_is_followed() -> None:
    net = normed()
    averages = averages_of(net, ema(0.5))
    walk(net, averages, 1)
    first = averages.of("ema")["1.running_mean"].clone()
    net.double()
    seen = walk(net, averages, 1, 1)
    assert averages.of("ema")["0.weight"].dtype == torch.float64
    assert torch.allclose(averages.of("ema")["1.running_mean"], 0.5 * first + 0.5 * seen[0]["1.running_mean"])
    net.float()
    with averages.use("ema"):
        assert net[0].weight.dtype == torch.float32
        assert net(torch.randn(5, 3)).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_net_that_is_moved_to_another_device_is_followed() -> None:
    net = normed()
    averages = averages_of(net, ema(0.5), ema(0.5, name="half"))
    walk(net, averages, 2)
    expected = {name: array.clone() for name, array in averages.of("ema").items()}
    net.cuda()
    with averages.use("ema"):
        assert net[0].weight.is_cuda
        assert alike(net[1].running_mean.cpu(), expected["1.running_mean"])
    averages.update(clock(2), clock(3))
    assert all(array.is_cuda for array in averages.of("half").values())


# ------------------------------------------------------------------------------------------------- in use


def marks(net: nn.Module) -> list[tuple[int, int, int, Any]]:
    every_ = (*net.parameters(), *net.buffers())
    return [(id(a), a.data_ptr(), a._version, a.stride()) for a in every_]


def test_in_use_the_net_computes_with_the_average_and_stays_as_it_is() -> None:
    net, x = normed(), torch.randn(6, 3)
    averages = averages_of(net, ema(0.5))
    walk(net, averages, 3)
    for array in net.parameters():
        array.grad = torch.ones_like(array)
    expected = copy.deepcopy(net)
    averages.copy_to("ema", expected)
    before, values, plain = marks(net), arrays(net), net.eval()(x)
    with averages.use("ema"), torch.no_grad():
        assert alike(net(x), expected.eval()(x))
        assert not alike(net(x), plain)
        copied = copy.deepcopy(net)
    assert marks(net) == before
    assert all(alike(values[name], array) for name, array in arrays(net).items())
    assert alike(net(x), plain)
    assert alike(copied(x), expected(x))
    assert all(array.grad is not None for array in net.parameters())


def test_an_error_within_leaves_the_net_as_it_was() -> None:
    net = normed()
    averages = averages_of(net, ema(0.5))
    walk(net, averages, 3)
    before, values = marks(net), arrays(net)
    with pytest.raises(KeyError), averages.use("ema"):
        raise KeyError("anything")
    assert marks(net) == before
    assert all(alike(values[name], array) for name, array in arrays(net).items())
    with averages.use("ema"):
        pass


def test_a_net_that_writes_to_its_buffers_does_not_write_to_the_average() -> None:
    net = normed()
    averages = averages_of(net, ema(0.5))
    walk(net, averages, 2)
    kept, values = {n: a.clone() for n, a in averages.of("ema").items()}, arrays(net)
    with averages.use("ema"), torch.no_grad():
        net.train()(torch.randn(6, 3))
        assert not alike(net[1].running_mean, kept["1.running_mean"])
    assert close(averages.of("ema"), kept, 0)
    assert all(alike(values[name], array) for name, array in arrays(net).items())


def test_before_it_begins_the_average_is_the_net() -> None:
    net, x = normed(), torch.randn(6, 3)
    averages = averages_of(net, ema(0.5, when=START))
    before, plain, other = marks(net), net.eval()(x), normed(2)
    with averages.use("ema"):
        assert alike(net(x), plain)
        with pytest.raises(SettingError, match="after the with block"):
            averages.refuse("step()")
    assert marks(net) == before
    averages.copy_to("ema", other)
    assert all(alike(array, arrays(other)[name]) for name, array in arrays(net).items())


def test_modules_that_hold_arrays_elsewhere_compute_with_the_average() -> None:
    net: nn.LSTM = seeded(lambda: nn.LSTM(3, 4))
    x = torch.randn(5, 2, 3)
    averages = averages_of(net, ema(0.5))
    walk(net, averages, 3)
    expected: nn.LSTM = seeded(lambda: nn.LSTM(3, 4), 2)
    averages.copy_to("ema", expected)
    plain = net(x)[0]
    with averages.use("ema"):
        assert alike(net(x)[0], expected(x)[0])
    assert alike(net(x)[0], plain)


def test_autocast_does_not_remember_the_other_arrays() -> None:
    net: nn.Linear = seeded(lambda: nn.Linear(3, 3))
    x = torch.randn(4, 3)
    averages = averages_of(net, ema(0.5))
    walk(net, averages, 3)
    with torch.autocast("cpu", torch.bfloat16):
        plain = net(x)
        with averages.use("ema"):
            used = net(x)
        assert alike(net(x), plain)
    assert not alike(used, plain)


def test_in_inference_mode() -> None:
    net, x = normed(), torch.randn(6, 3)
    averages = averages_of(net, ema(0.5))
    walk(net, averages, 3)
    before = marks(net)
    with torch.inference_mode(), averages.use("ema"):
        net.eval()(x)
    assert marks(net) == before
    walk(net, averages, 1, 3)
    net.train()(x).sum().backward()


def test_a_backward_after_use_is_that_of_the_net() -> None:
    net, x = chain(), torch.randn(6, 3)
    averages = averages_of(net, ema(0.5))
    walk(net, averages, 3)
    net(x).square().sum().backward()
    expected = net[0].weight.grad.clone()
    net.zero_grad()
    loss = net(x).square().sum()
    with averages.use("ema"), torch.no_grad():
        net(x)
    loss.backward()
    assert alike(net[0].weight.grad, expected)


def test_copying_into_a_net() -> None:
    net, other = chain(), chain(2)
    averages = averages_of(net, ema(0.5, "0"))
    walk(net, averages, 3)
    kept = arrays(other)
    averages.copy_to("ema", other)
    assert alike(other[0].weight, averages.of("ema")["0.weight"])
    assert alike(other[2].weight, kept["2.weight"])
    averages.copy_to("ema", net)
    assert alike(net[0].weight, averages.of("ema")["0.weight"])


# ------------------------------------------------------------------------------------------------- kept and resumed


RESUMED = [
    ema(0.9),
    ema(0.99, warm_up=True, name="warm"),
    swa(every=epochs(1)),
    swa(every=steps(3), name="thirds", when=pieces(False, (steps(4), True))),
    ema(0.5, "1", name="norm", buffers="copy"),
]


@pytest.mark.parametrize("stop", [0, 1, 3, 5, 6, 8])
def test_a_resumed_average_has_the_same_bits(stop: int) -> None:
    net, again = normed(), normed()
    whole, first = averages_of(net, *RESUMED), averages_of(again, *RESUMED)
    walk(net, whole, 11)
    walk(again, first, stop)
    saved = copy.deepcopy(first.state())
    later = normed(3)
    later.load_state_dict(again.state_dict())
    second = averages_of(later, *RESUMED)
    second.load(saved)
    walk(later, second, 11 - stop, stop)
    for average in RESUMED:
        mine, theirs = second.of(average.name), whole.of(average.name)
        assert second.each[average.name].count == whole.each[average.name].count
        assert mine.keys() == theirs.keys()
        assert all(alike(mine[name], theirs[name]) for name in mine)


def test_a_state_that_is_loaded_is_a_copy() -> None:
    net = chain()
    averages = averages_of(net, ema(0.5))
    walk(net, averages, 2)
    other = averages_of(chain(2), ema(0.5))
    other.load(averages.state())
    kept = {name: array.clone() for name, array in other.of("ema").items()}
    walk(net, averages, 2, 2)
    assert close(other.of("ema"), kept, 0)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    net = chain()
    averages = averages_of(net, ema(0.5), swa(every=steps(1)))
    walk(net, averages, 2)
    kept = {name: array.clone() for name, array in averages.of("ema").items()}
    state = averages.state()
    state["each"]["ema"]["arrays"] = {name: array + 1 for name, array in kept.items()}
    state["each"]["swa"]["arrays"] = {"x": torch.zeros(1)}
    with pytest.raises(EtudeError, match="Nothing was loaded"):
        averages.load(state)
    assert close(averages.of("ema"), kept, 0)
