"""The watcher's state machine, with commands that are stood in for and a clock of its own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from snakemake_executor_plugin_submitit.watcher import (
    CommandFailed,
    Record,
    Verdict,
    Watcher,
    expand_ids,
    parse_sacct,
    parse_squeue,
    run_command,
)


class Slurm:
    """What sacct and squeue say, and a clock that stands still unless moved."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sacct: list[str] | str = []
        self.squeue: list[str] | str = []
        self.seconds = 0.0
        self.commands: list[Sequence[str]] = []

    def run(self, command: Sequence[str]) -> str:
        self.commands.append(command)
        self.now += self.seconds
        answer = self.sacct if command[0] == "sacct" else self.squeue
        if isinstance(answer, str):
            raise CommandFailed(answer)
        return "\n".join(answer)

    def says(self, *states: str, job_id: str = "7") -> None:
        """sacct lists these runs of the job, one after the other."""
        self.sacct = [
            f"{job_id}|{state}|0:0|node{i}|2026-01-01T00:0{i}:00|2026-01-01T00:0{i}:05|10||"
            for i, state in enumerate(states)
        ]

    def queues(self, state: str | None, job_id: str = "7") -> None:
        self.squeue = [f"{job_id}|{state}|node9|2026-01-01T00:00:00|N/A"] if state else []


@pytest.fixture
def slurm() -> Slurm:
    return Slurm()


@pytest.fixture
def watcher(slurm: Slurm) -> Watcher:
    return Watcher(slurm.run, poll_seconds=10, settle=30, lost=300, clock=lambda: slurm.now)


def poll(watcher: Watcher, job_id: str = "7") -> Verdict:
    return watcher.poll([job_id])[job_id]


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED"])
def test_an_active_job_is_not_final(watcher: Watcher, slurm: Slurm, state: str) -> None:
    slurm.says(state)
    for _ in range(100):
        slurm.now += 60
        verdict = poll(watcher)
        assert (verdict.state, verdict.final) == (state, False)
    assert watcher.calls == {"sacct": 100, "squeue": 0}


def test_a_completed_job_is_a_success_by_one_call(watcher: Watcher, slurm: Slurm) -> None:
    slurm.says("COMPLETED")
    verdict = poll(watcher)
    assert verdict.final
    assert verdict.success
    assert watcher.calls == {"sacct": 1, "squeue": 0}


@pytest.mark.parametrize("state", ["FAILED", "TIMEOUT", "CANCELLED by 0", "OUT_OF_MEMORY", "DEADLINE"])
def test_a_failure_is_final_once_squeue_does_not_list_the_job(watcher: Watcher, slurm: Slurm, state: str) -> None:
    slurm.says(state)
    verdict = poll(watcher)
    assert verdict == Verdict(state.split()[0], final=True, records=verdict.records)


def test_a_failure_that_slurm_requeues_is_not(watcher: Watcher, slurm: Slurm) -> None:
    slurm.says("FAILED")
    slurm.queues("PENDING")
    assert poll(watcher).state == "PENDING"
    assert not poll(watcher).final


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "BOOT_FAIL"])
def test_what_slurm_may_requeue_is_final_only_when_it_lasts(watcher: Watcher, slurm: Slurm, state: str) -> None:
    slurm.says(state)
    assert not poll(watcher).final
    slurm.now += 29
    assert not poll(watcher).final
    slurm.now += 2
    assert poll(watcher).final


def test_a_node_failure_followed_by_a_requeue_goes_on(watcher: Watcher, slurm: Slurm) -> None:
    slurm.says("NODE_FAIL")
    assert not poll(watcher).final
    slurm.now += 20
    slurm.says("NODE_FAIL", "PENDING")
    assert poll(watcher).state == "PENDING"
    slurm.now += 200
    slurm.says("NODE_FAIL", "RUNNING")
    verdict = poll(watcher)
    assert (verdict.state, verdict.records[-1].nodes, len(verdict.records)) == ("RUNNING", "node1", 2)
    slurm.says("NODE_FAIL", "COMPLETED")
    assert poll(watcher).success


def test_the_clock_of_a_doubtful_state_starts_anew_after_a_run(watcher: Watcher, slurm: Slurm) -> None:
    slurm.says("PREEMPTED")
    poll(watcher)
    slurm.now += 25
    slurm.says("PREEMPTED", "RUNNING")
    poll(watcher)
    slurm.now += 25
    slurm.says("PREEMPTED", "PREEMPTED")
    assert not poll(watcher).final


def test_a_job_unknown_to_both_is_lost_after_long(watcher: Watcher, slurm: Slurm) -> None:
    assert poll(watcher) == Verdict("UNKNOWN")
    slurm.now += 299
    assert not poll(watcher).final
    slurm.now += 2
    verdict = poll(watcher)
    assert (verdict.state, verdict.final, verdict.success) == ("LOST", True, False)
    assert "301 s" in verdict.reason


