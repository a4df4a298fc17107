"""Device-hours and wall time of a set of runs, before anything is submitted.

    solo plan --configs results/zoo/*/seed*/config.yaml --out plan.md

A run that has started is judged by its own throughput once 200 steps are there, one that was benchmarked by its
training step; any other by an analytic count of its arithmetic and the rate at which this machine, or the device
whose sustained rate is given, does such arithmetic. The plan says which of the three it used for each run.
"""

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from solo.artifacts import read_json, read_jsonl, write_text
from solo.config import Config, RunConfig
from solo.device import set_threads
from solo.layers import load
from solo.model.detector import DIVISOR, Detector, build_detector

TRAIN2017_IMAGES = 117_266  # images of COCO train2017 that have an annotation
COCO_ASPECT = 4 / 3  # of most images
CALIBRATION_STEPS = 200


@dataclass(frozen=True)
class Estimate:
    """What one run is expected to cost."""

    run: str
    steps: int
    images: int  # over all epochs
    gflop_per_image: float  # forward and backward
    memory: float  # bytes allocated on one device, by the model of `training_memory`
    images_per_second: float  # of one device
    source: str

    @property
    def hours(self) -> float:
        """Hours of one device."""
        return self.images / self.images_per_second / 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `solo plan`."""
    parser.add_argument("--configs", required=True, nargs="+", metavar="FILE", help="config.yaml of each run")
    parser.add_argument("--out", help="plan.md to write; default: only print")
    parser.add_argument("--devices", type=int, default=1, help="devices of one run, for the wall time")
    parser.add_argument("--tflops", type=float, help="sustained TFLOP/s of one device; default: measured here")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of the measurement; 0: all cores")


def run(args: argparse.Namespace) -> None:
    """Estimate every run, write and print the table."""
    set_threads(args.threads)
    rate = args.tflops * 1e12 if args.tflops else measure_rate()
    estimates = [estimate(Path(path), rate) for path in args.configs]
    text = render(estimates, args.devices, rate, "given" if args.tflops else "measured on this machine")
    if args.out:
        write_text(args.out, text)
    print(text, end="")


def estimate(config_file: Path, rate: float) -> Estimate:
    """The cost of the run whose config.yaml is given.

    Args:
        config_file: in the run's directory, where its throughput or speed may stand beside it.
        rate: sustained FLOP/s of one device, where nothing was measured.
    """
    spec = load(config_file)
    images_per_epoch = training_images(config_file)
    schedule = spec.config.schedule
    steps = schedule.epochs * -(-images_per_epoch // schedule.batch_size)
    flops = training_flops(spec.config)
    speed, source = throughput(config_file.parent, flops, rate)
    return Estimate(
        name(spec), steps, schedule.epochs * images_per_epoch, flops / 1e9, training_memory(spec.config), speed, source
    )


def name(spec: RunConfig) -> str:
    """A run in words."""
    setting = ", ".join(f"{key}={value}" for key, value in spec.setting.items())
    return f"{spec.name}, seed {spec.seed}" + (f" ({setting})" if setting else "")


def training_images(config_file: Path) -> int:
    """Training images of the run's suite; COCO's where the data are not there yet."""
    description = config_file.parents[2] / "data.json" if len(config_file.parents) > 2 else config_file
    if description.suffix == ".json" and description.exists():
        split = read_json(description)["splits"].get("train2017")
        if split:
            return int(split["images"] - split["images_without_objects"])
    return TRAIN2017_IMAGES


def training_flops(config: Config) -> float:
    """FLOP of one training image: forward and backward of the dense part, at the mean training scale.

    The masks of positive cells are not dense and are left out; they are a few percent.
    """
    long_side, short_side = (sum(scale[i] for scale in config.input.train_scales) for i in (0, 1))
    count = len(config.input.train_scales)
    detector, images = on_paper(config, 1, (short_side / count, long_side / count))
    with FlopCounterMode(display=False) as counter:
        features = detector.features(images)
        outputs = detector.head.category_logits(features)
        outputs += [hidden for feature in features for hidden in detector.head.mask_features(feature)]
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
    return float(counter.get_total_flops())


def training_memory(config: Config) -> float:
    """Bytes that a training in float32 allocates on one device at the largest training scale.

    Weights, momenta, the mask branch's gradients, and the maps that the backward pass needs: of backbone, pyramid and
    category branch, and of the mask branch on its largest level, because the levels are trained one after the other.
    The other gradients appear while the maps go. The masks of positive cells and the kernels' workspace are left out.
    """
    scale = max(config.input.train_scales, key=lambda scale: scale[0] * scale[1])
    detector, images = on_paper(config, config.schedule.images_per_device, (min(scale), max(scale)))
    parameters = list(detector.parameters())
    weights = {p.untyped_storage()._cdata: p.untyped_storage().nbytes() for p in parameters}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = detector.features(images)
        outputs = detector.head.category_logits(features)  # they hold the graph, which holds what is kept
        outputs += detector.head.mask_features(features[0].detach().requires_grad_())
    maps = sum(size for storage, size in kept.items() if storage not in weights)
    del outputs
    momenta = size_of(p for p in parameters if p.requires_grad)
    return sum(weights.values()) + momenta + max(maps + size_of(detector.head.mask_parameters()), momenta)


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def on_paper(config: Config, images: int, size: tuple[float, float]) -> tuple[Detector, Tensor]:
    """A detector and a padded batch without values; `size` is the largest short and long side, pixels."""
    width = min(size[0] * COCO_ASPECT, size[1])
    padded = [round(side / DIVISOR) * DIVISOR for side in (size[0], width)]
    with torch.device("meta"):
        return build_detector(config.backbone, config.head), torch.empty(images, 3, *padded)


def throughput(folder: Path, flops: float, rate: float) -> tuple[float, str]:
    """Images per second of one device, and where the figure is from."""
    curve = folder / "throughput.jsonl"
    if curve.exists():
        lines = [line for line in read_jsonl(curve) if line["step"] >= CALIBRATION_STEPS]
        if lines:
            return lines[-1]["images_per_second"], f"its own first {lines[-1]['step']} steps"
    speed = folder / "speed.json"
    step = read_json(speed)["training_step"] if speed.exists() else None
    if step:
        return 1000 * step["images_per_device"] / step["milliseconds"]["median"], "benchmark of its training step"
    return rate / flops, "arithmetic"


def measure_rate(seconds: float = 1.0) -> float:
    """FLOP/s of a typical 3x3 convolution, forward, on this machine's CPU or GPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layer = torch.nn.Conv2d(256, 256, 3, padding=1).to(device)
    images = torch.randn(1, 256, 100, 136, device=device)
    flops, done, start = 2 * 256 * 256 * 9 * 100 * 136, 0, 0.0
    with torch.no_grad():
        for repeat in range(10_000):
            layer(images)
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat == 2:
                start, done = time.perf_counter(), 0
            done += 1
            if repeat > 4 and time.perf_counter() - start > seconds:
                break
    return flops * (done - 1) / (time.perf_counter() - start)


def render(estimates: Iterable[Estimate], devices: int, rate: float, origin: str) -> str:
    """The plan as Markdown."""
    lines = [
        "# Plan",
        "",
        "| run | steps | GFLOP/image | GiB, one device | images/s, one device | device-hours | hours on "
        f"{devices} device{'s' * (devices > 1)} | rate from |",
        "| --- | --: | --: | --: | --: | --: | --: | --- |",
    ]
    total = 0.0
    for item in estimates:
        total += item.hours
        lines.append(
            f"| {item.run} | {item.steps} | {item.gflop_per_image:.1f} | {item.memory / 2**30:.2f} | "
            f"{item.images_per_second:.2f} | {item.hours:.2f} | {item.hours / devices:.2f} | {item.source} |"
        )
    lines += [
        "",
        f"Together {total:.2f} device-hours. Arithmetic rate, where it is used: {rate / 1e12:.3f} TFLOP/s, {origin}.",
    ]
    return "\n".join(lines) + "\n"
