"""Downloads that break off, lie, crawl, change and are killed; archives that mean harm."""

import hashlib
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from dataclasses import replace

import pytest

from solo import sources
from solo.cli import main
from solo.download import Patience, download
from solo.errors import UserError
from solo.sources import FILES, Source
from tests.faulty_server import Fault, serve

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes
DIGEST = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(timeout=0.4, retries=2, pause=0.01)
CUT = 100_000


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with serve() as state:
        state.files["/file.pth"] = CONTENT
        yield state


def get(server, path, checksum=DIGEST, patience=QUICK):
    return download([f"{server.url}/file.pth"], path, checksum=checksum, patience=patience)


def only(path):
    """Nothing lies beside the file but the lock."""
    return {entry.name for entry in path.parent.iterdir()} <= {path.name, f".{path.name}.lock"}


def test_sources_are_the_publishers_and_carry_a_checksum():
    assert {name: source.name for name, source in FILES.items()} == {
        "resnet18": "resnet18-f37072fd.pth",
        "resnet34": "resnet34-b627a593.pth",
        "resnet50": "resnet50-0676ba61.pth",
        "resnet101": "resnet101-63fe2227.pth",
        "solo_r50_1x": "solo_r50_fpn_1x_coco_20210821_035055-2290a6b8.pth",
        "solo_r50_3x": "solo_r50_fpn_3x_coco_20210901_012353-11d224d7.pth",
        "decoupled_solo_r50_1x": "decoupled_solo_r50_fpn_1x_coco_20210820_233348-6337c589.pth",
        "decoupled_solo_r50_3x": "decoupled_solo_r50_fpn_3x_coco_20210821_042504-7b3301ec.pth",
        "decoupled_solo_light_r50_3x": "decoupled_solo_light_r50_fpn_3x_coco_20210906_142703-e70e226f.pth",
    }
    assert all(len(source.sha256) == 8 for source in FILES.values())
    assert FILES["solo_r50_1x"].sha256 == "2290a6b8"


def test_whole_file_then_skipped_without_a_request(server, tmp_path):
    path = tmp_path / "new/file.pth"
    assert get(server, path)
    assert path.read_bytes() == CONTENT
    assert only(path)
    assert not get(server, path)
    assert len(server.log) == 1


@pytest.mark.parametrize("etag", [True, False])
def test_broken_off_twice_is_resumed_where_it_broke(server, tmp_path, etag):
    server.faults = [Fault(cut=CUT, etag=etag), Fault(cut=CUT, etag=etag), Fault(etag=etag)]
    get(server, tmp_path / "file.pth", checksum="")
    assert (tmp_path / "file.pth").read_bytes() == CONTENT
    assert [request.range for request in server.log] == [None, f"bytes={CUT}-", f"bytes={2 * CUT}-"]
    assert server.sent == len(CONTENT)
    assert (server.log[1].if_range is not None) == etag


def test_file_that_changed_in_between_is_not_spliced(server, tmp_path):
    for etag in (True, False):
        server.files["/file.pth"] = CONTENT
        server.faults = [Fault(cut=CUT, etag=etag)]
        path = tmp_path / f"{etag}.pth"
        with pytest.raises(UserError, match="broke off after 100000 of 307200 bytes"):
            get(server, path, checksum="", patience=replace(QUICK, retries=0))
        new = CONTENT[::-1] + b"longer"
        server.files["/file.pth"] = new
        server.faults = [Fault(etag=etag)]
        get(server, path, checksum="")
        assert path.read_bytes() == new


def test_file_that_shrank_is_begun_anew(server, tmp_path):
    server.faults = [Fault(cut=CUT, etag=False)]
    with pytest.raises(UserError):
        get(server, tmp_path / "file.pth", checksum="", patience=replace(QUICK, retries=0))
    server.files["/file.pth"] = b"short"
    server.faults = [Fault(etag=False)]
    get(server, tmp_path / "file.pth", checksum="")
    assert (tmp_path / "file.pth").read_bytes() == b"short"


def test_part_complete_at_the_crash_costs_no_byte(server, tmp_path):
    path = tmp_path / "file.pth"
    server.faults = [Fault(cut=CUT)]
    with pytest.raises(UserError):
        get(server, path, patience=replace(QUICK, retries=0))
    path.with_name("file.pth.part").write_bytes(CONTENT)
    get(server, path)
    assert server.sent == CUT


