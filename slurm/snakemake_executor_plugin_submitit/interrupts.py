"""Ctrl-C at moments when it would leave jobs behind that nobody knows of."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let a SIGINT take effect only at the end of the block."""
    pending: list[int] = []
    with _handler(lambda: pending.append(1)):
        yield_error: BaseException | None = None
        try:
            yield
        except BaseException as error:
            yield_error = error
    if pending:
        raise KeyboardInterrupt from yield_error
    if yield_error:
        raise yield_error


@contextlib.contextmanager
def held_off(say: Callable[[], None]) -> Iterator[None]:
    """Answer a SIGINT in words only, for the whole block."""
    with _handler(say):
        yield


@contextlib.contextmanager
def _handler(action: Callable[[], object]) -> Iterator[None]:
    """Only the main thread may install handlers, and only it gets the signal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: action() and None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
