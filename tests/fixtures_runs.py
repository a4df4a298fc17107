"""Synthetic run directories in the form of docs/files.md, with numbers that depend on model and seed only."""

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

MODELS = (
    "solo_r50_1x",
    "solo_r50_3x",
    "decoupled_solo_r50_1x",
    "decoupled_solo_r50_3x",
    "decoupled_solo_light_r50_3x",
)
CARD_AP = dict(zip(MODELS, (33.1, 35.9, 33.9, 36.7, 32.9), strict=True))


def environment(gpu: str | None = None, job: str | None = None) -> dict[str, Any]:
    """A fixed machine, so that records are equal wherever the tests run."""
    return {
        "git_sha": "0123456789abcdef0123456789abcdef01234567",
        "git_dirty": False,
        "python": "3.11.7",
        "platform": "Linux-6.1-x86_64",
        "hostname": "node1",
        "cpu": "Example CPU",
        "cores": 2,
        "memory": 16_000_000_000,
        "gpu": gpu,
        "gpu_count": 8 if gpu else 0,
        "driver": "550.54.15" if gpu else None,
        "cuda": "12.8" if gpu else None,
        "packages": {"torch": "2.14.1", "torchvision": "0.29.1", "numpy": "2.4.6", "solo": "0.1.0", "snakemake": None},
        "job": {
            "id": job,
            "nodes": None,
            "queue_seconds": None,
            "run_seconds": None,
            "requeues": None,
            "energy_joules": None,
        },
    }


