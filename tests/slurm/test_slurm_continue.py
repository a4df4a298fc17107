"""Jobs that the cluster interrupts: they continue, and a killed main process finds them again."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest
from snakemake_executor_plugin_submitit.ledger import Ledger, job_key
from toy_workflow import Workflow

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]

COUNT = """
rule count:
    output: "done.txt"
    resources: runtime={runtime}, {more}
    shell: "python $COUNTER {goal} state trace {every} && echo counted > {{output}}"
"""


def write_count(workflow: Workflow, goal: int, runtime: int = 10, every: int = 1_000_000, more: str = "") -> None:
    workflow.write(COUNT.format(goal=goal, runtime=runtime, every=every, more=more))


def assert_counted_once(workflow: Workflow, goal: int, starts: int) -> None:
    """Every step once, in order, in that many runs, and the artefact is there."""
    assert (workflow.folder / "done.txt").read_text() == "counted\n"
    assert workflow.steps() == list(range(1, goal + 1))
    assert len(workflow.starts()) == starts, workflow.trace()


def account(workflow: Workflow) -> dict[str, object]:
    (line,) = (workflow.state / "accounting.jsonl").read_text().splitlines()
    return json.loads(line)


def test_a_job_at_its_time_limit_saves_and_continues(workflow: Workflow) -> None:
    # SLURM looks at time limits every 30 s: the signal comes between second 5 and second 35
    write_count(workflow, goal=360, runtime=1)
    main = workflow.start("done.txt", "--submitit-signal-seconds", "55")
    workflow.until(lambda: "REQUEUED" in workflow.log.read_text(), 200, "the first requeue")
    workflow.slurm("scontrol", "update", f"jobid={workflow.job_ids()[0]}", "timelimit=10")  # so that it is the only one
    workflow.finish(main)
    (job_id,) = workflow.job_ids()
    runs = workflow.sacct(job_id)
    assert runs == ["REQUEUED", "COMPLETED"]
    assert_counted_once(workflow, 360, starts=2)
    assert account(workflow)["requeues"] == 1


def test_a_preempted_job_saves_and_continues(workflow: Workflow) -> None:
    write_count(workflow, goal=80, more="slurm_extra='--exclusive --nodelist=node1'")
    main = workflow.start("done.txt")
    job_id = workflow.running_job()
    workflow.until(lambda: len(workflow.steps()) > 5, 120, "the first steps")
    urgent = workflow.slurm(
        "sbatch", "--parsable", "-o", "/dev/null", "-p", "urgent", "--exclusive", "-w", "node1", "--wrap", "true"
    )
    workflow.finish(main)
    assert workflow.job_ids() == [job_id]
    assert workflow.sacct(job_id) == ["REQUEUED", "COMPLETED"]
    assert workflow.sacct(urgent.strip()) == ["COMPLETED"]
    assert_counted_once(workflow, 80, starts=2)
    assert "run 2" in workflow.log.read_text()


def test_all_ranks_save_before_the_job_is_requeued(workflow: Workflow) -> None:
    workflow.write("""
rule count:
    output: "done.txt"
    resources: nodes=2, tasks_per_node=2
    shell: "python $COUNTER 60 state$RANK trace$RANK && {{ [ $RANK != 0 ] || touch {output}; }}"
""")
    main = workflow.start("done.txt")
    job_id = workflow.running_job()
    workflow.until(lambda: all(len(workflow.steps(f"trace{rank}")) > 3 for rank in range(4)), 120, "all ranks")
    workflow.slurm("scancel", "--signal=USR2", job_id)
    workflow.finish(main)
    assert workflow.sacct(job_id) == ["REQUEUED", "COMPLETED"]
    for rank in range(4):
        assert workflow.steps(f"trace{rank}") == list(range(1, 61))
        assert len(workflow.starts(f"trace{rank}")) == 2


def test_an_element_of_an_array_is_requeued_alone(workflow: Workflow) -> None:
    workflow.write("""
rule all:
    input: expand("{i}.txt", i=range(2))
rule count:
    output: "{i}.txt"
    shell: "python $COUNTER 40 {wildcards.i}.state {wildcards.i}.trace && touch {output}"
