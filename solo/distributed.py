"""Processes of one training: joined when a launcher started them, started here when several devices are asked for."""

import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from solo.errors import UserError

TIMEOUT = timedelta(minutes=30)  # one evaluation on val2017 fits between two collectives


@dataclass(frozen=True)
class Group:
    """This process among `world`; `host` is a gloo group for objects and flags, None when alone."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    host: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds in any process."""
        if self.world == 1:
            return flag
        value = torch.tensor(int(flag))
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self.host)
        return bool(value)

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in rank order, on the first process (an empty list elsewhere)."""
        if self.world == 1:
            return [value]
        values: list[Any] | None = [None] * self.world if self.first else None
        dist.gather_object(value, values, dst=0, group=self.host)
        return values or []

    def barrier(self) -> None:
        """Wait for every process."""
        if self.world > 1:
            dist.barrier(group=self.host)


def relaunch(devices: int) -> None:
    """Replace this process by torchrun with `devices` workers of the same command."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
    os.execv(sys.executable, [*launcher, "-m", "solo.cli", *sys.argv[1:]])


def join(device_type: str) -> Group:
    """Join the processes that RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT describe; alone without them.

    Raises:
        UserError: the environment is incomplete.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Group()
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(f"WORLD_SIZE is {world} but {', '.join(missing)} not set; start all ranks with one launcher")
    local_rank = int(os.environ["LOCAL_RANK"])
    if device_type == "cuda":
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=TIMEOUT)
    return Group(dist.get_rank(), world, local_rank, dist.new_group(backend="gloo", timeout=TIMEOUT))


def leave(group: Group) -> None:
    """End the process group."""
    if group.world > 1:
        dist.destroy_process_group()
