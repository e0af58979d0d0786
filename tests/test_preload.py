"""Arrays out of files: of this library and from elsewhere, by prefix and other names, grown, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import etude
from etude import Directory, Trainer, ema, every, everything, part, steps
from etude.errors import CheckpointError, EtudeError, PartError, RuleError, SettingError, StateError
from etude.initial import Fresh, Initial, Load, initialize
from small import Noisy, arrays, mlp, same, trained

torch.set_num_threads(1)


def filled(net: nn.Module, start: float = 100.0) -> nn.Module:
    """Every array of a net has numbers of its own."""
    with torch.no_grad():
        for place, array in enumerate(net.state_dict().values()):
            array.copy_(start + place + torch.arange(array.numel()).reshape(array.shape) / 1000)
    return net


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 3)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """All arrays of an `Encoder`."""
    save_file(filled(Encoder()).state_dict(), tmp_path / "all.safetensors")
    return tmp_path / "all.safetensors"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Only those of its encoder, under their own names."""
    torch.save(filled(Encoder()).encoder.state_dict(), tmp_path / "encoder.pt")
    return tmp_path / "encoder.pt"


def refused(net: nn.Module, literal: Any, error: type[Exception], told: str) -> None:
    """Proving and applying say the same, and the net is as it was."""
    before = arrays(net)
    for call in (Initial(literal).prove, Initial(literal).apply):
        with pytest.raises(error, match=told):
            call(net)
    assert same(before, arrays(net))


# ------------------------------------------------------------------------------------------------ kinds of files


def test_a_whole_net_with_its_statistics(saved: Path) -> None:
    net = Encoder()
    before = arrays(net)
    proved = Initial(Load(saved)).prove(net)
    assert same(before, arrays(net))
    origins = initialize(net, Load(saved))
    assert same(arrays(net), arrays(filled(Encoder())))
    assert proved == origins
    assert {one.kind for one in origins} == {"loaded"}
    assert origins["encoder.1.running_mean"].how == "loaded: encoder.1.running_mean"


@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict", "module"])
def test_pickles_of_tensors_wherever_they_have_them(key: str | None, tmp_path: Path) -> None:
    state = filled(mlp()).state_dict()
    torch.save(state if key is None else {key: state, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "a.pth")
    net = mlp(2)
    initialize(net, Load(tmp_path / "a.pth"))
    assert same(arrays(net), dict(state))


def test_a_pickle_with_several_nets_is_asked_for_one(tmp_path: Path) -> None:
    torch.save({"generator": filled(mlp(), 5).state_dict(), "critic": filled(mlp(), 7).state_dict()}, tmp_path / "a.pt")
    net = mlp()
    initialize(net, Load(tmp_path / "a.pt", of="critic"))
    assert net[0].weight[0, 0] == 7
    refused(net, Load(tmp_path / "a.pt"), CheckpointError, r"Load\(\.\.\., of='generator'\) would take what is under")
    refused(net, Load(tmp_path / "a.pt", of="crtic"), StateError, 'has no .crtic.: .*Nearest: "critic"')


def test_arrays_in_dicts_in_dicts_are_found_by_their_keys(tmp_path: Path) -> None:
    state = {f"module.{name}": array for name, array in filled(mlp(), 5).state_dict().items()}
    torch.save({"epoch": 3, "run": {"optimizer": {"state": {0: {"step": 7.0}}}, "model": state}}, tmp_path / "a.pt")
    net = mlp()
    initialize(net, Load(tmp_path / "a.pt", of="run.model", inside="module"))
    assert same(arrays(net), arrays(filled(mlp(), 5)))
    for of in (None, "run"):
        refused(net, Load(tmp_path / "a.pt", of=of), CheckpointError, r"of='run.model'\) would take what is under that")
    refused(net, Load(tmp_path / "a.pt", of="run.modle"), StateError, r'dicts under .run.model.*Nearest: "run.model"')


def test_old_pickles_that_are_no_zip(tmp_path: Path) -> None:
    state = filled(mlp()).state_dict()
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    net = mlp(2)
    initialize(net, Load(tmp_path / "old.pt"))
    assert same(arrays(net), dict(state))


class Harmful:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path(Harmful.path),))

    path = ""


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    Harmful.path = str(tmp_path / "ran")
    torch.save({"0.weight": Harmful()}, tmp_path / "a.pt")
    refused(mlp(), Load(tmp_path / "a.pt"), CheckpointError, "other things in it, which are not read")
    assert not (tmp_path / "ran").exists()