""")
    main = workflow.start("all")
    workflow.until(lambda: all(len(workflow.steps(f"{i}.trace")) > 3 for i in range(2)), 120, "both elements")
    (array,) = workflow.job_ids()
    workflow.slurm("scancel", "--signal=USR2", f"{array}_1")
    workflow.finish(main)
    states = sorted(workflow.sacct(array, "JobID,State"))
    assert states == [f"{array}_0|COMPLETED", f"{array}_1|COMPLETED", f"{array}_1|REQUEUED"]
    starts = sorted(len(workflow.starts(f"{i}.trace")) for i in range(2))
    assert starts == [1, 2]
    assert [workflow.steps(f"{i}.trace") for i in range(2)] == [list(range(1, 41))] * 2


def test_a_command_that_does_not_know_the_signal_goes_on(workflow: Workflow) -> None:
    workflow.write("""
rule plain:
    output: "done.txt"
    shell: "touch begun; sleep 4; touch {output}"
""")
    main = workflow.start("done.txt")
    job_id = workflow.running_job()
    workflow.until((workflow.folder / "begun").exists, 120, "the command")
    workflow.slurm("scancel", "--signal=USR2", job_id)
    workflow.finish(main)
    assert workflow.sacct(job_id) == ["COMPLETED"]
    assert (workflow.folder / "done.txt").exists()


def test_a_job_continues_on_another_node_when_its_own_fails(workflow: Workflow) -> None:
    write_count(workflow, goal=60, every=10)
    main = workflow.start("done.txt")
    job_id = workflow.running_job()
    node = workflow.slurm("squeue", "-h", "-j", job_id, "-o", "%N").strip()
    workflow.until(lambda: len(workflow.steps()) > 15, 120, "the first checkpoint")
    try:
        workflow.slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        workflow.finish(main)
    finally:
        workflow.slurm("scontrol", "update", f"nodename={node}", "state=resume")
    runs = workflow.sacct(job_id, "State,NodeList")
    other = {"node1": "node2", "node2": "node1"}[node]
    assert runs == [f"NODE_FAIL|{node}", f"COMPLETED|{other}"]
    assert workflow.starts()[1] >= 10, "at most one interval of ten steps is lost"
    assert set(workflow.steps()) == set(range(1, 61))
    assert (workflow.folder / "done.txt").exists()
    assert account(workflow)["requeues"] == 1


def test_a_requeue_without_a_signal_loses_at_most_an_interval(workflow: Workflow) -> None:
    write_count(workflow, goal=60, every=10)
    main = workflow.start("done.txt")
    job_id = workflow.running_job()
    workflow.until(lambda: len(workflow.steps()) > 15, 120, "the first checkpoint")
    workflow.slurm("scontrol", "requeue", job_id)
    workflow.finish(main)
    assert workflow.sacct(job_id) == ["REQUEUED", "COMPLETED"]
    first, second = workflow.starts()
    assert first == 0
    assert second >= 10
    assert set(workflow.steps()) == set(range(1, 61))


def test_a_killed_main_process_finds_its_jobs_again(workflow: Workflow) -> None:
    workflow.write("""
rule all:
    input: "long.txt", "short.txt"
rule long:
    output: "long.txt"
    shell: "python $COUNTER 80 long.state long.trace && touch {output}"
rule short:
    output: "short.txt"
    resources: mem_mb=150
    shell: "python $COUNTER 20 short.state short.trace && touch {output}"
""")
    main = workflow.start("all")
    workflow.until(lambda: len(workflow.job_ids()) == 2 and len(workflow.steps("long.trace")) > 3, 120, "both jobs")
    os.kill(main.pid, signal.SIGKILL)
    main.wait()
    before = workflow.job_ids()
    workflow.until((workflow.folder / "short.txt").exists, 120, "the short job to end while nobody watches")
    unlock = [*workflow.command("--unlock")]
    subprocess.run(unlock, cwd=workflow.folder, env=workflow.environment, check=True, capture_output=True)
    again = workflow.run("all", "--rerun-incomplete", "--forcerun", "short")
    assert again.returncode == 0, again.stdout
    assert workflow.job_ids() == before, "nothing was submitted a second time"
    assert again.stdout.count("of an earlier run") == 2
    assert workflow.steps("long.trace") == list(range(1, 81))
    assert workflow.starts("long.trace") == workflow.starts("short.trace") == [0]
    for job_id in before:
        assert workflow.sacct(job_id) == ["COMPLETED"]
    third = workflow.run("all")
    assert "Nothing to be done" in third.stdout


def test_a_job_that_failed_while_nobody_watched_is_submitted_anew(workflow: Workflow) -> None:
    workflow.write("""
