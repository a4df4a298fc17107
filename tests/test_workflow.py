"""The DAG on a reduced suite: what it makes, what it makes again, and what a kill costs."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from solo.artifacts import read_json
from solo.suite import read_study
from solo.synth import synthesize
from tests.conftest import ROOT, TINY

MODELS = ["solo_r50_1x", "decoupled_solo_light_r50_3x"]
FINAL = ("metrics.jsonl", "metrics.json", "predictions.json", "config.yaml")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workflow") / "shapes"
    synthesize(folder, images=24, val_images=6, size=64)
    return folder


def checkout(folder: Path, epochs: int) -> Path:
    """A copy of the workflow whose smoke suite is tiny."""
    folder.mkdir()
    for name in ("workflow", "profiles"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "results").mkdir()
    for path in (ROOT / "results").glob("published*.csv"):
        shutil.copy(path, folder / "results" / path.name)
    suite = folder / "workflow/config/suites/smoke.yaml"
    content = yaml.safe_load(suite.read_text())
    content["overrides"] = {key: dict(value) for key, value in TINY.items() if isinstance(value, dict)}
    content["overrides"]["schedule"] |= {"epochs": epochs, "milestones": [epochs]}
    content["model_overrides"] = {}
    suite.write_text(yaml.safe_dump(content))
    return folder


def command(data: Path, *words: str) -> list[str]:
    config = [f"data={data}", f"models=[{','.join(MODELS)}]"]
    return [sys.executable, "-m", "snakemake", "--cores", "2", *words, "--config", *config]


def snakemake(folder: Path, data: Path, *words: str) -> str:
    """Run to the end; returns everything that was printed."""
    done = subprocess.run(command(data, *words), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def final_bytes(folder: Path) -> dict[str, bytes]:
    """What must not depend on interruptions."""
    runs = folder / "results/smoke-shapes"
    found = {f"{m}/{name}": (runs / m / "seed0" / name).read_bytes() for m in MODELS for name in FINAL}
    assert (runs / "table.md").exists()
    assert (runs / "report.html").exists()
    return found


def trained(output: str) -> int:
    """How many trainings a dry run would start (it prints its statistics twice)."""
    return max([int(line.split()[1]) for line in output.splitlines() if line.startswith("train ")], default=0)


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = checkout(tmp_path_factory.mktemp("straight") / "checkout", epochs=4)
    snakemake(folder, data)
    return folder


def test_every_stage_leaves_its_file(straight: Path):
    run = straight / "results/smoke-shapes/solo_r50_1x/seed0"
    names = {path.name for path in run.iterdir()}
    assert names >= {*FINAL, "model.pth", "train.json", "throughput.jsonl", "speed.json", "record.json", "overlays"}
    record = read_json(run / "record.json")
    assert record["suite"] == "smoke-shapes"
    assert record["data"]["splits"]["train2017"]["images"] == 24
    table = (straight / "results/smoke-shapes/table.md").read_text()
    assert table.count("\n| SOLO |") + table.count("\n| Decoupled") == 5
    assert "not measured" in table


def test_snakemakes_own_report(straight: Path, data: Path, tmp_path: Path):
    snakemake(straight, data, "--report", str(tmp_path / "report.html"))
    text = (tmp_path / "report.html").read_text()
    assert all(name in text for name in ("table.html", "report.html", "ours beside the published figures"))


def test_a_second_run_does_nothing(straight: Path, data: Path):
    assert "Nothing to be done" in snakemake(straight, data, "--dry-run")


def test_comments_retrain_nothing_and_values_do(straight: Path, data: Path):
    zoo = straight / "workflow/config/zoo/solo_r50_1x.yaml"
    before = zoo.read_text()
    zoo.write_text("# another comment\n" + before)
    snakemake(straight, data)
    runs = straight / "results/smoke-shapes"
    assert trained(snakemake(straight, data, "--dry-run")) == 0
    assert read_json(runs / "solo_r50_1x/seed0/train.json")["resumes"] == 0
    rule = straight / "workflow/rules/train.smk"
    rule.write_text(rule.read_text() + "\n# a remark\n")
    assert trained(snakemake(straight, data, "--dry-run")) == 0
    zoo.write_text(before + "\nloss: {mask_weight: 2.5}\n")
    snakemake(straight, data, "--until", "config")
    assert trained(snakemake(straight, data, "--dry-run")) == 1
    zoo.write_text(before)
    snakemake(straight, data, "--until", "config")
    assert trained(snakemake(straight, data, "--dry-run")) == 0


@pytest.mark.slow
@pytest.mark.parametrize("study", ["grid", "schedule"])
def test_a_study_ends_in_a_table_and_a_plot_and_shares_the_zoos_runs(straight: Path, data: Path, study: str):
    before = {m: (straight / f"results/smoke-shapes/{m}/seed0/model.pth").stat().st_mtime_ns for m in MODELS}
    snakemake(straight, data, f"ablation_{study}")
    folder = straight / f"results/smoke-shapes/ablation_{study}"
    settings = read_study(straight / f"workflow/config/ablations/{study}.yaml").settings("smoke")
    table = (folder / "table.md").read_text()
    assert all(f"| {label} |" in table for label, _ in settings)
    assert "<svg" in (folder / "table.html").read_text() or list(folder.glob("*.png"))
    after = {m: (straight / f"results/smoke-shapes/{m}/seed0/model.pth").stat().st_mtime_ns for m in MODELS}
    assert after == before


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(data: Path, straight: Path, tmp_path: Path):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    folder = checkout(tmp_path / "checkout", epochs=4)
    for number in range(5):
        process = subprocess.Popen(
            command(data), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(rng.uniform(4, 22))
        if number % 2:
            process.send_signal(signal.SIGINT)
        else:
            subprocess.run(["pkill", "-KILL", "--session", str(process.pid)], check=False)
        process.wait()
        snakemake(folder, data, "--unlock")
    snakemake(folder, data)
    assert final_bytes(folder) == final_bytes(straight)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["suite=foo"], "unknown suite 'foo'; valid: published, smoke, zoo"),
        (["data=/no/such/folder"], "data folder '/no/such/folder' does not exist"),
        (["models=[solo_r50]"], "unknown model 'solo_r50'; valid: solo_r50_1x"),
        (["sweet=smoke"], "sweet"),
    ],
)
def test_mistakes_end_in_one_message(tmp_path: Path, words: list[str], message: str):
    folder = checkout(tmp_path / "checkout", epochs=1)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--config", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_snakefiles_are_linted_and_formatted():
    lint = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr
    style = subprocess.run(
        [Path(sys.executable).parent / "snakefmt", "--check", "Snakefile", "workflow"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert style.returncode == 0, style.stderr
