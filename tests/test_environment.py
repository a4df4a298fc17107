"""What a record says of its machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from solo import environment as module
from solo.environment import environment, git_state, job

FIELDS = [
    "git_sha",
    "git_dirty",
    "python",
    "platform",
    "hostname",
    "cpu",
    "cores",
    "memory",
    "gpu",
    "gpu_count",
    "driver",
    "cuda",
    "packages",
    "job",
]


def test_fields_are_those_of_the_contract_and_json_serializable():
    described = environment()
    assert list(described) == FIELDS
    assert set(described["packages"]) == {"torch", "torchvision", "numpy", "opencv", "pycocotools", "snakemake", "solo"}
    assert described["packages"]["solo"]
    assert described["cores"] >= 1
    assert json.loads(json.dumps(described, allow_nan=False)) == described


def test_torch_is_not_imported():
    code = "import sys; from solo.environment import environment; environment(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_git_state_of_a_checkout_below_it_and_outside(tmp_path: Path):
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert git_state(tmp_path) == (None, None)
    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    sha = git("rev-parse", "HEAD")
    assert git_state(tmp_path) == (sha, False)
    (tmp_path / "untracked").write_text("x")
    assert git_state(tmp_path) == (sha, False)
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path) == (sha, True)
    below = tmp_path / "site-packages"
    below.mkdir()
    assert git_state(below) == (None, None)


@pytest.mark.parametrize(
    ("variables", "identity", "requeues"),
    [
        ({}, None, None),
        ({"SLURM_JOB_ID": "17"}, "17", 0),
        ({"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "18", "SLURM_ARRAY_TASK_ID": "1"}, "18_1", 0),
        ({"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "2"}, "17", 2),
    ],
)
def test_job(variables, identity, requeues):
    assert job(variables)["id"] == identity
    assert job(variables)["requeues"] == requeues


def test_gpu_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf 'NVIDIA H100, 550.54.15\\nNVIDIA H100, 550.54.15\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    described = module._gpu()
    assert described == {"gpu": "NVIDIA H100", "gpu_count": 2, "driver": "550.54.15", "cuda": None}