def sharded(folder: Path, state: Mapping[str, Tensor], name: str = "model.safetensors.index.json") -> Path:
    """A model in two files beside their index."""
    names = list(state)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({key: state[key] for key in own}, folder / file)
    places = {key: file for file, own in parts.items() for key in own}
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    return folder / name


def test_a_model_in_several_files_by_its_index_its_folder_or_a_link(tmp_path: Path) -> None:
    state = filled(mlp()).state_dict()
    index = sharded(tmp_path, state)
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "model.safetensors.index.json"
    for file in tmp_path.glob("*.*"):
        (tmp_path / "links" / file.name).symlink_to(file)
    for path in (index, tmp_path, link, tmp_path / "links"):
        net = mlp(2)
        initialize(net, Load(path))
        assert same(arrays(net), dict(state))


def test_an_index_that_does_not_hold(tmp_path: Path) -> None:
    index = sharded(tmp_path, filled(mlp()).state_dict())
    told = json.loads(index.read_text())
    told["weight_map"]["0.weight"] = "two.safetensors"
    index.write_text(json.dumps(told))
    refused(mlp(), Load(index), CheckpointError, r"'0.weight' where the index has it; found none of that name")
    told["weight_map"]["0.weight"] = "../two.safetensors"
    index.write_text(json.dumps(told))
    refused(mlp(), Load(index), CheckpointError, "other JSON, or files in other folders")
    index.write_text("{")
    refused(mlp(), Load(index), CheckpointError, "expected an index")


def test_checkpoints_of_this_library(tmp_path: Path) -> None:
    kept = Directory(tmp_path, every(steps(3)))
    result = trained(Noisy(), checkpoint=kept, epochs=5, validation=0.3, averages=ema(0.9), learning_rate=0.2)
    path = result.checkpoints[-1]
    for of, expected in (
        (None, arrays(result.final_net)),
        ("net", arrays(result.final_net)),
        ("best", arrays(result.net)),
        ("ema", arrays(result.averaged_net("ema"))),
    ):
        net = Noisy(3)
        assert {one.kind for one in initialize(net, Load(path, of=of))} == {"loaded"}
        assert same(arrays(net), expected)
    refused(Noisy(), Load(path, of="emma"), StateError, r'it has best, ema, net\. Nearest: "ema"')


