"""The demonstration, as a newcomer runs it, and what it claims about its own plan."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from etude import MissingPackageError, Result, Run, events, train
from etude import demo as demonstration
from etude.cli import main


def test_demo_shows_the_plan_trains_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    assert main(["demo", "--epochs", "4"]) == 0
    said = capsys.readouterr().out
    assert said.index("edges.bias") < said.index("epoch 1/4") < said.index("val.accuracy")
    assert "out/demo" in said.splitlines()[-1]
    assert {path.name for path in (tmp_path / "out" / "demo").iterdir()} == {
        "result.json", "result.safetensors", "events.jsonl", "loss.png", "score.png",
    }  # fmt: skip
    assert Result.load(tmp_path / "out" / "demo" / "result.json").losses["val.accuracy"] > 0.9
    assert torch.get_num_threads() == threads
    assert main(["demo", "--epochs", "1", "--quiet"]) == 0  # again, into the same folder


def test_the_demo_is_an_experiment_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(demonstration.__file__), "--epochs", "2", "--slowed", "0.5"]) == 0
    assert "times(0.5)" in capsys.readouterr().out


def test_the_plan_does_what_its_text_says() -> None:
    net, data, plan = demonstration.experiment(epochs=1, batch_size=200)
    before = {name: array.clone() for name, array in net.state_dict().items()}
    moved = []
    for event in Run(plan, net, data):
        if isinstance(event, events.Settled):
            now = net.state_dict()
            moved.append({name for name in now if not torch.equal(now[name], before[name])})
            before = {name: array.clone() for name, array in now.items()}
    head = {"head.weight", "head.bias"}
    assert len(moved) == 8
    assert all(names == {"shapes.weight", "shapes.bias"} | head for names in moved[::2])
    assert all(names == {"edges.weight"} | head for names in moved[1::2])


def test_the_same_seed_gives_the_same_bits() -> None:
    def trained() -> list[torch.Tensor]:
        torch.rand(1)  # what the process drew before does not matter
        net, data, plan = demonstration.experiment(epochs=1)
        return [array.clone() for array in train(net, data, plan, progress=False).final_net.state_dict().values()]

    assert all(torch.equal(a, b) for a, b in zip(trained(), trained(), strict=True))


def test_digits_are_pictures_between_0_and_1() -> None:
    pictures, shown = demonstration.digits()
    assert pictures.shape == (1797, 1, 8, 8)
    assert (float(pictures.min()), float(pictures.max())) == (0, 1)
    assert sorted(set(shown.tolist())) == list(range(10))


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'etude\[examples\]'"):
        demonstration.digits()


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_demo_reads_digits_whatever_the_seed(seed: int) -> None:
    net, data, plan = demonstration.experiment(seed=seed)
    assert max(train(net, data, plan, progress=False).history["val.accuracy"].values) > 0.95
