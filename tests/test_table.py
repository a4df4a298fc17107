"""The results table, its footnotes, verdicts and the ablation form."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from solo.cli import main
from solo.compare import THRESHOLDS, rows
from solo.errors import UserError
from solo.ledger import CARD, ZOO, Ledger
from solo.table import read_records
from tests.fixtures_runs import CARD_AP, MODELS, make_run, record_of

PUBLISHED = Path(__file__).parent.parent / "results" / "published.csv"
FORMATS = ("table.md", "table.csv", "table.html")


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return Ledger.read(PUBLISHED)


def write_table(records: list[Path], out: Path, *more: str) -> dict[str, str]:
    words = ["table", "--records", *map(str, records), "--out-dir", str(out), "--published", str(PUBLISHED), *more]
    assert main(words) == 0
    return {name: (out / name).read_text() for name in FORMATS}


def lines_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_five_rows_without_any_record(tmp_path: Path):
    written = write_table([], tmp_path)
    lines = lines_of(written["table.csv"])
    assert [line["model"] for line in lines] == list(MODELS)
    assert {line["verdict"] for line in lines} == {"not measured"}
    assert written["table.md"].count("| not measured |") == 5 * 4
    assert [float(line["published_ap"]) for line in lines] == list(CARD_AP.values())


def test_a_smoke_figure_is_compared_with_nothing(tmp_path: Path):
    written = write_table([record_of(make_run(tmp_path, ap=33.1, gpu="NVIDIA H100"))], tmp_path / "out")
    line = lines_of(written["table.csv"])[0]
    assert line["ap"] == "33.1"
    assert (line["ap_difference"], line["memory_gb_difference"], line["fps_difference"]) == ("", "", "")
    assert line["verdict"] == "none: synthetic data, reduced model"
    table_only = written["table.md"].partition("Protocol of each row")[0]
    assert "reproduced" not in table_only
    assert "agrees" not in table_only


@pytest.mark.parametrize(
    ("suite", "ap", "difference", "verdict"),
    [
        ("published", 33.14, 0.0, "reproduced (within 0.1)"),
        ("published", 33.24, 0.1, "reproduced (within 0.1)"),
        ("published", 32.94, -0.2, "differs (by more than 0.1)"),
        ("zoo", 32.8, -0.3, "agrees (within 0.3)"),
        ("zoo", 33.5, 0.4, "differs (by more than 0.3)"),
    ],
)
def test_verdicts(tmp_path: Path, ledger: Ledger, suite: str, ap: float, difference: float, verdict: str):
    row = rows(read_records([record_of(make_run(tmp_path, suite=suite, ap=ap))]), ledger)[0]
    assert (row.ap.difference, row.verdict) == (difference, verdict)


def test_the_zoo_threshold_is_the_largest_gap_between_published_trainings(ledger: Ledger):
    gaps = []
    for model in ZOO:
        values = [figure.value for figure in ledger.of(model.id, "mask_ap")]
        gaps.append(max(values) - min(values))
    assert round(max(gaps), 1) == THRESHOLDS["zoo"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"suite": "zoo", "images": 500}, "500 images evaluated, val2017 has 5,000"),
        ({"suite": "zoo-photos"}, "data photos, not COCO"),
        ({"suite": "smoke-photos"}, "reduced model, data photos"),
    ],
)
def test_no_verdict_for_other_data(tmp_path: Path, ledger: Ledger, options: dict, reason: str):
    row = rows(read_records([record_of(make_run(tmp_path, ap=33.1, **options))]), ledger)[0]
    assert (row.ap.difference, row.verdict) == (None, f"none: {reason}")


def test_no_verdict_for_another_schedule(tmp_path: Path, ledger: Ledger):
    folder = make_run(tmp_path, suite="zoo", ap=33.1)
    train = json.loads((folder / "train.json").read_text())
    (folder / "train.json").write_text(json.dumps({**train, "epochs": 2}))
    row = rows(read_records([record_of(folder)]), ledger)[0]
    assert row.verdict == "none: trained 2 epochs, the published row 12"


def test_seeds_become_mean_deviation_and_count(tmp_path: Path):
    records = [record_of(make_run(tmp_path, suite="zoo", seed=k, ap=ap)) for k, ap in enumerate((33.0, 33.2, 33.4))]
    written = write_table(records, tmp_path / "out")
    line = lines_of(written["table.csv"])[0]
    assert (line["ap"], line["ap_sd"], line["seeds"], line["ap_difference"]) == ("33.2", "0.2", "0 1 2", "0.1")
    assert "| 33.2 ± 0.2 (n = 3) | +0.1 |" in written["table.md"]


def test_gpu_figures_are_compared_and_cpu_figures_are_labelled(tmp_path: Path, ledger: Ledger):
    gpu = rows(read_records([record_of(make_run(tmp_path / "a", suite="zoo", gpu="NVIDIA H100"))]), ledger)[0]
    assert (gpu.memory.value, gpu.memory.difference) == (8.0, 0.0)
    assert (round(gpu.speed.value, 1), gpu.speed.difference) == (40.0, 29.5)
    assert "NVIDIA H100" in gpu.speed.note
    cpu = rows(read_records([record_of(make_run(tmp_path / "b", suite="zoo"))]), ledger)[0]
    assert (cpu.memory.difference, cpu.speed.difference) == (None, None)
    assert cpu.speed.note.endswith("no difference: no GPU figure")
    written = write_table([record_of(make_run(tmp_path / "b", suite="zoo"))], tmp_path / "out")
    assert "| 22.2 (CPU)[^" in written["table.md"]


def test_another_precision_is_not_compared(tmp_path: Path, ledger: Ledger):
    run = make_run(tmp_path, suite="zoo", gpu="NVIDIA H100", precision="bf16")
    row = rows(read_records([record_of(run)]), ledger)[0]
    assert (row.memory.difference, row.speed.difference) == (None, None)
    assert "published in FP32" in row.speed.note


def test_figures_of_different_devices_are_not_averaged(tmp_path: Path, ledger: Ledger):
    records = [record_of(make_run(tmp_path, suite="zoo", seed=k, gpu=gpu)) for k, gpu in enumerate(("H100", "H200"))]
    row = rows(read_records(records), ledger)[0]
    assert row.speed.value is None
    assert row.speed.note.startswith("seeds measured under different protocols")


def test_units_are_converted_openly_and_contradictions_shown(tmp_path: Path, ledger: Ledger):
    assert round(ledger.figure("solo_r50_1x", "inference_time", "mmdet_metafile").fps, 1) == 10.5
    assert ledger.figure("solo_r50_1x", "inference_time", CARD).fps == 95.1
    written = write_table([], tmp_path)
    for text in (written["table.md"], written["table.html"].replace("&#39;", "'")):
        assert "95.1 ms = 10.5" in text
        assert "prints 95.1 fps; mmdetection's metafile.yml (d5fd280) has the same number as ms/image" in text
        assert "the authors' README (WXinlong/SOLO) says 32.9" in text
    first, *_, light = lines_of(written["table.csv"])
    assert (first["printed_inference_time"], first["printed_inference_time_unit"]) == ("95.1", "fps")
    assert (first["published_ms_per_image"], first["published_fps"]) == ("95.1", "10.5")
    assert (light["published_fps"], "23.9 fps" in light["contradictions"]) == ("28.6", True)
    assert ledger.contradictions("decoupled_solo_r50_1x", "mask_ap") == []


def test_the_same_bytes_in_any_order(tmp_path: Path):
    records = [record_of(make_run(tmp_path, model, seed=k)) for model in MODELS for k in (0, 1)]
    first = write_table(records, tmp_path / "a")
    again = write_table([*reversed(records), records[3]], tmp_path / "b")
    assert first == again


def test_ablations_stay_out_of_the_zoo_table(tmp_path: Path):
    records = [record_of(make_run(tmp_path)), record_of(make_run(tmp_path, setting={"head.stacked_convs": 4}, ap=99.0))]
    written = write_table(records, tmp_path / "out")
    assert "99.0" not in written["table.md"]
    assert lines_of(written["table.csv"])[0]["ap"] == "50.0"


def test_a_row_of_two_configurations_is_refused(tmp_path: Path, ledger: Ledger):
    records = [record_of(make_run(tmp_path, seed=k, digest=digit * 64)) for k, digit in enumerate("ab")]
    with pytest.raises(UserError, match="seeds of one row differ in config_digest"):
        rows(read_records(records), ledger)


def test_two_records_of_one_run_are_refused(tmp_path: Path, ledger: Ledger):
    records = [record_of(make_run(tmp_path / place, ap=ap)) for place, ap in (("a", 50.0), ("b", 51.0))]
    with pytest.raises(UserError, match="two different records of smoke/solo_r50_1x/seed0"):
        rows(read_records(records), ledger)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,metric\n", "lacks the columns value, unit, source"),
        ("model,metric,value,unit,source\na,mask_ap,many,percent,x\n", "line 2: 'many' is no number"),
        ("model,metric,value,unit,source\na,mask_ap,1,furlong,x\n", "'furlong'; valid: percent, GB, fps, ms/image"),
    ],
)
def test_a_broken_ledger_is_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "ledger.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        Ledger.read(path)


def test_the_table_is_fast_and_imports_nothing_heavy(tmp_path: Path):
    record = record_of(make_run(tmp_path))
    words = ["table", "--records", str(record), "--out-dir", str(tmp_path), "--published", str(PUBLISHED)]
    code = f"""
