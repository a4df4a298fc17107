"""The ledger survives a crash at any byte and keeps several processes apart."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
from snakemake_executor_plugin_submitit.ledger import Ledger, job_key

KEYS = [job_key("rule", [f"out/{i}"], "") for i in range(3)]


def fill(path: Path) -> None:
    """An array of three of which one ended, then a retry of that one."""
    ledger = Ledger(path)
    entries = ledger.intend([(key, "c") for key in KEYS], "t1", "rule-t1", "slurm")
    ledger.submitted("t1", "100")
    ledger.ended(entries[:1], "failed")
    ledger.intend([(KEYS[0], "c")], "t2", "rule-t2", "slurm")
    ledger.submitted("t2", "200")


def ids(ledger: Ledger) -> list[str | None]:
    return [entry.job_id if (entry := ledger.open_entry(key)) else None for key in KEYS]


def test_a_second_reader_knows_what_the_first_wrote(tmp_path: Path) -> None:
    fill(tmp_path / "ledger")
    assert ids(Ledger(tmp_path / "ledger")) == ["200", "100_1", "100_2"]


def test_the_key_is_the_jobs_and_not_the_runs() -> None:
    assert job_key("rule", ["b", "a"], "") == job_key("rule", ["a", "b"], "")
    assert len({job_key("rule", ["a"], ""), job_key("other", ["a"], ""), job_key("rule", [], "x"), *KEYS}) == 6


def test_cut_at_any_byte_the_whole_records_count_and_appending_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # thousands of appends, none of which has to last
    path = tmp_path / "ledger"
    fill(path)
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        cut = Ledger(path)
        whole = [json.loads(line) for line in data[: max([e for e in ends if e <= length], default=0)].splitlines()]
        assert ids(cut) == replay(whole), f"cut at byte {length}"
        (entry,) = cut.intend([("new", "c")], "t3", "rule-t3", "slurm")
        cut.submitted("t3", "300")
        assert entry.job_id == "300"
        after = Ledger(path)
        assert after.open_entry("new") == entry
        assert ids(after) == ids(cut), f"cut at byte {length}"


def replay(records: list[dict[str, object]]) -> list[str | None]:
    """What records mean, by the shortest way: the last intent of a key, unless it has ended."""
    open_ids: dict[object, str | None] = dict.fromkeys(KEYS)
    key_of: dict[object, object] = {}
    arrays = {record["token"]: record["array"] for record in records if record["event"] == "intent"}
    for record in records:
        if record["event"] == "intent":
            key_of[record["token"], record["index"]] = record["key"]
            open_ids[record["key"]] = None
        elif record["event"] == "submitted":
            for (token, index), key in key_of.items():
                if token == record["token"]:
                    open_ids[key] = f"{record['id']}_{index}" if arrays[token] else str(record["id"])
        else:
            open_ids[key_of[record["token"], record["index"]]] = None
    return [open_ids[key] for key in KEYS]


@pytest.mark.parametrize("garbage", [b"{", b'{"event": "intent"}\n', b"\xff\xfe\n", b"null\n", b"[]\n", b"\n\n"])
def test_lines_that_are_no_records_are_skipped(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(garbage)
    fill(path)
    assert ids(Ledger(path)) == ["200", "100_1", "100_2"]


def test_an_intent_without_an_id_is_open_and_belongs_to_its_process(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    (entry,) = ledger.intend([("k", "c")], "t", "rule-t", "slurm")
    assert entry.job_id is None
    assert ledger.unresolved() == [entry]
    assert not entry.writer_is_alive, "it is this process itself"
    entry.pid = os.getppid()
    assert entry.writer_is_alive
    entry.host = "elsewhere"
    entry.time -= 121
    assert not entry.writer_is_alive


def claim_all(path: str, token: str, start: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    ledger = Ledger(Path(path))
    for i in range(50):
        with ledger.locked():
            if not ledger.open_entry(f"key{i}"):
                ledger.intend([(f"key{i}", "c")], f"{token}-{i}", "name", "slurm")


def test_two_processes_never_claim_the_same_job(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    workers = [context.Process(target=claim_all, args=(str(path), token, start)) for token in ("a", "b")]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    claimed = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert sorted(claimed) == sorted(f"key{i}" for i in range(50))
