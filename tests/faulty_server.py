"""An HTTP server on loopback that misbehaves as told, one fault per request, and counts every byte it sends."""

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Fault:
    """What to do wrong with one request; the default is nothing.

    Attributes:
        status: answer this status with no body instead.
        headers: added to the answer.
        cut: close the connection after this many bytes of body.
        hold: after `cut` bytes keep the connection open in silence until this is set.
        trickle: bytes sent every 20 ms.
        length: the Content-Length to claim; 0 claims none.
        ranges: honour Range.
        etag: send one.
        body: send these bytes instead of the file's.
    """

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    cut: int | None = None
    hold: threading.Event | None = None
    trickle: int = 0
    length: int | None = None
    ranges: bool = True
    etag: bool = True
    body: bytes | None = None


@dataclass
class Request:
    """One request as it came: path, Range and If-Range headers, and the body bytes sent for it."""

    path: str
    range: str | None
    if_range: str | None
    sent: int = 0


@dataclass
class FaultyServer:
    """`files` by path, `faults` for the next requests in order; `log` has every request."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    log: list[Request] = field(default_factory=list)

    @property
    def sent(self) -> int:
        """Body bytes sent so far."""
        return sum(request.sent for request in self.log)


@contextlib.contextmanager
def serve() -> Iterator[FaultyServer]:
    """Run a server until the block ends."""
    state = FaultyServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fault = state.faults.pop(0) if state.faults else Fault()
            request = Request(self.path, self.headers["Range"], self.headers["If-Range"])
            state.log.append(request)
            _answer(self, state, fault, request)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            pass  # a client that hangs up is what these tests are about

    with Server(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


def _answer(handler: BaseHTTPRequestHandler, state: FaultyServer, fault: Fault, request: Request) -> None:
    content = state.files.get(handler.path)
    if fault.body is not None:
        content = fault.body
    if fault.status or content is None:
        handler.send_response(fault.status or 404)
        for name, value in (*fault.headers, ("Content-Length", "0")):
            handler.send_header(name, value)
        handler.end_headers()
        return
    start = _start(content, fault, request)
    if start > len(content) - 1 and start:
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(content)}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    if fault.etag:
        handler.send_header("ETag", _etag(content))
    length = len(content) - start if fault.length is None else fault.length
    if length:
        handler.send_header("Content-Length", str(length))
    for name, value in fault.headers:
        handler.send_header(name, value)
    handler.end_headers()
    _send(handler, content[start:], fault, request)


def _start(content: bytes, fault: Fault, request: Request) -> int:
    found = re.fullmatch(r"bytes=(\d+)-", request.range or "")
    stale = request.if_range is not None and request.if_range != _etag(content)
    return int(found[1]) if found and fault.ranges and not stale else 0


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def _send(handler: BaseHTTPRequestHandler, body: bytes, fault: Fault, request: Request) -> None:
    body = body[: fault.cut]
    step = fault.trickle or 1 << 15
    for at in range(0, len(body), step):
        handler.wfile.write(body[at : at + step])
        request.sent += len(body[at : at + step])
        if fault.trickle:
            time.sleep(0.02)
    if fault.hold:
        fault.hold.wait(10)
