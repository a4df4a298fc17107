"""Snakemake resources as one SLURM request, refused here where SLURM could never run it.

The names are those of Snakemake's slurm users: slurm_partition, slurm_account, qos, constraint, runtime (minutes),
mem_mb, mem_mb_per_cpu, nodes, tasks, tasks_per_node, cpus_per_task, gpus or gpu, gpus_per_node, gpu_model, slurm_extra.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# submitit writes --time=5 when it is told nothing; an hour is what an unlabelled rule is likelier to need.
DEFAULT_RUNTIME = 60

# Options of sbatch which the executor or submitit sets itself; a second value would break the watching of the job.
RESERVED_OPTIONS = frozenset(
    {
        *("account", "array", "constraint", "cpus-per-task", "error", "gpus", "gpus-per-node", "job-name", "mem"),
        *("mem-per-cpu", "no-requeue", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "parsable"),
        *("partition", "qos", "requeue", "signal", "time", "wait", "wrap"),
    }
)


class Refusal(ValueError):
    """A request that SLURM could never run; the message names the value, the valid values and the mend."""


@dataclass(frozen=True)
class Partition:
    """What `sinfo` says of a partition; None and the empty tuple mean that it does not say."""

    name: str
    default: bool
    minutes: int | None
    gpu_models: tuple[str, ...]
    has_gpus: bool


@dataclass(frozen=True)
class Request:
    """What one rule asks of the cluster. Equal requests can share a job array."""

    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int = 1
    runtime: int = DEFAULT_RUNTIME
    mem_mb: int | None = None
    mem_mb_per_cpu: int | None = None
    gpus_per_node: int = 0
    gpu_model: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    extra: tuple[tuple[str, str | bool], ...] = ()

    @property
    def tasks(self) -> int:
        return self.nodes * self.tasks_per_node

    def sbatch(self, signal_seconds: int) -> dict[str, Any]:
        """Parameters of submitit's SlurmExecutor. The preemption signal comes signal_seconds before the time limit."""
        parameters: dict[str, Any] = {
            "time": self.runtime,
            "nodes": self.nodes,
            "ntasks_per_node": self.tasks_per_node,
            "cpus_per_task": self.cpus_per_task,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "signal_delay_s": signal_seconds,
            "wckey": None,
            # a rank that fails ends the others, which would otherwise wait for it in their next collective; since
            # SLURM 22.05 srun does not take the number of CPUs from the batch job
            "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={self.cpus_per_task}"],
            "additional_parameters": {"requeue": True, **dict(self.extra)},
        }
        if self.gpus_per_node:
            model = f"{self.gpu_model}:" if self.gpu_model else ""
            parameters["gpus_per_node"] = f"{model}{self.gpus_per_node}"
        if self.mem_mb_per_cpu is not None:
            parameters["mem_per_cpu"] = f"{self.mem_mb_per_cpu}M"
        elif self.mem_mb is not None:
            parameters["mem"] = f"{self.mem_mb}M"
        return parameters


def read_request(resources: Mapping[str, Any], threads: int) -> Request:
    """The request of a job with these resources and threads; raises Refusal where the values contradict each other."""
    nodes = _count(resources, "nodes", 1)
    tasks_per_node = _tasks_per_node(resources, nodes)
    gpus_per_node = _gpus_per_node(resources, nodes)
    if gpus_per_node and tasks_per_node > 1 and gpus_per_node % tasks_per_node:
        divisors = [n for n in range(1, gpus_per_node + 1) if gpus_per_node % n == 0]
        raise Refusal(
            f"tasks_per_node={tasks_per_node} does not divide gpus_per_node={gpus_per_node}: every task needs as many "
            f"GPUs as the others. Valid values of tasks_per_node are {_listed(divisors)}; set one of them, or "
            f"gpus_per_node to a multiple of {tasks_per_node}."
        )
    return Request(
        nodes=nodes,
        tasks_per_node=tasks_per_node,
        cpus_per_task=_count(resources, "cpus_per_task", max(1, threads)),
        runtime=_count(resources, "runtime", DEFAULT_RUNTIME, unit=" minutes"),
        mem_mb=_count(resources, "mem_mb", None, least=0),
        mem_mb_per_cpu=_count(resources, "mem_mb_per_cpu", None),
        gpus_per_node=gpus_per_node,
        # the profile's default, which rules without GPUs get too
        gpu_model=_text(resources, "gpu_model") if gpus_per_node else None,
        partition=_text(resources, "slurm_partition"),
        account=_text(resources, "slurm_account"),
        qos=_text(resources, "qos"),
        constraint=_text(resources, "constraint"),
        extra=_extra_options(_text(resources, "slurm_extra")),
    )


def check_partition(request: Request, partitions: Mapping[str, Partition]) -> None:
    """Raise Refusal when every partition named by the request (or the default one) is unable to run it."""
    if request.partition:
        names = request.partition.split(",")
        unknown = [name for name in names if name not in partitions]
        if unknown:
            raise Refusal(
                f"slurm_partition={_listed(unknown)} is not a partition of this cluster. Valid values are "
                f"{_listed(sorted(partitions))}; set slurm_partition to one of them."
            )
        candidates = [partitions[name] for name in names]
    else:
        candidates = [partition for partition in partitions.values() if partition.default]
    complaints = [complaint for p in candidates if (complaint := _complaint(request, p, partitions))]
    if candidates and len(complaints) == len(candidates):
        raise Refusal(complaints[0])


