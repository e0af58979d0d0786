"""Every example runs as it is written, and shows what it says it shows."""

from __future__ import annotations

import gzip
import importlib
import re
import subprocess
import sys
import wave
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"
HELPERS = {"pictures"}
NAMES = sorted({path.stem for path in EXAMPLES.glob("*.py")} - HELPERS)
RECORDINGS = Path(__file__).parents[2] / "shared" / "data" / "fsdd"
TEXT = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Examples write below the folder they are run in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ETUDE_DATA", raising=False)
    return tmp_path


def run(name: str, quick: bool = True) -> Any:
    return importlib.import_module(name).main(quick=quick)


def test_digits() -> None:
    result = run("digits")
    assert max(result.history["val.accuracy"].values) > 0.95
    assert result.optimizer["loss"]["weight_decay"] == 0.05
    assert not result.net.training


def test_last_layer_moves_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    result = run("last_layer")
    said = capsys.readouterr().out
    assert "0.weight  the same, bit for bit\n0.bias    the same, bit for bit\n2.weight  moved\n2.bias    moved" in said
    assert result.learning_rate_multipliers == {"0.weight": 0, "0.bias": 0, "2.weight": 1, "2.bias": 1}
    losses = result.history["epoch.loss"].values
    assert losses[-1] < losses[0]


def test_nested_frozen_layer_keeps_what_was_left_on_it() -> None:
    result = run("nested_frozen")
    assert result.learning_rate_multipliers == {
        "0.average.weight": 0, "0.mix.weight": 1, "0.mix.bias": 0.1, "2.weight": 1, "2.bias": 1,
    }  # fmt: skip
    assert torch.equal(result.net[0].average.weight, torch.full((1, 1, 3), 1 / 3))


def test_transfer_to_letters(capsys: pytest.CaptureFixture[str]) -> None:
    scores = run("transfer_letters")
    assert "\nchanged: names.weight, names.bias\n" in capsys.readouterr().out
    assert scores["training"] > 0.9
    assert scores["validation"] > 0.9
    assert scores["an unseen font"] > 0.9


def test_letters_of_the_unseen_font_are_not_trained_on() -> None:
    letters = importlib.import_module("transfer_letters")
    seen, unseen = letters.fonts(False), letters.fonts(True)
    assert (len(seen), len(unseen)) == (15, 1)
    assert not set(seen) & set(unseen)
    pictures, which = letters.drawn(8, 50, seed=0)
    assert pictures.shape == (50, 1, 8, 8)
    assert 0.5 < float(pictures.max()) <= 1
    assert set(which.tolist()) == {0, 1, 2}


def test_gan_comes_near_the_real_numbers(here: Path) -> None:
    made = run("gan")
    assert abs(made["mean"] - 3) < 0.8
    assert 0.1 < made["deviation"] < 1.2
    assert (here / "out" / "gan.png").read_bytes().startswith(b"\x89PNG")


def test_alternating_layers_make_two_staircases_and_a_line(here: Path) -> None:
    record = run("alternating")
    moved = {name: [after != before for before, after in pairwise(values)] for name, values in record.items()}
    assert len(moved["0.weight"]) == 21
    assert moved["0.weight"] == [step % 2 == 0 for step in range(21)]
    assert moved["4.weight"] == [step % 2 == 1 for step in range(21)]
    assert not any(moved["2.weight"])
    assert (here / "out" / "alternating.png").exists()


def test_ten_to_one_counts(here: Path) -> None:
    assert run("ten_to_one") == {
        "a.weight": 40, "a.bias": 40, "b.weight": 4, "b.bias": 4, "out.weight": 0, "out.bias": 0,
    }  # fmt: skip
    assert (here / "out" / "ten_to_one.png").exists()


def test_own_loop() -> None:
    assert run("own_loop") > 0.9


def test_gluon_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    seen = run("gluon_trainer")
    said = capsys.readouterr().out
    assert said.count("refused: ") == 4
    assert said.count("the same weights: True") == 4
    assert seen["a step"]["difference"].abs().max() == 0


def test_killed_and_resumed() -> None:
    seen = run("killed_and_resumed")
    (first, killed), (went_on, ended) = seen["made"]
    assert first == 1 < went_on - 20 < killed < ended == seen["total"]
    assert seen["net"] is True
    assert seen["ema"] is True