rule count:
    output: "done.txt"
    shell: "if [ -e marker ]; then touch {output}; else sleep 3; touch marker; exit 1; fi"
""")
    main = workflow.start("done.txt")
    job_id = workflow.running_job()
    os.kill(main.pid, signal.SIGKILL)
    main.wait()
    assert workflow.sacct(job_id) == ["FAILED"]
    again = workflow.run("done.txt", "--rerun-incomplete", "--nolock")
    assert again.returncode == 0, again.stdout
    assert f"job {job_id} of an earlier run ended FAILED; submitting anew" in again.stdout
    assert [workflow.sacct(i) for i in workflow.job_ids()] == [["FAILED"], ["COMPLETED"]]


def test_a_submission_that_lost_its_process_halfway_never_runs(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main process died after sbatch had taken the job and before anything was noted of it."""
    write_count(workflow, goal=10)
    key = job_key("count", ["done.txt"], "[]")
    with monkeypatch.context() as dead:
        dead.setattr(os, "getpid", lambda: 2**22 + 1)  # more than any process id of Linux
        (entry,) = Ledger(workflow.state / "ledger.jsonl").intend([(key, "")], "abc", "count-abc", "slurm")
    stray = workflow.slurm("sbatch", "--parsable", "-J", entry.name, "-o", "/dev/null", "--wrap", "sleep 300").strip()
    run = workflow.run("done.txt")
    assert run.returncode == 0, run.stdout
    assert f"job {stray} of an earlier run" in run.stdout
    assert workflow.sacct(stray)[0].startswith("CANCELLED")
    assert_counted_once(workflow, 10, starts=1)


def test_submissions_wait_for_a_controller_that_is_away(workflow: Workflow) -> None:
    assert workflow.cluster is not None
    write_count(workflow, goal=10)
    workflow.cluster.stop("slurmctld", "slurmctld")
    try:
        main = workflow.start("done.txt")
        workflow.until(
            lambda: workflow.log.exists() and "does not answer" in workflow.log.read_text(), 200, "a refusal"
        )
    finally:
        workflow.cluster.start_controller()
    workflow.finish(main)
    assert [workflow.sacct(job_id) for job_id in workflow.job_ids()] == [["COMPLETED"]]
    assert_counted_once(workflow, 10, starts=1)


def test_a_job_whose_command_was_edited_is_replaced(workflow: Workflow) -> None:
    workflow.write('rule one:\n    output: "done.txt"\n    shell: "sleep 600; touch {output}"\n')
    main = workflow.start("done.txt")
    job_id = workflow.running_job()
    os.kill(main.pid, signal.SIGKILL)
    main.wait()
    workflow.write('rule one:\n    output: "done.txt"\n    shell: "echo new > {output}"\n')
    again = workflow.run("done.txt", "--rerun-incomplete", "--nolock")
    assert again.returncode == 0, again.stdout
    assert f"job {job_id} of an earlier run runs an older command" in again.stdout
    assert workflow.sacct(job_id)[0].startswith("CANCELLED")
    assert (workflow.folder / "done.txt").read_text() == "new\n"


def test_the_controller_restarts_in_mid_run(workflow: Workflow) -> None:
    assert workflow.cluster is not None
    workflow.write("""
rule all:
    input: "second.txt"
rule first:
    output: "first.txt"
    shell: "python $COUNTER 30 first.state first.trace && touch {output}"
rule second:
    input: "first.txt"
    output: "second.txt"
    shell: "python $COUNTER 10 second.state second.trace && touch {output}"
""")
    main = workflow.start("all")
    # a job that is just being started needs the controller
    workflow.until(lambda: len(workflow.steps("first.trace")) > 3, 120, "the first steps")
    workflow.cluster.stop("slurmctld", "slurmctld")
    try:
        workflow.until(lambda: len(workflow.steps("first.trace")) == 30, 120, "the job to end without a controller")
    finally:
        workflow.cluster.start_controller()
    workflow.finish(main)
    assert [workflow.sacct(job_id) for job_id in workflow.job_ids()] == [["COMPLETED"], ["COMPLETED"]]
    assert workflow.steps("first.trace") == list(range(1, 31))
    assert workflow.starts("second.trace") == [0]
