"""The bytes of a URL from an offset on, over HTTP or from a local file, with every failure named by its mend."""

import email.utils
import http.client
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from solo import __version__
from solo.errors import UserError

_CHUNK = 1 << 16
# Answers after which the same request may succeed a little later.
_TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)


class TransientError(Exception):
    """A failure worth another try; `wait` is the server's own word on when, in seconds."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


class NotFoundError(Exception):
    """Nothing is there under this URL."""


@dataclass(frozen=True)
class Version:
    """What tells one state of a remote file from another: its size in bytes and a strong validator, "" without."""

    size: int | None
    validator: str


@dataclass
class Body:
    """An answer: bytes from `start` on of a file in state `version`.

    `read()` returns what has arrived, b"" at the end, and raises TransientError when the connection fails.
    """

    start: int
    version: Version
    read: Callable[[], bytes]
    close: Callable[[], None]


def open_body(url: str, offset: int, known: Version | None, timeout: float) -> Body:
    """Ask for a file from byte `offset` on.

    Args:
        url: http, https or file.
        offset: bytes already here.
        known: the state those bytes are from; the answer starts at 0 if the file is in another one now.
        timeout: longest silence in seconds.

    Raises:
        TransientError, NotFoundError: see there.
        UserError: another try would not help.
    """
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme == "file":
        return _open_file(local_path(url), offset, known)
    if scheme not in ("http", "https"):
        raise UserError(f"cannot fetch {url}: unknown scheme {scheme!r}; valid: http, https, file")
    body = _open_http(url, offset, known, timeout)
    if body.start and known and not _same(known, body.version):
        body.close()
        body = _open_http(url, 0, None, timeout)
    return body


def local_path(url: str) -> Path:
    """The path of a file:// URL."""
    return Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))


def _same(known: Version, now: Version) -> bool:
    """Two answers are of one state of a file: equal sizes, and validators that do not contradict each other."""
    if None in (known.size, now.size) or known.size != now.size:
        return False
    return not (known.validator and now.validator) or known.validator == now.validator


def _open_file(path: Path, offset: int, known: Version | None) -> Body:
    try:
        file = path.open("rb")
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{path} does not exist") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    version = Version(status.st_size, f"{status.st_mtime_ns}")
    start = offset if known == version else 0
    file.seek(start)

    def read() -> bytes:
        try:
            return file.read(16 * _CHUNK)
        except OSError as error:
            raise TransientError(f"reading {path} failed: {error.strerror}") from error

    return Body(start, version, read, file.close)


def _open_http(url: str, offset: int, known: Version | None, timeout: float) -> Body:
    headers = {"User-Agent": f"solo/{__version__}", "Accept-Encoding": "identity"}
    if offset and known:
        headers["Range"] = f"bytes={offset}-"
        if known.validator:
            headers["If-Range"] = known.validator
    try:
        # A fresh opener reads the proxy variables as they are now; urlopen keeps those of its first call.
        opener = urllib.request.build_opener()
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and known:
                if offset == known.size == _range_total(error.headers):
                    return Body(offset, known, lambda: b"", lambda: None)  # all of it was here already
                return _open_http(url, 0, None, timeout)
            raise _status_error(url, error) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _connection_error(url, error) from error

    def read() -> bytes:
        try:
            return bytes(response.read1(_CHUNK))
        except (OSError, http.client.HTTPException) as error:
            raise _connection_error(url, error) from error

    try:
        start, size = _extent(url, response, offset)
    except BaseException:
        response.close()
        raise
    return Body(start, Version(size, _validator(response.headers)), read, response.close)


def _extent(url: str, response: http.client.HTTPResponse, offset: int) -> tuple[int, int | None]:
    """Where an answer starts and how large the whole file is."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise UserError(f"{url} is sent with encoding {encoding!r}; only plain bytes can be resumed and checked")
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != offset:
            raise TransientError(f"{url} answered with another range than the one from {offset} on")
        return offset, None if found[2] == "*" else int(found[2])
    if response.status != 200:
        raise TransientError(f"{url} answered {response.status} {response.reason}")
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _range_total(headers: Message) -> int | None:
    found = re.fullmatch(r"bytes \*/(\d+)", headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _validator(headers: Message) -> str:
    """The strong ETag, else the date; a weak ETag does not promise equal bytes."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _status_error(url: str, error: urllib.error.HTTPError) -> Exception:
    said = f"{url} answered {error.code} {error.reason}"
    if error.code in (403, 404, 410):  # 403 is what an object store answers for a name it does not have
        return NotFoundError(said)
    if error.code in _TRANSIENT_STATUS:
        return TransientError(said, _retry_after(error.headers))
    return UserError(f"{said}; check the address, the proxy and what you may read there, or name a --mirror")


def _retry_after(headers: Message) -> float:
    """Seconds to wait by the Retry-After header, in either of its forms; 0 without one, 300 at most."""
    value = headers.get("Retry-After", "")
    if value.isdigit():
        return min(float(value), 300.0)
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except ValueError:
        return 0.0
    return min(max(moment - time.time(), 0.0), 300.0)


def _connection_error(url: str, error: Exception) -> Exception:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        mend = "check the clock and the proxy, set SSL_CERT_FILE, or name a --mirror"
        return UserError(f"{url}: the certificate is not trusted ({reason.verify_message}); {mend}")
    if isinstance(error, ValueError) or isinstance(reason, http.client.InvalidURL):
        return UserError(f"cannot fetch {url}: {reason}")
    said = "nothing came within the time-out" if isinstance(reason, TimeoutError) else str(reason)
    return TransientError(f"{url}: {said or type(reason).__name__}")
