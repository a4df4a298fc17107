"""Where a result came from: code, versions, machine and cluster job, in the form of docs/files.md.

    from solo.environment import environment
    environment()["git_sha"]

It costs a few milliseconds and imports nothing heavy: versions come from the installed metadata, the GPU from torch
only where the process has loaded torch already.
"""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES: dict[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "numpy": ("numpy",),
    "opencv": ("opencv-python-headless", "opencv-python"),
    "pycocotools": ("pycocotools",),
    "snakemake": ("snakemake",),
    "solo": ("solo-repro",),
}
DRIVER_FILE = Path("/proc/driver/nvidia/version")


def environment() -> dict[str, Any]:
    """Describe the code, the machine and the job of this process; what cannot be known is None."""
    git_sha, git_dirty = git_state(Path(__file__).resolve().parent.parent)
    return {
        "git_sha": git_sha,
        "git_dirty": git_dirty,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hostname": platform.node(),
        "cpu": _cpu_name(),
        "cores": _cores(),
        "memory": _memory(),
        **_gpu(),
        "packages": {name: _version(distributions) for name, distributions in PACKAGES.items()},
        "job": job(os.environ),
    }


def git_state(root: Path) -> tuple[str | None, bool | None]:
    """The commit of the checkout at `root` and whether tracked files differ from it; (None, None) elsewhere.

    `root` must be the top of the working tree: a package installed somewhere below an unrelated repository is
    not that repository's code.
    """
    named = _output(["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"])
    if named is None:
        return None, None
    top, _, sha = named.partition("\n")
    if Path(top).resolve() != root.resolve():
        return None, None
    status = _output(["git", "--no-optional-locks", "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    return sha, None if status is None else bool(status)


def job(variables: os._Environ[str] | dict[str, str]) -> dict[str, Any]:
    """The SLURM job among the environment `variables`; the accounting fields are filled by `solo record`."""
    identity = variables.get("SLURM_JOB_ID")
    if "SLURM_ARRAY_JOB_ID" in variables and "SLURM_ARRAY_TASK_ID" in variables:
        identity = f"{variables['SLURM_ARRAY_JOB_ID']}_{variables['SLURM_ARRAY_TASK_ID']}"
    return {
        "id": identity,
        "nodes": variables.get("SLURM_JOB_NODELIST"),
        "gpus": None,
        "gpu_model": None,
        "queue_seconds": None,
        "run_seconds": None,
        "requeues": int(variables.get("SLURM_RESTART_COUNT", 0)) if identity else None,
        "energy_joules": None,
    }


def _output(command: list[str]) -> str | None:
    """What `command` prints, stripped; None where it is missing, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(distributions: tuple[str, ...]) -> str | None:
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _gpu() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        name, count = torch.cuda.get_device_name(), torch.cuda.device_count()
        return {"gpu": name, "gpu_count": count, "driver": _driver(), "cuda": torch.version.cuda}
    listed = (_output(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]) or "").splitlines()
    if not listed:
        return {"gpu": None, "gpu_count": 0, "driver": None, "cuda": None}
    name, _, driver = listed[0].rpartition(", ")
    return {"gpu": name, "gpu_count": len(listed), "driver": driver, "cuda": None}


def _driver() -> str | None:
    """The NVIDIA driver's version; the kernel module's file answers at once, nvidia-smi can take a second."""
    try:
        words = DRIVER_FILE.read_text(encoding="utf-8").splitlines()[0].split()
    except (OSError, IndexError):
        words = []
    numbers = [word for word in words if word.count(".") >= 1 and word.replace(".", "").isdigit()]
    if numbers:
        return numbers[0]
    listed = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return listed.splitlines()[0] if listed else None


def _cpu_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None


def _cores() -> int | None:
    """Cores this process may use: fewer than the machine's under SLURM or a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
