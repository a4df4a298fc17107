"""An MLflow store, written so that doing it twice, at once or half changes nothing. Only this module imports mlflow.

A SQLite store is locked while one process writes: MLflow's own creation of a fresh store is a race that every process
loses, and SQLite takes one writer at a time. A server orders its clients itself.
"""

import contextlib
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock

from solo.entry import Entry, Point
from solo.errors import UserError

SQLITE = "sqlite:///"
METRICS_PER_BATCH = 1000  # MLflow's own limits of one request
PARAMS_PER_BATCH = 100
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # An outage is met by `solo track` itself; mlflow's own retries would block it for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


def default_uri() -> str:
    """MLFLOW_TRACKING_URI, or the SQLite store under results/."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}results/mlflow.db"


class Store:
    """A connection to the store at `uri`; `publish` brings an entry up to date."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._client: Any = None
        self._sent: dict[str, tuple[str, set[Point]]] = {}  # by key: the run's id and what it has

    def publish(self, entry: Entry) -> int:
        """Send what the store lacks of `entry`; returns the number of points sent.

        An entry that holds another training (other curves, parameters or configuration) is deleted and made anew.

        Raises:
            UserError: the store cannot be used. What was sent stays; publishing again sends the rest.
        """
        from mlflow.exceptions import MlflowException

        try:
            with self._locked():
                return self._publish(entry)
        except (MlflowException, OSError) as error:
            self._sent.pop(entry.key, None)
            raise UserError(
                f"cannot write to the MLflow store {self.uri}: {' '.join(str(error).split())[:300]}; "
                "no point is lost, the files keep them: the same command sends the rest"
            ) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self.uri.startswith(SQLITE):
                path = Path(self.uri.removeprefix(SQLITE).partition("?")[0])
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(filelock.FileLock(f"{path}.lock"))
            if self._client is None:
                self._client = connect(self.uri)
            yield

    def _publish(self, entry: Entry) -> int:
        if entry.key not in self._sent:
            self._sent[entry.key] = self._open(entry)
        run_id, sent = self._sent[entry.key]
        missing = {point: value for point, value in entry.points.items() if point not in sent}
        self._send(run_id, entry, missing)
        sent.update(missing)
        self._send_artifacts(run_id, entry)
        if entry.end is not None and self._client.get_run(run_id).info.end_time != round(1000 * entry.end):
            self._client.set_terminated(run_id, "FINISHED", round(1000 * entry.end))
        return len(missing)

    def _open(self, entry: Entry) -> tuple[str, set[Point]]:
        """The run of `entry` and the points it has; made anew where there is none or it is another training's."""
        experiment = self._experiment(entry.suite)
        for run in self._runs(experiment, entry.key):
            stored = self._history(run)
            if not is_other(entry, run.data.tags, run.data.params, stored):
                return run.info.run_id, set(stored)
            self._client.delete_run(run.info.run_id)
        self._client.create_run(
            experiment, start_time=round(1000 * entry.start), tags={"run_key": entry.key}, run_name=entry.name
        )
        first, *later = self._runs(experiment, entry.key)
        for double in later:  # two clients of a server made it at the same time: both keep the same one
            self._client.delete_run(double.info.run_id)
        return first.info.run_id, set()

    def _experiment(self, suite: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(suite)
        if found is None:
            try:
                return str(self._client.create_experiment(suite, artifact_location=self._artifact_root(suite)))
            except MlflowException:
                found = self._client.get_experiment_by_name(suite)
                if found is None:  # not that another client of a server made it meanwhile
                    raise
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _artifact_root(self, suite: str) -> str | None:
        if not self.uri.startswith(SQLITE):
            return None
        database = Path(self.uri.removeprefix(SQLITE).partition("?")[0])
        return (database.resolve().parent / "mlartifacts" / suite).as_uri()

    def _runs(self, experiment: str, key: str) -> list[Any]:
        found = self._client.search_runs([experiment], f"tags.run_key = '{key}'", max_results=100)
        return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))

    def _history(self, run: Any) -> dict[Point, float]:
        histories = (self._client.get_metric_history(run.info.run_id, key) for key in run.data.metrics)
        return {(metric.key, metric.step): metric.value for metric in itertools.chain.from_iterable(histories)}

    def _send(self, run_id: str, entry: Entry, points: dict[Point, float]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        run = self._client.get_run(run_id).data
        params = [Param(key, value) for key, value in entry.params.items() if key not in run.params]
        tags = [RunTag(key, value) for key, value in entry.tags.items() if run.tags.get(key) != value]
        if tags:
            self._client.log_batch(run_id, tags=tags)
        for some in _batches(params, PARAMS_PER_BATCH):
            self._client.log_batch(run_id, params=some)
        metrics = [
            Metric(key, value, entry.milliseconds(step), step)
            for (key, step), value in sorted(points.items(), key=lambda item: (item[0][1], item[0][0]))
        ]
        for some in _batches(metrics, METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=some)

    def _send_artifacts(self, run_id: str, entry: Entry) -> None:
        digest = entry.artifacts_digest()
        if self._client.get_run(run_id).data.tags.get("artifacts_digest") == digest:
            return
        for file, place in entry.artifacts:
            self._client.log_artifact(run_id, str(file), place or None)
        self._client.set_tag(run_id, "artifacts_digest", digest)


def is_other(entry: Entry, tags: dict[str, str], params: dict[str, str], stored: dict[Point, float]) -> bool:
    """Whether a stored run is another training than `entry`: its configuration or any point of its curves differs.

    Points beyond the end of the files are no sign of it while a training goes on: a resumed one starts from its
    checkpoint and will write them again.
    """
    if tags.get("config_digest", entry.tags["config_digest"]) != entry.tags["config_digest"]:
        return True
    if any(entry.params.get(key) != value for key, value in params.items()):
        return True
    curves = {point: value for point, value in stored.items() if not point[0].startswith("throughput/")}
    if any(point in entry.curves and entry.curves[point] != value for point, value in curves.items()):
        return True
    return entry.trained and not curves.keys() <= entry.curves.keys()


def connect(uri: str) -> Any:
    """An MlflowClient for `uri`, without telemetry, progress bars and chatter."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _batches(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))
