"""Time and memory beside the living peer: the same weights and images, in turn, ratios per pair, medians.

    python -m tests.parity.bench --device cpu --out FILE.json [--heads solo,light] [--pairs 3] [--quick]

Inference: one 800 x 1216 image, from pixels to masks of the original size, with the score threshold where about 100
or 2,000 candidates pass. Training: one SGD step on two images of 512 x 672. Targets: one 800 x 1216 image with 10, 40
and 80 objects. Loader: images per second of one core. Memory: growth of the peak (resident on a CPU, allocated on a
GPU) in a fresh process per side. SOLO_REFERENCE names the folder with data/coco158; without it, images are drawn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import torch

from solo import memory
from solo.artifacts import write_json
from solo.benchmark import now
from solo.device import pick_device
from solo.environment import environment
from tests.parity import bench_sides, small_coco
from tests.parity.bench_sides import MODELS, Ours, Theirs
from tests.parity.matching import threshold_in_a_gap

FULL = {"inference": (800, 1216), "training": (512, 672), "objects": (10, 40, 80), "candidates": (100, 2000), "n": 5}
QUICK = {"inference": (256, 320), "training": (128, 160), "objects": (10,), "candidates": (100, 2000), "n": 2}
SIDES = {"ours": Ours, "peer": Theirs}
Row = dict[str, Any]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "tf32", "bf16"), help="of both sides")
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--heads", default=",".join(MODELS), help="comma-separated: solo, decoupled, light")
    parser.add_argument("--quick", action="store_true", help="small images, two repeats: only to see that it runs")
    parser.add_argument("--pairs", type=int, help="repeats of each pair [5; quick: 2]")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # internal: one side, one task, in this process
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(json.dumps(peak_growth(json.loads(args.memory_of))))
        return
    device, protocol = pick_device(args.device), QUICK if args.quick else FULL
    protocol = protocol | {"n": args.pairs or protocol["n"]}
    rows: list[Row] = []
    for head in args.heads.split(","):
        new = measure(head, device, args, protocol)
        rows += new
        write_json(args.out, {**header(device, args, protocol), "rows": rows})
        print("\n".join(table(new)), flush=True)


def header(device: torch.device, args: argparse.Namespace, protocol: dict[str, Any]) -> dict[str, Any]:
    """What the figures depend on."""
    packages = ("torch", "mmdet", "mmengine", "mmcv-lite", "opencv-python-headless", "numpy")
    return {
        "schema": 1,
        "device": {"type": device.type, "name": memory.device_name(device), "clocks": memory.clocks(device)},
        "gpu_figure": device.type == "cuda",
        "threads": args.threads,
        "precision": args.precision,
        "versions": {name: version(name) for name in packages},
        "protocol": {
            **protocol, "quick": args.quick, "weights": f"generated from their names, seed {bench_sides.SEED}",
            "training_images": bench_sides.training_images(protocol["training"])[2],
            "load_average": os.getloadavg()[0],
            "pairs": "sides alternate, who begins too; ratio is the median of the pairs' ratios, ours / peer",
        },
        "environment": environment(),
    }  # fmt: skip


def measure(head: str, device: torch.device, args: argparse.Namespace, protocol: dict[str, Any]) -> list[Row]:
    """All rows of one head."""
    ours, theirs = Ours(head, device, args.precision), Theirs(head, device, args.precision)
    image, original = bench_sides.inference_image(protocol["inference"])
    scores = ours.category_scores(image)
    rows, n = [], protocol["n"]

    thresholds = {}
    for count in protocol["candidates"]:
        thresholds[count] = threshold_in_a_gap(scores, round(0.97 * count), round(1.03 * count))
        actions = [side.prepare_inference(image, original, thresholds[count]) for side in (ours, theirs)]
        figure = "inference_time" if count == 100 else f"inference_time_{count}"
        passed = int((scores > thresholds[count]).sum())
        rows.append(pair(figure, head, *actions, n, device) | {"candidates": passed})
    images, truths, _ = bench_sides.training_images(protocol["training"])
    rows.append(pair("train_time", head, *(s.prepare_training(images, truths) for s in (ours, theirs)), n, device))
    for count in protocol["objects"]:
        scene = bench_sides.many_objects(protocol["inference"], count)
        actions = [side.prepare_targets(*scene) for side in (ours, theirs)]
        rows.append(pair("targets_time", head, *actions, max(n, 7), device) | {"objects": count})
    rows.append(loader(head, ours, theirs, n))
    del ours, theirs
    for task in ("inference", "train"):
        values = {
            side: in_fresh_process({
                "side": side, "task": task, "head": head, "device": str(device), "precision": args.precision,
                "size": protocol["inference" if task == "inference" else "training"], "threshold": thresholds[100],
            }, args)
            for side in SIDES
        }  # fmt: skip
        rows.append({
            "figure": f"{task}_memory", "head": head, "ours": values["ours"], "peer": values["peer"],
            "ratio": round(values["ours"] / values["peer"], 4), "unit": "MiB", "n": 1,
        })  # fmt: skip
    return rows


def pair(figure: str, head: str, ours: Callable[[], Any], peer: Callable[[], Any], n: int, device: torch.device) -> Row:
    """Time two actions in turn, `n` pairs after one warm-up each; who begins alternates."""
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    actions = {"ours": ours, "peer": peer}
    for repeat in range(-1, n):
        for side in ("ours", "peer") if repeat % 2 else ("peer", "ours"):
            start = now(device)
            actions[side]()
            if repeat >= 0:
                times[side].append(1000 * (now(device) - start))
    return row(figure, head, times, "ms")


def row(figure: str, head: str, values: dict[str, list[float]], unit: str) -> Row:
    """Medians of both sides and of the pairs' ratios."""
    ratios = [a / b for a, b in zip(values["ours"], values["peer"], strict=True)]
    return {
        "figure": figure, "head": head, **{side: round(statistics.median(v), 3) for side, v in values.items()},
        "ratio": round(statistics.median(ratios), 4), "unit": unit, "n": len(ratios),
        "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
    }  # fmt: skip


