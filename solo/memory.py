"""Memory of this process: on the device, and resident on the host."""

import resource
import sys

import torch


def reset_peak(device: torch.device) -> None:
    """Forget the device's highest values so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> dict[str, int | None]:
    """Highest values in bytes: allocated and reserved by torch on the device (null on a CPU), resident on the host."""
    unit = 1 if sys.platform == "darwin" else 1024
    cuda = device.type == "cuda"
    return {
        "allocated": torch.cuda.max_memory_allocated(device) if cuda else None,
        "reserved": torch.cuda.max_memory_reserved(device) if cuda else None,
        "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    }


def in_use(device: torch.device) -> int:
    """Highest bytes so far of the memory that limits: the device's where there is one, else the host's."""
    value = peak(device)
    return value["allocated"] or value["resident"] or 0
