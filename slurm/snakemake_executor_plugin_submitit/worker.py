"""What runs on the cluster: submitit calls a RuleTask on every task of the job.

Global rank 0 runs Snakemake's own job command and with it the rule; every other rank runs the rule's shell command
directly. A rule with nodes × tasks_per_node > 1 is so one SPMD program, with the rank environment that torchrun sets.

A preemption or time-limit signal (USR2, or TERM during a preemption) is handed to those processes of the rule that
have a handler for USR2, all others ignore it. Such a command saves its state and exits with a status other than 0,
by convention 75 (EX_TEMPFAIL). Rank 0 then requeues the job through submitit; the requeued job runs the same command,
which has to find its state on disk. A command that finishes in time has finished, and one that does neither goes on
until the cluster ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit import processes

EX_TEMPFAIL = 75
RANK_PLACEHOLDER = "@RANK@"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# the inner Snakemake gets every setting by argument; a profile of the main process is not for it
UNWANTED_VARIABLES = ("SNAKEMAKE_PROFILE",)

POLL_SECONDS = 0.1
DRAIN_SECONDS = 600  # an orphan of the rule may still be writing a checkpoint
OTHER_RANKS_SECONDS = 15  # ranks that save on their own get this long after rank 0 is done
LINGER_SECONDS = 120  # a rank that has saved waits this long for rank 0's requeue to end it


@dataclass
class RuleTask:
    """The callable that submitit pickles; the same one on every rank and after every requeue."""

    job_command: str
    rank_command: str | None
    threads: int
    outcome_stem: str
    folders: tuple[str, ...] = ()

    def __call__(self) -> None:
        """Run this rank's command to its end; exits with its status where that is not 0, or requeues and exits."""
        import submitit

        context = submitit.JobEnvironment()
        _Rank(self, context).run()

    def checkpoint(self) -> Any:
        """submitit's protocol: what to run after the requeue. The state is on disk, so it is this very task."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)

    def outcome_file(self, rank: int) -> Path:
        """Where a rank leaves how it ended."""
        return Path(f"{self.outcome_stem}.rank{rank}.json")


class _Rank:
    """One rank of one run of a task."""

    def __init__(self, task: RuleTask, context: Any) -> None:
        self.task = task
        self.context = context
        self.rank: int = context.global_rank
        self.started = time.time()
        self.preempted = False
        self.terminated = False
        self.delivered = False
        self.told_to_end = False
        self.requeue: Callable[..., Any] | None = None

    def run(self) -> None:
        if self.rank and self.task.rank_command is None:
            raise RuntimeError("a rule that is not one shell command runs with a single task")
        for folder in self.task.folders:
            os.makedirs(folder, exist_ok=True)
        environment = self._environment()
        self._catch_signals()
        command = self.task.job_command if self.rank == 0 else self._rank_command()
        print(f"rank {self.rank} of {self.context.num_tasks} on {_node()}: {command}", flush=True)
        # a shell line is what both Snakemake and the rule give; it runs in a session of its own, with USR2 ignored
        # by whoever does not ask for it
        child = subprocess.Popen(
            ["bash", "-c", command],
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_ignore_preemption,
        )
        status = self._wait(child)
        if status == 0 and not self.terminated:
            self._record("done", 0)
            return
        if self.preempted or (status == EX_TEMPFAIL and self._signal_is_late()):
            self._continue_later(child.pid, status)
        self._record("terminated" if self.terminated else "failed", status)
        _say(f"rank {self.rank} on {_node()} ended with status {status}")
        # not an exception: submitit would print a traceback of this file over the rule's own last words
        sys.exit(status if status > 0 else 128 - status)

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        while (status := child.poll()) is None:
            self._judge_termination()
            if self.terminated:
                # submitit's local controller kills its tasks after a second, SLURM after KillWait
                processes.end(child.pid, child.pid, grace=0.5 if self.context.cluster == "local" else 60)
                return child.wait()
            if self.preempted and not self.delivered:
                self._deliver(child.pid)
            time.sleep(POLL_SECONDS)
        self._judge_termination()
        return status

    def _deliver(self, root: int) -> None:
        """Hand USR2 to the processes that have asked for it; called again until there is one."""
        ready = [pid for pid in processes.tree(root, root) if processes.handles(pid, signal.SIGUSR2)]
        if ready:
            processes.send(ready, signal.SIGUSR2)
            self.delivered = True
            _say(f"rank {self.rank}: USR2 handed to {len(ready)} process(es); waiting for them to save and end")

    def _continue_later(self, root: int, status: int) -> None:
        """Requeue the job (rank 0) or wait for rank 0 to do so; returns only where the job is not requeued."""
        if not processes.drained(root, root, DRAIN_SECONDS):
            _say(f"rank {self.rank}: processes of the rule still run {DRAIN_SECONDS} s after its shell has ended")
        self._record("saved", status)
        if self.rank:
            time.sleep(LINGER_SECONDS)
            return
        self._await_other_ranks()
        state = _job_fields().get("JobState", "RUNNING")
        if state != "RUNNING":
            # cancelled while it was saving: a requeue would bring it back to life
            self.terminated = True
            _say(f"rank 0: the job is {state}; not requeueing it")
            return
        _say(f"rank 0: the rule ended with status {status} after the signal; requeueing the job")
        self._requeue_until_accepted()

    def _requeue_until_accepted(self) -> None:
        assert self.requeue is not None
        while True:
            try:
                self.requeue(signal.SIGUSR2, None)
                return
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as error:
                _say(f"rank 0: requeue refused, trying again: {error}")
                time.sleep(2)

    def _await_other_ranks(self) -> None:
        deadline = time.monotonic() + OTHER_RANKS_SECONDS
        waiting = set(range(1, self.context.num_tasks))
        while waiting and time.monotonic() < deadline:
            waiting = {rank for rank in waiting if not self._has_ended(rank)}
            time.sleep(POLL_SECONDS)

    def _has_ended(self, rank: int) -> bool:
        try:
            outcome = json.loads(self.task.outcome_file(rank).read_text())
        except (OSError, ValueError):
            return False
        return bool(outcome["restarts"] == _restarts())

    def _signal_is_late(self) -> bool:
        """A command may act on the signal before this process has seen it: give it five seconds."""
        deadline = time.monotonic() + 5
        while not self.preempted and not self.terminated and time.monotonic() < deadline:
            self._judge_termination()
            time.sleep(POLL_SECONDS)
        return self.preempted

    def _catch_signals(self) -> None:
        """Keep submitit's own handler for the requeue and note signals here; a debug run in a thread has neither."""
        with contextlib.suppress(ValueError):
            if self.context.cluster != "debug":
                handler = signal.getsignal(signal.SIGUSR2)
                self.requeue = handler if callable(handler) else None
                signal.signal(signal.SIGUSR2, self._on_preemption)
                signal.signal(signal.SIGTERM, self._on_termination)
                signal.signal(signal.SIGINT, self._on_termination)

    def _on_preemption(self, *_: Any) -> None:
        self.preempted = True

    def _on_termination(self, *_: Any) -> None:
        self.told_to_end = True

    def _judge_termination(self) -> None:
        """TERM begins a preemption on clusters without a user signal; everywhere else it is the end."""
        if self.told_to_end and not self.preempted and not self.terminated:
            self.preempted = _is_being_preempted()
            self.terminated = not self.preempted

    def _environment(self) -> dict[str, str]:
        environment = {k: v for k, v in os.environ.items() if k not in UNWANTED_VARIABLES}
        if self.context.num_tasks > 1 or self.context.cluster != "debug":
            environment |= rank_environment(self.context)
        if self.rank:
            environment |= dict.fromkeys(THREAD_VARIABLES, str(self.task.threads))
        return environment

    def _rank_command(self) -> str:
        # the same strict mode in which Snakemake runs the command on rank 0
        return f"set -euo pipefail; {(self.task.rank_command or '').replace(RANK_PLACEHOLDER, str(self.rank))}"

    def _record(self, state: str, status: int) -> None:
        outcome = {
            "state": state,
            "status": status,
            "rank": self.rank,
            "node": _node(),
            "started": self.started,
            "ended": time.time(),
            "restarts": _restarts(),
        }
        path = self.task.outcome_file(self.rank)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(outcome))
        temporary.replace(path)


