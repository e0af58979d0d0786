"""Just the net out of a file: of a run, of a loop, of a result, or from elsewhere."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import etude
from etude import Directory, ema, every, load_net, steps
from etude.errors import CheckpointError, SettingError, StateError
from small import Noisy, arrays, same, trained


@pytest.fixture
def result(tmp_path: Path) -> etude.Result:
    """A run whose best net is not its last, with an average."""
    return trained(
        Noisy(),
        checkpoint=Directory(tmp_path / "runs", every(steps(3))),
        epochs=5,
        validation=0.3,
        averages=ema(0.9),
        learning_rate=0.2,
    )


def test_the_net_as_it_was_saved(result: etude.Result) -> None:
    net = Noisy(seed=2)
    assert load_net(result.checkpoints[-1], net) is net
    assert same(arrays(net), arrays(result.final_net))


def test_the_best_net_and_an_average(result: etude.Result) -> None:
    assert not same(arrays(result.net), arrays(result.final_net))
    assert same(arrays(load_net(result.checkpoints[-1], Noisy(2), of="best")), arrays(result.net))
    averaged = arrays(load_net(result.checkpoints[-1], Noisy(2), "ema"))
    assert same(averaged, arrays(result.averaged_net("ema")))


def test_what_a_result_wrote(result: etude.Result, tmp_path: Path) -> None:
    result.save(tmp_path / "run.json", net=True)
    path = tmp_path / "run.safetensors"
    assert same(arrays(load_net(path, Noisy(2))), arrays(result.net))
    assert same(arrays(load_net(path, Noisy(2), "ema")), {**arrays(result.net), **result.averages["ema"]})


def test_what_a_loop_wrote(tmp_path: Path) -> None:
    net = Noisy()
    with etude.Checkpoints(tmp_path) as kept:
        kept.load(net=net)
        path = kept.save(step=1, net=net)
    assert same(arrays(load_net(path, Noisy(2))), arrays(net))


def test_a_loop_with_several_nets_says_so(tmp_path: Path) -> None:
    with etude.Checkpoints(tmp_path) as kept:
        path = kept.save(step=1, one=nn.Linear(2, 2), other=nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="found several nets, or none"):
        load_net(path, nn.Linear(2, 2))


def test_an_unknown_net_is_named_with_the_nearest(result: etude.Result) -> None:
    net = Noisy(2)
    before = arrays(net)
    with pytest.raises(StateError, match=r'has no .emma.: it has best, ema, net\. Nearest: "ema"'):
        load_net(result.checkpoints[-1], net, of="emma")
    assert same(before, arrays(net))


def test_an_average_that_has_not_begun_is_not_there(tmp_path: Path) -> None:
    late = etude.ema(0.9, every=steps(50))
    path = trained(Noisy(), checkpoint=tmp_path, averages=late).checkpoints[-1]
    with pytest.raises(StateError, match="it has net"):
        load_net(path, Noisy(), "ema")


@pytest.mark.parametrize(
    ("net", "told"),
    [
        (nn.Linear(4, 3), r"no 'weight', 'bias', which the net has; .*'body\.0\.weight'.* which the net does not have"),
        (Noisy().double(), "float64"),
    ],
)
def test_another_net_is_refused_and_left_alone(net: nn.Module, told: str, result: etude.Result) -> None:
    before = arrays(net)
    with pytest.raises(CheckpointError, match=told):
        load_net(result.checkpoints[-1], net)
    assert same(before, arrays(net))


class Tied(nn.Module):
    def __init__(self, tie: bool) -> None:
        super().__init__()
        self.into, self.out = nn.Embedding(3, 4), nn.Linear(4, 3, bias=False)
        if tie:
            self.out.weight = self.into.weight

    def forward(self, x: Any) -> Any:
        return self.out(self.into(x))


def test_arrays_that_are_one_stay_one(tmp_path: Path) -> None:
    data = (torch.arange(9) % 3, torch.arange(9) % 3)
    path = trained(Tied(True), data, checkpoint=tmp_path).checkpoints[-1]
    assert load_net(path, Tied(True)).out.weight.shape == (3, 4)
    with pytest.raises(CheckpointError, match=r"'into\.weight', 'out\.weight' as one array; tie them in the net"):
        load_net(path, Tied(False))
    apart = trained(Tied(False), data, checkpoint=tmp_path / "b").checkpoints[-1]
    with pytest.raises(CheckpointError, match=r"out\.weight"):
        load_net(apart, Tied(True))


# ------------------------------------------------------------------------------------------------ from elsewhere


def test_a_pickle_is_refused_unless_it_is_asked_for(tmp_path: Path) -> None:
    net, path = Noisy(), tmp_path / "net.pt"
    torch.save(net.state_dict(), path)
    with pytest.raises(CheckpointError, match=r"pickle .* foreign=True"):
        load_net(path, Noisy(2))
    assert same(arrays(load_net(path, Noisy(2), foreign=True)), arrays(net))
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, path)
    assert same(arrays(load_net(path, Noisy(2), foreign=True)), arrays(net))


def test_a_safetensors_file_without_digests_is_asked_for(tmp_path: Path) -> None:
    net, path = Noisy(), tmp_path / "net.safetensors"
    save_file(net.state_dict(), path)
    with pytest.raises(CheckpointError, match="foreign=True"):
        load_net(path, Noisy(2))
    assert same(arrays(load_net(path, Noisy(2), foreign=True)), arrays(net))


class Harmful:
    """What runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(Harmful.path),))

    path = ""


def test_a_pickle_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    Harmful.path = str(tmp_path / "ran")
    for path, content in ((tmp_path / "a.pt", pickle.dumps(Harmful())), (tmp_path / "b.pt", b"")):
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            load_net(path, Noisy(), foreign=True)
    torch.save({"weight": Harmful()}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="found other things in it, which are not read"):
        load_net(tmp_path / "c.pt", Noisy(), foreign=True)
    assert not (tmp_path / "ran").exists()


def test_other_things_in_a_file_from_elsewhere_are_refused(tmp_path: Path) -> None:
    torch.save({"lr": 0.1, "weights": [1, 2]}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="expected tensors by name"):
        load_net(tmp_path / "a.pt", Noisy(), foreign=True)
    save_file({"other": torch.ones(2)}, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match="'other', which the net does not have"):
        load_net(tmp_path / "b.safetensors", Noisy(), foreign=True)
    with pytest.raises(CheckpointError, match="expected a file of weights"):
        load_net(tmp_path / "none.pt", Noisy(), foreign=True)


def test_an_old_torch_reads_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(Noisy().state_dict(), tmp_path / "a.pt")
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.9.1"))
    with pytest.raises(CheckpointError, match=r"expected torch 2\.10 or later"):
        load_net(tmp_path / "a.pt", Noisy(), foreign=True)


def test_our_own_file_is_none_from_elsewhere(result: etude.Result) -> None:
    with pytest.raises(CheckpointError, match="leave foreign out"):
        load_net(result.checkpoints[-1], Noisy(), foreign=True)


def test_a_net_without_shapes_and_what_is_no_net(result: etude.Result) -> None:
    with pytest.raises(StateError, match="Call the net once before"):
        load_net(result.checkpoints[-1], nn.LazyLinear(3))
    for net, path in (({}, result.checkpoints[-1]), (Noisy(), Noisy())):
        with pytest.raises(SettingError, match=r"Write load_net\(path, net\)"):
            load_net(path, net)  # type: ignore[arg-type, type-var]
