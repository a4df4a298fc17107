"""Signals that reach every process of a training, as a terminal's Ctrl-C and some schedulers' signals do."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_to_the_whole_group_ends_between_two_steps(number, tiny_config, tiny_data, tmp_path):
    """The loader's workers live on until the state is saved, and none is left behind."""
    words = [
        "train",
        "--config",
        tiny_config,
        "--data",
        tiny_data,
        "--out",
        tmp_path,
        "--device",
        "cpu",
        "--threads",
        1,
    ]
    words += ["--set", "runtime.workers=2", "schedule.epochs=400", "schedule.eval_every=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "solo.cli", *map(str, words)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    curves = tmp_path / "throughput.jsonl"
    while process.poll() is None and not (curves.exists() and curves.read_text().count("\n") > 5):
        time.sleep(0.01)
    os.killpg(process.pid, number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 75, error
    assert f"{number.name} after step" in error
    assert "Traceback" not in error
    deadline = time.monotonic() + 20
    while running(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(process.pid)
    last = json.loads(curves.read_text().splitlines()[-1])["step"]
    assert f"after step {last} of" in error


def running(group):
    """Whether a process of the group is alive."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
