"""`solo fetch coco2017` with archives of three images, and archives that mean harm."""

import stat
import zipfile
from collections import namedtuple

import pytest

from solo import fetch
from solo.cli import main
from solo.errors import UserError
from solo.progress import Progress
from solo.sources import COCO2017, CocoPart
from tests.faulty_server import Fault, serve

Usage = namedtuple("Usage", "total used free")


def pack(path, files):
    """A zip of {name: bytes}; a value (mode, bytes) sets the Unix mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            info = zipfile.ZipInfo(name)
            if isinstance(body, tuple):
                info.external_attr, body = body[0] << 16, body[1]
            archive.writestr(info, body)


def images(folder, count):
    return {f"{folder}/": b""} | {f"{folder}/{index:012d}.jpg": b"jpeg" * 500 for index in range(count)}


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder with a small COCO, whose number of images is the expected one."""
    folder = tmp_path / "mirror"
    pack(folder / "train2017.zip", images("train2017", 3))
    pack(folder / "val2017.zip", images("val2017", 2))
    names = [f"annotations/instances_{split}2017.json" for split in ("train", "val")]
    pack(folder / "annotations_trainval2017.zip", dict.fromkeys(names, b"{}"))
    for name, count in (("train", 3), ("val", 2)):
        part = COCO2017[name]
        monkeypatch.setitem(COCO2017, name, CocoPart(part.folder, part.source, count))
    return folder


def run(out, mirror, *options):
    return main(["fetch", "coco2017", "--out", str(out), "--mirror", str(mirror), *options])


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_the_expected_numbers_of_images():
    assert {name: part.images for name, part in COCO2017.items()} == {
        "train": 118287,
        "val": 5000,
        "annotations": 0,
    }


def test_from_a_mirror_folder_without_a_copy_then_skipped(tmp_path, mirror, capsys):
    out = tmp_path / "coco"
    assert run(out, mirror) == 0
    assert visible(out) == ["annotations", "train2017", "val2017"]
    assert (out / "train2017/000000000002.jpg").read_bytes() == b"jpeg" * 500
    assert len(visible(mirror)) == 3
    before = (out / "train2017").stat().st_mtime_ns
    capsys.readouterr()
    assert run(out, tmp_path / "gone") == 0
    assert capsys.readouterr().out.count("already there") == 3
    assert (out / "train2017").stat().st_mtime_ns == before


def test_over_http_broken_off_and_resumed(tmp_path, mirror):
    with serve() as server:
        for path in mirror.iterdir():
            server.files[f"/{path.name}"] = path.read_bytes()
        # the first three requests ask for the sizes
        server.faults = [Fault(), Fault(), Fault(), Fault(cut=200)]
        assert run(tmp_path / "coco", server.url, "--keep-archives", "--parts", "train", "val") == 0
        assert "bytes=200-" in [request.range for request in server.log]
    assert visible(tmp_path / "coco") == ["train2017", "train2017.zip", "val2017", "val2017.zip"]
    assert run(tmp_path / "coco", mirror) == 0


def test_archives_are_removed_after_unpacking(tmp_path, mirror):
    with serve() as server:
        server.files["/zips/val2017.zip"] = (mirror / "val2017.zip").read_bytes()
        assert run(tmp_path / "coco", server.url, "--parts", "val") == 0
    assert visible(tmp_path / "coco") == ["val2017"]


