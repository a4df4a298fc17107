"""One record per run: its configuration, data, training, metrics, speed and provenance in one file.

    solo record --run results/smoke/solo_r50_1x/seed0 --out results/smoke/solo_r50_1x/seed0/record.json

The files of a run are made at different times and can fall out of step (a model retrained after its evaluation, a
data set redrawn): a mix is refused, never merged.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import yaml

from solo.artifacts import read_json, read_jsonl, write_json
from solo.environment import environment
from solo.errors import UserError

HEADER = ("name", "suite", "seed", "setting", "config_digest", "config")
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
ACCOUNTING = ("nodes", "gpus", "gpu_model", "queue_seconds", "run_seconds", "requeues", "energy_joules")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `solo record`."""
    parser.add_argument("--run", required=True, type=Path, help="run directory: config.yaml, metrics.json, ...")
    parser.add_argument("--out", required=True, type=Path, help="record to write (JSON)")
    parser.add_argument("--data", type=Path, help="data.json of the suite; default: the one two folders above the run")
    parser.add_argument(
        "--accounting", type=Path, help="SLURM accounting, one JSON object with a job_id per line; may be absent"
    )


def run(args: argparse.Namespace) -> None:
    """Write the record of one run directory."""
    write_json(args.out, gather(args.run, args.data, args.accounting))


def gather(folder: Path, data_file: Path | None = None, accounting: Path | None = None) -> dict[str, Any]:
    """Merge the files of run directory `folder` into a record (docs/files.md).

    `environment` is that of the training; of the benchmark where nothing was trained; of this process where
    neither is there.

    Raises:
        UserError: config.yaml or metrics.json is missing, or the files are not of one run.
    """
    config = read_config(folder)
    metrics = read_json(folder / "metrics.json")
    train = _optional(folder / "train.json")
    speed = _optional(folder / "speed.json")
    default_data = folder.resolve().parent.parent / "data.json"
    data = read_json(data_file) if data_file else _optional(default_data)
    _check_metrics(folder, metrics)
    _check_one_run(folder, config, data, train, metrics)
    suite, name = identity(folder, config)
    place = (train or speed or {}).get("environment") or environment()
    return {
        "schema": 1,
        "suite": suite,
        "run": name,
        "model": config["name"],
        "seed": config["seed"],
        "setting": config["setting"],
        "config": config["config"],
        "config_digest": config["config_digest"],
        "data": data,
        "code_version": (train or {}).get("code_version"),
        "train": train,
        "metrics": metrics,
        "speed": speed,
        "environment": {**place, "job": _job(place.get("job") or {}, accounting)},
    }


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved config.yaml of run directory `folder`, with every key of HEADER.

    Raises:
        UserError: the file is missing, is not YAML, or lacks a key.
    """
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; `solo config` writes it") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    missing = [key for key in HEADER if not isinstance(config, dict) or key not in config]
    if missing:
        raise UserError(
            f"{path} is no resolved configuration: it lacks {', '.join(missing)}; "
            f"needed: {', '.join(HEADER)}; `solo config` writes one"
        )
    return config


def identity(folder: Path, config: dict[str, Any]) -> tuple[str, str]:
    """The suite and the run name of `folder`, from its place `<suite>/<run>/seed<k>` where it has one.

    The place says more than config.yaml: with data of one's own the suite's folder carries the data's name, and an
    ablation's folder the setting's hash. Elsewhere (a scratch folder) the configuration's own names are taken.
    """
    place = folder.resolve()
    suite, name = str(config["suite"]), str(config["name"])
    if re.fullmatch(r"seed\d+", place.name):
        if place.name != f"seed{config['seed']}":
            raise UserError(
                f"{folder} holds a run with seed {config['seed']}: it was copied or edited; "
                f"a run with that seed lives in a folder named seed{config['seed']}"
            )
        if place.parent.name.startswith(f"{name}--"):
            name = place.parent.name
        if place.parent.parent.name.startswith(f"{suite}-"):
            suite = place.parent.parent.name
    return suite, name


def _optional(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _check_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    missing = [name for name in METRICS if name not in metrics.get("metrics", {})]
    if missing:
        raise UserError(f"{folder / 'metrics.json'} lacks {', '.join(missing)}; `solo evaluate` writes it anew")


def _check_one_run(
    folder: Path,
    config: dict[str, Any],
    data: dict[str, Any] | None,
    train: dict[str, Any] | None,
    metrics: dict[str, Any],
) -> None:
    """Refuse files that belong to different configurations, seeds or data sets."""
    pairs: list[tuple[str, str, Any, str, Any]] = []
    if train:
        pairs += [
            (field, "train.json", train.get(field), "config.yaml", config[key])
            for field, key in (("config_digest", "config_digest"), ("model", "name"), ("seed", "seed"))
        ]
    if train and data:
        pairs.append(("data digest", "train.json", train.get("data_digest"), "data.json", data.get("digest")))
    if data and metrics.get("annotations_sha256"):
        known = {split.get("annotations_sha256") for split in data.get("splits", {}).values()}
        if known and metrics["annotations_sha256"] not in known:
            pairs.append(
                (
                    "annotations_sha256",
                    "metrics.json",
                    metrics["annotations_sha256"],
                    "data.json",
                    " or ".join(map(str, sorted(known, key=str))),
                )
            )
    for what, left_file, left, right_file, right in pairs:
        if left != right:
            raise UserError(
                f"{folder} mixes two runs: {what} is {left!r} in {left_file} but {right!r} in {right_file}; "
                f"remake {left_file}, or restore the {right_file} that it was made with"
            )


def _job(job: dict[str, Any], accounting: Path | None) -> dict[str, Any]:
    """`job` with the accounting's fields, from the last line of the file that names the same job."""
    if accounting is None or not accounting.exists() or job.get("id") is None:
        return job
    lines = [line for line in read_jsonl(accounting) if str(line.get("job_id")) == str(job["id"])]
    if not lines:
        return job
    return {**job, **{key: lines[-1][key] for key in ACCOUNTING if lines[-1].get(key) is not None}}
