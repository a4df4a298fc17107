"""What only a GPU can tell, in one call of a few minutes.

    python -m tests.gpu.check --data DIR --out results/measured/gpu.json [--steps parity bf16 speed batch]

- parity: the golden network's losses and detections on the GPU in fp32 against the CPU's;
- bf16: masks under bf16 autocast against fp32, with the same weights on real images: IoU of matched instances and AP;
- speed: `solo benchmark` of each head at the zoo's sizes, fp32, tf32 and bf16;
- batch: the largest number of images that fits a training step.

The record names device and versions. `--device cpu --quick` runs the same code small, to see that it works.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from pycocotools import mask as rle_tools

from solo import benchmark
from solo.artifacts import write_json
from solo.batches import Collate
from solo.checkpoint import Model
from solo.dataset import CocoSplit, TrainingSet
from solo.device import autocast, pick_device
from solo.environment import environment
from solo.evaluate import evaluate
from solo.layers import load, with_classes
from solo.losses import detection_losses
from solo.model.detector import Detector
from solo.predict import predict_split
from tests.golden.common import KINDS, batch_targets, build, image_info, prepare
from tests.golden.spec_public import SCENES, SEED, TAG

ZOO = Path(__file__).parents[2] / "workflow/config/zoo"
MODELS = {"solo": "solo_r50_1x", "decoupled": "decoupled_solo_r50_1x", "light": "decoupled_solo_light_r50_3x"}


def scene_losses(kind: str, detector: Detector, device: torch.device, precision: str) -> dict[str, float]:
    """Losses of the golden scene `mix` on a device."""
    loaded = [image_info(h, w, kinds, (TAG, "mix", i)) for i, (h, w, kinds) in enumerate(SCENES["mix"])]
    images = prepare(detector.cpu(), [pixels for pixels, _, _ in loaded]).to(device)
    targets = batch_targets(kind, [truth for _, _, truth in loaded], (images.shape[2], images.shape[3])).to(device)
    detector = detector.to(device)
    with torch.no_grad(), autocast(device, precision):
        losses = detection_losses(detector.head, detector.features(images), targets, load(zoo(kind)).config.loss)
    return {name: float(value) for name, value in losses.items()}


def zoo(kind: str) -> Path:
    """The zoo file of a golden model."""
    return ZOO / f"{MODELS[kind]}.yaml"


def parity(device: torch.device) -> dict[str, Any]:
    """Largest relative difference of a loss between the device in fp32 and the CPU, per head."""
    result = {}
    for kind in KINDS:
        detector = build(kind, SEED).train()
        ours = scene_losses(kind, detector, device, "fp32")
        reference = scene_losses(kind, detector, torch.device("cpu"), "fp32")
        result[kind] = max(abs(ours[name] - value) / abs(value) for name, value in reference.items())
    return result


def bf16(device: torch.device, data: Path, out: Path, images: int) -> dict[str, Any]:
    """Detections under bf16 against fp32 with the same weights: matched share, IoU, AP of both."""
    split = CocoSplit(data, "val2017")
    split.images = split.images[:images]
    result = {}
    for kind in KINDS:
        detector = build(kind, SEED).to(device).eval()
        config = load(zoo(kind)).config
        found = {p: list(predict_split(detector, split, config, device, p)) for p in ("fp32", "bf16")}
        ious = [best_iou(r, found["bf16"]) for r in found["fp32"]]
        figures = {}
        for precision, results in found.items():
            path = out.with_suffix(f".{kind}.{precision}.json")
            write_json(path, results, indent=None)
            figures[precision] = evaluate(path, split.annotation_file)["metrics"]["AP"]
            path.unlink()
        result[kind] = {
            "instances": len(ious),
            "matched": sum(iou > 0.5 for iou in ious) / max(len(ious), 1),
            "median_iou": sorted(ious)[len(ious) // 2] if ious else None,
            "ap": figures,
        }
    return result


def best_iou(result: dict[str, Any], others: list[dict[str, Any]]) -> float:
    """The best mask IoU among the other side's instances of the same image and category."""
    same = [o["segmentation"] for o in others if all(o[k] == result[k] for k in ("image_id", "category_id"))]
    return float(rle_tools.iou([result["segmentation"]], same, [0] * len(same)).max()) if same else 0.0


def as_model(kind: str, device: torch.device, split: CocoSplit) -> Model:
    """The golden network as a loaded model."""
    run = with_classes(load(zoo(kind)), len(split.categories))
    return Model(build(kind, SEED).to(device).eval(), run, split.categories, {})


def speed(device: torch.device, data: Path, quick: bool) -> dict[str, Any]:
    """`solo benchmark` of each head and precision."""
    split = CocoSplit(data, "val2017")
    precisions = ("fp32",) if device.type == "cpu" else ("fp32", "tf32", "bf16")
    return {
        kind: {
            precision: benchmark.measure(
                as_model(kind, device, split),
                str(data),
                device,
                precision,
                [1] if quick else [1, 8],
                2 if quick else 30,
            )
            for precision in precisions
        }
        for kind in (["light"] if quick else KINDS)
    }


def largest_batch(device: torch.device, data: Path, limit: int) -> dict[str, Any]:
    """The largest number of images per training step that fits, by doubling; null where nothing fits."""
    result: dict[str, Any] = {}
    split = CocoSplit(data, "train2017")
    for kind in KINDS:
        model = as_model(kind, device, split)
        training, collate = TrainingSet(split, model.run.config.input, 0), Collate(model.run.config.head)
        result[kind], count = None, 2
        while count <= limit:
            batch = collate([training[(0, i % len(training))] for i in range(count)]).to(device)
            try:
                images = model.detector.train().normalize(batch.pixels, batch.sizes)
                losses = detection_losses(
                    model.detector.head, model.detector.features(images), batch.targets, model.run.config.loss
                )
                sum(losses.values(), torch.zeros((), device=device)).backward()
            except torch.OutOfMemoryError:
                break
            model.detector.zero_grad()
            result[kind], count = count, 2 * count
    return result


def main() -> None:
    """Run the wanted steps, write the record, print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder in COCO layout with COCO's 80 categories")
    parser.add_argument("--out", type=Path, required=True, help="record to write")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", nargs="+", default=["parity", "bf16", "speed", "batch"])
    parser.add_argument("--images", type=int, default=66, help="images of the bf16 comparison")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    device = pick_device(args.device)
    steps = {
        "parity": lambda: parity(device),
        "bf16": lambda: bf16(device, args.data, args.out, args.images),
        "speed": lambda: speed(device, args.data, args.quick),
        "batch": lambda: largest_batch(device, args.data, 2 if args.quick else 256),
    }
    record = {"device": args.device, "environment": environment(), **{name: steps[name]() for name in args.steps}}
    write_json(args.out, record)
    print(json.dumps({name: record[name] for name in args.steps}, indent=1))


if __name__ == "__main__":
    main()
