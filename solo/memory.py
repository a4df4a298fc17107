"""Memory of this process, on the device and resident on the host, and what the device is."""

import resource
import shutil
import subprocess
import sys

import torch

from solo.environment import environment


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


def device_total(device: torch.device) -> int | None:
    """Bytes of the device that are taken, by whatever; null on a CPU."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def device_name(device: torch.device) -> str:
    """Name of the GPU or the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(environment()["cpu"])


def clocks(device: torch.device) -> dict[str, str] | None:
    """Clocks of the GPU as nvidia-smi gives them, in MHz; null where there is none."""
    if device.type != "cuda" or shutil.which("nvidia-smi") is None:
        return None
    fields = ["clocks.sm", "clocks.max.sm", "clocks.mem", "persistence_mode"]
    command = ["nvidia-smi", f"--id={device.index or 0}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout
    return dict(zip(fields, (value.strip() for value in answer.split(",")), strict=False)) or None
