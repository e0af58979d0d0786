"""A net as an archive beside its checkpoint, which runs without the program that built it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from etude import Directory, File, every, last, steps
from etude.errors import PlanError
from small import Noisy, classified, trained


def test_an_archive_stands_beside_each_checkpoint(tmp_path: Path) -> None:
    result = trained(Noisy(), checkpoint=Directory(tmp_path, every(steps(2)), export=True), epochs=2)
    assert [path.with_suffix(".pt2").exists() for path in map(Path, result.checkpoints)] == [True] * 3
    net = torch.export.load(Path(result.checkpoints[-1]).with_suffix(".pt2")).module()
    x = classified(7, seed=3)[0]
    assert result.net is not None
    assert torch.equal(net(x), result.net(x))


def test_each_has_the_arrays_of_its_moment(tmp_path: Path) -> None:
    result = trained(Noisy(), checkpoint=Directory(tmp_path, every(steps(2)), export=True), epochs=2)
    archives = [torch.export.load(Path(path).with_suffix(".pt2")).state_dict for path in result.checkpoints]
    assert not torch.equal(archives[0]["head.weight"], archives[1]["head.weight"])


def test_it_needs_nothing_but_torch(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    trained(Noisy(), checkpoint=File(path, export=True))
    archive = str(path.with_suffix(".pt2"))
    program = f"import torch; print(tuple(torch.export.load({archive!r}).module()(torch.ones(5, 4)).shape))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "(5, 3)"


def test_it_holds_no_pickle(tmp_path: Path) -> None:
    trained(Noisy(), checkpoint=File(tmp_path / "net.safetensors", export=True))
    with zipfile.ZipFile(tmp_path / "net.pt2") as archive:
        assert [name for name in archive.namelist() if archive.read(name)[:2] in (b"PK", b"\x80\x02")] == []


def test_it_goes_with_its_checkpoint(tmp_path: Path) -> None:
    trained(Noisy(), checkpoint=Directory(tmp_path, keep=last(1), export=True), epochs=3)
    assert len(list(tmp_path.glob("*.safetensors"))) == len(list(tmp_path.glob("*.pt2"))) == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".etude")]


def test_a_net_that_cannot_be_exported_is_found_before_the_first_step(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.inner(x) if float(x.sum()) > -1e9 else x
            return made

    with pytest.raises(PlanError, match=r"export=True: torch\.export cannot make an archive"):
        trained(Odd(), checkpoint=Directory(tmp_path, export=True))
    assert list(tmp_path.iterdir()) == []


class Counting(nn.Linear):
    """A net with a buffer that its state_dict leaves out."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.register_buffer("hidden", torch.zeros(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.hidden += 1
        return super().forward(x) + self.hidden


def test_hidden_buffers_are_those_of_the_moment(tmp_path: Path) -> None:
    net = Counting()
    trained(net, checkpoint=File(tmp_path / "net.safetensors", export=True))
    x = classified(7, seed=3)[0]
    assert torch.equal(torch.export.load(tmp_path / "net.pt2").module()(x), net(x))
