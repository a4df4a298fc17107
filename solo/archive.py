"""Zip archives from elsewhere: unpacked beside their place, with nothing trusted that their table of contents says."""

import contextlib
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from solo.download import require_free
from solo.errors import UserError
from solo.progress import Progress


@contextlib.contextmanager
def unpacked(archive: Path, folder: str, out: Path) -> Iterator[Path]:
    """Unpack an archive that holds the one folder `folder`, to a temporary place inside `out`.

    Yields the unpacked folder, for the caller to check and to rename into its place; what is not renamed is removed
    at the end. Every file's CRC is checked.

    Raises:
        UserError: the archive is damaged, does not fit on the disk, or holds a name outside `folder`, a link or
            another special file; nothing is unpacked in the latter cases.
    """
    temporary = out / f".{folder}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as contents:
            members = contents.infolist()
            for member in members:
                _require_harmless(archive, member, folder)
            require_free(out, sum(member.file_size for member in members), f"unpacking {archive.name}")
            (temporary / folder).mkdir(parents=True)
            _unpack(contents, members, temporary, f"unpacking {archive.name}")
        yield temporary / folder
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(f"{archive} is damaged: {error}; remove it and run again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _require_harmless(archive: Path, member: zipfile.ZipInfo, folder: str) -> None:
    # orig_filename: zipfile cuts `filename` at a NUL byte.
    name, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
    path = PurePosixPath(name)
    mend = f"nothing was unpacked; get {archive.name} from a source you trust"
    if path.is_absolute() or ".." in path.parts or re.search(r"[\\:\0]", name):
        raise UserError(f"{archive} holds {name!r}, a path that may leave its folder; {mend}")
    if path.parts[:1] != (folder,):
        raise UserError(f"{archive} holds {name!r}, outside {folder}/; {mend}")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{archive} holds {name!r}, a link or special file; {mend}")
    if member.flag_bits & 1:
        raise UserError(f"{archive} holds {name!r}, which is encrypted; {mend}")


def _unpack(contents: zipfile.ZipFile, members: list[zipfile.ZipInfo], root: Path, label: str) -> None:
    with Progress(label, len(members), "files") as progress:
        for member in members:
            path = root / member.filename
            if member.is_dir():
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                with contents.open(member) as source, path.open("xb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            progress.update()
