"""What a finished job has used, as one JSON file per job and one line of accounting.jsonl."""

from __future__ import annotations

import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.watcher import Record, Verdict


def account(
    job_id: str, verdict: Verdict, request: Request, outcome: dict[str, Any], submitted: float, **labels: Any
) -> dict[str, Any]:
    """The accounting of one job. SLURM's own figures where sacct gave any, else the rank's clock; None if unknown."""
    records = verdict.records
    last = records[-1] if records else Record(verdict.state)
    from_sacct = any(record.elapsed or record.exit_code for record in records)
    gpu_model, gpus = _gpus(last.tres)
    if from_sacct:
        waits = [_between(record.submit, record.start) for record in records]
        queue_seconds: float | None = sum(wait for wait in waits if wait is not None)
        run_seconds: float | None = float(sum(record.elapsed for record in records))
        requeues: int | None = len(records) - 1
    else:
        queue_seconds = max(0.0, outcome["started"] - submitted) if outcome and not outcome["restarts"] else None
        run_seconds = outcome["ended"] - outcome["started"] if outcome and not outcome["restarts"] else None
        requeues = outcome.get("restarts")
    energies = [record.energy for record in records if record.energy]
    return {
        "schema": 1,
        **labels,
        "job_id": job_id,
        "state": verdict.state,
        "nodes": last.nodes or outcome.get("node"),
        "tasks": request.tasks,
        "gpus": gpus if gpus is not None else request.gpus_per_node * request.nodes,
        "gpu_model": gpu_model or request.gpu_model,
        "queue_seconds": _rounded(queue_seconds),
        "run_seconds": _rounded(run_seconds),
        "requeues": requeues,
        "energy_joules": sum(energies) if energies else None,
    }


def write_account(folder: Path, record: dict[str, Any]) -> None:
    """Leave the record as <folder>/accounting/<job id>.json and append it to <folder>/accounting.jsonl."""
    single = folder / "accounting" / f"{record['job_id']}.json"
    single.parent.mkdir(parents=True, exist_ok=True)
    temporary = single.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(single)
    with (folder / "accounting.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


def read_outcome(stem: str, rank: int) -> dict[str, Any]:
    """What a rank wrote when it ended, empty if it could not."""
    try:
        outcome = json.loads(Path(f"{stem}.rank{rank}.json").read_text())
    except (OSError, ValueError):
        return {}
    return outcome if isinstance(outcome, dict) else {}


def queue_seconds(record: Record) -> float | None:
    """How long this run of the job waited in the queue."""
    return _between(record.submit, record.start)


def _gpus(tres: str) -> tuple[str | None, int | None]:
    """Model and number from `cpu=8,gres/gpu=2,gres/gpu:a100=2`; None where the cluster does not track them."""
    total = re.search(r"gres/gpu=(\d+)", tres)
    typed = re.search(r"gres/gpu:([^=,]+)=(\d+)", tres)
    number = total or typed
    return typed.group(1) if typed else None, int(number.group(number.lastindex or 1)) if number else None


def _between(first: str, last: str) -> float | None:
    try:
        return max(0.0, (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds())
    except ValueError:
        return None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
