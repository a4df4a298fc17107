"""`solo fetch WHAT --out DIR`: COCO 2017, ImageNet backbones and the published checkpoints.

Resumable, retried, checked, and skipped when there. Needs the network or a mirror: run it where there is one, before
any job is submitted. Proxies are taken from http_proxy, https_proxy and no_proxy.
"""

import argparse
import os
import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from solo.archive import unpacked
from solo.download import Patience, download, lock, remote_size, require_free
from solo.errors import UserError, unknown
from solo.sources import BACKBONES, CHECKPOINTS, COCO2017, FILES, CocoPart, Source
from solo.transport import local_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `solo fetch`."""
    what = f"coco2017; a backbone: {', '.join(BACKBONES)}; a published checkpoint: {', '.join(CHECKPOINTS)}"
    parser.add_argument("what", metavar="WHAT", help=what)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to put it in")
    parser.add_argument(
        "--mirror",
        metavar="DIR_OR_URL",
        help="look here instead of at the publisher: MIRROR/NAME, then MIRROR/<path of the publisher's URL>",
    )
    parser.add_argument(
        "--sha256", metavar="HEX", default="", help="8 to 64 first digits the file must have, over its name's"
    )
    parser.add_argument(
        "--parts", nargs="+", metavar="PART", default=list(COCO2017), help="coco2017: train, val, annotations"
    )
    parser.add_argument(
        "--subset", action="store_true", help="coco2017: accept other numbers of images than 118287 and 5000"
    )
    parser.add_argument("--keep-archives", action="store_true", help="coco2017: keep the zip files after unpacking")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="S", help="longest silence, seconds")
    parser.add_argument(
        "--retries", type=int, default=8, metavar="N", help="failures in a row without a byte before the end"
    )


def run(args: argparse.Namespace) -> None:
    """Fetch what is named; prints one line per file or folder."""
    if args.timeout <= 0 or args.retries < 0:
        raise UserError(f"--timeout {args.timeout} and --retries {args.retries}: valid: over 0, 0 or more")
    patience = Patience(timeout=args.timeout, retries=args.retries)
    if args.what == "coco2017":
        if args.sha256:
            raise UserError("--sha256 is for a single file; coco2017 is verified by size, CRC and image count")
        fetch_coco(
            args.out,
            args.parts,
            mirror=args.mirror,
            subset=args.subset,
            keep_archives=args.keep_archives,
            patience=patience,
        )
    else:
        fetch_file(args.what, args.out, mirror=args.mirror, sha256=args.sha256, patience=patience)


def fetch_file(
    what: str,
    out: Path,
    *,
    mirror: str | None = None,
    sha256: str = "",
    patience: Patience | None = None,
) -> Path:
    """Have one backbone or checkpoint in the folder `out`, under its publisher's name.

    Args:
        what: a key of `solo.sources.FILES`.
        out: folder; made if missing.
        mirror: folder or base URL to take it from instead.
        sha256: first digits of the expected checksum, 8 to 64, in place of those in the file's name.

    Returns:
        The file's path.

    Raises:
        UserError: unknown name, malformed checksum, or the file cannot be had or is another one.
    """
    if what not in FILES:
        raise unknown("thing to fetch", what, ["coco2017", *FILES])
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{8,64}", sha256):
        raise UserError(f"--sha256 {sha256!r} is no checksum; valid: 8 to 64 hexadecimal digits")
    source = FILES[what]
    path, checksum = out / source.name, sha256.lower() or source.sha256
    fresh = download(_urls(source, mirror), path, checksum=checksum, patience=patience)
    digits = checksum if len(checksum) == 64 else f"{checksum}..."
    print(f"{path}: SHA-256 {digits} verified" + ("" if fresh else " (already there)"))
    return path


def fetch_coco(
    out: Path,
    parts: Sequence[str] = tuple(COCO2017),
    *,
    mirror: str | None = None,
    subset: bool = False,
    keep_archives: bool = False,
    patience: Patience | None = None,
) -> None:
    """Have COCO 2017 in the folder `out`: train2017/, val2017/ and annotations/, each whole or absent.

    Args:
        out: folder; made if missing.
        parts: of "train", "val", "annotations".
        mirror: folder or base URL to take the archives from; a folder's are unpacked where they are.
        subset: accept any number of images above 0.
        keep_archives: leave the downloaded archives in `out`.

    Raises:
        UserError: unknown part, too little free disk, an archive that cannot be had, or is damaged or harmful,
            or a folder that is there already and incomplete.
    """
    for name in parts:
        if name not in COCO2017:
            raise unknown("part of coco2017", name, COCO2017)
    patience = patience or Patience()
    wanted = [part for name, part in COCO2017.items() if name in parts]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with lock(out / "coco2017"):
            missing = [part for part in wanted if not _is_there(out, part, subset)]
            _require_disk(out, missing, mirror, keep_archives, patience)
            for part in missing:
                _install(out, part, mirror, subset, keep_archives, patience)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}; run the same command again") from error
    for part in wanted:
        files = len(os.listdir(out / part.folder))
        print(f"{out / part.folder}: {files} files" + ("" if part in missing else " (already there)"))


def _urls(source: Source, mirror: str | None) -> list[str]:
    """Where to look for a file, in order."""
    if not mirror:
        return [source.url]
    path = urllib.parse.urlsplit(source.url).path.lstrip("/")
    base = mirror if "://" in mirror else Path(mirror).expanduser().resolve().as_uri()
    return [f"{base.rstrip('/')}/{name}" for name in dict.fromkeys((source.name, path))]


def _local_archive(part: CocoPart, mirror: str | None) -> Path | None:
    """The archive in a mirror folder, to be unpacked without a copy."""
    paths = [local_path(url) for url in _urls(part.source, mirror) if url.startswith("file:")]
    return next((path for path in paths if path.is_file()), None)


def _require_disk(
    out: Path, missing: Sequence[CocoPart], mirror: str | None, keep_archives: bool, patience: Patience
) -> None:
    """Check the free disk for all that is to come, before the first byte of it."""
    archives, unpacking = [0], 0.0
    for part in missing:
        archive = _local_archive(part, mirror) or out / part.source.name
        if archive.is_file():
            whole = arrived = archive.stat().st_size
        else:
            told = remote_size(_urls(part.source, mirror), patience.timeout)
            whole = told or part.source.size or 0
            partial = archive.with_name(archive.name + ".part")
            arrived = partial.stat().st_size if partial.exists() else 0
        unpacking += whole * part.expansion
        archives.append(whole - arrived)
    needed = (sum(archives) if keep_archives else max(archives)) + round(unpacking)
    require_free(out, needed, f"coco2017 ({', '.join(part.folder for part in missing)})")


def _install(
    out: Path, part: CocoPart, mirror: str | None, subset: bool, keep_archives: bool, patience: Patience
) -> None:
    local = _local_archive(part, mirror)
    archive = local or out / part.source.name
    if not local:
        download(_urls(part.source, mirror), archive, patience=patience)
    with unpacked(archive, part.folder, out) as folder:
        _require_whole(folder, part, subset, archive)
        os.rename(folder, out / part.folder)
    if not local and not keep_archives:
        archive.unlink()


def _is_there(out: Path, part: CocoPart, subset: bool) -> bool:
    folder = out / part.folder
    if not folder.is_dir():
        return False
    _require_whole(folder, part, subset, folder)
    return True


def _require_whole(folder: Path, part: CocoPart, subset: bool, named: Path) -> None:
    """Raise UserError, naming `named`, unless a folder holds all that its part has."""
    names = {entry.name for entry in os.scandir(folder)}
    if not part.images:
        for split in ("train2017", "val2017"):
            if f"instances_{split}.json" not in names:
                raise UserError(f"{named} has no instances_{split}.json; remove it and run again")
        return
    images = sum(name.endswith(".jpg") for name in names)
    if images != part.images and not (subset and images):
        mend = "remove it and run again, or pass --subset if that is intended"
        raise UserError(f"{named} holds {images} images, expected {part.images}; {mend}")