def hummed(folder: Path, speakers: int = 4) -> Path:
    """Recordings with the names of the spoken digits: a digit is a pitch, hummed for 0.06 to 0.75 seconds."""
    random = np.random.default_rng(0)
    for digit, speaker, number in np.ndindex(10, speakers, 40):
        seconds = np.arange(random.integers(500, 6000)) / 8000
        tone = np.sin(2 * np.pi * 200 * 1.3**digit * seconds) + 0.01 * random.standard_normal(len(seconds))
        with wave.open(str(folder / f"{digit}_{speaker}_{number}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes((8000 * tone).astype("<i2").tobytes())
    return folder


def check_spoken_digits(seen: dict[str, Any], files: int, here: Path) -> None:
    assert seen["test"] > 0.9
    first, *_, last = seen["reports"]
    # Half of them at first, then all.
    assert first.samples == sum(first.left_out.values()) == files / 2
    assert (last.samples, sum(last.left_out.values())) == (files, 0)
    assert len(seen["result"].history["val.accuracy"].values) == len(seen["reports"])
    assert seen["result"].steps == sum(report.batches for report in seen["reports"])
    assert (here / "out" / "spoken_digits.png").read_bytes().startswith(b"\x89PNG")


def test_spoken_digits_with_hummed_ones(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "recordings").mkdir()
    hummed(here / "recordings")
    check_spoken_digits(importlib.import_module("spoken_digits").main(True, str(here)), 1200, here)
    said = capsys.readouterr().out
    assert "epoch 1: " in said
    assert "600 samples by shortest(" in said


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings of spoken digits are not here")
def test_spoken_digits(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_spoken_digits(importlib.import_module("spoken_digits").main(True, str(RECORDINGS)), 2400, here)
    shares = dict(re.findall(r"padding in order (\S+) +([\d.]+)%", capsys.readouterr().out))
    assert float(shares["strata"]) < 5 < float(shares["laplace:.100"]) < 40 < float(shares["random"])


def test_without_the_recordings_it_says_where_they_are(here: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no recordings of spoken digits: clone https://github\S+ and name"):
        importlib.import_module("spoken_digits").main(True, str(here))


def test_every_example_has_a_test() -> None:
    tested = {
        "spoken_digits",
        "digits",
        "last_layer",
        "nested_frozen",
        "transfer_letters",
        "gan",
        "alternating",
        "ten_to_one",
        "own_loop",
        "gluon_trainer",
        "killed_and_resumed",
        "speedrun",
    }
    assert set(NAMES) == tested


@pytest.mark.parametrize("name", NAMES)
def test_every_example_explains_itself(name: str) -> None:
    doc = importlib.import_module(name).__doc__ or ""
    assert f"python examples/{name}.py [--quick]" in doc
    assert "What to look at:" in doc


def test_an_example_as_a_program() -> None:
    command = [sys.executable, str(EXAMPLES / "last_layer.py"), "--quick"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "2.weight  moved" in said


def test_mnist_is_read_from_a_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = importlib.import_module("pictures")
    points = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4) * 10
    header = bytes([0, 0, 8, 3]) + np.array([2, 3, 4], ">i4").tobytes()
    (here / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + points.tobytes()))
    (here / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 1])))
    monkeypatch.setenv("ETUDE_DATA", str(here))
    images, labels = pictures.digits()
    assert torch.equal(images, torch.tensor(points).unsqueeze(1) / 255)
    assert labels.tolist() == [7, 1]


def test_without_the_files_it_says_where_they_are(here: Path) -> None:
    pictures = importlib.import_module("pictures")
    with pytest.raises(SystemExit, match=r"(?s)has no t10k-images.*ossci-datasets"):
        pictures.digits(here)


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_full_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "spoken_digits":
        if not RECORDINGS.is_dir():
            pytest.skip("the recordings of spoken digits are not here")
        monkeypatch.setenv("ETUDE_DATA", str(RECORDINGS))
    if name == "speedrun":
        if not TEXT.is_file():
            pytest.skip("the text is not here")
        monkeypatch.setenv("ETUDE_DATA", str(TEXT))
    run(name, quick=False)


def test_without_the_text_it_says_what_to_name(here: Path) -> None:
    with pytest.raises(SystemExit, match=r"none\.txt is not there: name a text, --data FILE"):
        importlib.import_module("speedrun").main(True, str(here / "none.txt"))


def test_speedrun(here: Path) -> None:
    """The settings follow the recipe, and the net learns: plays, or sums where there are none."""
    text = TEXT if TEXT.is_file() else here / "sums.txt"
    if text is not TEXT:
        text.write_text("".join(f"{n} and {n + 1} make {2 * n + 1}.\n" for n in range(4000)))
    result = importlib.import_module("speedrun").main(quick=True, data=str(text))
    history = result.history
    assert history["val.loss"].values[-1] < 3.0 < history["loss"].values[0]
    assert [history["setting.batch_size"].values[step] for step in (0, 23, 24, 41, 42, 59)] == [4, 4, 6, 6, 8, 8]
    assert [history["knob.length"].values[step] for step in (0, 23, 24, 41, 42, 59)] == [64, 64, 128, 128, 256, 256]
    momentum = history["setting.momentum[blocks.*.*.weight]"].values
    assert (momentum[0], max(momentum)) == (0.85, 0.95)
    assert momentum[-1] < 0.87
    assert history["setting.tie[embed.weight | head.weight]"].values == [1.0] * 40 + [0.0] * 20
    # One array in two places, until they go their own ways.
    assert not torch.equal(result.net.embed.weight, result.net.head.weight)
    # Everything but the matrices is stepped at every other step.
    places = [result.score["names"].index(name) for name in ("embed.weight", "blocks.0.up.weight")]
    words, matrix = (result.score["rates"][place] for place in places)
    assert [rate is None for rate in words[:4]] == [True, False, True, False]
    assert None not in matrix
    assert (here / "out" / "speedrun.png").stat().st_size > 20_000


def test_the_plan_of_the_speedrun_is_short() -> None:
    source = (EXAMPLES / "speedrun.py").read_text()
    said = source[source.index("recipe = phases(") : source.index("# ---- the net")]
    assert len(said.splitlines()) <= 60
