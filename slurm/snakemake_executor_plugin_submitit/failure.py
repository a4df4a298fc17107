"""What is told of a job that failed: its end in SLURM's words, where its log is, and the log's last lines."""

from __future__ import annotations

from pathlib import Path

from snakemake_executor_plugin_submitit.accounting import read_outcome
from snakemake_executor_plugin_submitit.backends import Backend
from snakemake_executor_plugin_submitit.watcher import Verdict

TAIL_LINES = 20
TAIL_BYTES = 16_384


def describe(backend: Backend, job_id: str, verdict: Verdict, stem: str, ranks: int) -> tuple[str, Path]:
    """The message of a failed job, with the end of the failing rank's log, and the path of that log."""
    rank = failing_rank(stem, ranks)
    log = backend.log(job_id, rank)
    nodes = verdict.records[-1].nodes if verdict.records else ""
    reason = f" ({verdict.reason})" if verdict.reason else ""
    where = f" on {nodes}" if nodes else ""
    which = f" of rank {rank} of {ranks}" if ranks > 1 else ""
    lines = tail(log) or tail(log.with_suffix(".out"))
    text = "\n".join(f"    {line}" for line in lines) if lines else "    (it is empty)"
    return (
        f"{backend.name} job {job_id} ended {verdict.state}{reason}{where}.\n"
        f"Log{which}: {log}\nIts last {TAIL_LINES} lines:\n{text}\n",
        log,
    )


def failing_rank(stem: str, ranks: int) -> int:
    """The rank that failed first by itself; 0 where none says so."""
    outcomes = [outcome for rank in range(ranks) if (outcome := read_outcome(stem, rank))]
    failed = [outcome for outcome in outcomes if outcome.get("state") == "failed"]
    return int(min(failed, key=lambda outcome: outcome["ended"])["rank"]) if failed else 0


def tail(path: Path) -> list[str]:
    """The last lines of a text file, none where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError:
        return []