def test_numbers_of_images(tmp_path, mirror, capsys):
    pack(mirror / "val2017.zip", images("val2017", 1))
    assert run(tmp_path / "coco", mirror, "--parts", "val") == 2
    assert "holds 1 images, expected 2; remove it and run again, or pass --subset" in capsys.readouterr().err
    assert visible(tmp_path / "coco") == []
    assert run(tmp_path / "coco", mirror, "--parts", "val", "--subset") == 0
    assert run(tmp_path / "coco", mirror, "--parts", "val") == 2
    pack(mirror / "annotations_trainval2017.zip", {"annotations/captions_val2017.json": b"{}"})
    assert run(tmp_path / "coco", mirror, "--parts", "annotations") == 2
    assert "has no instances_train2017.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "body", "fault"),
    [
        ("../evil", b"", "may leave its folder"),
        ("val2017/../../evil", b"", "may leave its folder"),
        ("/tmp/evil", b"", "may leave its folder"),
        ("val2017\\..\\evil", b"", "may leave its folder"),
        ("C:/evil", b"", "may leave its folder"),
        ("other/evil", b"", "outside val2017/"),
        ("val2017/link", (stat.S_IFLNK | 0o777, b"/etc/passwd"), "a link or special file"),
        ("val2017/pipe", (stat.S_IFIFO | 0o666, b""), "a link or special file"),
    ],
)
def test_harmful_archive_is_refused_before_anything_is_unpacked(tmp_path, mirror, capsys, name, body, fault):
    pack(mirror / "val2017.zip", images("val2017", 2) | {name: body})
    assert run(tmp_path / "coco", mirror, "--parts", "val") == 2
    assert f"{name!r}, {fault}" in capsys.readouterr().err.replace("a path that ", "")
    assert visible(tmp_path / "coco") == []
    assert not list(tmp_path.rglob("evil"))


def test_damaged_archive(tmp_path, mirror, capsys):
    archive = mirror / "val2017.zip"
    data = bytearray(archive.read_bytes())
    data[data.index(b".jpg") + 8] ^= 0xFF
    archive.write_bytes(data)
    assert run(tmp_path / "coco", mirror, "--parts", "val") == 2
    assert "val2017.zip is damaged" in capsys.readouterr().err
    archive.write_bytes(b"<html>please log in</html>")
    assert run(tmp_path / "coco", mirror, "--parts", "val") == 2
    assert "not a zip file; remove it and run again" in capsys.readouterr().err
    assert visible(tmp_path / "coco") == []


def test_free_disk_is_checked_before_the_first_byte(tmp_path, mirror, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**9, 10**9, 100))
    with serve() as server:
        server.files["/val2017.zip"] = (mirror / "val2017.zip").read_bytes()
        assert run(tmp_path / "coco", server.url, "--parts", "val") == 2
    assert "coco2017 (val2017) needs" in capsys.readouterr().err
    assert visible(tmp_path / "coco") == []
    monkeypatch.setattr(fetch, "require_free", lambda *args: None)
    assert run(tmp_path / "coco", mirror, "--parts", "val") == 2
    assert "unpacking val2017.zip needs 4.0 kB, 100 B are free" in capsys.readouterr().err


def test_real_sizes_count_when_the_server_tells_none(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**11, 0, 10**10))
    monkeypatch.setattr(fetch, "remote_size", lambda urls, timeout: None)
    with pytest.raises(UserError, match=r"needs 40\.8 GB, 10\.0 GB are free; free some space"):
        fetch.fetch_coco(tmp_path)


def test_options_that_do_not_fit(tmp_path, capsys):
    assert main(["fetch", "coco2017", "--out", str(tmp_path), "--sha256", "0" * 8]) == 2
    assert main(["fetch", "coco2017", "--out", str(tmp_path), "--parts", "test"]) == 2
    assert "valid: train, val, annotations" in capsys.readouterr().err
    assert main(["fetch", "coco2017", "--out", str(tmp_path), "--timeout", "0"]) == 2


def test_plain_progress_line():
    progress = Progress("val2017.zip", 800_000_000, "B", done=100_000_000)
    progress.update(100_000_000)
    assert progress.line(10.0) == "val2017.zip: 200.0 MB/800.0 MB, 10.0 MB/s, 0:10 elapsed, 1:00 left"
    assert Progress("drawing", None, "images").line(1.0) == "drawing: 0 images, 0:01 elapsed"
