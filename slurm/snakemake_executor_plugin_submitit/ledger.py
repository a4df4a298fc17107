"""The executor's own ledger: which job of the workflow is which job of the cluster, across deaths of the main process.

One JSON record a line, only ever appended, each append one write and one fsync under a file lock. A line torn by a
crash is skipped, and the next append starts on a line of its own, so a crash at any byte costs at most the record
that was being written. Three kinds of records:

    intent      written before submission: key of the job, token (part of the cluster job's name), index in the array
    submitted   token and the cluster's id; for an array the id of job i is <id>_<i>
    ended       token, index and outcome: nothing will attach to this job again

An intent without `submitted` belongs to a process that died in between: the cluster is asked for a job of that name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Entry:
    """One submission of one job."""

    key: str
    token: str
    index: int
    array: bool
    name: str
    command: str
    cluster: str
    host: str
    pid: int
    time: float
    base_id: str | None = None
    ended: bool = False

    @property
    def job_id(self) -> str | None:
        """The cluster's id of the job, None as long as it is not known."""
        if self.base_id is None:
            return None
        return f"{self.base_id}_{self.index}" if self.array else self.base_id

    @property
    def writer_is_alive(self) -> bool:
        """Whether the process that wrote the intent still runs; on another host: whether it did two minutes ago."""
        if self.host != socket.gethostname():
            return time.time() - self.time < 120
        return self.pid != os.getpid() and Path(f"/proc/{self.pid}").exists()


class Ledger:
    """The ledger of one working directory; several processes may hold it at once."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._latest: dict[str, Entry] = {}
        self._by_token: dict[str, dict[int, Entry]] = {}
        self._offset = 0
        self.refresh()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from appending; what they appended before is read first."""
        with self.path.open("ab") as file:
            locked = _lock(file.fileno())
            try:
                self.refresh()
                yield
            finally:
                if locked:
                    fcntl.flock(file.fileno(), fcntl.LOCK_UN)

    def open_entry(self, key: str) -> Entry | None:
        """The last submission of the job with this key, unless it is known to have ended."""
        entry = self._latest.get(key)
        return entry if entry and not entry.ended else None

    def unresolved(self) -> list[Entry]:
        """Open submissions of this process whose id is not known."""
        mine = (e for e in self._latest.values() if e.pid == os.getpid() and e.host == socket.gethostname())
        return [entry for entry in mine if entry.base_id is None and not entry.ended]

    def intend(self, jobs: Iterable[tuple[str, str]], token: str, name: str, cluster: str) -> list[Entry]:
        """Record that jobs, (key, command digest) each, are about to be submitted together under this name."""
        jobs = list(jobs)
        common = {
            "event": "intent",
            "token": token,
            "array": len(jobs) > 1,
            "name": name,
            "cluster": cluster,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": time.time(),
        }
        self.append(
            {**common, "key": key, "index": index, "command": command} for index, (key, command) in enumerate(jobs)
        )
        return [self._by_token[token][index] for index in range(len(jobs))]

    def submitted(self, token: str, base_id: str) -> None:
        """Record the cluster's id of a submission."""
        self.append([{"event": "submitted", "token": token, "id": base_id}])

    def ended(self, entries: Iterable[Entry], outcome: str) -> None:
        """Record that nothing is to attach to these submissions any more."""
        self.append({"event": "ended", "token": e.token, "index": e.index, "outcome": outcome} for e in entries)

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Write records durably, all in one write, and take them over."""
        lines = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records)
        if not lines:
            return
        with self.path.open("ab+") as file:
            if file.seek(0, os.SEEK_END) and _last_byte(file) != b"\n":
                lines = "\n" + lines
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())
        self.refresh()

    def refresh(self) -> None:
        """Take over what this or another process has appended since the last call."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                self._take(json.loads(line))

    def _take(self, record: dict[str, Any]) -> None:
        if record["event"] == "intent":
            entry = Entry(**{name: record[name] for name in _INTENT_FIELDS})
            self._by_token.setdefault(entry.token, {})[entry.index] = entry
            self._latest[entry.key] = entry
        elif record["event"] == "submitted":
            for entry in self._by_token.get(record["token"], {}).values():
                entry.base_id = record["id"]
        elif record["event"] == "ended":
            self._by_token[record["token"]][record["index"]].ended = True


_INTENT_FIELDS = ("key", "token", "index", "array", "name", "command", "cluster", "host", "pid", "time")


def job_key(rule: str, outputs: Iterable[str], wildcards: str) -> str:
    """What makes a job the same job in a later run: its rule and outputs, and its wildcards where it has none."""
    return digest(json.dumps([rule, sorted(outputs), wildcards]))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _last_byte(file: Any) -> bytes:
    file.seek(-1, os.SEEK_END)
    last: bytes = file.read(1)
    return last


def _lock(descriptor: int) -> bool:
    """Take the lock; False on file systems without locks, where one write of O_APPEND has to do."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            return False
        raise
    return True