def loader(head: str, ours: Ours, theirs: Theirs, n: int) -> Row:
    """Images per second of one core: decoded, augmented, with their masks; eight images a turn."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        source = bench_sides.real_data()
        if source is None:
            source = small_coco.drawn(Path(folder) / "synth", 24, 1, 480, seed=0), "train2017"
        actions = {"ours": ours.prepare_loader(*source), "peer": theirs.prepare_loader(*source)}
        rates: dict[str, list[float]] = {"ours": [], "peer": []}
        for turn in range(-1, n):
            for side in ("ours", "peer") if turn % 2 else ("peer", "ours"):
                start = time.perf_counter()
                for i in range(8):
                    actions[side](8 * turn + i)
                if turn >= 0:
                    rates[side].append(8 / (time.perf_counter() - start))
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])
    return row("loader_rate", head, rates, "images/s per core") | {"data": source[0].name}


def in_fresh_process(task: dict[str, Any], args: argparse.Namespace) -> float:
    """Peak growth in MiB of one side's task in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.parity.bench", "--out", "-", "--memory-of"]
    command += [json.dumps(task), "--threads", str(args.threads)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return round(float(json.loads(answer.splitlines()[-1])) / 2**20, 1)


def peak_growth(task: dict[str, Any]) -> float:
    """Bytes by which the peak exceeds what the built and loaded model takes; the second of two runs counts on a GPU."""
    device = pick_device(task["device"])
    side = SIDES[task["side"]](task["head"], device, task["precision"])
    if task["task"] == "inference":
        action = side.prepare_inference(*bench_sides.inference_image(tuple(task["size"])), task["threshold"])
    else:
        action = side.prepare_training(*bench_sides.training_images(tuple(task["size"]))[:2])
    if device.type == "cuda":
        action()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        action()
        return torch.cuda.max_memory_allocated(device) - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from the current size
    before = resident("VmRSS")
    for _ in range(2):
        action()
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """A size in bytes from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def table(rows: list[Row]) -> list[str]:
    """Lines for people."""
    lines = [f"{'figure':20} {'head':10} {'ours':>10} {'peer':>10} {'ratio':>7}  {'n':>2}  unit"]
    for entry in rows:
        figure = entry["figure"] + (f" ({entry['objects']})" if "objects" in entry else "")
        lines.append(
            f"{figure:20} {entry['head']:10} {entry['ours']:10.1f} {entry['peer']:10.1f} {entry['ratio']:7.3f}  "
            f"{entry['n']:2}  {entry['unit']}"
        )
    return lines


if __name__ == "__main__":
    main()