import sys, time
start = time.monotonic()
from solo.cli import main
main({words})
heavy = [name for name in ("torch", "pandas", "matplotlib", "mlflow") if name in sys.modules]
print(heavy, time.monotonic() - start < 1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] True"


def test_study(tmp_path: Path):
    study = tmp_path / "depth.yaml"
    study.write_text(
        "name: head_depth\ntitle: Depth\nbase: solo_r50_1x\n"
        "axes: {depth: [{label: seven}, {label: four, set: {head.stacked_convs: 4}}]}\n"
    )
    base = record_of(make_run(tmp_path, ap=50.0))
    fewer = [record_of(make_run(tmp_path, seed=k, setting={"head.stacked_convs": 4}, ap=48.0 + k)) for k in (0, 1)]
    written = write_table([*fewer, base], tmp_path / "out", "--study", str(study))
    assert "| stacked_convs=4 | 48.5 ± 0.7 (n = 2)[^1] | – | −1.5 |" in written["table.md"]
    assert "| 7 convs | – | 35.8 |" in written["table.md"]
    ours, *_ = lines_of(written["table.csv"])
    assert (ours["setting"], ours["AP"], ours["source"]) == ("solo_r50_1x", "50.0", "measured")
    plot = (tmp_path / "out" / "ablation.svg").read_text()
    assert plot.startswith("<?xml")
    again = write_table([base, *fewer], tmp_path / "again", "--study", str(study))
    assert (written, plot) == (again, (tmp_path / "again" / "ablation.svg").read_text())


def test_a_study_file_with_unknown_keys_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    study = tmp_path / "depth.yaml"
    study.write_text("base: solo_r50_1x\nname: depth\ntitle: Depth\naxis: {}\n")
    words = ["table", "--study", str(study), "--out-dir", str(tmp_path), "--published", str(PUBLISHED)]
    assert main(words) == 2
    message = capsys.readouterr().err
    assert "unknown key 'axis'" in message
    assert "axes" in message
