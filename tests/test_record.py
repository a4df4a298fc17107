"""One record from a run's files, and refusals of mixed ones."""

import json
from pathlib import Path

import pytest

from solo.cli import main
from solo.errors import UserError
from solo.record import gather
from tests.fixtures_runs import make_run


def test_record_has_every_part(tmp_path: Path):
    folder = make_run(tmp_path, seed=3)
    out = folder / "record.json"
    assert main(["record", "--run", str(folder), "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert list(record) == [
        "schema",
        "suite",
        "run",
        "model",
        "seed",
        "setting",
        "config",
        "config_digest",
        "data",
        "code_version",
        "train",
        "metrics",
        "speed",
        "environment",
    ]
    assert (record["suite"], record["run"], record["seed"]) == ("smoke", "solo_r50_1x", 3)
    assert record["data"]["name"] == "synth"
    assert record["code_version"] == "c0de"
    assert record["environment"]["hostname"] == "node1"


def test_missing_optional_parts_are_null(tmp_path: Path):
    folder = make_run(tmp_path)
    for name in ("train.json", "speed.json"):
        (folder / name).unlink()
    record = gather(folder)
    assert record["train"] is None
    assert record["speed"] is None
    assert record["code_version"] is None
    assert record["environment"]["python"]


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json"])
def test_missing_required_part(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]):
    folder = make_run(tmp_path)
    (folder / name).unlink()
    assert main(["record", "--run", str(folder), "--out", str(tmp_path / "r.json")]) == 2
    assert name in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize("field", ["config_digest", "data_digest", "seed", "model"])
def test_a_mix_of_runs_is_refused(tmp_path: Path, field: str):
    folder = make_run(tmp_path)
    train = json.loads((folder / "train.json").read_text())
    (folder / "train.json").write_text(json.dumps({**train, field: "other"}))
    with pytest.raises(UserError, match=r"mixes two runs.*'other' in train\.json"):
        gather(folder)


def test_metrics_of_other_annotations_are_refused(tmp_path: Path):
    folder = make_run(tmp_path)
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**metrics, "annotations_sha256": "feed"}))
    with pytest.raises(UserError, match=r"annotations_sha256 is 'feed' in metrics\.json"):
        gather(folder)


def test_an_unresolved_config_is_refused(tmp_path: Path):
    folder = make_run(tmp_path)
    (folder / "config.yaml").write_text("name: solo_r50_1x\nsuite: smoke\n")
    with pytest.raises(UserError, match="lacks seed, setting, config_digest, config"):
        gather(folder)


def test_a_copied_seed_is_refused(tmp_path: Path):
    folder = make_run(tmp_path)
    copy = folder.rename(folder.with_name("seed7"))
    with pytest.raises(UserError, match="run with seed 0"):
        gather(copy)


def test_the_place_names_own_data_and_ablation_runs(tmp_path: Path):
    record = gather(make_run(tmp_path, suite="smoke-photos", setting={"head.stacked_convs": 4}))
    assert record["suite"] == "smoke-photos"
    assert record["run"].startswith("solo_r50_1x--")
    assert record["model"] == "solo_r50_1x"


def test_accounting_fills_the_job_of_the_same_id(tmp_path: Path):
    folder = make_run(tmp_path, job="17")
    lines = [
        {"job_id": "16", "run_seconds": 1},
        {"job_id": 17, "queue_seconds": 5, "run_seconds": 9, "requeues": 0},
        {"job_id": 17, "queue_seconds": 5, "run_seconds": 90, "requeues": 1, "energy_joules": None, "nodes": "n[1-2]"},
    ]
    accounting = tmp_path / "jobs.jsonl"
    accounting.write_text("".join(json.dumps(line) + "\n" for line in lines))
    job = gather(folder, accounting=accounting)["environment"]["job"]
    expected = {"queue_seconds": 5, "run_seconds": 90, "requeues": 1, "energy_joules": None}
    assert job == {"id": "17", "nodes": "n[1-2]", **expected}
    other = make_run(tmp_path, seed=1, job="99")
    assert gather(other, accounting=accounting)["environment"]["job"]["run_seconds"] is None