def make_run(
    root: Path,
    model: str = "solo_r50_1x",
    suite: str = "smoke",
    seed: int = 0,
    *,
    ap: float | None = None,
    gpu: str | None = None,
    setting: dict[str, Any] | None = None,
    lines: int = 20,
    images: int | None = None,
    precision: str = "fp32",
    job: str | None = None,
    pictures: int = 0,
    digest: str | None = None,
) -> Path:
    """Write the files of one run under `root/<suite>/<run>/seed<seed>` and return that folder."""
    full = suite in ("zoo", "published")
    images = images or (5000 if full else 60)
    setting = setting or {}
    run = model + (f"--{abs(hash_of(setting)):08x}" if setting else "")
    folder = root / suite / run / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    rank = MODELS.index(model)
    ap = ap if ap is not None else 50.0 + 2 * rank + seed
    config_digest = digest or f"{hash_of([model, setting]):08x}" * 8
    epochs = 36 if model.endswith("3x") else 12
    place = environment(gpu, job)
    data = write_data(root / suite, suite, images)
    config = {
        "name": model,
        "suite": suite.partition("-")[0],
        "seed": seed,
        "setting": setting,
        "config_digest": config_digest,
        "config": {
            "head": {"kind": "solo", "grid_sizes": [40, 36, 24, 16, 12]},
            "schedule": {"epochs": epochs, "lr": 0.01, "precision": precision},
            "runtime": {"workers": 2},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    if suite != "published":
        write_curves(folder, ap, epochs, lines)
        train = {
            "schema": 1,
            "model": model,
            "suite": suite,
            "seed": seed,
            "steps": lines * 10,
            "epochs": epochs,
            "config_digest": config_digest,
            "data_digest": data["digest"],
            "code_version": "c0de",
            "precision": precision,
            "world_size": 8 if gpu else 1,
            "images_per_device": 2,
            "batch_size": 16,
            "accumulation": 1 if gpu else 8,
            "seconds": 360.0 * (rank + 1),
            "resumes": 0,
            "lost_steps": 0,
            "images_per_second": 58.0 - rank,
            "memory": memory(gpu, rank),
            "parameters": {"total": 36_300_000, "trainable": 36_080_000},
            "environment": place,
        }
        write(folder / "train.json", train)
    write(folder / "metrics.json", metrics(ap, images, data))
    write(folder / "speed.json", speed(gpu, rank, full, model, precision, place))
    for number in range(pictures):
        draw(folder / "overlays" / f"{number:012d}.png", number, rank)
    return folder


def hash_of(value: Any) -> int:
    """A small number that depends on the content of `value` only (Python's own hash is salted)."""
    return sum((i + 1) * byte for i, byte in enumerate(json.dumps(value, sort_keys=True).encode())) % 2**32


def write(path: Path, value: Any) -> None:
    """Write `value` as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_data(folder: Path, suite: str, images: int) -> dict[str, Any]:
    """The suite's data.json."""
    name = "coco" if suite in ("zoo", "published") else "synth"
    data = {
        "schema": 1,
        "root": f"data/{name}",
        "name": name,
        "digest": f"{hash_of(name):08x}" * 8,
        "categories": [{"id": 1, "name": "disc"}, {"id": 2, "name": "box"}],
        "splits": {
            split: {
                "images": count,
                "annotations": 5 * count,
                "crowds": 3,
                "images_without_objects": 1,
                "annotations_sha256": f"{hash_of(split):08x}" * 8,
            }
            for split, count in (("train2017", 400), ("val2017", images))
        },
    }
    write(folder / "data.json", data)
    return data


def write_curves(folder: Path, ap: float, epochs: int, lines: int) -> None:
    """metrics.jsonl and throughput.jsonl: `lines` loss lines, an evaluation after every fifth."""
    curves, speeds = [], []
    for i in range(1, lines + 1):
        step = 10 * i
        decay = math.exp(-3 * i / lines)
        mask, category = 30 / ap + 2 * decay + 0.03 * math.sin(7 * i), 10 / ap + decay
        curves.append(
            {
                "kind": "train",
                "step": step,
                "epoch": 1 + epochs * (i - 1) // lines,
                "lr": 0.01 if i < 0.7 * lines else 0.001,
                "loss": mask + category,
                "loss_mask": mask,
                "loss_category": category,
                "positive_cells": 31.5,
            }
        )
        speeds.append(
            {
                "step": step,
                "seconds": 4.0 * i,
                "images_per_second": 19.0 + i % 3,
                "data_wait_fraction": 0.01,
                "memory": 512_000_000,
            }
        )
        if i % 5 == 0:
            figures = {k: v for k, v in sizes(ap * (1 - decay / 2)).items() if k.startswith("AP")}
            curves.append({"kind": "val", "step": step, "epoch": curves[-1]["epoch"], **figures})
    for name, rows in (("metrics.jsonl", curves), ("throughput.jsonl", speeds)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def sizes(ap: float) -> dict[str, float]:
    """The twelve figures around `ap`."""
    small = {"AP": ap, "AP50": 1.5 * ap, "AP75": ap + 1, "APs": 0.4 * ap, "APm": 1.05 * ap, "APl": 1.3 * ap}
    return {**small, "AR1": ap, "AR10": ap + 5, "AR100": ap + 6, "ARs": 0.5 * ap, "ARm": 1.1 * ap, "ARl": 1.4 * ap}


def metrics(ap: float, images: int, data: dict[str, Any]) -> dict[str, Any]:
    """metrics.json."""
    return {
        "schema": 1,
        "iou_type": "segm",
        "backend": "pycocotools 2.0.11",
        "metrics": sizes(ap),
        "per_category": {"disc": ap + 5, "box": ap - 5},
        "images": images,
        "detections": 2100,
        "annotations_sha256": data["splits"]["val2017"]["annotations_sha256"],
        "predictions_sha256": "ab" * 32,
    }


def memory(gpu: str | None, rank: int) -> dict[str, int | None]:
    """Memory in bytes, as train.json and speed.json have it."""
    allocated = 8 * 2**30 - rank * 2**29 if gpu else None
    reserved = allocated + 2**29 if allocated else None
    return {"allocated": allocated, "reserved": reserved, "resident": 900_000_000 + rank * 10**7}


def speed(gpu: str | None, rank: int, full: bool, model: str, precision: str, place: dict[str, Any]) -> dict[str, Any]:
    """speed.json: batches 1 and 8, the three stages."""
    size = [128, 160] if not full else [512, 864] if "light" in model else [800, 1216]
    base = (20.0 if gpu else 40.0) + 4 * rank
    inference = [
        {
            "batch": batch,
            "stage": stage,
            "milliseconds_per_image": {"median": base + extra, "q1": base + extra - 1, "q3": base + extra + 2, "n": 20},
            "images_per_second": 1000 / (base + extra),
        }
        for batch in (1, 8)
        for stage, extra in (("network", 0.0), ("network+nms", 3.0), ("network+nms+masks", 5.0))
    ]
    return {
        "schema": 1,
        "device": {"type": "cuda" if gpu else "cpu", "name": gpu or "Example CPU", "threads": 2},
        "gpu_figure": bool(gpu),
        "precision": precision,
        "compiled": False,
        "input_size": size,
        "warmup": 3,
        "inference": inference,
        "inference_memory": {**memory(gpu, rank), "device": None},
        "training_step": {
            "images_per_device": 2,
            "milliseconds": {"median": 100.0, "q1": 98.0, "q3": 104.0, "n": 10},
            "memory": {**memory(gpu, rank), "device": None},
        },
        "calibration": {"network": "resnet50", "input_size": [224, 224], "batch": 1, "images_per_second": 50.0},
        "clocks": None,
        "environment": place,
    }


def draw(path: Path, number: int, rank: int) -> None:
    """A small picture: ground truth beside prediction."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((160, 420, 3), 235, np.uint8)
    for left in (0, 215):
        cv2.circle(picture, (left + 60 + 9 * number, 80), 35 + (rank if left else 0), (60, 90, 200), -1)
        cv2.rectangle(picture, (left + 120, 40), (left + 180, 110 + 5 * number), (190, 120, 40), -1)
    cv2.imwrite(str(path), picture)


def record_of(folder: Path, **options: Any) -> Path:
    """`solo record` for a run directory; returns the record's path."""
    from solo.artifacts import write_json
    from solo.record import gather

    path = folder / "record.json"
    write_json(path, gather(folder, **options))
    return path
