"""Building native.c: where the library is kept, who is trusted, and that nothing about it can break a run."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from etude.step.optim import compiler
from etude.step.trainer import Trainer

SRC = Path(__file__).parents[1] / "src"
CC = compiler._compiler()
needs_compiler = pytest.mark.skipif(CC is None, reason="there is no compiler")


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test looks for the library anew, in a home and a folder for temporary files of its own."""
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.delenv("ETUDE_NATIVE", raising=False)
    compiler.library.cache_clear()
    yield
    compiler.library.cache_clear()


def libraries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.so"))


def a_step() -> list[float]:
    """One step of plain descent, with the library or without."""
    array = nn.Parameter(torch.zeros(3))
    trainer = Trainer({"x": array}, "sgd", learning_rate=1.0)
    array.grad = torch.ones(3)
    trainer.step()
    found: list[float] = array.tolist()
    return found


@needs_compiler
def test_it_is_built_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiler.library() is not None
    (made,) = libraries(tmp_path)
    assert made.parent == tmp_path / "home" / "etude"
    assert made.parent.stat().st_mode & 0o777 == 0o700
    assert all(name.startswith(made.name) for name in os.listdir(made.parent))
    compiled: list[str] = []
    monkeypatch.setattr(compiler, "_compile", lambda *given: compiled.append("again"))
    compiler.library.cache_clear()
    assert compiler.library() is not None
    assert not compiled
    assert compiler.library() is compiler.library()


@needs_compiler
def test_it_has_the_kernels() -> None:
    made = compiler.library()
    assert isinstance(made, ctypes.CDLL)
    for name in ("etude_sgd", "etude_adam"):
        assert made[name]


