"""Attaches to, submits, watches and cancels the jobs of one Snakemake process."""

# mypy: disable-error-code=import-untyped
from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from snakemake_executor_plugin_submitit.accounting import account, queue_seconds, read_outcome, write_account
from snakemake_executor_plugin_submitit.backends import SubmissionFailed, ended_well, make_backend
from snakemake_executor_plugin_submitit.failure import describe
from snakemake_executor_plugin_submitit.interrupts import deferred, held_off
from snakemake_executor_plugin_submitit.ledger import Entry, Ledger
from snakemake_executor_plugin_submitit.resources import Refusal, Request
from snakemake_executor_plugin_submitit.rules import Prepared, is_up_to_date, prepare, refusals
from snakemake_executor_plugin_submitit.watcher import CommandFailed, Verdict

LONGEST_RETRY_PAUSE = 60.0


@dataclass
class Tracked:
    """A job of the workflow that is a job of the cluster."""

    info: SubmittedJobInfo
    prepared: Prepared
    entry: Entry
    shared: bool = False
    state: str = ""

    @property
    def job_id(self) -> str:
        return self.entry.job_id or ""


class Launcher:
    """The jobs of one Snakemake process on one cluster."""

    def __init__(self, executor: Any, settings: Any) -> None:
        self.executor = executor
        self.settings = settings
        self.folder = Path(settings.folder).absolute()
        self.logs = self.folder / "logs"
        self.outcomes = self.folder / "outcomes"
        for folder in (self.logs, self.outcomes):
            folder.mkdir(parents=True, exist_ok=True)
        self.backend = make_backend(settings, self.logs, self._ended_well)
        self.ledger = Ledger(self.folder / "ledger.jsonl")
        self.tracked: dict[str, Tracked] = {}
        self._ids: dict[Any, str] = {}
        self._retired: list[tuple[Entry, str]] = []
        self._flushed = 0.0
        self._checked = False
        self._cancelled = False

    @property
    def pause(self) -> float:
        """Seconds until the next poll."""
        return self.backend.pause

    def launch(self, jobs: Iterable[Any]) -> None:
        """Attach to the jobs that an earlier process left running, submit the others."""
        self._refuse_early()
        self.flush()
        prepared = []
        for job in jobs:
            try:
                prepared.append(prepare(self.executor, job, self.backend))
            except Refusal as refusal:
                self.executor.report_job_error(SubmittedJobInfo(job), msg=f"{job.name}: {refusal}\n")
        with self.ledger.locked():
            left = self._attach(prepared)
            batches = self._claim(left)
        for batch, entries in batches:
            self._submit(batch, entries)

    def check(self, active: list[SubmittedJobInfo]) -> list[SubmittedJobInfo]:
        """Poll once, report what has ended, return the rest. Called in a thread of its own, which leaves the ledger to
        the main one."""
        mine = {info.external_jobid or "": info for info in active}
        if self._cancelled or not mine:
            return active
        verdicts = self.backend.poll(mine)
        left = []
        for job_id, info in mine.items():
            tracked, verdict = self.tracked[job_id], verdicts[job_id]
            self._announce(tracked, verdict)
            if verdict.final:
                self._finish(tracked, verdict)
            else:
                left.append(info)
        return left

    def retire(self, job: Any, outcome: str) -> None:
        """Snakemake is done with the job; written to the ledger at most once a second."""
        job_id = self._ids.pop(job, None)
        if job_id is not None:
            self._retired.append((self.tracked.pop(job_id).entry, outcome))
        if time.monotonic() > self._flushed + 1:
            self.flush()

    def flush(self) -> None:
        """Write what has been retired since the last call."""
        self._flushed = time.monotonic()
        retired, self._retired = self._retired, []
        for outcome in sorted({outcome for _, outcome in retired}):
            self.ledger.ended([entry for entry, its in retired if its == outcome], outcome)

    def cancel(self) -> None:
        """Cancel everything that this process waits for and nobody else does. A further Ctrl-C is held off."""
        self._cancelled = True
        with held_off(lambda: self._log("Still cancelling; the jobs would be orphaned otherwise.")):
            mine = [tracked for tracked in self.tracked.values() if not tracked.shared]
            unresolved = self.ledger.unresolved()
            job_ids = [tracked.job_id for tracked in mine]
            names = sorted({entry.name for entry in unresolved})
            if not job_ids and not names:
                return
            self._log(f"Cancelling {len(job_ids)} {self.backend.name} job(s): {' '.join(job_ids + names)}")
            refused = self.backend.cancel(job_ids, names)
            gone = [t.entry for t in mine if t.job_id not in refused]
            self.ledger.ended([*gone, *(e for e in unresolved if e.name not in refused)], "cancelled")
            self._log(f"Cancelled {len(job_ids) + len(names) - len(refused)} of {len(job_ids) + len(names)}.")
            if refused:
                self._log(f"Still there, for {self.backend.name} did not answer: {' '.join(refused)}")

    def _refuse_early(self) -> None:
        """Before the first submission: stop with every impossible request of the whole workflow in one message."""
        if not self._checked:
            self._checked = True
            found = refusals(self.executor, self.backend)
            if found:
                raise WorkflowError("Nothing was submitted. " + "\n".join(found))

    def _attach(self, prepared: list[Prepared]) -> list[Prepared]:
        """Take over jobs that the ledger knows; returns those that have to be submitted."""
        found = [(p, entry) for p in prepared if (entry := self.ledger.open_entry(p.key))]
        usable = [(p, entry, entry.writer_is_alive) for p, entry in found if self._is_usable(p, entry)]
        for p, entry, alive in usable:
            self._track(p, entry, shared=alive)
        verdicts = self.backend.poll([entry.job_id or "" for _, entry, _ in usable])
        taken = set()
        for p, entry, _ in usable:
            verdict = verdicts[entry.job_id or ""]
            if verdict.final and not (verdict.success and is_up_to_date(p.job)):
                self._log(f"{_title(p)}: job {entry.job_id} of an earlier run ended {verdict.state}; submitting anew")
                del self.tracked[self._ids.pop(p.job)]
                self.ledger.ended([entry], verdict.state)
                continue
            taken.add(p.key)
            self._log(f"{_title(p)}: found {self.backend.name} job {entry.job_id} of an earlier run, {verdict.state}")
            self.executor.report_job_submission(self.tracked[entry.job_id or ""].info)
        return [p for p in prepared if p.key not in taken]

    def _is_usable(self, prepared: Prepared, entry: Entry) -> bool:
        """Whether an open submission can be waited for; one that cannot is cancelled and closed."""
        if entry.cluster != self.backend.name:
            self._log(f"{_title(prepared)}: {entry.cluster} job {entry.job_id} of an earlier run is left to itself")
            self.ledger.ended([entry], "other cluster")
            return False
        deadline = time.monotonic() + 60
        while entry.base_id is None and entry.writer_is_alive and time.monotonic() < deadline:
            time.sleep(0.5)
            self.ledger.refresh()
        if entry.base_id is None:
            base_id = self._persistently(lambda: self.backend.find(entry.name))
            if base_id is None:
                self.ledger.ended([entry], "never submitted")
                return False
            self.ledger.submitted(entry.token, base_id)
        job_id = entry.job_id or ""
        obsolete = entry.command != prepared.command
        if obsolete or not self.backend.can_start(job_id):
            why = "runs an older command" if obsolete else "was never given its task"
            self._log(f"{_title(prepared)}: job {job_id} of an earlier run {why}; cancelling it and submitting anew")
            self.backend.cancel([job_id], [])
            self.ledger.ended([entry], "obsolete")
            return False
        return True

    def _claim(self, prepared: list[Prepared]) -> list[tuple[list[Prepared], list[Entry]]]:
        """Write the intents: equal requests in batches of at most an array."""
        groups: dict[Request, list[Prepared]] = {}
        for p in prepared:
            groups.setdefault(p.request, []).append(p)
        batches = []
        for group in groups.values():
            for start in range(0, len(group), self.backend.largest_array):
                batch = group[start : start + self.backend.largest_array]
                token = uuid.uuid4().hex[:12]
                name = f"{batch[0].job.name}-{token}"
                jobs = [(p.key, p.command) for p in batch]
                batches.append((batch, self.ledger.intend(jobs, token, name, self.backend.name)))
        return batches

    def _submit(self, batch: list[Prepared], entries: list[Entry]) -> None:
        """Submit a batch, again and again while the controller does not answer."""
        name, token = entries[0].name, entries[0].token
        tasks = [p.task(self._stem(entry)) for p, entry in zip(batch, entries, strict=True)]

        def attempt() -> None:
            try:
                with deferred():
                    self.ledger.submitted(token, self.backend.submit(tasks, batch[0].request, name))
            except SubmissionFailed as failure:
                if failure.for_good:
                    raise
                # the controller may have taken the job before it fell silent; that job has no task and must go
                half = self.backend.find(name)
                if half:
                    self.backend.cancel([half], [])
                raise CommandFailed(str(failure)) from failure

        try:
            self._persistently(attempt)
        except (SubmissionFailed, CommandFailed) as error:
            self.ledger.ended(entries, "refused")
            for p in batch:
                message = f"{self.backend.name} did not take the job: {error}\n"
                self.executor.report_job_error(SubmittedJobInfo(p.job), msg=message)
            return
        for p, entry in zip(batch, entries, strict=True):
            tracked = self._track(p, entry)
            self._log(f"{_title(p)}: submitted as {self.backend.name} job {tracked.job_id}")
            self.executor.report_job_submission(tracked.info)

    def _track(self, prepared: Prepared, entry: Entry, shared: bool = False) -> Tracked:
        info = SubmittedJobInfo(prepared.job, external_jobid=entry.job_id)
        tracked = Tracked(info, prepared, entry, shared)
        self.tracked[tracked.job_id] = tracked
        self._ids[prepared.job] = tracked.job_id
        return tracked

    def _persistently(self, action: Callable[[], Any]) -> Any:
        """Do it, and again with growing pauses for as long as the controller is silent and patience lasts."""
        pause, deadline = 1.0, time.monotonic() + self.settings.patience_seconds
        while True:
            try:
                return action()
            except CommandFailed as failure:
                if time.monotonic() + pause > deadline:
                    raise
                self._log(f"The cluster does not answer, trying again in {pause:.0f} s: {failure}")
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_RETRY_PAUSE)

    def _announce(self, tracked: Tracked, verdict: Verdict) -> None:
        if verdict.state in (tracked.state, "UNANSWERED"):
            return
        last = verdict.records[-1] if verdict.records else None
        text = f"{_title(tracked.prepared)}: {self.backend.name} job {tracked.job_id} {verdict.state}"
        if last and last.nodes:
            text += f" on {last.nodes}"
        if last and verdict.state == "RUNNING" and (waited := queue_seconds(last)) is not None:
            text += f" after {waited:.0f} s in the queue"
        if len(verdict.records) > 1:
            text += f", run {len(verdict.records)}"
        self._log(text)
        tracked.state = verdict.state

    def _finish(self, tracked: Tracked, verdict: Verdict) -> None:
        p, job_id, stem = tracked.prepared, tracked.job_id, self._stem(tracked.entry)
        outcome = read_outcome(stem, 0)
        record = account(job_id, verdict, p.request, outcome, tracked.entry.time, **p.labels)
        write_account(self.folder, record)
        if verdict.success:
            self.executor.report_job_success(tracked.info)
            return
        message, log = describe(self.backend, job_id, verdict, stem, p.request.tasks)
        self.executor.report_job_error(tracked.info, msg=message, aux_logs=[str(log)])

    def _ended_well(self, job_id: str) -> bool | None:
        tracked = self.tracked.get(job_id)
        return ended_well(self._stem(tracked.entry), tracked.prepared.request.tasks) if tracked else None

    def _stem(self, entry: Entry) -> str:
        return str(self.outcomes / f"{entry.token}_{entry.index}")

    def _log(self, text: str) -> None:
        self.executor.logger.info(text)


def _title(prepared: Prepared) -> str:
    job = prepared.job
    return f"Job {'group ' + job.name if job.is_group() else job.jobid} ({job.name})"
