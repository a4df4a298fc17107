"""Jobs on a real SLURM: success, failure, cancelling, several tasks, what is refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import loopback
import pytest
from toy_workflow import Workflow, occurrences

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]

COUNT = """
rule count:
    output: "done.txt"
    shell: "python $COUNTER {goal} state trace && echo counted > {{output}}"
"""


def test_jobs_succeed_and_are_accounted(workflow: Workflow) -> None:
    workflow.write("""
rule all:
    input: expand("out/{i}.txt", i=range(3)), "big.txt"
rule small:
    output: "out/{i}.txt"
    shell: "echo {wildcards.i} > {output}"
rule big:
    output: "big.txt"
    threads: 2
    resources: gpus=1, gpu_model="toy", slurm_partition="main", mem_mb=200
    shell: "echo $SLURM_CPUS_PER_TASK $SLURM_JOB_PARTITION $SLURM_GPUS_ON_NODE > {output}"
""")
    run = workflow.run("all")
    assert run.returncode == 0, run.stdout
    assert [(workflow.folder / f"out/{i}.txt").read_text().strip() for i in range(3)] == ["0", "1", "2"]
    assert (workflow.folder / "big.txt").read_text().split() == ["2", "main", "1"]
    assert len(workflow.job_ids()) == 2, "three equal jobs are one array"
    assert sorted(len(workflow.sacct(i)) for i in workflow.job_ids()) == [1, 3]
    assert {state for i in workflow.job_ids() for state in workflow.sacct(i)} == {"COMPLETED"}
    assert occurrences(r"RUNNING on node\d after \d+ s in the queue|COMPLETED on node\d", run.stdout) >= 4
    accounts = [json.loads(line) for line in (workflow.state / "accounting.jsonl").read_text().splitlines()]
    assert sorted(account["rule"] for account in accounts) == ["big", "small", "small", "small"]
    (big,) = [account for account in accounts if account["rule"] == "big"]
    assert (big["gpus"], big["gpu_model"], big["requeues"], big["outputs"]) == (1, "toy", 0, ["big.txt"])
    assert json.loads((workflow.state / f"accounting/{big['job_id']}.json").read_text()) == big


def test_a_failure_shows_its_log(workflow: Workflow) -> None:
    workflow.write("""
rule broken:
    output: "never.txt"
    shell: "echo the disk is made of cheese >&2; touch {output}; exit 7"
""")
    run = workflow.run("never.txt")
    assert run.returncode == 1
    (job_id,) = workflow.job_ids()
    assert workflow.sacct(job_id, "State,ExitCode") == ["FAILED|1:0"]
    assert f"slurm job {job_id} ended FAILED" in run.stdout
    log = workflow.state / f"logs/{job_id}_0_log.err"
    assert f"Log: {log}" in run.stdout
    assert "    the disk is made of cheese" in run.stdout.split("Its last 20 lines:")[1]
    assert not (workflow.folder / "never.txt").exists()


def test_a_job_cancelled_from_outside_fails(workflow: Workflow) -> None:
    workflow.write(COUNT.format(goal=600))
    main = workflow.start("done.txt")
    job_id = workflow.running_job()
    workflow.slurm("scancel", job_id)
    assert main.wait(120) == 1
    assert f"slurm job {job_id} ended CANCELLED" in workflow.log.read_text()
    assert workflow.sacct(job_id)[0].startswith("CANCELLED")


def test_two_interrupts_leave_no_job_behind(workflow: Workflow) -> None:
    workflow.write("""
rule all:
    input: expand("{i}.txt", i=range(4)), "other.txt"
rule sleep:
    output: "{i}.txt"
    shell: "sleep 600; touch {output}"
rule other:
    output: "other.txt"
    resources: mem_mb=150
    shell: "sleep 600; touch {output}"
""")
    main = workflow.start("all")
    workflow.until(lambda: len(workflow.job_ids()) == 2, 120, "both submissions")
    os.killpg(main.pid, signal.SIGINT)
    os.killpg(main.pid, signal.SIGINT)
    assert main.wait(120) != 0
    log = workflow.log.read_text()
    assert "Cancelling 5 slurm job(s)" in log
    assert "Cancelled 5 of 5." in log
    for job_id in workflow.job_ids():
        assert {state.split()[0] for state in workflow.sacct(job_id)} == {"CANCELLED"}
    assert not workflow.slurm("squeue", "-h", "-o", "%i").strip()


def test_four_ranks_on_two_nodes_train_like_one_process(workflow: Workflow) -> None:
    workflow.environment["TRAIN"] = str(Path(__file__).with_name("tiny_training.py"))
    workflow.write("""
