"""Speed and memory of a model under a stated protocol.

    solo benchmark --model model.pth --data DIR --out speed.json

Real images at test-time size, real object counts in the training step. Three stages are timed apart: the network, with
post-processing and NMS, and with masks at image size as RLE. Figures of a CPU are marked as no GPU figures.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torchvision

from solo import memory
from solo.artifacts import write_json
from solo.batches import Collate, TestBatch, TrainingBatch, collate_test
from solo.checkpoint import Model, load_model
from solo.dataset import CocoSplit, TestSet, TrainingSet
from solo.device import autocast, pick_device, set_threads
from solo.environment import environment
from solo.inference import mask_sources
from solo.loader_speed import measure_loader
from solo.losses import detection_losses
from solo.model.folding import folded
from solo.postprocess import find_candidates, point_nms, select
from solo.predict import encode, masks_at_original_size
from solo.progress import Progress

STAGES = ("network", "network+nms", "network+nms+masks")
IMAGES_PER_DEVICE = 2  # of the training step: the published memory protocol
WARMUP = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `solo benchmark`."""
    parser.add_argument("--model", required=True, help="model.pth")
    parser.add_argument("--data", required=True, help="folder in COCO layout")
    parser.add_argument("--out", required=True, help="speed.json to write; times in milliseconds, memory in bytes")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="images at once")
    parser.add_argument("--repeats", type=int, default=20, help="timed repeats of each figure")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16", "fp16"), default="fp32", help="arithmetic")
    parser.add_argument("--loader", action="store_true", help="also time the loader, stage by stage, on one core")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores")


def run(args: argparse.Namespace) -> None:
    """Measure, write speed.json and print the main figures."""
    set_threads(args.threads)
    device = pick_device(args.device)
    model = load_model(args.model, device)
    result = measure(model, args.data, device, args.precision, args.batches, args.repeats)
    if args.loader:
        training = TrainingSet(CocoSplit(args.data, "train2017"), model.run.config.input, seed=0)
        result["loader"] = measure_loader(training, model.run.config)
    write_json(args.out, result)
    for entry in result["inference"]:
        time_ = entry["milliseconds_per_image"]
        print(f"batch {entry['batch']}, {entry['stage']}: {time_['median']:.1f} ms/image (n = {time_['n']})")
    if args.loader:
        stages = ", ".join(f"{stage} {value:.1f}" for stage, value in result["loader"]["milliseconds"].items())
        print(f"loader, one core: {result['loader']['images_per_second']:.1f} images/s; ms/image: {stages}")
    if result["training_step"]:
        print(f"training step, {IMAGES_PER_DEVICE} images: {result['training_step']['milliseconds']['median']:.0f} ms")


