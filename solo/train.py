"""Train one model.

    solo train --config FILE --data DIR --out RUN_DIR [--set key=value ...] [--seed S]

Leaves model.pth, train.json, metrics.jsonl and throughput.jsonl in RUN_DIR, and checkpoints/last.pth on the way.
Resumes from that checkpoint whenever it is there and belongs to the same configuration and data.
"""

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from solo.artifacts import write_json
from solo.checkpoint import Model, save_model
from solo.config import RunConfig
from solo.data import data_digest
from solo.dataset import CocoSplit
from solo.device import pick_device, set_threads
from solo.distributed import Group, join, leave, relaunch
from solo.environment import environment
from solo.errors import UserError
from solo.layers import load, parse_assignments, with_classes
from solo.loop import Training
from solo.model.detector import build_detector
from solo.pretrained import load_backbone
from solo.progress import say
from solo.stop import Interrupted, StopSignal
from solo.version import code_version

EXIT_RESUMABLE = 75  # EX_TEMPFAIL: the state is saved, the same command goes on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `solo train`."""
    parser.add_argument("--config", required=True, help="zoo file or a run's config.yaml")
    parser.add_argument("--data", required=True, help="folder in COCO layout with train2017 and val2017")
    parser.add_argument("--out", required=True, help="run directory")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                        help="override fields, as in schedule.lr=0.02")  # fmt: skip
    parser.add_argument("--seed", type=int, help="seed; default: the config's")
    parser.add_argument(
        "--weights", default="data/weights", help="folder with ImageNet weights (`solo fetch resnet50`)"
    )
    parser.add_argument("--devices", type=int, default=1, help="processes to start on this machine, one per GPU")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads per process; 0: all cores")


def run(args: argparse.Namespace) -> None:
    """Train to the end, or save and stop when told to."""
    if args.devices > 1 and "WORLD_SIZE" not in os.environ:
        relaunch(args.devices)
    spec = load(args.config, parse_assignments(args.set))
    if args.seed is not None:
        spec = spec.model_copy(update={"seed": args.seed})
    device = pick_device(args.device)
    set_threads(args.threads)
    group = join(device.type)
    if device.type == "cuda" and group.world > 1:
        device = torch.device("cuda", torch.cuda.current_device())
    try:
        with alone(Path(args.out), group), StopSignal() as stop:
            train(spec, Path(args.data), Path(args.out), Path(args.weights), device, group, stop)
    except Interrupted as interruption:
        say(f"solo train: {interruption}; state saved, the same command goes on from there")
        raise SystemExit(EXIT_RESUMABLE) from None
    finally:
        leave(group)


@contextlib.contextmanager
def alone(out: Path, group: Group) -> Iterator[None]:
    """Hold the run directory: a second training of the same run waits, then finds the work of the first."""
    if not group.first:
        yield
        return
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / "checkpoints" / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{out}: another process is training this run; waiting for it")
        lock.acquire()
    with lock:
        yield


def train(
    spec: RunConfig, data: Path, out: Path, weights: Path, device: torch.device, group: Group, stop: StopSignal
) -> None:
    """Train `spec` on `data` and write the results to `out`.

    Raises:
        UserError: bad configuration, data or weights; a loss that is not finite.
        Interrupted: `stop` was set; the state is saved.
    """
    training_split, validation_split = CocoSplit(data, "train2017"), CocoSplit(data, "val2017")
    if training_split.categories != validation_split.categories:
        raise UserError(f"{data}: train2017 and val2017 list different categories")
    run_spec = with_classes(spec, len(training_split.categories))
    config = run_spec.config
    torch.manual_seed(spec.seed)
    detector = build_detector(config.backbone, config.head)
    if config.backbone.pretrained == "imagenet":
        load_backbone(detector.backbone, config.backbone.depth, weights)
    identity = {
        "config_digest": spec.config.digest(),
        "data_digest": data_digest(training_split, validation_split),
        "code_version": code_version(),
        "seed": spec.seed,
    }
    training = Training(
        config, detector, training_split, validation_split, spec.seed, out, spec.name, identity, device, group
    )
    training.fit(stop)
    if group.first:
        finish(run_spec, detector, training, out, identity)
    group.barrier()


def finish(spec: RunConfig, detector: Any, training: Training, out: Path, identity: dict[str, Any]) -> None:
    """Write model.pth and train.json."""
    schedule = spec.config.schedule
    summary = {
        "schema": 1,
        "model": spec.name,
        "suite": spec.suite,
        **identity,
        "steps": training.step,
        "epochs": schedule.epochs,
        "precision": schedule.precision,
        "world_size": training.group.world,
        "images_per_device": schedule.images_per_device,
        "batch_size": schedule.batch_size,
        "accumulation": training.accumulation,
        "seconds": round(training.seconds, 1),
        "resumes": training.resumes,
        "lost_steps": training.lost_steps,
        "images_per_second": round(training.images_per_second(), 2),
        "memory": training.peak_memory(),
        "parameters": {
            "total": sum(p.numel() for p in detector.parameters()),
            "trainable": sum(p.numel() for p in detector.parameters() if p.requires_grad),
        },
        "environment": environment(),
    }
    provenance = {key: str(value) for key, value in identity.items()}
    save_model(out / "model.pth", Model(detector, spec, training.training_split.categories, provenance))
    write_json(out / "train.json", summary)
