"""Where jobs run: a SLURM cluster, processes of this machine, or this very process. All three submit through submitit.

A backend submits tasks, finds a submission by name, cancels, and polls; the executor knows nothing else of it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from snakemake_executor_plugin_submitit.local_backends import DebugBackend, LocalBackend
from snakemake_executor_plugin_submitit.resources import Partition, Refusal, Request, check_partition, parse_partitions
from snakemake_executor_plugin_submitit.watcher import CommandFailed, Run, Verdict, Watcher, run_command
from snakemake_executor_plugin_submitit.worker import RuleTask

# sbatch may have been heard even where it did not hear the answer: the name of the job tells
NO_ANSWER = re.compile(
    r"unable to contact|timed out|connection refused|zero bytes|temporarily|unexpected message|"
    r"communication|not responding|slurmctld|try again|interrupted",
    re.IGNORECASE,
)


class SubmissionFailed(RuntimeError):
    """The cluster did not take the jobs; `for_good` is False where a later try may succeed."""

    def __init__(self, message: str, for_good: bool) -> None:
        super().__init__(message)
        self.for_good = for_good


class Backend(Protocol):
    """What the executor asks of a cluster."""

    name: str

    def check(self, request: Request) -> None: ...
    def submit(self, tasks: list[RuleTask], request: Request, name: str) -> str: ...
    def find(self, name: str) -> str | None: ...
    def can_start(self, job_id: str) -> bool: ...
    def log(self, job_id: str, rank: int) -> Path: ...
    def cancel(self, job_ids: list[str], names: list[str]) -> list[str]: ...
    def poll(self, job_ids: Iterable[str]) -> dict[str, Verdict]: ...
    @property
    def largest_array(self) -> int: ...
    @property
    def pause(self) -> float: ...


class SlurmBackend:
    """A SLURM cluster, through submitit's SlurmExecutor, scancel, sacct, squeue and sinfo."""

    name = "slurm"

    def __init__(
        self, logs: Path, watcher: Watcher, run: Run, signal_seconds: int = 90, max_requeues: int = 100
    ) -> None:
        import submitit

        self.logs = logs
        self.watcher = watcher
        self.run = run
        self.signal_seconds = signal_seconds
        self.max_requeues = max_requeues
        self._submitit = submitit
        self._partitions: dict[str, Partition] | None = None

    @property
    def pause(self) -> float:
        return self.watcher.pause

    def check(self, request: Request) -> None:
        """Raise Refusal where the partition could never run the request; silent where sinfo does not answer."""
        if self._partitions is None:
            try:
                self._partitions = parse_partitions(self.run(["sinfo", "-a", "-h", "-o", "%P|%l|%G"]))
            except CommandFailed:
                self._partitions = {}
        if self._partitions:
            check_partition(request, self._partitions)

    def submit(self, tasks: list[RuleTask], request: Request, name: str) -> str:
        """Submit one job, or several equal ones as an array; the id of the job or of the array."""
        executor = self._submitit.SlurmExecutor(folder=self.logs, max_num_timeout=self.max_requeues)
        parameters = request.sbatch(self.signal_seconds) | {"job_name": name, "array_parallelism": len(tasks)}
        executor.update_parameters(**parameters)
        try:
            jobs = executor.submit_array(tasks)
        except (self._submitit.core.utils.FailedJobError, self._submitit.core.utils.FailedSubmissionError) as error:
            text = str(error).strip() or "sbatch was interrupted"
            raise SubmissionFailed(text, for_good=not NO_ANSWER.search(text)) from error
        job_id: str = jobs[0].job_id
        return job_id.partition("_")[0]

    def find(self, name: str) -> str | None:
        """The id of the job or array of this name, None where the cluster knows none; raises CommandFailed."""
        text = self.run(["squeue", "--me", "-h", "-t", "all", "-n", name, "-o", "%F"])
        if not text.strip() and self.watcher.accounting:
            with contextlib.suppress(CommandFailed):
                text = self.run(["sacct", "-X", "-n", "-P", "-S", "now-14days", "--name", name, "-o", "JobID"])
        words = text.split()
        return words[0].partition("_")[0] if words else None

    def can_start(self, job_id: str) -> bool:
        """Whether the job has been given its task; a process that died during submission may have left it without."""
        return bool(self._paths(job_id, 0).submitted_pickle.exists())

    def log(self, job_id: str, rank: int) -> Path:
        return Path(self._paths(job_id, rank).stderr)

    def cancel(self, job_ids: list[str], names: list[str]) -> list[str]:
        """Cancel jobs by id and submissions without an id by name; the ids and names the controller did not take."""
        refused = []
        for start in range(0, len(job_ids), 500):
            chunk = job_ids[start : start + 500]
            if not self._try_cancel(["scancel", *chunk]):
                refused += chunk
        return refused + [name for name in names if not self._try_cancel(["scancel", "--me", f"--name={name}"])]

    def poll(self, job_ids: Iterable[str]) -> dict[str, Verdict]:
        return self.watcher.poll(job_ids)

    def _try_cancel(self, command: list[str]) -> bool:
        for _ in range(3):
            try:
                self.run(command)
                return True
            except CommandFailed as error:
                if re.search(r"invalid job id|already completed|completing", str(error), re.IGNORECASE):
                    return True
                time.sleep(2)
        return False

    def _paths(self, job_id: str, rank: int) -> Any:
        return self._submitit.core.utils.JobPaths(self.logs, job_id=job_id, task_id=rank)

    @functools.cached_property
    def largest_array(self) -> int:
        """How many jobs an array may have: MaxArraySize counts from 0."""
        with contextlib.suppress(CommandFailed):
            found = re.search(r"MaxArraySize\s*=\s*(\d+)", self.run(["scontrol", "show", "config"]))
            if found:
                return max(1, int(found.group(1)) - 1)
        return 1000