def measure(
    model: Model, data: str, device: torch.device, precision: str, batches: list[int], repeats: int
) -> dict[str, Any]:
    """The fields of speed.json."""
    config = model.run.config
    memory.reset_peak(device)
    loaded = memory.peak(device)
    test = TestSet(CocoSplit(data, "val2017"), config.input)
    inference, sizes = [], []
    for batch in batches:
        images = [
            collate_test([test[(k * batch + i) % len(test)] for i in range(batch)]) for k in range(min(repeats, 10))
        ]
        times, size = time_inference(model, images, device, precision, repeats)
        sizes.append(size)
        for stage, samples in zip(STAGES, times, strict=True):
            per_image = quartiles([sample / batch for sample in samples])
            inference.append({
                "batch": batch, "stage": stage, "milliseconds_per_image": per_image,
                "images_per_second": round(1000 / per_image["median"], 2),
            })  # fmt: skip
    inference_memory = {**memory.peak(device), "device": memory.device_total(device)}
    training = None  # of a model that is only evaluated there are no training images
    if (Path(data) / "annotations/instances_train2017.json").exists():
        training = time_training(model, data, device, precision, max(5, repeats // 2))
    return {
        "schema": 1,
        "device": {"type": device.type, "name": memory.device_name(device), "threads": torch.get_num_threads()},
        "gpu_figure": device.type == "cuda",
        "precision": precision,
        "compiled": False,
        "input_size": list(sizes[0]),
        "warmup": WARMUP,
        "inference": inference,
        "inference_memory": inference_memory,
        "resident_before": loaded["resident"],
        "training_step": training,
        "calibration": calibrate(device, max(5, repeats // 2)),
        "loader": None,
        "clocks": memory.clocks(device),
        "environment": environment(),
    }


@torch.no_grad()
def time_inference(
    model: Model, images: list[TestBatch], device: torch.device, precision: str, repeats: int
) -> tuple[list[list[float]], tuple[int, int]]:
    """Milliseconds of each repeat up to the end of each stage, and the padded size of the first batch."""
    stages: list[list[float]] = [[] for _ in STAGES]
    model = replace(model, detector=folded(model.detector))
    with Progress(f"benchmark, batch {len(images[0].image_ids)}", repeats + WARMUP, "repeats") as progress:
        for repeat in range(-WARMUP, repeats):
            marks = list(inference_marks(model, images[repeat % len(images)], device, precision))
            if repeat >= 0:
                for stage, mark in zip(stages, marks[1:], strict=True):
                    stage.append(1000 * (mark - marks[0]))
            progress.update()
    return stages, (images[0].pixels.shape[1], images[0].pixels.shape[2])


def inference_marks(model: Model, images: TestBatch, device: torch.device, precision: str) -> Iterator[float]:
    """Clock readings before the network and after each stage; the steps are those of `solo predict`."""
    config, detector = model.run.config, model.detector
    pixels, sizes = images.pixels.to(device), images.sizes.to(device)
    yield now(device)
    with autocast(device, precision):
        normalized = detector.normalize(pixels, sizes)
        features = detector.features(normalized)
        grids = [point_nms(logits.float().sigmoid()) for logits in detector.head.category_logits(features)]
        candidates = [find_candidates([g[i] for g in grids], config.test) for i in range(len(images.image_ids))]
        size = normalized.shape[2] // 4, normalized.shape[3] // 4
        sources = mask_sources(detector.head, features, candidates, size)
        yield now(device)
        found = [select(c, s, config.head.strides, config.test) for c, s in zip(candidates, sources, strict=True)]
    yield now(device)
    for i, instances in enumerate(found):
        masks = masks_at_original_size(instances.masks, images, i, config.test.mask_threshold)
        encode(images.image_ids[i], instances.scores.tolist(), instances.labels.tolist(), masks)
    yield now(device)


def time_training(model: Model, data: str, device: torch.device, precision: str, repeats: int) -> dict[str, Any]:
    """One SGD step on two images: forward, backward, update; memory is the maximum over the steps."""
    config = model.run.config
    training = TrainingSet(CocoSplit(data, "train2017"), config.input, seed=0)
    collate = Collate(config.head)
    batches: list[TrainingBatch] = [
        collate([training[(0, (IMAGES_PER_DEVICE * k + i) % len(training))] for i in range(IMAGES_PER_DEVICE)])
        for k in range(min(repeats, 10))
    ]
    detector = model.detector.train()
    optimizer = torch.optim.SGD(
        [p for p in detector.parameters() if p.requires_grad],
        lr=0.0,
        momentum=config.schedule.momentum,
        fused=True,
    )
    memory.reset_peak(device)

    def step(batch: TrainingBatch) -> None:
        with autocast(device, precision):
            features = detector.features(detector.normalize(batch.pixels, batch.sizes))
            losses = detection_losses(detector.head, features, batch.targets, config.loss)
        optimizer.zero_grad()
        (losses["loss_mask"] + losses["loss_category"]).backward()
        optimizer.step()

    moved = [batch.to(device) for batch in batches]
    times = repeat_timed(lambda i: step(moved[i % len(moved)]), repeats, device, "benchmark, training step")
    return {
        "images_per_device": IMAGES_PER_DEVICE,
        "milliseconds": quartiles(times),
        "memory": {**memory.peak(device), "device": memory.device_total(device)},
    }


@torch.no_grad()
def calibrate(device: torch.device, repeats: int) -> dict[str, Any]:
    """Throughput of torchvision's plain ResNet-50 in fp32, to compare machines by."""
    batch = 32 if device.type == "cuda" else 1
    network = torchvision.models.resnet50().eval().to(device)
    images = torch.zeros(batch, 3, 224, 224, device=device)
    with autocast(device, "fp32"):
        times = repeat_timed(lambda _: network(images), repeats, device, "benchmark, calibration")
    rate = 1000 * batch / statistics.median(times)
    return {"network": "resnet50", "input_size": [224, 224], "batch": batch, "images_per_second": round(rate, 2)}


def repeat_timed(action: Callable[[int], Any], repeats: int, device: torch.device, label: str) -> list[float]:
    """Milliseconds of each repeat after the warm-up."""
    times = []
    with Progress(label, repeats + WARMUP, "repeats") as progress:
        for repeat in range(-WARMUP, repeats):
            start = now(device)
            action(max(repeat, 0))
            if repeat >= 0:
                times.append(1000 * (now(device) - start))
            progress.update()
    return times


def now(device: torch.device) -> float:
    """Seconds, after the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def quartiles(samples: list[float]) -> dict[str, Any]:
    """Median, quartiles and number of samples."""
    q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
    return {"median": round(median, 3), "q1": round(q1, 3), "q3": round(q3, 3), "n": len(samples)}
