"""Backends without a cluster: processes of this machine, and this very process."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.resources import Refusal, Request
from snakemake_executor_plugin_submitit.watcher import Verdict
from snakemake_executor_plugin_submitit.worker import RuleTask


class LocalBackend:
    """Processes of this machine, started by submitit's LocalExecutor; they outlive the main process."""

    name = "local"
    largest_array = 1
    pause = 0.5

    def __init__(
        self, logs: Path, ended_well: Callable[[str], bool | None], signal_seconds: int = 90, max_requeues: int = 100
    ) -> None:
        import submitit

        self.logs = logs
        self.ended_well = ended_well
        self.signal_seconds = signal_seconds
        self.max_requeues = max_requeues
        self._submitit = submitit
        self._jobs: dict[str, Any] = {}

    def check(self, request: Request) -> None:
        if request.nodes > 1:
            raise Refusal(
                f"nodes={request.nodes} is not possible on one machine. The valid value is 1; set nodes=1, or run with "
                "--submitit-cluster slurm."
            )

    def submit(self, tasks: list[RuleTask], request: Request, name: str) -> str:
        """Start the processes of one job; the id is that of their controlling process."""
        (task,) = tasks
        executor = self._submitit.LocalExecutor(folder=self.logs, max_num_timeout=self.max_requeues)
        executor.update_parameters(
            timeout_min=request.runtime,
            tasks_per_node=request.tasks_per_node,
            gpus_per_node=request.gpus_per_node,
            signal_delay_s=self.signal_seconds,
        )
        job = executor.submit(task)
        job_id: str = job.job_id
        self._jobs[job_id] = job
        return job_id

    def find(self, name: str) -> str | None:
        return None  # the id is known as soon as there is a process

    def can_start(self, job_id: str) -> bool:
        return self._is_running(job_id) or self.ended_well(job_id) is not None

    def log(self, job_id: str, rank: int) -> Path:
        return Path(self._submitit.core.utils.JobPaths(self.logs, job_id=job_id, task_id=rank).stderr)

    def cancel(self, job_ids: list[str], names: list[str]) -> list[str]:
        """Interrupt the controllers, which end their tasks, and wait for them."""
        for job_id in job_ids:
            if self._is_running(job_id):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(job_id), signal.SIGINT)
        deadline = time.monotonic() + 10
        while (left := [i for i in job_ids if self._is_running(i)]) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def poll(self, job_ids: Iterable[str]) -> dict[str, Verdict]:
        return {job_id: self._verdict(job_id) for job_id in job_ids}

    def _verdict(self, job_id: str) -> Verdict:
        if self._is_running(job_id):
            return Verdict("RUNNING")
        if self.ended_well(job_id):
            return Verdict("COMPLETED", final=True, success=True)
        return Verdict("FAILED", final=True, reason="a rank failed, or the processes were killed")

    def _is_running(self, job_id: str) -> bool:
        job = self._jobs.get(job_id)
        if job is not None:
            return job._process.poll() is None
        try:
            words = Path(f"/proc/{int(job_id)}/cmdline").read_text().split("\0")
        except (OSError, ValueError):
            return False
        return "submitit.local._local" in words and str(self.logs) in words


class DebugBackend:
    """This process itself, one job after the other, at submission: for a debugger."""

    name = "debug"
    largest_array = 1
    pause = 0.2

    def __init__(self, logs: Path, ended_well: Callable[[str], bool | None]) -> None:
        import submitit

        self.logs = logs
        self.ended_well = ended_well
        self._submitit = submitit

    def check(self, request: Request) -> None:
        if request.tasks > 1:
            raise Refusal(
                f"{request.tasks} tasks are not possible in one process. The valid value is 1; set tasks_per_node=1 "
                "and nodes=1, or run with --submitit-cluster local or slurm."
            )

    def submit(self, tasks: list[RuleTask], request: Request, name: str) -> str:
        (task,) = tasks
        job = self._submitit.core.plugins.get_executors()["debug"](self.logs).submit(_Quiet(task))
        job.wait()
        job_id: str = job.job_id
        return job_id

    def find(self, name: str) -> str | None:
        return None

    def can_start(self, job_id: str) -> bool:
        return False  # it ended with the process in which it ran

    def log(self, job_id: str, rank: int) -> Path:
        return Path(self._submitit.core.utils.JobPaths(self.logs, job_id=job_id, task_id=rank).stderr)

    def cancel(self, job_ids: list[str], names: list[str]) -> list[str]:
        return []

    def poll(self, job_ids: Iterable[str]) -> dict[str, Verdict]:
        verdicts = {}
        for job_id in job_ids:
            well = bool(self.ended_well(job_id))
            reason = "" if well else "the command failed; its output stands above"
            verdicts[job_id] = Verdict("COMPLETED" if well else "FAILED", final=True, success=well, reason=reason)
        return verdicts


class _Quiet:
    """A task whose failure stays in its outcome file; it must not end this process."""

    def __init__(self, task: RuleTask) -> None:
        self.task = task

    def __call__(self) -> None:
        with contextlib.suppress(SystemExit):
            self.task()