def test_a_checkpoint_is_checked_byte_by_byte(tmp_path: Path) -> None:
    path = Path(trained(mlp(), checkpoint=tmp_path).checkpoints[-1])
    raw = bytearray(path.read_bytes())
    with torch.no_grad():
        needle = next(iter(etude.load_net(path, mlp(2)).parameters())).numpy().tobytes()
    raw[raw.index(needle)] ^= 1
    path.write_bytes(raw)
    net = mlp(5)
    before = arrays(net)
    with pytest.raises(CheckpointError, match="with the digest"):
        initialize(net, Load(path))
    assert same(before, arrays(net))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("none.pt", None, "expected a file of weights; found No such file"),
        ("text.safetensors", b"hello, this is text", "expected a safetensors file, or a .pt file of tensors"),
        ("empty.safetensors", b"", "expected a safetensors file"),
    ],
)
def test_files_that_are_none(name: str, content: bytes | None, told: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused(mlp(), Load(tmp_path / name), CheckpointError, told)


def test_a_folder_that_is_no_model(tmp_path: Path, saved: Path) -> None:
    refused(Encoder(), Load(tmp_path), CheckpointError, r"name it; found a folder with 'all\.safetensors'")
    refused(Encoder(), Load(saved, of="best"), StateError, "holds the arrays of one net and nothing else. Leave of=")


def test_other_precisions_are_converted_and_said(tmp_path: Path) -> None:
    state = {name: array.bfloat16() for name, array in mlp(3).state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    net = mlp()
    origins = initialize(net, Load(tmp_path / "half.safetensors"))
    assert net[0].weight.dtype == torch.float32
    assert torch.equal(net[0].weight, state["0.weight"].float())
    assert origins["0.weight"].how == "loaded: 0.weight, bfloat16 to float32"
    save_file({name: array.long() for name, array in state.items()}, tmp_path / "whole.safetensors")
    refused(net, Load(tmp_path / "whole.safetensors"), StateError, "'0.weight' holds torch.float32 and the file")


# ------------------------------------------------------------------------------------------------ order and parts


def test_the_first_entry_that_has_an_array_decides(saved: Path, tmp_path: Path) -> None:
    other = filled(Encoder(), 500).state_dict()
    save_file({name: array for name, array in other.items() if "0" in name}, tmp_path / "some.safetensors")
    net = Encoder()
    origins = initialize(net, [Load(tmp_path / "some.safetensors"), Load(saved)])
    assert net.encoder[0].weight[0, 0] == 500
    assert net.head.weight[0, 0] == 107
    assert origins["head.weight"].source == f"Load({str(saved)!r})"
    refused(
        net, [Load(saved), Load(tmp_path / "some.safetensors")], RuleError, "never decides: earlier entries, such as"
    )


@pytest.mark.parametrize("order", [0, 1])
def test_what_is_fresh_may_stand_before_or_after(order: int, bare: Path) -> None:
    """Not as by the names of the entries, of which one order failed."""
    entries = [Load(bare, prefix="encoder"), Fresh("head", "orthogonal")]
    net = Encoder()
    origins = initialize(net, entries[::-1] if order else entries, seed=3)
    assert net.encoder[0].weight[0, 0] == 100
    assert origins.names("drawn") == ("head.weight",)
    assert origins["head.bias"].kind == "as made"


def test_fresh_before_the_file_keeps_what_the_file_has(saved: Path) -> None:
    net = Encoder()
    before = arrays(net)
    origins = initialize(net, [Fresh("head"), Load(saved)])
    assert torch.equal(net.head.weight, before["head.weight"])
    assert origins.unused == {f"Load({str(saved)!r})": ("head.bias", "head.weight")}
    assert "not used of Load(" in str(origins)
    refused(net, [Load(saved), Fresh("head")], RuleError, r"Fresh\(part\('head'\)\) never decides.*Put it before them")


def test_a_prefix_is_that_of_the_net(bare: Path) -> None:
    for prefix in ("encoder", "encoder."):
        net = Encoder()
        head = arrays(net)["head.weight"]
        initialize(net, Load(bare, prefix=prefix))
        assert same(arrays(net.encoder), arrays(filled(Encoder()).encoder))
        assert torch.equal(net.head.weight, head)


def test_inside_is_that_of_the_file(tmp_path: Path, saved: Path) -> None:
    state = filled(mlp()).state_dict()
    save_file({f"module.{name}": array for name, array in state.items()}, tmp_path / "wrapped.safetensors")
    net = mlp(2)
    initialize(net, Load(tmp_path / "wrapped.safetensors", inside="module"))
    assert same(arrays(net), dict(state))
    encoder = Encoder().encoder
    initialize(encoder, Load(saved, inside="encoder."))
    assert same(arrays(encoder), arrays(filled(Encoder()).encoder))


def test_prefixes_that_match_nothing(saved: Path, bare: Path, tmp_path: Path) -> None:
    refused(
        Encoder(), Load(bare, prefix="encodr."), PartError, r"no array of the net begins with 'encodr\.'\. Nearest: "
    )
    refused(Encoder(), Load(saved, inside="encodr"), StateError, r'begins with .encodr.\. Nearest: "encoder"')
    refused(
        Encoder(), Load(bare), StateError, "has no array of the net. It has what the net has under 'encoder': write p"
    )
    refused(Encoder().encoder, Load(saved), StateError, "Its names begin with 'encoder': write inside='encoder'")
    other = nn.ParameterDict({"gain": torch.ones(2)})
    refused(other, Load(saved), StateError, r"The net has 'gain'\. The file has 'encoder.* Write rename=")
    refused(Encoder(), Load(saved, prefix="encoder", only="head"), RuleError, "none of .* begins with 'encoder.'")


def test_a_part_of_the_net(saved: Path) -> None:
    for literal in (Load(saved, only="encoder.0"), {"encoder.0": Load(saved)}, {"encoder": Load(saved, only="*.0.*")}):
        net = Encoder()
        origins = initialize(net, literal)
        assert origins.names("loaded") == ("encoder.0.weight", "encoder.0.bias")
    refused(Encoder(), Load(saved, only="encodr"), PartError, 'the net has no .encodr.*Nearest: "encoder"')


# ------------------------------------------------------------------------------------------------ names


def test_names_by_a_dict(tmp_path: Path) -> None:
    state = filled(Encoder()).state_dict()
    old = {name.replace("encoder.0", "front.lin").replace("head", "out"): array for name, array in state.items()}
    save_file(old, tmp_path / "old.safetensors")
    net = Encoder()
    origins = initialize(
        net,
        Load(tmp_path / "old.safetensors", rename={"encoder.0": "front.lin", "head": "out", "head.bias": "out.bias"}),
    )
    assert same(arrays(net), dict(state))
    assert origins["encoder.0.bias"].how == "loaded: front.lin.bias"


def test_a_name_that_is_not_to_be_loaded(saved: Path) -> None:
    origins = initialize(Encoder(), [Load(saved, rename={"head": None}), Fresh("head")])
    assert origins.names("as made") == ("head.weight", "head.bias")
    refused(
        Encoder(), Load(saved, rename={"head": None}), StateError, "neither the file nor another entry has 'head.wei"
    )


def test_names_by_a_function(saved: Path) -> None:
    def old(name: str) -> str | None:
        return None if name.startswith("0.") else f"head.{name.partition('.')[2]}"

    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(8, 3))
    initialize(net, Load(saved, rename=old, missing="fresh"))
    assert net[1].weight[0, 0] == 107


def test_an_array_that_is_made_up_from_others(saved: Path) -> None:
    def mean(name: str, given: Mapping[str, Tensor]) -> str | Tensor:
        if name != "head.weight":
            return name
        assert "head.weight" in given
        return given["encoder.0.weight"].mean().expand(5, 8)

    net = Encoder()
    net.head = nn.Linear(8, 5)
    origins = initialize(net, [Load(saved, rename=mean, only=~part("head.bias"))])
    assert torch.equal(net.head.weight, filled(Encoder()).encoder[0].weight.mean().expand(5, 8))
    assert origins["head.weight"].kind == "made up"


@pytest.mark.parametrize(
    ("rename", "error", "told"),
    [
        ({"haed.weight": "head.weight"}, PartError, r'the net has no .haed\.weight.*Nearest: "head\.weight"'),
        ({"head.weight": "haed.weight"}, StateError, r'the file has no .haed\.weight.*Nearest: "head\.weight"'),
        (lambda name: 3, SettingError, "rename of 'encoder.0.weight' gave 3. Return the name in the file"),
        (lambda name: {}[name], SettingError, "rename of 'encoder.0.weight': KeyError"),
        (lambda name, given: given["haed"], StateError, "the file has no 'haed'"),
        (lambda name: f"x.{name}", StateError, "has no array of the net"),
    ],
)
def test_names_that_are_wrong(rename: Any, error: type[Exception], told: str, saved: Path) -> None:
    refused(Encoder(), Load(saved, rename=rename), error, told)


# ------------------------------------------------------------------------------------------------ missing and shapes


def test_missing_arrays_are_named_with_the_nearest(tmp_path: Path) -> None:
    state = filled(Encoder()).state_dict()
    state["heads.weight"] = state.pop("head.weight")
    save_file(state, tmp_path / "a.safetensors")
    told = r"""has 'head\.weight' \(nearest: "heads\.weight"\)\. Write Fresh\('head'\) after it"""
    refused(Encoder(), Load(tmp_path / "a.safetensors"), StateError, told)
    origins = initialize(Encoder(), Load(tmp_path / "a.safetensors", missing="fresh"))
    assert origins.names("as made") == ("head.weight",)
    assert origins.unused[f"Load({str(tmp_path / 'a.safetensors')!r}, missing='fresh')"] == ("heads.weight",)


def test_what_rules_are_for_is_not_missing(bare: Path, tmp_path: Path) -> None:
    origins = initialize(Encoder(), [Load(bare, prefix="encoder"), ("head", "orthogonal")])
    assert origins["head.weight"].kind == "drawn"
    state = {name: array for name, array in Encoder().state_dict().items() if "encoder" in name}
    save_file(state, tmp_path / "a.safetensors")
    assert (
        initialize(Encoder(), [Load(tmp_path / "a.safetensors"), ("head", "orthogonal")])["head.bias"].kind == "as made"
    )


def test_a_count_of_batches_that_old_files_lack(tmp_path: Path) -> None:
    state = {name: array for name, array in Encoder().state_dict().items() if "num_batches" not in name}
    save_file(state, tmp_path / "a.safetensors")
    assert initialize(Encoder(), Load(tmp_path / "a.safetensors")).names("as made") == (
        "encoder.1.num_batches_tracked",
    )


def test_other_shapes_are_named(saved: Path) -> None:
    net = Encoder()
    net.head = nn.Linear(8, 5)
    told = r"'head\.weight' has the shape \(5, 8\) and in the file \(3, 8\); 'head\.bias' .* Write shapes='grow'"
    refused(net, Load(saved), StateError, told)
    net.head = nn.Conv1d(8, 5, 2)
    refused(net, Load(saved, shapes="grow"), StateError, r"and in the file \(3, 8\): as many axes are needed")


def test_growing_copies_the_leading_block(saved: Path) -> None:
    net = Encoder()
    net.head = nn.Linear(9, 5)
    before, old = arrays(net), arrays(filled(Encoder()))
    origins = initialize(net, Load(saved, shapes="grow"))
    assert torch.equal(net.head.weight[:3, :8], old["head.weight"])
    assert torch.equal(net.head.weight[3:], before["head.weight"][3:])
    assert torch.equal(net.head.weight[:, 8], before["head.weight"][:, 8])
    assert (origins["head.weight"].kind, origins["head.weight"].how) == ("grown", "grown: head.weight of 3x8")


def test_the_rest_of_a_grown_array_by_a_later_rule(saved: Path) -> None:
    net = Encoder()
    net.head = nn.Linear(9, 5)
    origins = initialize(net, [Load(saved, shapes="grow"), (everything, 0)])
    assert (net.head.weight[3:] == 0).all()
    assert net.head.weight[2, 7] > 100
    assert origins["head.weight"].how == "grown: head.weight of 3x8, the rest constant(0)"


def test_shrinking_takes_what_there_is_room_for(saved: Path) -> None:
    net = Encoder()
    net.head = nn.Linear(8, 2)
    initialize(net, Load(saved, shapes="grow"))
    assert torch.equal(net.head.weight, filled(Encoder()).head.weight[:2])


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_gates_grow_each_for_itself(kind: Any, gates: int, tmp_path: Path) -> None:
    small, large = filled(kind(3, 2, 2, bidirectional=True)), kind(4, 3, 2, bidirectional=True)
    save_file(small.state_dict(), tmp_path / "rnn.safetensors")
    initialize(large, [Load(tmp_path / "rnn.safetensors", shapes="grow"), (everything, 0)])
    for name, old in small.state_dict().items():
        new = large.state_dict()[name]
        for mine, its in zip(new.chunk(gates), old.chunk(gates), strict=True):
            assert torch.equal(mine[:2].flatten(1)[:, :2] if mine.ndim > 1 else mine[:2], its[..., :2])
            assert (mine[2] == 0).all()
    # The second layer reads both directions of the first, one after the other.
    mine, its = large.weight_ih_l1[0], small.weight_ih_l1[0]
    assert mine.tolist() == [*its[:2].tolist(), 0, *its[2:].tolist(), 0]


def test_query_key_and_value_grow_each_for_itself(tmp_path: Path) -> None:
    small, large = filled(nn.MultiheadAttention(2, 1)), nn.MultiheadAttention(4, 1)
    torch.save(small.state_dict(), tmp_path / "a.pt")
    initialize(large, Load(tmp_path / "a.pt", shapes="grow"))
    for mine, its in zip(large.in_proj_weight.chunk(3), small.in_proj_weight.chunk(3), strict=True):
        assert torch.equal(mine[:2, :2], its)


# ------------------------------------------------------------------------------------------------ ties, counters


class Tied(nn.Module):
    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        if tie:
            self.head.weight = self.embed.weight


def test_an_array_that_is_shared_is_found_under_any_of_its_names(tmp_path: Path) -> None:
    for name in ("embed.weight", "head.weight"):
        save_file({name: torch.full((5, 4), 3.0)}, tmp_path / "a.safetensors")
        net = Tied()
        initialize(net, Load(tmp_path / "a.safetensors"))
        assert (net.head.weight == 3).all()
        assert net.head.weight is net.embed.weight


def test_two_arrays_of_a_file_for_one_of_the_net(tmp_path: Path) -> None:
    torch.save(filled(Tied(False)).state_dict(), tmp_path / "a.pt")
    told = r"'embed\.weight' is one array in the net, .* are different. Write rename=\{'embed.weight': 'embed.weight'\}"
    refused(Tied(), Load(tmp_path / "a.pt"), StateError, told)
    net = Tied()
    initialize(net, Load(tmp_path / "a.pt", rename={"embed.weight": "head.weight", "head.weight": None}))
    assert net.embed.weight[0, 0] == 101
    torch.save({name: torch.ones(5, 4) for name in ("embed.weight", "head.weight")}, tmp_path / "b.pt")
    initialize(net, Load(tmp_path / "b.pt"))
    assert (net.embed.weight == 1).all()


def test_one_array_of_a_checkpoint_for_two_of_the_net(tmp_path: Path) -> None:
    data = (torch.arange(9) % 5, torch.arange(9) % 5)

    class Words(Tied):
        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(self.embed(x))
            return found

    path = trained(Words(), data, checkpoint=tmp_path).checkpoints[-1]
    apart = Words(tie=False)
    initialize(apart, Load(path))
    assert torch.equal(apart.head.weight, apart.embed.weight)
    assert apart.head.weight is not apart.embed.weight


def test_nothing_but_arrays_is_taken(tmp_path: Path) -> None:
    """Not as by an import at the first epoch, which kept the old count of steps."""
    path = trained(mlp(), checkpoint=tmp_path, optimizer="adam", learning_rate=0.1, epochs=3).checkpoints[-1]
    told = trained(mlp(2), initialize=Load(path), optimizer="adam", learning_rate=0.1, epochs=1)
    by_hand = etude.load_net(path, mlp(2))
    assert same(arrays(told.net), arrays(trained(by_hand, optimizer="adam", learning_rate=0.1, epochs=1).net))
    assert told.history["loss"].steps[-1] == 3
    net = mlp()
    trainer = Trainer(net, "adam", learning_rate=0.1)
    initialize(net, Load(path))
    assert trainer.progress.step == 0


def test_a_part_that_is_loaded_and_never_moves(saved: Path) -> None:
    class Classifier(Encoder):
        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(self.encoder(x))
            return found

    result = trained(
        Classifier(),
        initialize=[Load(saved, only="encoder"), Fresh("head", "glorot_uniform")],
        learning_rate_multipliers={"encoder": 0},
        learning_rate=0.1,
        epochs=2,
    )
    assert same(arrays(result.net.encoder), arrays(filled(Encoder()).encoder))
    assert not torch.equal(result.net.head.weight, filled(Encoder()).head.weight)


class Table(nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("table", torch.arange(float(length)), persistent=False)


def test_buffers_that_a_state_dict_leaves_out_stay_as_made(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2), "table": torch.zeros(3)}, tmp_path / "a.safetensors")
    net = Table(5)
    assert initialize(net, Load(tmp_path / "a.safetensors"))["table"].kind == "as made"
    assert net.table.tolist() == [0, 1, 2, 3, 4]