@pytest.mark.parametrize("value", ["0"])
def test_it_can_be_switched_off(value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ETUDE_NATIVE", value)
    assert compiler.library() is None
    assert not libraries(tmp_path)
    assert a_step() == [-1.0] * 3


def test_without_a_compiler_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert compiler.library() is None
    assert not libraries(tmp_path)
    assert a_step() == [-1.0] * 3


@pytest.mark.parametrize("broken", ["false", "true"])
def test_a_compiler_that_does_not_work(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails, and one that says nothing and makes nothing."""
    path = shutil.which(broken)
    assert path is not None
    monkeypatch.setenv("CC", path)
    assert compiler.library() is None
    assert a_step() == [-1.0] * 3


@needs_compiler
def test_a_compiler_that_made_nothing_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What does not load is not kept, else it would be in the way for ever."""
    monkeypatch.setattr(compiler, "_compile", lambda command, target: None)
    assert compiler.library() is None
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    compiler.library.cache_clear()
    assert compiler.library() is not None


@needs_compiler
def test_a_compiler_that_does_not_know_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again without -march=native."""
    script = tmp_path / "cc"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/said\ncase "$*" in *march=native*) exit 1;; *) exec {CC} "$@";; esac\n'
    )
    script.chmod(0o700)
    monkeypatch.setenv("CC", str(script))
    assert compiler.library() is not None
    said = (tmp_path / "said").read_text().splitlines()
    assert ["-march=native" in line for line in said] == [False, True, False]
    assert a_step() == [-1.0] * 3


@needs_compiler
def test_a_compiler_that_hangs_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "cc"
    script.write_text(f'#!/bin/sh\ncase "$*" in --version) exec {CC} --version;; *) exec sleep 60;; esac\n')
    script.chmod(0o700)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setattr(compiler, "_PATIENCE", 0.5)
    assert compiler.library() is None
    assert not libraries(tmp_path)
    assert a_step() == [-1.0] * 3


@needs_compiler
def test_where_the_home_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is where the folder should be: not even root can write into that."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    assert compiler.library() is not None
    (made,) = libraries(tmp_path)
    assert made.parent == tmp_path / "temporary" / f"etude-{os.getuid()}"


def test_where_nothing_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    assert compiler.library() is None
    assert a_step() == [-1.0] * 3


def test_where_there_is_no_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert compiler.library() is None
    assert a_step() == [-1.0] * 3


@needs_compiler
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702])
def test_a_folder_that_others_may_write_to_is_not_trusted(mode: int, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "etude"
    folder.mkdir()
    folder.chmod(mode)
    made = compiler.library()
    assert made is not None
    assert not libraries(folder)
    assert libraries(tmp_path / "temporary")


@needs_compiler
def test_a_library_laid_into_an_open_folder_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    assert compiler.library() is not None
    (made,) = libraries(tmp_path)
    made.parent.chmod(0o777)
    compiler.library.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda path: loaded.append(path))
    compiler.library()
    assert loaded
    assert str(made) not in loaded


@needs_compiler
def test_a_link_to_a_folder_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "home" / "etude").symlink_to(tmp_path / "elsewhere")
    assert compiler.library() is not None
    assert not libraries(tmp_path / "elsewhere")
    assert libraries(tmp_path / "temporary")


@needs_compiler
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_of_somebody_else_is_not_trusted(tmp_path: Path) -> None:
    for folder in (tmp_path / "home" / "etude", tmp_path / "temporary" / f"etude-{os.getuid()}"):
        folder.mkdir(mode=0o700)
        os.chown(folder, 12345, 12345)
    assert compiler.library() is None
    assert not libraries(tmp_path)


@needs_compiler
@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"\x7fELF\x02\x01\x01" + b"\0" * 57], ids=len)
def test_a_kept_library_that_is_broken_is_built_anew(content: bytes, tmp_path: Path) -> None:
    assert compiler.library() is not None
    (made,) = libraries(tmp_path)
    # The file that is loaded stays as it is: a broken one takes its name.
    made.unlink()
    made.write_bytes(content)
    compiler.library.cache_clear()
    assert compiler.library() is not None
    assert a_step() == [-1.0] * 3


@needs_compiler
def test_a_kept_library_that_was_cut_off_does_not_take_the_process_down(tmp_path: Path) -> None:
    """Asked in a process of its own: a library cut in half can kill who loads it."""
    assert compiler.library() is not None
    (made,) = libraries(tmp_path)
    whole = made.read_bytes()
    for share in (0.3, 0.8):
        made.unlink(missing_ok=True)
        made.write_bytes(whole[: int(len(whole) * share)])
        made.chmod(0o700)
        assert elsewhere(tmp_path) in ("library", "none"), share


@needs_compiler
def test_a_kept_library_without_the_kernels_is_none(tmp_path: Path) -> None:
    assert CC is not None
    assert compiler.library() is not None
    (made,) = libraries(tmp_path)
    made.unlink()
    (tmp_path / "empty.c").write_text("int nothing;\n")
    subprocess.run([CC, "-shared", "-fPIC", "-o", str(made), str(tmp_path / "empty.c")], check=True)
    # In a process of its own: this one has the library of that name already.
    assert elsewhere(tmp_path) in ("library", "none")


def elsewhere(tmp_path: Path) -> str:
    """Steps in a process of its own, and whether it had the library."""
    script = (
        "import torch\nfrom torch import nn\nfrom etude.step.trainer import Trainer\n"
        "from etude.step.optim.compiler import library\n"
        "x = nn.Parameter(torch.zeros(3)); t = Trainer({'x': x}, 'sgd', learning_rate=1.0)\n"
        "x.grad = torch.ones(3); t.step(); assert x.tolist() == [-1.0] * 3\n"
        "print('none' if library() is None else 'library')"
    )
    inherited = {
        **os.environ,
        "PYTHONPATH": str(SRC),
        "XDG_CACHE_HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "temporary"),
    }
    done = subprocess.run([sys.executable, "-c", script], env=inherited, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.strip()


@needs_compiler
def test_several_build_at_once(tmp_path: Path) -> None:
    """Each compiles into a file of its own, and the last to be ready gives the name."""
    folder = tmp_path / "home" / "etude"
    folder.mkdir(mode=0o700)
    assert CC is not None
    found: list[Path] = []
    errors: list[BaseException] = []

    def build() -> None:
        try:
            found.append(compiler._built(CC, folder))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(set(found)) == 1
    assert libraries(tmp_path) == [found[0]]
    assert ctypes.CDLL(str(found[0]))["etude_sgd"]


@needs_compiler
def test_another_source_compiler_or_processor_has_another_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert CC is not None
    keys = {compiler._key(CC)}
    monkeypatch.setattr(compiler, "_processor", lambda: "another")
    keys.add(compiler._key(CC))
    monkeypatch.setattr(compiler, "_FLAGS", ("-O0",))
    keys.add(compiler._key(CC))
    (tmp_path / "native.c").write_text("int x;")
    monkeypatch.setattr(compiler, "_SOURCE", tmp_path / "native.c")
    keys.add(compiler._key(CC))
    other = tmp_path / "cc"
    other.write_text("#!/bin/sh\necho another\n")
    other.chmod(0o700)
    keys.add(compiler._key(str(other)))
    assert len(keys) == 5


def test_the_processor_is_told() -> None:
    assert compiler._processor() == compiler._processor()
    assert compiler._processor().splitlines()[0]
