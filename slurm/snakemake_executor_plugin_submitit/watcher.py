"""What SLURM says of the executor's jobs: one sacct call for all of them, squeue for what sacct leaves open.

`Watcher.poll` makes at most two calls whatever the number of jobs. A verdict is final only when SLURM will not run the
job again: a failure counts once squeue does not list the job as active any more, NODE_FAIL and PREEMPTED only after
`settle` seconds of that, a job unknown to both after `lost` seconds. While the controller does not answer no clock
runs, and the pause between polls doubles.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

SACCT_FIELDS = (
    "JobID",
    "State",
    "ExitCode",
    "NodeList",
    "Submit",
    "Start",
    "ElapsedRaw",
    "ConsumedEnergyRaw",
    "AllocTRES",
)
SUCCESS = frozenset({"COMPLETED"})
# ended, and nothing but a user starts it again
ENDED = frozenset({"FAILED", "TIMEOUT", "CANCELLED", "OUT_OF_MEMORY", "DEADLINE", "REVOKED"})
# ended for now: SLURM puts such a job back into the queue where it may
REQUEUEABLE = frozenset({"NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "LAUNCH_FAILED"})
NO_ACCOUNTING = re.compile(r"accounting storage is disabled|slurm_load_jobs.*accounting|slurmdbd.*not configured", re.I)

# Given a command, its standard output; raises CommandFailed.
Run = Callable[[Sequence[str]], str]


class CommandFailed(RuntimeError):
    """A SLURM command that ended with an error or did not answer in time."""


@dataclass(frozen=True)
class Record:
    """One run of a job as sacct or squeue tells it; times as SLURM prints them, seconds where raw."""

    state: str
    nodes: str = ""
    exit_code: str = ""
    submit: str = ""
    start: str = ""
    elapsed: int = 0
    energy: int | None = None
    tres: str = ""


@dataclass(frozen=True)
class Verdict:
    """What is known of a job after a poll. `records` are its runs, the last one last."""

    state: str
    final: bool = False
    success: bool = False
    reason: str = ""
    records: tuple[Record, ...] = ()


@dataclass
class Watcher:
    """Watches any number of jobs of one SLURM cluster. All times are seconds."""

    run: Run
    poll_seconds: float = 10
    settle: float = 30
    lost: float = 300
    longest_pause: float = 300
    clock: Callable[[], float] = time.monotonic
    ended_well: Callable[[str], bool | None] = lambda job_id: None
    accounting: bool = True
    pause: float = field(default=0, init=False)
    calls: dict[str, int] = field(default_factory=lambda: {"sacct": 0, "squeue": 0}, init=False)
    _since: dict[str, tuple[str, float]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.pause = self.poll_seconds

    def poll(self, job_ids: Iterable[str]) -> dict[str, Verdict]:
        """A verdict for every job; none of them final on the word of a controller that does not answer."""
        job_ids = list(job_ids)
        if not job_ids:
            return {}
        began = self.clock()
        history = self._history(job_ids)
        queue: dict[str, Record] | None = None
        open_questions = [i for i in job_ids if history is None or _is_open(history.get(i))]
        if open_questions:
            queue = self._queue()
        answered = history is not None or queue is not None
        took = self.clock() - began
        # a controller that takes long to answer is asked less often; one that does not answer, ever less
        self.pause = max(self.poll_seconds, 10 * took) if answered else max(self.pause * 2, self.poll_seconds)
        self.pause = min(self.pause, max(self.longest_pause, self.poll_seconds))
        if not answered:
            self._since.clear()
            return {job_id: Verdict("UNANSWERED") for job_id in job_ids}
        return {job_id: self._judge(job_id, (history or {}).get(job_id, ()), queue) for job_id in job_ids}

    def forget(self, job_id: str) -> None:
        """Drop what is kept of a job that is not watched any more."""
        self._since.pop(job_id, None)

    def _judge(self, job_id: str, records: tuple[Record, ...], queue: dict[str, Record] | None) -> Verdict:
        last = records[-1] if records else None
        listed = queue.get(job_id) if queue is not None else None
        if last and last.state in SUCCESS:
            return Verdict(last.state, final=True, success=True, records=records)
        if listed and not _has_ended(listed.state):
            self.forget(job_id)
            return Verdict(listed.state, records=(*records[:-1], _merged(last, listed)))
        if last and not _has_ended(last.state):
            self.forget(job_id)
            return Verdict(last.state, records=records)
        if not last and listed:
            records, last = (listed,), listed
            if listed.state in SUCCESS:
                return Verdict(listed.state, final=True, success=True, records=records)
        if last is None:
            return self._unknown(job_id)
        confirmed = queue is not None and last.state in ENDED
        if confirmed or self._lasted(job_id, last.state) >= self.settle:
            return Verdict(last.state, final=True, reason=_reason(last), records=records)
        return Verdict(last.state, records=records)

    def _unknown(self, job_id: str) -> Verdict:
        """Neither command knows the job: what its own ranks wrote decides, or that it stays so for long."""
        ended_well = self.ended_well(job_id)
        if ended_well is not None:
            state = "COMPLETED" if ended_well else "FAILED"
            return Verdict(state, final=True, success=ended_well, reason="" if ended_well else "a rank failed")
        lasted = self._lasted(job_id, "UNKNOWN")
        if lasted >= self.lost:
            reason = f"neither sacct nor squeue has known the job for {lasted:.0f} s and it left no result"
            return Verdict("LOST", final=True, reason=reason)
        return Verdict("UNKNOWN")

    def _lasted(self, job_id: str, state: str) -> float:
        """For how long the job has been in this state, by the polls that were answered."""
        before, since = self._since.get(job_id, ("", 0.0))
        if before != state:
            since = self.clock()
            self._since[job_id] = (state, since)
        return self.clock() - since

    def _history(self, job_ids: list[str]) -> dict[str, tuple[Record, ...]] | None:
        """Every run of every job from sacct, None where there is no answer."""
        if not self.accounting:
            return None
        bases = sorted({job_id.partition("_")[0] for job_id in job_ids}, key=lambda base: (len(base), base))
        command = ["sacct", "-X", "-n", "-P", "-D", "-o", ",".join(SACCT_FIELDS)]
        for start in range(0, len(bases), 1000):  # a single argument of a command is limited to 128 KiB
            command += ["-j", ",".join(bases[start : start + 1000])]
        self.calls["sacct"] += 1
        try:
            return parse_sacct(self.run(command))
        except CommandFailed as error:
            if NO_ACCOUNTING.search(str(error)):
                self.accounting = False
            return None

    def _queue(self) -> dict[str, Record] | None:
        """This user's jobs that the controller still remembers, None where there is no answer."""
        self.calls["squeue"] += 1
        try:
            return parse_squeue(self.run(["squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T|%N|%V|%S"]))
        except CommandFailed:
            return None