def test_range_ignored(server, tmp_path):
    server.faults = [Fault(cut=CUT), Fault(ranges=False)]
    get(server, tmp_path / "file.pth", checksum="")
    assert (tmp_path / "file.pth").read_bytes() == CONTENT


def test_server_errors_are_retried_and_retry_after_is_obeyed(server, tmp_path, capsys):
    server.faults = [Fault(status=500), Fault(status=503, headers=(("Retry-After", "1"),))]
    started = time.monotonic()
    get(server, tmp_path / "file.pth")
    assert time.monotonic() - started >= 1
    assert "answered 503 Service Unavailable; next try in 1.0 s" in capsys.readouterr().err


def test_gives_up_and_keeps_what_came(server, tmp_path):
    server.faults = [Fault(cut=CUT)] + [Fault(status=502)] * 3
    with pytest.raises(UserError, match=r"502 .*gave up after 3 tries in a row; 100\.0 kB are kept; run the same"):
        get(server, tmp_path / "file.pth")
    assert (tmp_path / "file.pth.part").stat().st_size == CUT
    assert not (tmp_path / "file.pth").exists()


def test_absent_file_is_not_retried(server, tmp_path):
    with pytest.raises(UserError, match=r"cannot find x\.pth: .*/gone answered 404 .*; name a --mirror"):
        download([f"{server.url}/gone"], tmp_path / "x.pth", patience=QUICK)
    server.faults = [Fault(status=401)]
    with pytest.raises(UserError, match="answered 401 Unauthorized; check the address, the proxy"):
        get(server, tmp_path / "file.pth")
    assert len(server.log) == 2


def test_wrong_bytes_once_and_always(server, tmp_path):
    path = tmp_path / "file.pth"
    wrong = Fault(body=b"x" * len(CONTENT))
    server.faults = [wrong]
    get(server, path)
    assert path.read_bytes() == CONTENT
    path.unlink()
    server.faults = [wrong, wrong]
    with pytest.raises(UserError, match=f"sends a wrong file, twice: .* expected {DIGEST[:8]}"):
        get(server, path, checksum=DIGEST[:8])
    assert only(path)


def test_claimed_length_longer_than_what_comes(server, tmp_path):
    server.faults = [Fault(length=len(CONTENT) + 7, etag=False)] * 8
    with pytest.raises(UserError, match="broke off after 307200 of 307207 bytes"):
        get(server, tmp_path / "file.pth", checksum="")


def test_claimed_length_shorter_than_what_comes_and_none_at_all(server, tmp_path):
    server.faults = [Fault(length=1000)]
    get(server, tmp_path / "file.pth")
    server.faults = [Fault(length=0)]
    get(server, tmp_path / "other.pth")
    assert (tmp_path / "file.pth").read_bytes() == (tmp_path / "other.pth").read_bytes() == CONTENT


def test_trickle_and_silence_are_left_for_a_better_connection(server, tmp_path, capsys):
    release = threading.Event()
    server.faults = [Fault(trickle=5), Fault(cut=1000, hold=release)]
    get(server, tmp_path / "file.pth")
    release.set()
    assert (tmp_path / "file.pth").read_bytes() == CONTENT
    said = capsys.readouterr().err
    assert "slower than 1.0 kB/s" in said
    assert "nothing came within the time-out" in said


def test_compressed_answer_is_refused(server, tmp_path):
    server.faults = [Fault(headers=(("Content-Encoding", "gzip"),))]
    with pytest.raises(UserError, match="encoding 'gzip'"):
        get(server, tmp_path / "file.pth")


def test_unreachable_server_and_unknown_scheme(tmp_path):
    with pytest.raises(UserError, match="gave up after 3 tries"):
        download(["http://127.0.0.1:9/file.pth"], tmp_path / "file.pth", patience=QUICK)
    with pytest.raises(UserError, match="unknown scheme 'ftp'; valid: http, https, file"):
        download(["ftp://host/file.pth"], tmp_path / "file.pth", patience=QUICK)


