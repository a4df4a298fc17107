"""Runs in a real MLflow store: once, twice, at once, and through an outage."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from solo.artifacts import read_jsonl
from solo.cli import main
from solo.entry import Entry, flatten
from solo.errors import UserError
from solo.store import Store, connect
from solo.track import follow
from tests.fixtures_runs import make_run, record_of

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real SQLite store; every test uses a suite of its own in it."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


def runs_of(uri: str, suite: str) -> list:
    client = connect(uri)
    experiment = client.get_experiment_by_name(suite)
    return [] if experiment is None else client.search_runs([experiment.experiment_id])


def points_of(uri: str, run) -> dict[tuple[str, int], list[float]]:
    client = connect(uri)
    points: dict[tuple[str, int], list[float]] = {}
    for key in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, key):
            points.setdefault((metric.key, metric.step), []).append(metric.value)
    return points


def once(entry: Entry) -> dict[tuple[str, int], list[float]]:
    return {point: [value] for point, value in entry.points.items()}


def test_a_run_has_params_points_tags_and_artifacts(uri: str, tmp_path: Path):
    folder = make_run(tmp_path, suite="smoke-parts", job="17", pictures=1)
    record_of(folder)
    assert main(["track", "--tracking-uri", uri, str(folder)]) == 0
    (run,) = runs_of(uri, "smoke-parts")
    assert run.info.run_name == "solo_r50_1x seed0"
    assert run.info.status == "FINISHED"
    assert run.data.params["schedule.lr"] == "0.01"
    assert run.data.params["head.grid_sizes"] == "[40, 36, 24, 16, 12]"
    expected = {
        "run_key": "smoke-parts/solo_r50_1x/seed0",
        "model": "solo_r50_1x",
        "job_id": "17",
        "device": "Example CPU",
    }
    assert expected.items() <= run.data.tags.items()
    assert {"git_sha", "config_digest", "data_digest", "suite"} <= run.data.tags.keys()
    points = points_of(uri, run)
    lines = [line for line in read_jsonl(folder / "metrics.jsonl") if line["kind"] == "train"]
    assert {step: v for (key, step), v in points.items() if key == "train/loss"} == {
        n["step"]: [n["loss"]] for n in lines
    }
    assert points["val/AP", 50]
    assert points["throughput/images_per_second", 10] == [20.0]
    assert points["final/AP", 200] == [50.0]
    client = connect(uri)
    names = {a.path for place in ("", "overlays") for a in client.list_artifacts(run.info.run_id, place)}
    assert {"config.yaml", "metrics.json", "record.json", "overlays/000000000000.png"} <= names


def test_twice_leaves_one_run_with_the_same_points(uri: str, tmp_path: Path):
    folder = make_run(tmp_path, suite="smoke-twice")
    for _ in range(2):
        assert main(["track", "--tracking-uri", uri, str(folder)]) == 0
    (run,) = runs_of(uri, "smoke-twice")
    assert points_of(uri, run) == once(Entry.read(folder))
    assert Store(uri).publish(Entry.read(folder)) == 0


def test_new_lines_are_added_to_the_same_run(uri: str, tmp_path: Path):
    folder = make_run(tmp_path, suite="smoke-grown")
    full = (folder / "metrics.jsonl").read_text()
    kept = {name: (folder / name).read_text() for name in ("train.json", "metrics.json")}
    for name in (*kept, "speed.json"):
        (folder / name).unlink()
    (folder / "metrics.jsonl").write_text("".join(full.splitlines(keepends=True)[:7]) + '{"torn": ')
    Store(uri).publish(Entry.read(folder))
    (before,) = runs_of(uri, "smoke-grown")
    assert before.info.status == "RUNNING"
    (folder / "metrics.jsonl").write_text(full)
    for name, text in kept.items():
        (folder / name).write_text(text)
    Store(uri).publish(Entry.read(folder))
    (after,) = runs_of(uri, "smoke-grown")
    assert after.info.run_id == before.info.run_id
    assert points_of(uri, after) == once(Entry.read(folder))


@pytest.mark.parametrize("change", ["config", "shorter", "values", "parameters"])
def test_another_training_replaces_the_run(uri: str, tmp_path: Path, change: str):
    suite = f"smoke-{change}"
    folder = make_run(tmp_path, suite=suite)
    Store(uri).publish(Entry.read(folder))
    (before,) = runs_of(uri, suite)
    if change == "parameters":
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("workers: 2", "workers: 3"))
    else:
        options = {"config": {"digest": "f" * 64}, "shorter": {"lines": 10}, "values": {"ap": 41.0}}[change]
        make_run(tmp_path, suite=suite, **options)
    Store(uri).publish(Entry.read(folder))
    (after,) = runs_of(uri, suite)
    assert after.info.run_id != before.info.run_id
    assert points_of(uri, after) == once(Entry.read(folder))


def test_a_resumed_training_keeps_its_run(uri: str, tmp_path: Path):
    """Killed after 20 lines, resumed from a checkpoint at 10: the files are shorter for a while."""
    folder = make_run(tmp_path, suite="smoke-resumed")
    for name in ("train.json", "metrics.json"):
        (folder / name).unlink()
    Store(uri).publish(Entry.read(folder))
    (before,) = runs_of(uri, "smoke-resumed")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:10]))
    Store(uri).publish(Entry.read(folder))
    assert [run.info.run_id for run in runs_of(uri, "smoke-resumed")] == [before.info.run_id]


def test_processes_that_open_a_fresh_store_at_once(tmp_path: Path):
    fresh = f"sqlite:///{tmp_path / 'fresh' / 'mlflow.db'}"
    folders = [make_run(tmp_path, seed=seed) for seed in (0, 1)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "solo.cli", "track", "--tracking-uri", fresh, str(folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    assert [(p.communicate()[1], p.returncode) for p in processes] == [("", 0), ("", 0)]
    found = {run.data.tags["seed"]: points_of(fresh, run) for run in runs_of(fresh, "smoke")}
    assert found == {str(seed): once(Entry.read(folder)) for seed, folder in enumerate(folders)}


def test_a_store_that_cannot_be_used_is_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = make_run(tmp_path)
    assert main(["track", "--tracking-uri", f"http://127.0.0.1:{free_port()}", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "cannot write to the MLflow store http://127.0.0.1" in error
    assert "the same command sends the rest" in error


def test_follow_takes_one_run(tmp_path: Path):
    assert main(["track", "--follow", str(tmp_path / "a"), str(tmp_path / "b")]) == 2


def test_follow_gives_up_after_its_patience(tmp_path: Path):
    folder = make_run(tmp_path)
    with pytest.raises(UserError, match="no point is lost"):
        follow(Store(f"http://127.0.0.1:{free_port()}"), folder, interval=0.01, patience=0.0, until_done=False)


def test_flatten():
    nested = {"a": {"b": 1, "c": [1, 2]}, "d": None, "e": "text"}
    assert dict(flatten(nested)) == {"a.b": "1", "a.c": "[1, 2]", "d": "null", "e": "text"}


def test_the_clock_dates_the_points(tmp_path: Path):
    folder = make_run(tmp_path)
    os.utime(folder / "config.yaml", (1000, 1000))
    entry = Entry.read(folder)
    assert [entry.milliseconds(step) for step in (0, 10, 15, 20, 9999)] == [
        1_000_000,
        1_004_000,
        1_004_000,
        1_008_000,
        1_080_000,
    ]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A real `mlflow server` on loopback, over a SQLite store that outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **quiet}, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except OSError:
                time.sleep(0.3)
        raise AssertionError((self.folder / "server.log").read_text()[-2000:])

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.mark.slow
def test_follow_outlives_an_outage_of_the_server(tmp_path: Path):
    folder = make_run(tmp_path, suite="smoke-live", lines=30)
    text = {name: (folder / name).read_text() for name in ("metrics.jsonl", "train.json", "metrics.json")}
    lines = text["metrics.jsonl"].splitlines(keepends=True)
    for name in (*text, "speed.json"):
        (folder / name).unlink()
    server = Server(tmp_path)
    follower = None
    try:
        server.start()
        command = [
            sys.executable,
            "-m",
            "solo.cli",
            "track",
            "--follow",
            "--interval",
            "0.2",
            "--tracking-uri",
            server.uri,
        ]
        follower = subprocess.Popen([*command, str(folder)], stderr=subprocess.PIPE, text=True)
        append(folder, lines[:10])
        wait_for(lambda: live_steps(server.uri) == 9)  # ten lines, one of them an evaluation
        server.kill()
        append(folder, lines[10:20])
        time.sleep(1)
        assert follower.poll() is None
        server.start()
        append(folder, lines[20:])
        for name in ("train.json", "metrics.json"):
            (folder / name).write_text(text[name])
        _, error = follower.communicate(timeout=120)
        assert follower.returncode == 0
        assert "trying again" in error
        Store(server.uri).publish(Entry.read(folder))
        (run,) = runs_of(server.uri, "smoke-live")
        assert points_of(server.uri, run) == once(Entry.read(folder))
    finally:
        if follower is not None and follower.poll() is None:
            follower.kill()
            follower.communicate()
        server.kill()


def append(folder: Path, lines: list[str]) -> None:
    with open(folder / "metrics.jsonl", "a") as file:
        file.write("".join(lines))


def live_steps(uri: str) -> int:
    return sum(key == "train/loss" for run in runs_of(uri, "smoke-live") for key, _ in points_of(uri, run))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
