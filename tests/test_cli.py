"""The command line, in this process, on an experiment file as a user would write it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from etude import Result, SettingError
from etude.cli import main

FILE = '''
from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import nn

from etude import FROZEN, Plan


def experiment(
    width: int = 4,
    learning_rate: float = 0.05,
    optimizer: Literal["sgd", "adam"] = "sgd",
    hold: bool = False,
    layers: tuple[int, ...] = (3, 4),
    limit: int | None = 6,
    note: str = "none said",
    folder: Path = Path("here"),
):
    """A line through points.

    Args:
        width: features of a point, of which
            100% count.
        hold: whether the first layer is frozen.
    """
    print("GOT", repr((width, learning_rate, optimizer, hold, layers, limit, note, folder.name)))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(width, 3), nn.Linear(3, 1))
    x = torch.randn(16, width)
    multipliers = {0: FROZEN} if hold else None
    plan = Plan("mse", optimizer=optimizer, learning_rate=learning_rate, learning_rate_multipliers=multipliers,
                steps=limit or 4, batch_size=8)
    return net, (x, x.sum(1, keepdim=True)), plan
'''


@pytest.fixture(autouse=True)
def as_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An experiment file stays imported, and its folder on the path: not beyond a test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "line.py"
    path.write_text(FILE)
    return path


def got(capsys: pytest.CaptureFixture[str]) -> str:
    return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("GOT"))[4:]


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("etude: ")
    assert "Traceback" not in said
    return said


# ------------------------------------------------------------------------------------------------ train and plan


def test_train_without_options_uses_the_defaults(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(file), "--quiet"]) == 0
    assert got(capsys) == "(4, 0.05, 'sgd', False, (3, 4), 6, 'none said', 'here')"


def test_every_type_is_read(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--width 5 --learning_rate=1e-2 --optimizer adam --hold --layers 1 2 3 --limit none --note hi --folder a/b"
    assert main(["plan", str(file), *words.split()]) == 0
    assert got(capsys) == "(5, 0.01, 'adam', True, (1, 2, 3), None, 'hi', 'b')"


def test_a_flag_can_be_taken_back(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(file), "--hold", "--no-hold"]) == 0
    assert "False" in got(capsys)


def test_train_writes_what_it_says(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "run"
    assert main(["train", str(file), "--out", str(out), "--hold"]) == 0
    said = capsys.readouterr().out
    written = {path.name for path in out.iterdir()}
    made = {"result.json", "result.safetensors", "events.jsonl", "loss.png", "score.png"}
    assert written == made | {"experiment.json", "checkpoints"}
    assert all(name in said for name in written)
    result = Result.load(out / "result.json")
    assert result.steps == 6
    assert result.learning_rate_multipliers["0.weight"] == 0
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert len(events) > 6
    for picture in ("loss.png", "score.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


def test_the_net_that_is_written_is_the_one_that_was_trained(file: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    assert main(["train", str(file), "--quiet", "--out", str(tmp_path / "a"), "--limit", "1"]) == 0
    assert main(["train", str(file), "--quiet", "--out", str(tmp_path / "b"), "--limit", "1", "--hold"]) == 0
    free, held = load_file(tmp_path / "a" / "result.safetensors"), load_file(tmp_path / "b" / "result.safetensors")
    torch.manual_seed(0)
    first = torch.nn.Linear(4, 3).weight
    assert torch.equal(held["0.weight"], first)
    assert not torch.equal(free["0.weight"], first)


def test_a_result_is_not_overwritten_unless_said(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(file), "--quiet", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    before = (tmp_path / "run" / "result.json").read_bytes()
    capsys.readouterr()
    assert "has a result already" in refused(capsys, *words, "--limit", "2")
    assert (tmp_path / "run" / "result.json").read_bytes() == before
    assert main([*words, "--overwrite", "--limit", "2"]) == 0
    assert Result.load(tmp_path / "run" / "result.json").steps == 2


def test_an_output_folder_that_is_a_file(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    assert "cannot be written to" in refused(capsys, "train", file, "--out", tmp_path / "taken")


def test_plan_shows_the_table_and_trains_nothing(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "pictures" / "score.png"
    assert main(["plan", str(file), "--hold", "--plot", str(picture)]) == 0
    said = capsys.readouterr().out
    assert "0.weight" in said
    assert "frozen" in said
    assert "Run: 6 steps" in said
    assert "loss " not in said
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_plan_that_cannot_be_plotted_there(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nonsense" in refused(capsys, "plan", file, "--plot", tmp_path / "score.nonsense")


def test_help_shows_docstring_types_and_defaults(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", str(file), "--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "A line through points." in said
    assert "--width INT features of a point, of which 100% count; default 4" in said
    assert "--hold, --no-hold whether the first layer is frozen; default off" in said
    assert "--optimizer sgd|adam default sgd" in said
    assert "--layers [INT ...] default 3 4" in said
    assert "Args:" not in said


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["-h"], ["train", "--help"], ["plan", "-h"], ["resume", "-h"], ["inspect", "--help"]]
)
def test_help_of_the_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "etude train FILE" in said
    assert "etude resume DIR" in said
    assert "etude inspect FILE" in said
    assert "etude plan FILE" in said
    assert "etude demo" in said


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import etude

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"etude {etude.__version__}\n"


# ----------------------------------------------------------------------------------------------------- bad words


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no command 'trian': train, resume, inspect, plan, data, demo. Nearest: \"train\"." in refused(
        capsys, "trian"
    )


def test_an_unknown_option_names_the_nearest(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "train", file, "--widht", "3")
    assert 'There is no option --widht. Nearest: "--width"' in said
    assert "arguments of experiment(): --width, --learning-rate" in said


def test_a_word_without_an_option(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'128' belongs to no option. Write: --name value" in refused(capsys, "train", file, "128")


def test_a_command_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert "The experiment file comes first. Write: etude plan FILE\n" in refused(capsys, "plan")


def test_an_option_before_the_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "The experiment file comes first. Write: etude train FILE --width" in refused(
        capsys, "train", "--width", "3", file
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--width", "3.5"], "argument --width: '3.5' is not a whole number"),
        (["--learning-rate", "fast"], "argument --learning-rate: 'fast' is not a number"),
        (["--optimizer", "sdg"], "argument --optimizer: 'sdg' is not one of sgd, adam"),
        (["--limit", "x"], "argument --limit: 'x' is not a whole number or none"),
        (["--layers", "1", "b"], "argument --layers: 'b' is not a whole number"),
        (["--width"], "argument --width: expected one argument"),
    ],
)
def test_a_value_of_the_wrong_type(words: list[str], said: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(capsys, "train", file, *words)


def test_an_error_of_the_library_is_one_message(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "train", file, "--learning-rate", "nan")
    assert "nan" in said
    assert len(said.splitlines()) == 1


def test_traceback_shows_where_it_came_from(file: Path) -> None:
    with pytest.raises(SettingError, match="nan"):
        main(["train", str(file), "--learning-rate", "nan", "--traceback"])
    with pytest.raises(SettingError, match="There is no command"):
        main(["--traceback", "trian"])


def test_warnings_are_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "held.py"
    path.write_text(
        "from torch import nn, ones\nfrom etude import Plan\n"
        "def experiment():\n"
        "    plan = Plan('mse', learning_rate_multipliers=0, steps=2)\n"
        "    return nn.Linear(1, 1), (ones(4, 1), ones(4, 1)), plan\n"
    )
    assert main(["train", str(path), "--quiet"]) == 0
    assert "etude: note: Every array is frozen" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ experiment files


def test_a_file_that_is_not_there_names_the_nearest(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "train", file.with_name("lines.py"))
    assert "is not there. Nearest:" in said
    assert "line.py" in said


def test_a_file_that_is_no_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("")
    assert "is no Python file" in refused(capsys, "plan", tmp_path / "notes.txt")


def test_a_file_without_the_function(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "misspelt.py"
    path.write_text("def experimnet():\n    return 1\n")
    said = refused(capsys, "plan", path)
    assert "has no function 'experiment'. It has: experimnet. Nearest: \"experimnet\"." in said


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def experiment(*args): pass", "*args cannot be an option"),
        ("def experiment(out: str = ''): pass", "the argument 'out' is an option of the command itself"),
        ("def experiment(plot: str = ''): pass", "the argument 'plot' is an option of the command itself"),
        ("def experiment(until: str = ''): pass", "the argument 'until' is an option of the command itself"),
        ("def experiment(x: complex = 1j): pass", "the argument 'x' has the type complex"),
        ("def experiment(x=None): pass", "the argument 'x' has the type (not said)"),
        ("def experiment(x: Nothing = 1): pass", "name 'Nothing' is not defined"),
        ("def experiment(): return 1, 2", "experiment() returned: tuple of int, int"),
        ("def experiment(): return 1, 2, 3", "experiment() returned: tuple of int, int, int"),
        ("def experiment(): return {'net': 1}", "experiment() returned: a dict with 'net'"),
        ("def experiment(): pass", "experiment() returned: NoneType"),
    ],
)
def test_a_function_that_is_no_experiment(
    code: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(f"from __future__ import annotations\n{code}\n")
    assert said in refused(capsys, "train", path)


def test_an_argument_without_a_default_is_required(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "asks.py"
    path.write_text("def experiment(width: int): pass\n")
    assert "the following arguments are required: --width" in refused(capsys, "train", path)


def test_an_experiment_may_return_a_dict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "named.py"
    path.write_text(
        "from torch import nn, ones\nfrom etude import Plan\n"
        "def experiment(steps=2):\n"
        "    return {'plan': Plan('mse', steps=steps), 'data': (ones(4, 1), ones(4, 1)), 'net': nn.Linear(1, 1)}\n"
    )
    assert main(["plan", str(path), "--steps", "3"]) == 0
    assert "Run: 3 steps" in capsys.readouterr().out


SEQUENCES = """
from __future__ import annotations

