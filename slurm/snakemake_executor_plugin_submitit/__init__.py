"""Snakemake executor plugin: every rule a SLURM job, through submitit.

    snakemake --executor submitit --jobs 100 --default-resources slurm_partition=gpu runtime=120

Rules with several tasks become SPMD jobs, preempted jobs continue, a killed main process finds its jobs again, and one
poll watches all jobs. `--submitit-cluster local` runs the same on one machine, `debug` in this process.
"""

# mypy: disable-error-code=import-untyped
# Snakemake reads the types of the settings at run time, so annotations must not be postponed in this file.
import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecutorSettingsBase

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_envvar_declarations_to_cmd=True,
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=1,
)


@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    """Settings of the plugin; each is --submitit-<name> on the command line."""

    cluster: str = field(
        default="slurm",
        metadata={"help": "Where jobs run: slurm, local (processes of this machine) or debug (this process)."},
    )
    folder: Path = field(
        default=Path(".snakemake/submitit"),
        metadata={
            "help": "Folder for logs, ledger and accounting; on a file system that the nodes share.",
            "parse_func": Path,
            "unparse_func": str,
        },
    )
    poll_seconds: float = field(
        default=10.0,
        metadata={"help": "Seconds between two polls of all jobs; more when the controller is slow."},
    )
    signal_seconds: int = field(
        default=90,
        metadata={"help": "Seconds before the time limit at which a job is told to save and is requeued."},
    )
    max_requeues: int = field(
        default=100,
        metadata={"help": "How often a job may run into its time limit before it counts as failed."},
    )
    patience_seconds: float = field(
        default=600.0,
        metadata={"help": "For how many seconds a submission is tried while the controller does not answer."},
    )
    settle_seconds: float = field(
        default=30.0,
        metadata={"help": "Seconds for which NODE_FAIL or PREEMPTED has to last before it counts as the end of a job."},
    )
    lost_seconds: float = field(
        default=300.0,
        metadata={"help": "Seconds after which a job that SLURM does not know is reported as failed."},
    )


class Executor(RemoteExecutor):
    """Snakemake's side of the plugin: what it calls, and nothing else; the work is in `Launcher`."""

    # the thread that polls runs before __post_init__ is through
    _launcher: Any = None

    def __post_init__(self) -> None:
        from snakemake_executor_plugin_submitit.launcher import Launcher
        from snakemake_executor_plugin_submitit.resources import Refusal

        try:
            self._launcher = Launcher(self, self.workflow.executor_settings)
        except Refusal as refusal:
            raise WorkflowError(str(refusal)) from refusal

    def run_jobs(self, jobs: list[JobExecutorInterface]) -> None:
        """Attach to or submit all jobs that are ready; equal requests go out as one array."""
        for job in jobs:
            self.run_job_pre(job)
        self._launcher.launch(jobs)

    def run_job(self, job: JobExecutorInterface) -> None:
        self._launcher.launch([job])

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Report what has ended, yield the rest."""
        for job_info in self._launcher.check(active_jobs) if self._launcher else active_jobs:
            yield job_info

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Cancel everything this process has submitted, whether Snakemake lists it at this moment or not."""
        self._launcher.cancel()

    async def sleep(self) -> None:
        """The pause between polls, cut short by the end of the workflow."""
        pause = self._launcher.pause if self._launcher else 1.0
        deadline = time.monotonic() + pause
        while self.wait and (left := deadline - time.monotonic()) > 0:
            await asyncio.sleep(min(0.2, left))

    def handle_job_success(self, job: JobExecutorInterface) -> None:
        """Snakemake has recorded the outputs: only now may the ledger forget the job."""
        self._launcher.retire(job, "done")

    def handle_job_error(self, job: JobExecutorInterface) -> None:
        self._launcher.retire(job, "failed")

    def print_job_error(self, job_info: SubmittedJobInfo, msg: str | None = None, **kwargs: Any) -> None:
        if msg and job_info.job.is_group():
            self.logger.error(msg)  # Snakemake prints no message for a group
        super().print_job_error(job_info, msg=msg, **kwargs)

    def shutdown(self) -> None:
        super().shutdown()
        if self._launcher:
            self._launcher.flush()

    def additional_general_args(self) -> str:
        """The inner Snakemake says no more than what went wrong: its stderr is quoted in the error message."""
        return "--quiet progress rules host"
