"""What a run directory holds for an experiment store: parameters, tags, points and artifacts, in no store's terms."""

import bisect
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solo.artifacts import read_json, read_jsonl, sha256
from solo.compare import fps
from solo.record import identity, read_config

Point = tuple[str, int]  # metric and optimizer step
ARTIFACTS = ("config.yaml", "metrics.json", "record.json", "overlays/*.png")


@dataclass(frozen=True)
class Entry:
    """One run as a store shall show it.

    `curves` are bit-equal whenever the same training is done, so a store that disagrees holds another training.
    `timings` depend on the machine and its load: the first value seen for a step is as good as the next.
    """

    suite: str
    name: str
    key: str  # suite/run/seed: one entry per key
    params: dict[str, str]
    tags: dict[str, str]
    curves: dict[Point, float]
    timings: dict[Point, float]
    clock: list[tuple[int, float]]  # steps, ascending, and the seconds of training that they took
    start: float  # seconds since the epoch
    end: float | None  # None: not evaluated yet
    trained: bool
    artifacts: list[tuple[Path, str]]  # file, folder within the entry

    @classmethod
    def read(cls, folder: Path) -> "Entry":
        """Read what there is of a run; a training that still goes on has neither train.json nor metrics.json.

        Raises:
            UserError: no config.yaml, or an unreadable file.
        """
        config = read_config(folder)
        suite, name = identity(folder, config)
        seed = config["seed"]
        key = f"{suite}/{name}/seed{seed}"
        parts = {part: _optional(folder / f"{part}.json") for part in ("train", "metrics", "speed", "record")}
        lines = _lines(folder / "throughput.jsonl")
        done = folder / "metrics.json"
        return cls(
            suite=suite,
            name=f"{name} seed{seed}",
            key=key,
            params=dict(flatten({"model": config["name"], "seed": seed, **config["config"]})),
            tags=_tags(key, name, suite, config, parts),
            curves={
                **{p: v for line in _lines(folder / "metrics.jsonl") for p, v in _points(line["kind"], line)},
                **_results(parts),
            },
            timings={point: value for line in lines for point, value in _points("throughput", line)},
            clock=sorted((line["step"], line["seconds"]) for line in lines if line.get("seconds") is not None),
            start=(folder / "config.yaml").stat().st_mtime,
            end=done.stat().st_mtime if done.exists() else None,
            trained=parts["train"] is not None,
            artifacts=[
                (file, "overlays" if "/" in pattern else "")
                for pattern in ARTIFACTS
                for file in sorted(folder.glob(pattern))
            ],
        )

    @property
    def points(self) -> dict[Point, float]:
        """Curves and timings together."""
        return {**self.timings, **self.curves}

    def artifacts_digest(self) -> str:
        """SHA-256 over names and contents of the artifacts."""
        lines = [f"{place}/{file.name} {sha256(file)}" for file, place in self.artifacts]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def milliseconds(self, step: int) -> int:
        """When a step was done, in milliseconds since the epoch: the start where no clock line is near."""
        known = bisect.bisect_right(self.clock, step, key=lambda moment: moment[0])
        return round(1000 * (self.start + (self.clock[known - 1][1] if known else 0)))


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as dotted keys; every other value as JSON, strings as they are."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from flatten(below, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value)


def _optional(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _lines(path: Path) -> list[dict[str, Any]]:
    return read_jsonl(path) if path.exists() else []


def _points(prefix: str, line: dict[str, Any]) -> Iterator[tuple[Point, float]]:
    for key, value in line.items():
        if key not in ("kind", "step") and isinstance(value, (int, float)):
            yield (f"{prefix}/{key}", line["step"]), float(value)


def _results(parts: dict[str, Any]) -> dict[Point, float]:
    """Final figures, at the last step."""
    train, metrics, speed = parts["train"] or {}, parts["metrics"] or {}, parts["speed"]
    step = train.get("steps", 0)
    memory = train.get("memory") or {}
    model = train.get("model") or (parts["record"] or {}).get("model", "")
    measured = fps({"model": model, "speed": speed})
    figures = {
        **metrics.get("metrics", {}),
        "fps": measured[0] if measured else None,
        "train_seconds": train.get("seconds"),
        "train_images_per_second": train.get("images_per_second"),
        "train_memory_allocated": memory.get("allocated"),
        "train_memory_resident": memory.get("resident"),
    }
    return {(f"final/{name}", step): float(value) for name, value in figures.items() if value is not None}


def _tags(key: str, name: str, suite: str, config: dict[str, Any], parts: dict[str, Any]) -> dict[str, str]:
    train, record = parts["train"] or {}, parts["record"] or {}
    place = record.get("environment") or train.get("environment") or (parts["speed"] or {}).get("environment") or {}
    data_digest = (record.get("data") or {}).get("digest") or train.get("data_digest")
    tags = {
        "run_key": key,
        "suite": suite,
        "run": name,
        "model": config["name"],
        "seed": config["seed"],
        "setting": json.dumps(config["setting"], sort_keys=True) if config["setting"] else None,
        "config_digest": config["config_digest"],
        "data_digest": data_digest,
        "code_version": train.get("code_version"),
        "git_sha": place.get("git_sha"),
        "git_dirty": place.get("git_dirty"),
        "device": place.get("gpu") or place.get("cpu"),
        "hostname": place.get("hostname"),
        "job_id": (place.get("job") or {}).get("id"),
    }
    return {tag: str(value) for tag, value in tags.items() if value is not None}
