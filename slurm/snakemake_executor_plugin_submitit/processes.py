"""The process tree of a running rule, read from /proc: who is in it, who handles a signal, how to end it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    session: int
    zombie: bool


def tree(root: int, session: int) -> list[int]:
    """Living processes that descend from root or belong to the session, root included. A command that outlives its
    shell is found by its session; one that opened a session of its own, by its parents."""
    processes = {process.pid: process for process in _processes()}
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found = {pid for pid, process in processes.items() if process.session == session}
    stack = [root, *found]
    while stack:
        pid = stack.pop()
        found.add(pid)
        stack.extend(child for child in children.get(pid, ()) if child not in found)
    return sorted(pid for pid in found if pid in processes and not processes[pid].zombie)


def handles(pid: int, signum: signal.Signals) -> bool:
    """Whether the process has installed a handler for the signal (neither ignores it nor dies of it)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (signum - 1) & 1)


def send(pids: list[int], signum: signal.Signals) -> None:
    """Signal every process that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def end(root: int, session: int, grace: float) -> None:
    """TERM to the whole tree, KILL after grace seconds to what is left of it."""
    send(tree(root, session), signal.SIGTERM)
    if not drained(root, session, grace):
        send(tree(root, session), signal.SIGKILL)


def drained(root: int, session: int, patience: float) -> bool:
    """Wait until the tree is empty; False if it is not after patience seconds."""
    deadline = time.monotonic() + patience
    while tree(root, session):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _processes() -> list[Process]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # the name in parentheses may hold anything, so read from its last closing one
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                found.append(Process(int(name), int(fields[1]), int(fields[3]), fields[0] in "ZX"))
    return found
