"""Devices, threads and precision."""

import contextlib
import ctypes
import os
from contextlib import AbstractContextManager

import torch

from solo.errors import UserError

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device of `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}; valid: auto, cpu, cuda, cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not supported; valid: auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"no device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def set_threads(threads: int) -> None:
    """Use `threads` CPU threads; 0: as many as this process may run on."""
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let glibc reuse freed maps of up to 32 MiB; else it hands them back and the kernel clears them for each layer."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((-3, 2**25), (-1, 2**30)):  # M_MMAP_THRESHOLD (at most 32 MiB), M_TRIM_THRESHOLD
            mallopt(parameter, value)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """The context of a forward pass in `precision`; tf32 is allowed only when it is asked for by name."""
    allowed = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    if precision in AUTOCAST:
        return torch.autocast(device.type, dtype=AUTOCAST[precision])
    return contextlib.nullcontext()