def make_backend(settings: Any, logs: Path, ended: Callable[[str], bool | None]) -> Backend:
    """The backend that the settings ask for; raises Refusal where it cannot work here."""
    if settings.cluster == "local":
        return LocalBackend(logs, ended, settings.signal_seconds, settings.max_requeues)
    if settings.cluster == "debug":
        return DebugBackend(logs, ended)
    if settings.cluster != "slurm":
        raise Refusal(
            f"--submitit-cluster {settings.cluster} is not known. Valid values are slurm, local and debug; set one."
        )
    _leave_outer_job()
    missing = [program for program in ("sbatch", "srun", "scancel", "squeue") if not shutil.which(program)]
    if missing:
        raise Refusal(
            f"--submitit-cluster slurm finds no {', '.join(missing)} on the PATH. Valid here are local and debug; set "
            "--submitit-cluster local, or run on a login node of the cluster."
        )
    watcher = Watcher(
        run_command,
        poll_seconds=settings.poll_seconds,
        settle=settings.settle_seconds,
        lost=settings.lost_seconds,
        ended_well=ended,
    )
    return SlurmBackend(logs, watcher, run_command, settings.signal_seconds, settings.max_requeues)


def ended_well(task_stem: str, ranks: int) -> bool | None:
    """What the ranks of a job left behind: True if all are done, False if one failed, None if one is missing."""
    states = []
    for rank in range(ranks):
        try:
            states.append(json.loads(Path(f"{task_stem}.rank{rank}.json").read_text())["state"])
        except (OSError, ValueError, KeyError):
            states.append(None)
    if all(state == "done" for state in states):
        return True
    return False if "failed" in states else None


def _leave_outer_job() -> None:
    """Snakemake may itself run in a SLURM job, whose variables contradict those of the jobs it submits."""
    if "SLURM_JOB_ID" in os.environ:
        for name in [n for n in os.environ if n.startswith(("SLURM_", "SLURMD_", "SRUN_")) and n != "SLURM_CONF"]:
            del os.environ[name]