# ------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Load(3), r"Load\(3\): the path of a file is needed"),  # type: ignore[arg-type]
        (lambda: Load("a", shapes="grown"), 'shapes=.grown. is not known.*Nearest: "grow"'),
        (lambda: Load("a", missing=True), "Write 'error' or 'fresh'"),  # type: ignore[arg-type]
        (lambda: Load("a", rename=["b"]), "rename=.* is neither a dict nor a function"),  # type: ignore[arg-type]
        (lambda: Load("a", rename={"b": 3}), "names are text"),  # type: ignore[dict-item]
        (lambda: Load("a", prefix=3), "prefix=3 is no text"),  # type: ignore[arg-type]
        (lambda: Load("a", strict=False), r"Load\(\): There is no argument 'strict'"),  # type: ignore[call-arg]
        (lambda: Load("a", only=1.5), "stands for no part"),  # type: ignore[arg-type]
        (lambda: Fresh("a", "x"), "there is no initialiser 'x'"),
        (lambda: Fresh(part="a"), "There is no argument 'part'"),  # type: ignore[call-arg]
    ],
)
def test_options_that_are_wrong(make: Any, told: str) -> None:
    with pytest.raises(EtudeError, match=told):
        make()


@pytest.mark.parametrize(
    "one",
    [
        Load("a.pt"),
        Load(Path("a.pt"), "encoder", "module", {"a": "b", "c": None}, "encoder", "grow", "fresh", "best"),
        Fresh(),
        Fresh("head"),
        Fresh(nn.Linear, "orthogonal"),
        Fresh(everything, 0.5),
    ],
    ids=repr,
)
def test_they_print_as_what_makes_them(one: Any) -> None:
    names = {**vars(etude.initial), "part": part, "nn": nn, "everything": everything}
    assert eval(repr(one), names) == one
    assert hash(eval(repr(one), names)) == hash(one)


def test_an_array_that_is_made_up_too_small_is_said_to_have_grown(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.ones(2, 16)}, path)
    made = Load(
        path, rename=lambda name: torch.ones(2, 16) if name == "weight" else None, shapes="grow", missing="fresh"
    )
    assert "made up by rename, grown from 2x16" in str(initialize(nn.Linear(24, 2), [made]))
