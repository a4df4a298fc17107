"""Progress that fits its place: a bar with ETA on a terminal, plain lines in a log."""

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from filelock import FileLock, Timeout
from tqdm import tqdm

_log: list[IO[str]] = []
_line: list[tuple[int, FileLock]] = []


def log_to(path: str) -> None:
    """Send every later line also to `path` (appended)."""
    _log.append(open(path, "a", encoding="utf-8", buffering=1))  # noqa: SIM115  lives as long as the process


def say(line: str) -> None:
    """One line for the user on stderr, and in the log."""
    tqdm.write(line, file=sys.stderr)
    write_log(line)


def write_log(text: str) -> None:
    """Lines for the log alone."""
    for file in _log:
        file.write(text + "\n")


class Progress:
    """A count towards a total.

    Args:
        what: label of the bar.
        total: number of units, where it is known.
        unit: name of one; B for bytes.
        done: units that were finished earlier.
        quiet: show nothing (ranks other than 0).
    """

    INTERVAL = 10.0  # seconds between plain lines

    def __init__(self, what: str, total: int | None, unit: str, done: int = 0, quiet: bool = False) -> None:
        self.what, self.total, self.unit, self.done, self.quiet = what, total, unit, done, quiet
        self.first, self.began = done, time.monotonic()
        self.last = self.began
        self.bar = None
        if sys.stderr.isatty() and not quiet:
            self.bar = tqdm(
                total=total, initial=done, desc=what, unit=unit, unit_scale=unit == "B", dynamic_ncols=True,
                position=_line_of_terminal(), leave=False,
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()
        self._report("" if kind is None else "stopped")

    def update(self, units: int = 1, note: str = "") -> None:
        """Count `units` more; `note` (the loss, say) stands behind the count."""
        self.done += units
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(units)
        if time.monotonic() - self.last >= self.INTERVAL:
            self._report(note)

    def _report(self, note: str) -> None:
        if self.quiet:
            return
        self.last = time.monotonic()
        line = self.line(self.last - self.began) + (f", {note}" if note else "")
        write_log(line)
        if self.bar is None:
            print(line, file=sys.stderr, flush=True)

    def line(self, elapsed: float) -> str:
        """`train solo_r50_1x: 120/600 steps, 0:30 elapsed, 2:00 left` after `elapsed` seconds."""
        rate = (self.done - self.first) / elapsed if elapsed > 0 else 0.0
        count = f"{self._amount(self.done)}/{self._amount(self.total)}" if self.total else self._amount(self.done)
        line = f"{self.what}: {count} {'' if self.unit == 'B' else self.unit}".rstrip()
        if self.unit == "B":
            line += f", {size(rate)}/s"
        line += f", {clock(elapsed)} elapsed"
        left = (self.total - self.done) / rate if self.total and rate else 0
        return line + (f", {clock(left)} left" if left else "")

    def _amount(self, count: int) -> str:
        return size(count) if self.unit == "B" else str(count)


def _line_of_terminal() -> int:
    """A line for this process's bar that no other process draws on: the first whose lock is free."""
    if not _line:
        terminal = os.ttyname(sys.stderr.fileno()).replace("/", "_")
        for number in range(8):
            lock = FileLock(Path(tempfile.gettempdir()) / f"solo{terminal}.{os.getuid()}.{number}.lock")
            with contextlib.suppress(Timeout, OSError):
                lock.acquire(timeout=0)
                _line.append((number, lock))  # held until the process ends
                break
    return _line[0][0] if _line else 0


def size(count: float) -> str:
    """A number of bytes for reading: 1.5 GB."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        del units[0]
    return f"{count:.0f} B" if units[0] == "B" else f"{count:.1f} {units[0]}"


def clock(seconds: float) -> str:
    """4000 as 1:06:40."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