rule four:
    output: "four.json"
    log: "four.log"
    resources: nodes=2, tasks_per_node=2, mem_mb=2000
    shell: "python $TRAIN {output} > {log} 2>&1"
rule one:
    output: "one.json"
    resources: mem_mb=2000
    shell: "python $TRAIN {output}"
""")
    run = workflow.run("four.json", "one.json")
    assert run.returncode == 0, run.stdout
    four, one = (json.loads((workflow.folder / f"{name}.json").read_text()) for name in ("four", "one"))
    assert four["weights"] == pytest.approx(one["weights"], rel=1e-9)
    assert four["ranks"] == [[0, 0, "node1"], [1, 1, "node1"], [2, 0, "node2"], [3, 1, "node2"]]
    assert all((workflow.folder / f"four.log{rank}").exists() for rank in ("", ".rank1", ".rank2", ".rank3"))
    assert sorted(workflow.sacct(i, "State,NNodes")[0] for i in workflow.job_ids()) == ["COMPLETED|1", "COMPLETED|2"]


def test_one_failing_rank_ends_the_others_and_is_named(workflow: Workflow) -> None:
    workflow.write("""
rule uneven:
    output: "never.txt"
    resources: nodes=2, tasks_per_node=2
    shell: "if [ $RANK = 2 ]; then sleep 1; echo rank two is tired >&2; exit 9; fi; sleep 600; touch {output}"
""")
    run = workflow.run("never.txt")
    assert run.returncode == 1
    (job_id,) = workflow.job_ids()
    assert workflow.sacct(job_id) == ["FAILED"]
    assert "rank 2 on node2 ended with status 9" in run.stdout
    assert f"Log of rank 2 of 4: {workflow.state}/logs/{job_id}_2_log.err" in run.stdout
    assert "    rank two is tired" in run.stdout
    assert not (workflow.folder / "never.txt").exists()


def test_impossible_requests_are_refused_before_anything_is_submitted(workflow: Workflow) -> None:
    workflow.write("""
rule all:
    input: "long.txt", "moon.txt", "huge.txt", "uneven.txt"
rule first:
    output: "first.txt"
    shell: "touch {output}"
rule long:
    input: "first.txt"
    output: "long.txt"
    resources: slurm_partition="main", runtime=500
    shell: "touch {output}"
rule moon:
    input: "first.txt"
    output: "moon.txt"
    resources: slurm_partition="moon"
    shell: "touch {output}"
rule huge:
    output: "huge.txt"
    resources: gpus=1, gpu_model="huge"
    shell: "touch {output}"
rule uneven:
    output: "uneven.txt"
    resources: tasks_per_node=3, gpus_per_node=4
    shell: "touch {output}"
rule several:
    output: "several.txt"
    resources: tasks_per_node=2
    run: open(output[0], "w")
""")
    run = workflow.run("all", "several.txt")
    assert run.returncode == 1
    assert workflow.job_ids() == []
    assert "Nothing was submitted. " in run.stdout
    for complaint in (
        "rule long: runtime=500 minutes is over the limit of partition main. Valid values are 1 to 120 minutes",
        "rule moon: slurm_partition=moon is not a partition of this cluster. Valid values are main, urgent",
        "rule huge: gpu_model=huge is not in partition main. Valid values are toy",
        "rule uneven: tasks_per_node=3 does not divide gpus_per_node=4",
        "rule several: 2 tasks are asked for, but the rule is not a shell command",
    ):
        assert complaint in run.stdout


def test_what_sbatch_refuses_fails_in_its_words(workflow: Workflow) -> None:
    workflow.write("""
rule one:
    output: "a.txt"
    resources: slurm_extra="--reservation=moon"
    shell: "touch {output}"
""")
    run = workflow.run("a.txt")
    assert run.returncode == 1
    assert "slurm did not take the job" in run.stdout
    assert "Requested reservation is invalid" in run.stdout
    assert workflow.job_ids() == []


def test_two_processes_on_one_cluster_share_nothing_but_the_ledger(
    workflow: Workflow, cluster: loopback.Loopback
) -> None:
    workflow.write("""
rule count:
    output: "{name}.txt"
    shell: "python $COUNTER 40 {wildcards.name}.state {wildcards.name}.trace && touch {output}"
""")
    first = workflow.start("a.txt", "b.txt", "--nolock")
    workflow.until(lambda: len(workflow.job_ids()) == 1, 120, "the first submission")
    second = workflow.start("b.txt", "c.txt", "--nolock")
    workflow.finish(first)
    workflow.finish(second)
    for name in "abc":
        assert workflow.steps(f"{name}.trace") == list(range(1, 41)), "started once"
    states = [state for job_id in workflow.job_ids() for state in workflow.sacct(job_id)]
    assert states == ["COMPLETED"] * 3