def run_command(command: Sequence[str], timeout: float = 60) -> str:
    """Standard output of a command that a Ctrl-C at the terminal does not reach; raises CommandFailed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, start_new_session=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandFailed(f"{command[0]}: {error}") from error
    if done.returncode:
        raise CommandFailed(f"{command[0]} ended with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def parse_sacct(text: str) -> dict[str, tuple[Record, ...]]:
    """Runs by job id, in the order in which they were put into the queue."""
    runs: dict[str, list[Record]] = {}
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) < len(SACCT_FIELDS):
            continue
        job_id, state, exit_code, nodes, submit, start, elapsed, energy, tres = fields[: len(SACCT_FIELDS)]
        record = Record(
            state=_state(state),
            nodes="" if nodes == "None assigned" else nodes,
            exit_code=exit_code,
            submit=submit,
            start="" if start in ("Unknown", "None") else start,
            elapsed=int(elapsed) if elapsed.isdigit() else 0,
            energy=int(energy) if energy.isdigit() else None,
            tres=tres,
        )
        for single in expand_ids(job_id):
            runs.setdefault(single, []).append(record)
    return {job_id: tuple(sorted(found, key=lambda r: r.submit)) for job_id, found in runs.items()}


def parse_squeue(text: str) -> dict[str, Record]:
    """Present state by job id."""
    found = {}
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) == 5:
            start = "" if fields[4] == "N/A" else fields[4]
            found[fields[0]] = Record(state=_state(fields[1]), nodes=fields[2], submit=fields[3], start=start)
    return found


def expand_ids(job_id: str) -> list[str]:
    """`12` as itself, `12_[0-2,5%4]` as its four elements."""
    base, bracket, inside = job_id.partition("_[")
    if not bracket:
        return [job_id]
    elements: list[str] = []
    for part in inside.rstrip("]").partition("%")[0].split(","):
        first, _, rest = part.partition("-")
        last, _, step = rest.partition(":")
        elements += [f"{base}_{i}" for i in range(int(first), int(last or first) + 1, int(step or 1))]
    return elements


def _state(text: str) -> str:
    """`CANCELLED by 0` and `COMPLETED+` as their first word."""
    return text.split()[0].rstrip("+").upper() if text.split() else "UNKNOWN"


def _has_ended(state: str) -> bool:
    return state in SUCCESS or state in ENDED or state in REQUEUEABLE


def _is_open(records: tuple[Record, ...] | None) -> bool:
    """Whether squeue has to be asked: sacct knows nothing, or tells of an end that may not be one."""
    return not records or records[-1].state in ENDED | REQUEUEABLE


def _merged(last: Record | None, listed: Record) -> Record:
    return replace(last, state=listed.state, nodes=listed.nodes or last.nodes) if last else listed


def _reason(record: Record) -> str:
    code, _, signum = record.exit_code.partition(":")
    details = [f"exit code {code}"] if code not in ("", "0") else []
    details += [f"signal {signum}"] if signum not in ("", "0") else []
    return ", ".join(details)