def rank_environment(context: Any) -> dict[str, str]:
    """MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, as torch.distributed reads them."""
    import submitit

    before = dict(os.environ)
    os.environ.pop("MASTER_PORT", None)  # two jobs of one shell must not share a port
    distributed = submitit.helpers.TorchDistributedEnvironment()
    os.environ.update(before)
    return {
        "MASTER_ADDR": node_address(distributed.master_addr),
        "MASTER_PORT": str(distributed.master_port),
        "RANK": str(distributed.rank),
        "WORLD_SIZE": str(distributed.world_size),
        "LOCAL_RANK": str(distributed.local_rank),
        "LOCAL_WORLD_SIZE": str(distributed.local_world_size),
    }


def node_address(name: str) -> str:
    """The node's name where it resolves, else the address by which SLURM itself reaches the node."""
    try:
        socket.getaddrinfo(name, None)
        return name
    except OSError:
        for word in _scontrol("show", "node", "-o", name).split():
            if word.startswith("NodeAddr="):
                return word.partition("=")[2]
        return name


def _is_being_preempted() -> bool:
    """Whether SLURM, which sent TERM, still runs the job and has noted when it was preempted."""
    fields = _job_fields()
    return fields.get("JobState") == "RUNNING" and fields.get("PreemptTime", "None") not in ("None", "N/A")


def _job_fields() -> dict[str, str]:
    """What the controller says of this job; empty where there is none or it does not answer."""
    job_id = os.environ.get("SLURM_JOB_ID")
    if "SLURM_ARRAY_TASK_ID" in os.environ:  # the own id of an array's last element is the whole array's
        job_id = "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}".format_map(os.environ)
    if not job_id:
        return {}
    return {key: value for key, _, value in (w.partition("=") for w in _scontrol("show", "job", "-o", job_id).split())}


def _scontrol(*words: str) -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=20, check=True).stdout
    return ""


def _ignore_preemption() -> None:
    """In the child, before exec: an ignored signal stays ignored in all descendants until one installs a handler."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
