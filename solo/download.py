"""One file from one of several URLs: resumed, retried, checked, and in its place only when whole.

The bytes go to `NAME.part`; `NAME.part.json` says of which state of which URL they are, so that a file that changed
in between is begun anew instead of spliced. A lock lets one process at a time work on a file.
"""

import os
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from solo.artifacts import read_json, sha256, write_json
from solo.errors import UserError
from solo.progress import Progress, size
from solo.transport import Body, NotFoundError, TransientError, Version, open_body


@dataclass(frozen=True)
class Patience:
    """When to give up on a server.

    Attributes:
        timeout: seconds of silence, and the time over which `slowest` is measured.
        retries: failures in a row, none of which brought a byte, before the end.
        pause: seconds before the first retry; doubles with each, by chance up to half more or less, 60 at most.
        slowest: bytes per second under which a connection counts as stalled.
    """

    timeout: float = 30.0
    retries: int = 8
    pause: float = 1.0
    slowest: float = 1000.0


class _StalledError(TransientError):
    """A connection that lives but hardly moves: what it brought does not count as progress."""


def download(urls: Sequence[str], path: str | Path, *, checksum: str = "", patience: Patience | None = None) -> bool:
    """Have the file at `path`.

    Args:
        urls: where to look, in this order; the next one only if the one before has no such file.
        path: where the file is to be; it appears whole and checked, or not at all.
        checksum: first digits of its SHA-256 (hexadecimal, lower case), "" if unknown.
        patience: when to give up.

    Returns:
        True if it was downloaded, False if it was there.

    Raises:
        UserError: it cannot be had; what has arrived is kept for the next run.
    """
    path, patience = Path(path), patience or Patience()
    if path.exists():
        _check(path, checksum)
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path):
            if path.exists():
                _check(path, checksum)
                return False
            _download_first(urls, path, checksum, patience)
    except OSError as error:
        kept = "what has arrived is kept; run the same command again"
        raise UserError(f"cannot write {path}: {error.strerror or error}; {kept}") from error
    return True


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock beside `path`; says so once if another process has it."""
    held = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        held.acquire(timeout=0)
    except Timeout:
        print(f"{path}: another process is at work on it; waiting", file=sys.stderr, flush=True)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def remote_size(urls: Sequence[str], timeout: float) -> int | None:
    """The size in bytes that the first URL with the file tells; None if none does."""
    for url in urls:
        try:
            with closing(open_body(url, 0, None, timeout)) as body:
                return body.version.size
        except NotFoundError:
            continue
        except TransientError:
            return None
    return None


def require_free(folder: Path, needed: int, what: str) -> None:
    """Raise UserError unless the disk of `folder` has `needed` bytes free for `what`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        mend = "free some space or choose another --out"
        raise UserError(f"{folder}: {what} needs {size(needed)}, {size(free)} are free; {mend}")


def _download_first(urls: Sequence[str], path: Path, checksum: str, patience: Patience) -> None:
    missing = []
    for url in urls:
        try:
            _download_one(url, path, checksum, patience)
            return
        except NotFoundError as error:
            missing.append(str(error))
    raise UserError(f"cannot find {path.name}: {'; '.join(missing)}; name a --mirror that has it")


def _download_one(url: str, path: Path, checksum: str, patience: Patience) -> None:
    """Complete the part file, then check and rename it; one that fails the check is fetched anew, once."""
    part = _Part(path)
    for last in (False, True):
        _complete(url, part, patience)
        try:
            _check(part.path, checksum)
        except UserError as error:
            part.remove()
            if last:
                raise UserError(f"{url} sends a wrong file, twice: {error}") from error
            print(f"{path.name}: wrong checksum; once more from the start", file=sys.stderr, flush=True)
        else:
            part.finish()
            return


def _check(path: Path, checksum: str) -> None:
    if checksum and not (found := sha256(path)).startswith(checksum):
        mend = "remove it and run again"
        raise UserError(f"{path}: SHA-256 starts with {found[: len(checksum)]}, expected {checksum}; {mend}")


class _Part:
    """The file in the making and the note on where its bytes are from."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self.note = target.with_name(target.name + ".part.json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def known(self, url: str) -> Version | None:
        """The state its bytes are from; None if that is unknown or another URL's."""
        try:
            note = read_json(self.note)
            version = Version(note["size"], note["validator"])
        except (UserError, KeyError, TypeError):
            return None
        return version if note.get("url") == url and version.size is not None else None

    def begin(self, url: str, version: Version) -> None:
        """Empty the file, only then note the new origin: a crash in between leaves nothing to splice."""
        self.path.write_bytes(b"")
        write_json(self.note, {"url": url} | asdict(version))

    def finish(self) -> None:
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        self.path.replace(self.target)
        self.note.unlink(missing_ok=True)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def _complete(url: str, part: _Part, patience: Patience) -> None:
    """Attempt after attempt until the part file is complete."""
    failures = 0
    while True:
        before = part.size()
        try:
            _attempt(url, part, patience)
            return
        except TransientError as error:
            moved = part.size() > before and not isinstance(error, _StalledError)
            failures = 1 if moved else failures + 1
            if failures > patience.retries:
                kept = f"{size(part.size())} are kept; run the same command again, or name a --mirror"
                raise UserError(f"{error}; gave up after {failures} tries in a row; {kept}") from error
            wait = error.wait or _backoff(failures, patience.pause)
            print(f"{error}; next try in {wait:.1f} s", file=sys.stderr, flush=True)
            time.sleep(wait)


def _backoff(failures: int, pause: float) -> float:
    """Seconds before the next try; the jitter keeps a cluster's nodes from knocking all at once."""
    return float(min(pause * 2 ** (failures - 1), 60.0) * random.uniform(0.5, 1.5))


def _attempt(url: str, part: _Part, patience: Patience) -> None:
    known = part.known(url)
    offset = part.size() if known else 0
    with closing(open_body(url, offset, known, patience.timeout)) as body:
        if body.start == 0:
            part.begin(url, body.version)
        total = body.version.size
        if total is not None:
            require_free(part.path.parent, total - body.start, f"the rest of {part.target.name}")
        arrived = body.start + _pour(body, part, patience)
    if total is not None and arrived != total:
        if arrived > total:
            part.remove()
        raise TransientError(f"{url} broke off after {arrived} of {total} bytes")


def _pour(body: Body, part: _Part, patience: Patience) -> int:
    """Append the body to the part file; returns the bytes that came."""
    count = window = 0
    since = time.monotonic()
    label = part.target.name
    with part.path.open("ab") as file, Progress(label, body.version.size, "B", body.start) as bar:
        while chunk := body.read():
            file.write(chunk)
            file.flush()  # a kill loses nothing that came
            bar.update(len(chunk))
            count += len(chunk)
            now = time.monotonic()
            if now - since >= patience.timeout:
                if count - window < patience.slowest * (now - since):
                    raise _StalledError(f"{label}: slower than {size(patience.slowest)}/s")
                since, window = now, count
    return count
