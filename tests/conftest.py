"""What the tests share: a tiny drawn data set, a network to match, the `solo` command, and the reference's files."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from solo.synth import synthesize

ROOT = Path(__file__).parents[1]

# A background shell ignores SIGINT, and so would every command that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tiny tensors gain nothing from threads and lose much where cores are shared; must stand before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A network that takes a training step on the tiny set in some 30 ms.
TINY = {
    "name": "tiny",
    "backbone": {
        "depth": 18, "width": 0.25, "norm": "gn", "frozen_stages": -1, "pretrained": "none", "fpn_channels": 16,
    },
    "head": {
        "grid_sizes": [6, 5, 4, 3, 2], "scale_ranges": [[1, 16], [12, 32], [24, 48], [40, 96], [64, 2048]],
        "stacked_convs": 1, "feat_channels": 16, "norm_groups": 4, "init_std": 0.04,
    },
    "input": {"image_scale": [80, 64], "train_scales": [[80, 64], [72, 56]], "min_size": 16},
    "schedule": {
        "epochs": 4, "milestones": [3], "lr": 0.02, "warmup_steps": 4, "warmup_factor": 0.1, "batch_size": 4,
        "images_per_device": 2, "eval_every": 2, "log_every": 1,
    },
    "runtime": {"workers": 0},
}  # fmt: skip


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of SOLO_REFERENCE: the reference's configurations, evaluator files and real photos."""
    if "SOLO_REFERENCE" not in os.environ:
        pytest.skip("SOLO_REFERENCE is not set: the folder that holds reference/ and data/coco158/")
    return Path(os.environ["SOLO_REFERENCE"])


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training and six validation images of drawn shapes."""
    root = tmp_path_factory.mktemp("data") / "tiny"
    synthesize(root, images=12, val_images=6, size=64)
    return root


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo file of the tiny network."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


Solo = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def solo() -> Solo:
    """Runs `solo` with the given words in a process of its own, where a test is about processes."""

    def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "solo.cli", *map(str, words)], capture_output=True, text=True, check=False,
            env={**os.environ, **environment}, cwd=ROOT, timeout=3600,
        )  # fmt: skip

    return run
