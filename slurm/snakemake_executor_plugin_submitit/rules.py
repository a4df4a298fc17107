"""A Snakemake job made ready for submission: its key in the ledger, its request, its commands."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from snakemake_executor_plugin_submitit.backends import Backend
from snakemake_executor_plugin_submitit.ledger import digest, job_key
from snakemake_executor_plugin_submitit.resources import Refusal, Request, read_request
from snakemake_executor_plugin_submitit.worker import RANK_PLACEHOLDER, RuleTask


@dataclass
class Prepared:
    """One job of the workflow, ready to be submitted or found again."""

    job: Any
    key: str
    request: Request
    command: str
    job_command: str
    rank_command: str | None
    labels: dict[str, Any]

    def task(self, stem: str) -> RuleTask:
        """What the cluster runs; its ranks leave their outcomes under stem."""
        folders: tuple[str, ...] = ()
        if self.rank_command is not None:
            files = [*map(str, self.job.output), *map(str, self.job.log)]
            folders = tuple(sorted({os.path.dirname(file) for file in files if os.path.dirname(file)}))
        return RuleTask(self.job_command, self.rank_command, self.job.threads, stem, folders)


def prepare(executor: Any, job: Any, backend: Backend) -> Prepared:
    """Read a job; raises Refusal where the cluster could never run it."""
    request = check(job, backend)
    outputs = sorted(map(str, job.output))
    wildcards = {} if job.is_group() else {k: str(v) for k, v in job.wildcards_dict.items()}
    command = "" if job.is_group() else job.shellcmd or ""
    return Prepared(
        job=job,
        key=job_key(job.name, outputs, str(sorted(wildcards.items()))),
        request=request,
        command=digest(command),
        job_command=executor.format_job_exec(job),
        rank_command=_rank_command(job) if request.tasks > 1 else None,
        labels={"rule": job.name, "wildcards": wildcards, "outputs": outputs},
    )


def check(job: Any, backend: Backend) -> Request:
    """The job's request; raises Refusal where it contradicts itself, the rule, or the cluster."""
    request = read_request(job.resources, job.threads)
    if request.tasks > 1:
        _check_spmd(job, request.tasks)
    backend.check(request)
    return request


def refusals(executor: Any, backend: Backend) -> list[str]:
    """Every impossible request among the jobs that are to run, one line for each rule and reason."""
    found: dict[str, None] = {}
    for job in executor.workflow.dag.needrun_jobs():
        if not job.is_local:
            try:
                check(job, backend)
            except Refusal as refusal:
                found[f"rule {job.name}: {refusal}"] = None
    return list(found)


def is_up_to_date(job: Any) -> bool:
    """Whether all outputs exist and none is older than an input."""
    outputs, inputs = [str(f) for f in job.output], [str(f) for f in job.input]
    if not all(os.path.exists(file) for file in outputs):
        return False
    newest = max((os.path.getmtime(file) for file in inputs if os.path.exists(file)), default=0.0)
    return all(os.path.getmtime(file) >= newest for file in outputs)


def _check_spmd(job: Any, tasks: int) -> None:
    reason = None
    if job.is_group():
        reason = "is a group of jobs"
    elif not job.rule.shellcmd:
        reason = "is not a shell command"
    elif getattr(job, "is_shadow", False):
        reason = "runs in a shadow directory"
    elif _is_deployed(job):
        reason = "runs in an environment that Snakemake activates (conda, container or module)"
    if reason:
        raise Refusal(
            f"{tasks} tasks are asked for, but the rule {reason}, which only one task can run. The valid value is 1; "
            "set nodes=1 and tasks_per_node=1, or make the rule a plain shell command."
        )


def _is_deployed(job: Any) -> bool:
    methods = job.dag.workflow.deployment_settings.deployment_method
    return bool(methods and (job.conda_env or job.container_img_url or job.env_modules))


def _rank_command(job: Any) -> str:
    """The rule's shell command for ranks other than 0: each writes a log file of its own, <log>.rank<k>."""
    log = job.log
    if len(log):
        log = type(log)(toclone=log, custom_map=lambda file: f"{file}.rank{RANK_PLACEHOLDER}")
    command: str = job.format_wildcards(job.rule.shellcmd, log=log)
    return command