def test_disk_full(server, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**6, 10**6 - 5000, 5000))
    with pytest.raises(UserError, match=r"the rest of file\.pth needs 307\.2 kB, 5\.0 kB are free"):
        get(server, tmp_path / "file.pth")


def test_wrong_file_in_place_is_left_alone(server, tmp_path):
    (tmp_path / "file.pth").write_bytes(b"mine")
    with pytest.raises(UserError, match="remove it and run again"):
        get(server, tmp_path / "file.pth")
    assert (tmp_path / "file.pth").read_bytes() == b"mine"


def test_two_at_once_download_once(server, tmp_path, capsys):
    release = threading.Event()
    server.faults = [Fault(cut=CUT, hold=release)]
    patience = replace(QUICK, timeout=5)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(get(server, tmp_path / "file.pth", patience=patience)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    said = ""
    deadline = time.monotonic() + 5
    while "another process is at work" not in said and time.monotonic() < deadline:
        time.sleep(0.02)
        said += capsys.readouterr().err
    release.set()
    for thread in threads:
        thread.join()
    assert "another process is at work" in said
    assert sorted(results) == [False, True]
    assert server.sent == len(CONTENT)


def test_killed_and_run_again_resumes(server, tmp_path):
    server.files["/resnet18-f37072fd.pth"] = CONTENT
    release = threading.Event()
    server.faults = [Fault(cut=CUT, hold=release)]
    command = [sys.executable, "-m", "solo.cli", "fetch", "resnet18", "--mirror", server.url]
    command += ["--out", str(tmp_path), "--sha256", DIGEST]
    part = tmp_path / "resnet18-f37072fd.pth.part"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 20
        while not (part.exists() and part.stat().st_size == CUT) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    release.set()
    assert main(command[3:]) == 0
    assert (tmp_path / "resnet18-f37072fd.pth").read_bytes() == CONTENT
    assert server.log[1].range == f"bytes={CUT}-"
    assert server.sent == len(CONTENT)


def test_proxy_of_the_environment(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server.files["http://weights.invalid/file.pth"] = CONTENT
    download(["http://weights.invalid/file.pth"], tmp_path / "file.pth", checksum=DIGEST, patience=QUICK)
    assert server.log[0].path == "http://weights.invalid/file.pth"


@pytest.fixture
def tiny(monkeypatch):
    """A source whose file is CONTENT."""
    source = Source(f"http://weights.invalid/models/tiny-{DIGEST[:8]}.pth")
    monkeypatch.setitem(sources.FILES, "tiny", source)
    return source


def test_mirror_folder_file_url_and_base_url(server, tmp_path, tiny, capsys):
    mirror = tmp_path / "mirror"
    (mirror / "models").mkdir(parents=True)
    (mirror / "models" / tiny.name).write_bytes(CONTENT)  # under the publisher's path
    server.files[f"/base/{tiny.name}"] = CONTENT  # under its name alone
    for out, base in (("a", str(mirror)), ("b", mirror.as_uri()), ("c", f"{server.url}/base/")):
        assert main(["fetch", "tiny", "--out", str(tmp_path / out), "--mirror", base]) == 0
        assert (tmp_path / out / tiny.name).read_bytes() == CONTENT
        assert f"SHA-256 {DIGEST[:8]}... verified" in capsys.readouterr().out
    assert main(["fetch", "tiny", "--out", str(tmp_path / "d"), "--mirror", str(tmp_path / "none")]) == 2
    assert "cannot find tiny-" in capsys.readouterr().err


def test_explicit_checksum_and_unknown_names(tmp_path, tiny, capsys):
    (tmp_path / tiny.name).write_bytes(CONTENT)
    command = ["fetch", "tiny", "--out", str(tmp_path / "out"), "--mirror", str(tmp_path)]
    assert main([*command, "--sha256", "0" * 64]) == 2
    assert main([*command, "--sha256", "xyz"]) == 2
    assert "valid: 8 to 64 hexadecimal digits" in capsys.readouterr().err
    assert main([*command, "--sha256", DIGEST.upper()]) == 0
    assert main(["fetch", "resnet51", "--out", str(tmp_path)]) == 2
    assert "valid: coco2017, resnet18" in capsys.readouterr().err
