"""The job script for SLURM, with a scheduler of a few lines in its place; and the page on clusters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "examples" / "slurm_requeue.sh"

EXPERIMENT = """
import signal, torch
from torch import nn
from etude import Plan

def experiment(stops: int = 2):
    calls = -1

    def loss(net, batch):
        nonlocal calls
        calls += 1
        if calls == 3:
            signal.raise_signal(signal.SIGUSR1)
        return ((net(batch[0]) - batch[1]) ** 2).mean()

    torch.manual_seed(0)
    x = torch.randn(16, 2)
    return nn.Linear(2, 2), (x, x), Plan(loss, steps=8, batch_size=4)
"""

PROGRAMS = {
    "srun": 'exec "$@"',
    "etude": f'echo "etude $1" >> calls; exec {sys.executable} -m etude "$@"',
    "scontrol": 'echo "scontrol $*" >> calls',
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to submit from, and programs that stand for the scheduler's: srun starts, scontrol notes."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, code in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{code}\n")
        (programs / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    return tmp_path


def submit(restarts: int, *words: str) -> int:
    """Run the script as the scheduler does; its exit code."""
    environment = {**os.environ, "SLURM_RESTART_COUNT": str(restarts)}
    return subprocess.run(["bash", str(SCRIPT), *words], env=environment, capture_output=True).returncode


def calls() -> list[str]:
    told = Path("calls").read_text().splitlines()
    Path("calls").unlink()
    return told


def test_a_job_is_put_back_until_the_run_has_finished(cluster: Path) -> None:
    assert submit(0) == 0
    assert calls() == ["etude train", "scontrol requeue 41"]
    assert submit(1) == 0
    assert calls() == ["etude resume", "scontrol requeue 41"]
    assert submit(2) == 0
    assert calls() == ["etude resume"]
    assert (cluster / "runs" / "digits" / "result.json").exists()


def test_a_job_is_not_put_back_for_ever_nor_after_an_error(cluster: Path) -> None:
    assert submit(5, "experiment.py", "run", "5") == 75
    assert calls() == ["etude train"]
    (cluster / "experiment.py").write_text("broken(")
    assert submit(0, "experiment.py", "run") not in (0, 75)
    assert calls() == ["etude resume"]


def test_the_page_shows_what_the_script_does() -> None:
    page, script = (ROOT / "docs" / "clusters.md").read_text(), SCRIPT.read_text()
    asked = [line for line in page.splitlines() if line.startswith("#SBATCH")]
    assert len(asked) == 4
    assert all(line in script.splitlines() for line in asked)