def parse_partitions(text: str) -> dict[str, Partition]:
    """Partitions by name from the output of `sinfo -a -h -o '%P|%l|%G'`."""
    partitions: dict[str, Partition] = {}
    for line in text.splitlines():
        name, limit, gres = (*line.strip().split("|"), "", "")[:3]
        default, name = name.endswith("*"), name.rstrip("*")
        models = set(re.findall(r"gpu:([A-Za-z][^:,(]*)", gres))
        before = partitions.get(name)
        partitions[name] = Partition(
            name=name,
            default=default,
            minutes=_minutes(limit),
            gpu_models=tuple(sorted(models | set(before.gpu_models if before else ()))),
            has_gpus="gpu" in gres or bool(before and before.has_gpus),
        )
    return partitions


def _complaint(request: Request, partition: Partition, partitions: Mapping[str, Partition]) -> str | None:
    if partition.minutes is not None and request.runtime > partition.minutes:
        return (
            f"runtime={request.runtime} minutes is over the limit of partition {partition.name}. Valid values are 1 to "
            f"{partition.minutes} minutes; lower runtime or set slurm_partition to a longer one."
        )
    if request.gpus_per_node and not partition.has_gpus:
        with_gpus = sorted(p.name for p in partitions.values() if p.has_gpus)
        valid = f"Valid values of slurm_partition are {_listed(with_gpus)}" if with_gpus else "No partition has any"
        return (
            f"gpus_per_node={request.gpus_per_node} is asked of partition {partition.name}, which has no GPUs. "
            f"{valid}; set another slurm_partition, or gpus to 0."
        )
    if request.gpu_model and partition.gpu_models and request.gpu_model not in partition.gpu_models:
        return (
            f"gpu_model={request.gpu_model} is not in partition {partition.name}. Valid values are "
            f"{_listed(partition.gpu_models)}; set gpu_model to one of them."
        )
    return None


def _tasks_per_node(resources: Mapping[str, Any], nodes: int) -> int:
    tasks = _count(resources, "tasks", None)
    tasks_per_node = _count(resources, "tasks_per_node", None)
    if tasks is None:
        return tasks_per_node or 1
    if tasks % nodes or (tasks_per_node and tasks != nodes * tasks_per_node):
        valid = str(nodes * tasks_per_node) if tasks_per_node else f"the multiples of {nodes}"
        given = f"nodes={nodes}" + (f" and tasks_per_node={tasks_per_node}" if tasks_per_node else "")
        raise Refusal(
            f"tasks={tasks} does not fit {given}: every node runs the same number of tasks. Valid values of tasks are "
            f"{valid}; set one of them, or leave tasks out and set tasks_per_node."
        )
    return tasks // nodes


def _gpus_per_node(resources: Mapping[str, Any], nodes: int) -> int:
    total = _count(resources, "gpus", None, least=0)
    if total is None:
        total = _count(resources, "gpu", None, least=0)
    per_node = _count(resources, "gpus_per_node", None, least=0)
    if total is None:
        return per_node or 0
    if total % nodes or (per_node is not None and total != per_node * nodes):
        valid = str(per_node * nodes) if per_node is not None else f"the multiples of {nodes}"
        given = f"nodes={nodes}" + (f" and gpus_per_node={per_node}" if per_node is not None else "")
        raise Refusal(
            f"gpus={total} does not fit {given}: every node gets the same number of GPUs. Valid values of gpus are "
            f"{valid}; set one of them, or leave gpus out and set gpus_per_node."
        )
    return total // nodes


def _count(resources: Mapping[str, Any], name: str, default: Any, least: int = 1, unit: str = "") -> Any:
    value = _given(resources, name)
    if value is None:
        return default
    try:
        number = int(str(value))
    except ValueError:
        number = least - 1
    if number < least:
        raise Refusal(f"{name}={value} is not a count. Valid values are whole numbers from {least}{unit}; set one.")
    return number


def _text(resources: Mapping[str, Any], name: str) -> str | None:
    value = _given(resources, name)
    return str(value) if value not in (None, "") else None


def _given(resources: Mapping[str, Any], name: str) -> Any:
    """The value, None where there is none yet: one that depends on a file still to be made reads <TBD>."""
    value = resources.get(name)
    return None if str(value) == "<TBD>" else value


def _extra_options(text: str | None) -> tuple[tuple[str, str | bool], ...]:
    """`--exclusive --nodelist=a1` as ((exclusive, True), (nodelist, a1)); submitit quotes each value."""
    options: list[tuple[str, str | bool]] = []
    for word in shlex.split(text or ""):
        found = re.fullmatch(r"--([a-z][a-z-]*)(?:=(.*))?", word, re.DOTALL)
        if not found:
            raise Refusal(
                f"slurm_extra holds {word!r}. Valid are long options of sbatch, --name or --name=value with no space "
                "around the =; write it so."
            )
        name, value = found.groups()
        if name in RESERVED_OPTIONS:
            raise Refusal(
                f"slurm_extra holds --{name}, which the executor sets itself. Valid are the options of sbatch except "
                f"{_listed(sorted(RESERVED_OPTIONS))}; remove it and use the resource of that meaning."
            )
        options.append((name, True if value is None else value))
    return tuple(options)


def _minutes(limit: str) -> int | None:
    """Minutes of SLURM's [days-]hours:minutes:seconds or minutes:seconds; None for infinite and n/a."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit.strip())
    if not found:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))