@pytest.mark.parametrize(("well", "state"), [(True, "COMPLETED"), (False, "FAILED")])
def test_what_its_ranks_left_decides_for_an_unknown_job(watcher: Watcher, well: bool, state: str) -> None:
    watcher.ended_well = lambda job_id: well
    assert poll(watcher).state == state
    assert poll(watcher).success is well


def test_without_accounting_squeue_alone_tells(watcher: Watcher, slurm: Slurm) -> None:
    slurm.sacct = "sacct ended with status 1: Slurm accounting storage is disabled"
    for state, final, success in (
        ("PENDING", False, False),
        ("RUNNING", False, False),
        ("NODE_FAIL", False, False),
        ("RUNNING", False, False),
        ("COMPLETED", True, True),
        ("CANCELLED", True, False),
    ):
        slurm.queues(state)
        verdict = poll(watcher)
        assert (verdict.state, verdict.final, verdict.success) == (state, final, success)
    assert watcher.calls == {"sacct": 1, "squeue": 6}


def test_while_nobody_answers_no_clock_runs_and_the_pause_doubles(watcher: Watcher, slurm: Slurm) -> None:
    poll(watcher)
    slurm.sacct = slurm.squeue = "unable to contact slurm controller"
    pauses = []
    for _ in range(8):
        slurm.now += 600
        assert poll(watcher) == Verdict("UNANSWERED")
        pauses.append(watcher.pause)
    assert pauses == [20, 40, 80, 160, 300, 300, 300, 300]
    slurm.sacct = slurm.squeue = []
    assert poll(watcher) == Verdict("UNKNOWN"), "4800 silent seconds are not held against the job"
    assert watcher.pause == 10


def test_a_database_that_is_away_for_a_while_is_asked_again(watcher: Watcher, slurm: Slurm) -> None:
    slurm.sacct = "sacct: error: slurm_persist_conn_open: connection refused"
    slurm.queues("RUNNING")
    assert poll(watcher).state == "RUNNING"
    slurm.says("COMPLETED")
    assert poll(watcher).success


def test_a_slow_controller_is_asked_less_often(watcher: Watcher, slurm: Slurm) -> None:
    slurm.says("RUNNING")
    slurm.seconds = 4
    poll(watcher)
    assert watcher.pause == 40


def test_two_thousand_jobs_are_two_calls(watcher: Watcher, slurm: Slurm) -> None:
    ids = [str(i) for i in range(1500)] + [f"9999_{i}" for i in range(500)]
    verdicts = watcher.poll(ids)
    assert set(verdicts) == set(ids)
    assert [command[0] for command in slurm.commands] == ["sacct", "squeue"]
    asked = [word for flag, word in zip(slurm.commands[0], slurm.commands[0][1:], strict=False) if flag == "-j"]
    assert len(",".join(asked).split(",")) == 1501
    assert max(map(len, asked)) < 128 * 1024


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("12_[3]", ["12_3"]),
        ("12_[0-2,7%4]", ["12_0", "12_1", "12_2", "12_7"]),
        ("12_[0-6:3]", ["12_0", "12_3", "12_6"]),
    ],
)
def test_array_ids_are_expanded(text: str, ids: list[str]) -> None:
    assert expand_ids(text) == ids


def test_output_of_sacct_is_read() -> None:
    text = (
        "5_[1-2%2]|PENDING|0:0|None assigned|2026-01-01T00:00:00|Unknown|0||billing=1\n"
        "8|COMPLETED|0:0|n2|2026-01-01T00:09:00|2026-01-01T00:10:00|50|1200|gres/gpu=2\n"
        "8|NODE_FAIL|1:9|n1|2026-01-01T00:00:00|2026-01-01T00:00:10|20|800|gres/gpu=2\n"
        "not a line of sacct\n"
    )
    records = parse_sacct(text)
    assert records["5_1"] == records["5_2"] == (Record("PENDING", "", "0:0", "2026-01-01T00:00:00", tres="billing=1"),)
    assert [(r.state, r.nodes, r.elapsed, r.energy) for r in records["8"]] == [
        ("NODE_FAIL", "n1", 20, 800),
        ("COMPLETED", "n2", 50, 1200),
    ]


def test_output_of_squeue_is_read() -> None:
    assert parse_squeue(
        "5_1|RUNNING|n1|2026-01-01T00:00:00|2026-01-01T00:00:10\n6|PENDING||2026-01-01T00:00:00|N/A\n"
    ) == {
        "5_1": Record("RUNNING", "n1", submit="2026-01-01T00:00:00", start="2026-01-01T00:00:10"),
        "6": Record("PENDING", submit="2026-01-01T00:00:00"),
    }


def test_commands_that_fail_or_hang_are_told_apart_from_answers() -> None:
    assert run_command(["echo", "hello"]) == "hello\n"
    with pytest.raises(CommandFailed, match="status 3: no"):
        run_command(["bash", "-c", "echo no >&2; exit 3"])
    with pytest.raises(CommandFailed, match="timed out"):
        run_command(["sleep", "5"], timeout=0.1)
    with pytest.raises(CommandFailed, match="no-such-command"):
        run_command(["no-such-command"])
