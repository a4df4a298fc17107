"""A toy workflow of a test: written, run, and compared with what SLURM says of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import loopback

COUNTER = Path(__file__).with_name("counter.py")


class Workflow:
    """A toy workflow in a folder of its own, run by the `snakemake` of this environment."""

    def __init__(self, folder: Path, cluster: loopback.Loopback | None) -> None:
        self.folder = folder
        self.cluster = cluster
        self.processes: list[subprocess.Popen[str]] = []
        self.environment = {**os.environ, **(cluster.environment if cluster else {}), "COUNTER": str(COUNTER)}
        binaries = str(Path(sys.executable).parent)
        self.environment["PATH"] = os.pathsep.join([binaries, self.environment["PATH"]])
        self.environment["COLUMNS"] = "200"

    def write(self, snakefile: str) -> None:
        (self.folder / "Snakefile").write_text(snakefile)

    def command(self, *arguments: str) -> list[str]:
        defaults = ["--executor", "submitit", "--jobs", "20", "--latency-wait", "5", "--scheduler", "greedy"]
        settings = ["--submitit-poll-seconds", "0.5", "--submitit-settle-seconds", "3"]
        resources = ["--default-resources", "runtime=10", "mem_mb=100"]
        return [sys.executable, "-m", "snakemake", *defaults, *settings, *arguments, *resources]

    def run(self, *arguments: str, timeout: float = 250) -> subprocess.CompletedProcess[str]:
        """Run the workflow to its end; its stdout and stderr together are `.stdout`."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the workflow in a process group of its own, as a terminal does."""
        with self.log.open("a") as log:
            process = subprocess.Popen(
                self.command(*arguments),
                cwd=self.folder,
                env=self.environment,
                text=True,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def finish(self, process: subprocess.Popen[str], timeout: float = 250) -> str:
        """Wait for a started workflow to succeed; what it printed."""
        self.until(lambda: process.poll() is not None, timeout, "the workflow to end")
        assert process.returncode == 0, self.log.read_text()
        return self.log.read_text()

    @property
    def log(self) -> Path:
        return self.folder / "main.log"

    @property
    def state(self) -> Path:
        return self.folder / ".snakemake/submitit"

    def slurm(self, *words: str) -> str:
        assert self.cluster is not None
        return self.cluster.command(*words)

    def job_ids(self) -> list[str]:
        """Every id that the executor has noted in its ledger, arrays by their base."""
        ledger = self.state / "ledger.jsonl"
        records = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []
        return [record["id"] for record in records if record["event"] == "submitted"]

    def running_job(self, timeout: float = 120) -> str:
        """The id of the only job, once it runs."""
        self.until(lambda: self.job_ids() and self.squeue(self.job_ids()[-1]) == "RUNNING", timeout, "a running job")
        return self.job_ids()[-1]

    def squeue(self, job_id: str) -> str:
        return self.slurm("squeue", "-h", "-t", "all", "-j", job_id, "-o", "%T").strip()

    def sacct(self, job_id: str, fields: str = "State") -> list[str]:
        """What sacct says of every run of a job, oldest first, once it has nothing open any more."""
        command = ("sacct", "-X", "-D", "-n", "-P", "-j", job_id, "-o", fields)
        open_states = ("PENDING", "RUNNING", "COMPLETING")
        self.until(lambda: not any(s in self.slurm(*command) for s in open_states), 120, f"the end of job {job_id}")
        return self.slurm(*command).splitlines()

    def until(self, ready: Callable[[], object], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while not ready():
            if time.monotonic() > deadline:
                log = self.log.read_text() if self.log.exists() else ""
                raise TimeoutError(f"waited {timeout} s for {what}\n{log}")
            time.sleep(0.1)

    def trace(self, name: str = "trace") -> list[str]:
        """What the counter has written: `start <n>` and one number a step."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def steps(self, name: str = "trace") -> list[int]:
        return [int(line) for line in self.trace(name) if not line.startswith("start")]

    def starts(self, name: str = "trace") -> list[int]:
        return [int(line.split()[1]) for line in self.trace(name) if line.startswith("start")]

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if self.cluster is not None:
            for job_id in self.job_ids():
                subprocess.run(["scancel", job_id], env=self.environment, capture_output=True, check=False)


def occurrences(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text))