from typing import Literal

import torch
from torch import nn

import etude
from etude.data import length


class Never(torch.utils.data.Dataset):
    lengths = {"x": torch.arange(1, 101)}

    def __len__(self):
        return 100

    def __getitem__(self, number):
        if number:
            raise OSError("a sample was read")
        return {"x": torch.zeros(1, 2), "y": 0}


class Net(nn.Module):
    def forward(self, x):
        raise RuntimeError("the net was called")


def experiment(budget: int = 500, form: Literal["set", "stream"] = "set", epochs: int = 4, aside: bool = False):
    samples = Never() if form == "set" else lambda: iter([])
    data = etude.Data(samples, lengths="x", budget=budget, keep=length(most=90) if form == "set" else None)
    return Net(), data, etude.Plan("cross_entropy", epochs=epochs, validation=0.2 if aside else None)
"""


@pytest.fixture
def sequences(tmp_path: Path) -> Path:
    path = tmp_path / "sequences.py"
    path.write_text(SEQUENCES)
    return path


def test_data_shows_data_and_batches_and_reads_nothing(sequences: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(sequences), "--budget", "600"]) == 0
    said = capsys.readouterr().out
    for part in ("training data: Data(Never), 100 samples", "padded(600)", "length(most=90)", "found at once", "5,050"):
        assert part in said
    rows = [line.split() for line in said.splitlines() if line[:3] == "  " + line[2:3] and line[2:3].isdigit()]
    assert [(row[0], row[2], row[-1]) for row in rows] == [("1", "90", "10"), ("2", "90", "10"), ("3", "90", "10")]
    assert "left out in epoch 1: 10 samples by length(most=90)" in said
    assert "validation" not in said


def test_data_for_programs(sequences: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(sequences), "--json", "--first", "1", "--aside"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["training data", "validation data"]
    training, validation = told.values()
    assert (training["samples"], validation["samples"]) == (80, 20)
    (epoch,) = training["epochs"]
    assert epoch["samples"] + epoch["left_out"]["samples by length(most=90)"] == 80
    assert validation["epochs"][0]["left_out"] == {}
    assert 0 <= epoch["streams"]["x"]["padding"] < 0.2


def test_data_shows_as_many_epochs_as_asked_for(sequences: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, epochs in (([], 3), (["--epochs", "2"], 2), (["--first", "5"], 5)):
        assert main(["data", str(sequences), "--json", *words]) == 0
        assert len(json.loads(capsys.readouterr().out)["training data"]["epochs"]) == epochs
    assert "--first 0: at least the first epoch" in refused(capsys, "data", sequences, "--first", 0)


def test_data_are_drawn(sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "new" / "batches.png"
    assert main(["data", str(sequences), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.endswith(f"written: {picture}\n")
    assert main(["data", str(sequences), "--json", "--plot", str(picture)]) == 0
    json.loads(capsys.readouterr().out)
    assert "is read forward" in refused(capsys, "data", sequences, "--form", "stream", "--plot", picture)


def test_data_that_are_read_forward_say_so(sequences: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(sequences), "--form", "stream"]) == 0
    said = capsys.readouterr().out
    assert "an unknown number of samples" in said
    assert "forward only: a batch in the middle of an epoch is found by reading all that comes before it" in said


def test_data_of_arrays_show_what_is_known(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(file), "--width", "5"]) == 0
    said = capsys.readouterr().out
    for part in ("16 samples", "0 float32 (5,), 1 float32 (1,)", "random()", "samples(8)"):
        assert part in said


def test_data_that_cannot_be_batched_are_refused(sequences: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "padded(0): a batch needs a limit above 0" in refused(capsys, "data", sequences, "--budget", 0)
    assert "Write: etude data FILE" in refused(capsys, "data")


def test_an_experiment_imports_what_lies_beside_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beside = file.with_name("varied.py")
    beside.write_text("import line\ndef experiment():\n    return line.experiment(width=7)\n")
    assert main(["plan", str(beside)]) == 0
    assert got(capsys).startswith("(7,")


def test_a_file_named_as_a_known_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "json.py"
    path.write_text(FILE)
    assert main(["plan", str(path)]) == 0
    assert sys.modules["json"] is json


def test_an_error_in_the_file_itself_is_not_hidden(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def experiment():\n    raise KeyError('mine')\n")
    with pytest.raises(KeyError, match="mine"):
        main(["train", str(path)])


def test_ctrl_c_ends_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "stopped.py"
    path.write_text("def experiment():\n    raise KeyboardInterrupt\n")
    assert main(["train", str(path)]) == 130
    assert "stopped by Ctrl-C" in capsys.readouterr().err


def test_the_program_as_a_process(file: Path) -> None:
    """Exit code, streams, and a reader that goes away early."""
    command = [sys.executable, "-m", "etude.cli"]
    wrong = subprocess.run([*command, "train", str(file), "--nope"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stdout == ""
    assert wrong.stderr.startswith("etude: There is no option --nope.")
    pipe = f"{sys.executable} -m etude.cli plan {file} | true; exit ${{PIPESTATUS[0]}}"
    piped = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, check=False)
    assert (piped.returncode, piped.stderr) == (0, "")
