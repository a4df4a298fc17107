"""A training of a few seconds, on one process or several: the same batch, divided among the ranks.

python tiny_training.py OUTPUT      # rank environment as torch.distributed reads it; one process without it
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist


def train(rank: int, world_size: int) -> dict[str, object]:
    """Ten steps of SGD on 16 samples; every rank sees its share and averages gradients with the others."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    inputs = torch.randn(16, 4, dtype=torch.float64)
    targets = inputs.sum(dim=1, keepdim=True).sin()
    mine = slice(rank * 16 // world_size, (rank + 1) * 16 // world_size)
    for _ in range(10):
        model.zero_grad()
        torch.nn.functional.mse_loss(model(inputs[mine]), targets[mine]).backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            if world_size > 1:
                dist.all_reduce(parameter.grad)
            parameter.data -= 0.1 * parameter.grad / world_size
    node = os.environ.get("SLURMD_NODENAME")
    ranks: list[object] = [None] * world_size
    if world_size > 1:
        dist.all_gather_object(ranks, [rank, int(os.environ["LOCAL_RANK"]), node])
    return {"weights": torch.cat([p.detach().flatten() for p in model.parameters()]).tolist(), "ranks": ranks}


def main(output: Path) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if world_size > 1:
        dist.init_process_group("gloo")
    result = train(rank, world_size)
    if rank == 0:
        output.write_text(json.dumps(result))
    if world_size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
