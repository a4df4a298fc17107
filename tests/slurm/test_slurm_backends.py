"""Where SLURM tells less, and where there is none: no accounting, processes of this machine, this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from toy_workflow import Workflow

COUNT = """
rule count:
    output: "done.txt"
    {more}
    shell: "python $COUNTER {goal} state trace && echo counted > {{output}}"
"""


@pytest.mark.slurm
@pytest.mark.timeout(400)
def test_without_accounting_jobs_end_and_fail_and_are_accounted(bare_workflow: Workflow) -> None:
    bare_workflow.write("""
rule good:
    output: "good.txt"
    shell: "touch {output}"
rule bad:
    output: "bad.txt"
    resources: mem_mb=150
    shell: "echo no luck >&2; exit 3"
""")
    run = bare_workflow.run("good.txt", "bad.txt", "--keep-going")
    assert run.returncode == 1
    assert (bare_workflow.folder / "good.txt").exists()
    assert "ended FAILED" in run.stdout
    assert "    no luck" in run.stdout
    accounts = [json.loads(line) for line in (bare_workflow.state / "accounting.jsonl").read_text().splitlines()]
    assert {account["rule"]: account["state"] for account in accounts} == {"good": "COMPLETED", "bad": "FAILED"}
    assert all(account["run_seconds"] > 0 and account["queue_seconds"] >= 0 for account in accounts)


@pytest.mark.slurm
@pytest.mark.timeout(400)
def test_without_accounting_a_cancelled_job_ends(bare_workflow: Workflow) -> None:
    bare_workflow.write(COUNT.format(goal=600, more=""))
    main = bare_workflow.start("done.txt")
    job_id = bare_workflow.running_job()
    bare_workflow.slurm("scancel", job_id)
    assert main.wait(120) == 1
    assert f"slurm job {job_id} ended CANCELLED" in bare_workflow.log.read_text()


@pytest.mark.slurm
@pytest.mark.timeout(400)
def test_without_a_user_signal_term_begins_the_preemption(bare_workflow: Workflow) -> None:
    bare_workflow.write(COUNT.format(goal=60, more="resources: slurm_extra='--exclusive'"))
    main = bare_workflow.start("done.txt")
    job_id = bare_workflow.running_job()
    bare_workflow.until(lambda: len(bare_workflow.steps()) > 5, 120, "the first steps")
    bare_workflow.slurm("sbatch", "--parsable", "-o", "/dev/null", "-p", "urgent", "--exclusive", "--wrap", "true")
    bare_workflow.finish(main)
    assert bare_workflow.steps() == list(range(1, 61))
    assert len(bare_workflow.starts()) == 2
    assert "Restarts=1" in bare_workflow.slurm("scontrol", "show", "job", "-o", job_id)


@pytest.mark.timeout(400)
def test_local_runs_ranks_as_processes(local_workflow: Workflow) -> None:
    local_workflow.write("""
rule all:
    input: "ranks.txt", "single.txt"
rule ranks:
    output: "ranks.txt"
    resources: tasks_per_node=2
    shell: "echo $RANK $WORLD_SIZE $LOCAL_RANK > rank$RANK; if [ $RANK = 0 ]; then sleep 2; cat rank? > {output}; fi"
rule single:
    output: "single.txt"
    shell: "echo $RANK of $WORLD_SIZE > {output}"
""")
    run = local_workflow.run("all", "--submitit-cluster", "local")
    assert run.returncode == 0, run.stdout
    assert (local_workflow.folder / "ranks.txt").read_text() == "0 2 0\n1 2 1\n"
    assert (local_workflow.folder / "single.txt").read_text() == "0 of 1\n"


@pytest.mark.timeout(400)
def test_local_failures_show_the_log(local_workflow: Workflow) -> None:
    local_workflow.write("""
rule broken:
    output: "never.txt"
    shell: "echo out of luck >&2; exit 7"
""")
    run = local_workflow.run("never.txt", "--submitit-cluster", "local")
    assert run.returncode == 1
    assert "ended FAILED" in run.stdout
    assert "    out of luck" in run.stdout


@pytest.mark.timeout(400)
def test_a_group_is_one_job_and_is_retried(local_workflow: Workflow) -> None:
    local_workflow.write("""
rule first:
    output: "a.txt"
    group: "both"
    shell: "echo a > {output}"
