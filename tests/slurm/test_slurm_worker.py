"""The worker's parts without a cluster: the process tree, the log's tail, the failing rank, the accounting."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from snakemake_executor_plugin_submitit import processes, worker
from snakemake_executor_plugin_submitit.accounting import account, write_account
from snakemake_executor_plugin_submitit.failure import failing_rank, tail
from snakemake_executor_plugin_submitit.interrupts import deferred, held_off
from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.watcher import Record, Verdict
from snakemake_executor_plugin_submitit.worker import node_address

CATCHER = (
    "import signal, time; signal.signal(signal.SIGUSR2, lambda *_: exit(75)); "
    "print('ready', flush=True); time.sleep(60)"
)


@pytest.fixture
def shell() -> Iterator[subprocess.Popen[str]]:
    """A shell in a session of its own that ignores USR2, with one child that handles it and one that does not."""
    child = subprocess.Popen(
        ["bash", "-c", f'sleep 60 & "{sys.executable}" -c "{CATCHER}"; echo ended $?; wait'],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
    )
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    yield child
    processes.end(child.pid, child.pid, grace=1)
    child.wait()
    child.stdout.close()


def test_only_who_handles_the_signal_gets_it(shell: subprocess.Popen[str]) -> None:
    tree = processes.tree(shell.pid, shell.pid)
    assert len(tree) == 3
    ready = [pid for pid in tree if processes.handles(pid, signal.SIGUSR2)]
    assert len(ready) == 1
    os.killpg(shell.pid, signal.SIGUSR2)
    assert shell.stdout
    assert shell.stdout.readline() == "ended 75\n"
    assert len(processes.tree(shell.pid, shell.pid)) == 2, "shell and sleep ignore it"


def test_an_orphan_is_found_by_its_session_and_ended(tmp_path: Path) -> None:
    child = subprocess.Popen(["bash", "-c", "sleep 60 & exit 0"], start_new_session=True)
    child.wait()
    assert len(processes.tree(child.pid, child.pid)) == 1
    assert not processes.drained(child.pid, child.pid, patience=0.2)
    processes.end(child.pid, child.pid, grace=2)
    assert processes.tree(child.pid, child.pid) == []


def test_who_does_not_heed_term_is_killed() -> None:
    child = subprocess.Popen(["bash", "-c", "trap '' TERM; sleep 60; sleep 60"], start_new_session=True)
    time.sleep(0.2)
    processes.end(child.pid, child.pid, grace=0.3)
    assert child.wait(5) == -signal.SIGKILL


def test_a_node_that_resolves_keeps_its_name() -> None:
    assert node_address("localhost") == "localhost"


def test_an_element_asks_for_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last element of an array has the array's id: SLURM would answer with all elements."""
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(worker, "_scontrol", lambda *words: asked.append(words) or "JobId=7 JobState=RUNNING")
    for name, value in (("SLURM_JOB_ID", "7"), ("SLURM_ARRAY_JOB_ID", "7"), ("SLURM_ARRAY_TASK_ID", "3")):
        monkeypatch.setenv(name, value)
    assert worker._job_fields()["JobState"] == "RUNNING"
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    worker._job_fields()
    assert [words[-1] for words in asked] == ["7_3", "7"]


def test_the_tail_is_twenty_lines_of_whatever_bytes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"".join(b"line %d \xff\n" % i for i in range(5000)))
    assert len(tail(log)) == 20
    assert tail(log)[-1].startswith("line 4999")
    assert tail(tmp_path / "none") == []


def test_the_rank_that_failed_first_is_the_failing_one(tmp_path: Path) -> None:
    stem = str(tmp_path / "job")
    for rank, state, ended in ((0, "terminated", 1.0), (1, "failed", 3.0), (2, "failed", 2.0)):
        Path(f"{stem}.rank{rank}.json").write_text(json.dumps({"rank": rank, "state": state, "ended": ended}))
    assert failing_rank(stem, 4) == 2
    assert failing_rank(str(tmp_path / "other"), 4) == 0


def test_accounting_sums_over_the_runs_of_a_job(tmp_path: Path) -> None:
    records = (
        Record(
            "NODE_FAIL",
            "n1",
            "1:0",
            "2026-01-01T00:00:00",
            "2026-01-01T00:01:00",
            100,
            500,
            "gres/gpu=8,gres/gpu:a100=8",
        ),
        Record(
            "COMPLETED",
            "n2",
            "0:0",
            "2026-01-01T00:03:00",
            "2026-01-01T00:03:30",
            50,
            250,
            "gres/gpu=8,gres/gpu:a100=8",
        ),
    )
    verdict = Verdict("COMPLETED", final=True, success=True, records=records)
    record = account("7", verdict, Request(gpus_per_node=8), {}, 0.0, rule="train", wildcards={}, outputs=["model.pth"])
    assert record["queue_seconds"] == 90
    assert record["run_seconds"] == 150
    assert record["energy_joules"] == 750
    assert (record["requeues"], record["nodes"], record["gpus"], record["gpu_model"]) == (1, "n2", 8, "a100")
    write_account(tmp_path, record)
    assert json.loads((tmp_path / "accounting.jsonl").read_text()) == record
    assert json.loads((tmp_path / "accounting/7.json").read_text()) == record


def test_accounting_without_sacct_is_the_rank_zero_clock() -> None:
    outcome = {"started": 120.0, "ended": 150.0, "restarts": 0, "node": "n3"}
    verdict = Verdict("COMPLETED", final=True, success=True, records=(Record("COMPLETED"),))
    record = account("7", verdict, Request(), outcome, 100.0, rule="r")
    assert (record["queue_seconds"], record["run_seconds"], record["requeues"]) == (20, 30, 0)
    assert (record["nodes"], record["energy_joules"], record["gpu_model"]) == ("n3", None, None)
    lost = account("7", Verdict("LOST", final=True), Request(), {}, 100.0, rule="r")
    assert (lost["queue_seconds"], lost["run_seconds"], lost["requeues"]) == (None, None, None)


def test_an_interrupt_waits_for_the_end_of_a_submission() -> None:
    reached = []

    def submit(interrupted: bool, failing: bool) -> None:
        with deferred():
            if interrupted:
                os.kill(os.getpid(), signal.SIGINT)
            reached.append("end")
            if failing:
                raise ValueError("refused")

    with pytest.raises(KeyboardInterrupt):
        submit(interrupted=True, failing=False)
    assert reached == ["end"]
    with pytest.raises(KeyboardInterrupt):
        submit(interrupted=True, failing=True)
    with pytest.raises(ValueError, match="refused"):
        submit(interrupted=False, failing=True)
    submit(interrupted=False, failing=False)


def test_an_interrupt_during_cancelling_is_answered_in_words() -> None:
    said = []
    with held_off(lambda: said.append("still cancelling")):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert said == ["still cancelling"] * 2
