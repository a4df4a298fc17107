"""Stopping between two steps when the scheduler, the user or the system asks for it."""

import contextlib
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class Interrupted(Exception):
    """The run was told to stop and has saved its state."""


@contextlib.contextmanager
def helpers_unharmed() -> Iterator[None]:
    """Processes that are started inside never see the signals, which terminals and schedulers send to a whole group.

    A signal that comes meanwhile reaches this process at the end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the mask is inherited, also through exec
    try:
        resource_tracker.ensure_running()  # multiprocessing's own helper; starting it lifts the block, so once more
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopSignal:
    """While active, the first SIGTERM, SIGUSR2 or SIGINT is remembered instead of killing the process.

    A second SIGINT has its usual effect, for a user who does not want to wait for the step.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def __bool__(self) -> bool:
        return self.received is not None

    def name(self) -> str:
        """Name of the signal, such as SIGUSR2; `a signal` when another process received it."""
        return signal.Signals(self.received).name if self.received else "a signal to another rank"
