"""Resources to requests: what is understood, what is refused, and that the refusal says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import submitit
from snakemake_executor_plugin_submitit.resources import (
    Partition,
    Refusal,
    Request,
    check_partition,
    parse_partitions,
    read_request,
)

PARTITIONS = parse_partitions(
    "main*|2-01:00:00|gpu:a100:8(S:0-1)|64\nmain*|2-01:00:00|gpu:v100:4\ncpu|30:00|(null)\nlong|infinite|\n"
)


def read(threads: int = 1, **resources: Any) -> Request:
    return read_request(resources, threads)


def test_an_empty_request_is_one_task_for_an_hour() -> None:
    assert read() == Request(1, 1, 1, 60)


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"nodes": 2, "tasks_per_node": 8, "gpus_per_node": 8}, {"nodes": 2, "tasks_per_node": 8, "gpus_per_node": 8}),
        ({"nodes": 2, "tasks": 8}, {"tasks_per_node": 4}),
        ({"nodes": 2, "tasks": 8, "tasks_per_node": 4}, {"tasks_per_node": 4}),
        ({"nodes": 2, "gpus": 8}, {"gpus_per_node": 4}),
        ({"gpu": 1, "gpu_model": "a100"}, {"gpus_per_node": 1, "gpu_model": "a100"}),
        ({"gpus": 0, "gpu_model": "a100"}, {"gpus_per_node": 0, "gpu_model": None}),
        ({"runtime": "90", "mem_mb": 500}, {"runtime": 90, "mem_mb": 500}),
        ({"slurm_partition": "<TBD>", "runtime": "<TBD>"}, {"partition": None, "runtime": 60}),
        ({"slurm_extra": "--exclusive --nodelist='a b'"}, {"extra": (("exclusive", True), ("nodelist", "a b"))}),
        (
            {"qos": "high", "slurm_account": "p1", "constraint": "ib"},
            {"qos": "high", "account": "p1", "constraint": "ib"},
        ),
    ],
)
def test_names_of_the_slurm_users_are_understood(resources: dict[str, Any], expected: dict[str, Any]) -> None:
    request = read(**resources)
    assert {name: getattr(request, name) for name in expected} == expected


def test_cpus_are_the_threads_unless_given() -> None:
    assert read(threads=6).cpus_per_task == 6
    assert read(threads=6, cpus_per_task=2).cpus_per_task == 2


@pytest.mark.parametrize(
    ("resources", "value", "valid", "mend"),
    [
        ({"nodes": 0}, "nodes=0", "whole numbers from 1", "set one"),
        ({"runtime": "soon"}, "runtime=soon", "whole numbers from 1 minutes", "set one"),
        ({"nodes": 2, "tasks": 3}, "tasks=3", "the multiples of 2", "leave tasks out"),
        ({"nodes": 2, "tasks": 4, "tasks_per_node": 4}, "tasks=4", "are 8", "leave tasks out"),
        ({"nodes": 2, "gpus": 3}, "gpus=3", "the multiples of 2", "set gpus_per_node"),
        ({"gpus": 3, "gpus_per_node": 2}, "gpus=3", "are 2", "leave gpus out"),
        ({"tasks_per_node": 3, "gpus_per_node": 8}, "tasks_per_node=3", "are 1, 2, 4, 8", "to a multiple of 3"),
        ({"tasks_per_node": 8, "gpus_per_node": 4}, "tasks_per_node=8", "are 1, 2, 4;", "to a multiple of 8"),
        ({"slurm_extra": "-x a1"}, "'-x'", "--name=value", "write it so"),
        ({"slurm_extra": "--output=/tmp/x"}, "--output", "the options of sbatch except", "remove it"),
    ],
)
def test_a_refusal_names_value_valid_values_and_mend(
    resources: dict[str, Any], value: str, valid: str, mend: str
) -> None:
    with pytest.raises(Refusal) as refusal:
        read(**resources)
    message = str(refusal.value)
    assert value in message
    assert valid in message
    assert mend in message


def test_sinfo_is_read() -> None:
    assert {
        "main": Partition("main", True, 2940, ("a100", "v100"), True),
        "cpu": Partition("cpu", False, 30, (), False),
        "long": Partition("long", False, None, (), False),
    } == PARTITIONS


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (Request(runtime=3000), "runtime=3000 minutes is over the limit of partition main. Valid values are 1 to 2940"),
        (
            Request(partition="cpu", gpus_per_node=1, runtime=30),
            "partition cpu, which has no GPUs. Valid values of slurm_partition are main",
        ),
        (
            Request(partition="sun"),
            "slurm_partition=sun is not a partition of this cluster. Valid values are cpu, long, main",
        ),
        (
            Request(gpus_per_node=1, gpu_model="h9"),
            "gpu_model=h9 is not in partition main. Valid values are a100, v100",
        ),
        (Request(partition="cpu,main", runtime=9999), "runtime=9999"),
    ],
)
def test_a_partition_that_cannot_run_it_is_refused(request_: Request, complaint: str) -> None:
    with pytest.raises(Refusal) as refusal:
        check_partition(request_, PARTITIONS)
    assert complaint in str(refusal.value)


@pytest.mark.parametrize(
    "request_",
    [
        Request(runtime=2940),
        Request(partition="cpu,long", runtime=9999),
        Request(partition="long", runtime=99999),
        Request(partition="cpu,main", gpus_per_node=1, gpu_model="a100"),
    ],
)
def test_a_partition_that_can_run_it_is_not(request_: Request) -> None:
    check_partition(request_, PARTITIONS)


def test_submitit_takes_every_parameter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    request = read(
        threads=4,
        nodes=2,
        tasks_per_node=2,
        gpus_per_node=4,
        gpu_model="a100",
        mem_mb=64000,
        slurm_partition="main",
        qos="high",
        slurm_extra="--exclusive '--comment=a; rm -rf b'",
    )
    executor = submitit.SlurmExecutor(folder=tmp_path)
    executor.update_parameters(**request.sbatch(signal_seconds=120))
    script = executor._make_submission_file_text("command", "uid").splitlines()
    for line in (
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=2",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --gpus-per-node=a100:4",
        "#SBATCH --mem=64000M",
        "#SBATCH --signal=USR2@120",
        "#SBATCH --requeue",
        "#SBATCH --exclusive",
        "#SBATCH --comment='a; rm -rf b'",
        "#SBATCH --time=60",
    ):
        assert line in script
    assert not [line for line in script if "wckey" in line]
    assert any("--kill-on-bad-exit=1 --cpus-per-task=4" in line for line in script)


def test_memory_per_cpu_stands_before_the_default_of_the_node() -> None:
    parameters = read(mem_mb=8000, mem_mb_per_cpu=500).sbatch(90)
    assert parameters["mem_per_cpu"] == "500M"
    assert "mem" not in parameters