rule second:
    input: "a.txt"
    output: "b.txt"
    group: "both"
    shell: "if [ ! -e marker ]; then touch marker; echo not yet >&2; exit 1; fi; cp {input} {output}"
""")
    run = local_workflow.run("b.txt", "--submitit-cluster", "local", "--retries", "1")
    assert run.returncode == 0, run.stdout
    assert "ended FAILED" in run.stdout
    assert "    not yet" in run.stdout
    assert len(local_workflow.job_ids()) == 2
    assert (local_workflow.folder / "b.txt").read_text() == "a\n"


@pytest.mark.timeout(400)
def test_local_jobs_outlive_a_killed_main_process(local_workflow: Workflow) -> None:
    local_workflow.write(COUNT.format(goal=60, more=""))
    main = local_workflow.start("done.txt", "--submitit-cluster", "local")
    local_workflow.until(lambda: len(local_workflow.steps()) > 3, 120, "the first steps")
    os.kill(main.pid, signal.SIGKILL)
    main.wait()
    again = local_workflow.run("done.txt", "--submitit-cluster", "local", "--rerun-incomplete", "--nolock")
    assert again.returncode == 0, again.stdout
    assert "found local job" in again.stdout
    assert local_workflow.steps() == list(range(1, 61))
    assert local_workflow.starts() == [0]


@pytest.mark.timeout(400)
def test_local_jobs_save_and_continue_at_their_time_limit(local_workflow: Workflow) -> None:
    local_workflow.write(COUNT.format(goal=160, more="resources: runtime=1"))
    main = local_workflow.start("done.txt", "--submitit-cluster", "local", "--submitit-signal-seconds", "48")
    local_workflow.finish(main)
    assert local_workflow.steps() == list(range(1, 161))
    assert len(local_workflow.starts()) >= 2


@pytest.mark.timeout(400)
def test_an_interrupt_ends_local_processes(local_workflow: Workflow) -> None:
    local_workflow.write(COUNT.format(goal=600, more=""))
    main = local_workflow.start("done.txt", "--submitit-cluster", "local")
    local_workflow.until(lambda: len(local_workflow.steps()) > 3, 120, "the first steps")
    os.kill(main.pid, signal.SIGINT)
    assert main.wait(120) != 0
    assert "Cancelled 1 of 1." in local_workflow.log.read_text()
    mine = str(local_workflow.folder).encode()
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and mine in command_line(pid)]


@pytest.mark.timeout(400)
def test_debug_runs_in_this_process(local_workflow: Workflow) -> None:
    local_workflow.write("""
rule all:
    input: "a.txt", "b.txt"
rule one:
    output: "a.txt"
    shell: "echo ${{RANK-none}} > {output}"
rule broken:
    output: "b.txt"
    shell: "exit 3"
""")
    run = local_workflow.run("all", "--keep-going", "--submitit-cluster", "debug")
    assert run.returncode == 1
    assert (local_workflow.folder / "a.txt").exists()
    assert "debug job DEBUG_" in run.stdout
    assert run.stdout.count("ended FAILED") == 1


@pytest.mark.timeout(400)
def test_slurm_without_slurm_says_what_to_do(local_workflow: Workflow) -> None:
    local_workflow.write('rule one:\n    output: "a.txt"\n    shell: "touch {output}"\n')
    binaries = local_workflow.folder / "bin"
    binaries.mkdir()
    (binaries / "bash").symlink_to("/bin/bash")
    local_workflow.environment["PATH"] = str(binaries)
    run = local_workflow.run("a.txt")
    assert run.returncode == 1
    assert "--submitit-cluster local" in run.stdout
    dry = local_workflow.run("a.txt", "--dry-run")
    assert dry.returncode == 0, dry.stdout


@pytest.mark.timeout(400)
def test_the_profile_dry_runs_without_slurm(local_workflow: Workflow) -> None:
    profile = Path(__file__).parents[2] / "slurm"
    local_workflow.write("""
rule all:
    input: "a.txt"
rule one:
    output: "a.txt"
    params: suite=config["suite"]
    shell: "echo {params.suite} > {output}"
""")
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", str(profile), "-n", "-p"],
        cwd=local_workflow.folder,
        env={**local_workflow.environment, "PATH": "/nonexistent:/bin"},
        text=True,
        capture_output=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "echo zoo > a.txt" in run.stdout + run.stderr


def command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
