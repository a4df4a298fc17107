"""What limits the time of ours in the bench: the share of convolutions, and how near they are to the machine's best.

    python -m tests.parity.limits --out FILE.json [--quick]

Of each head's inference (about 100 and 2,000 candidates) and training step, on a CPU: seconds by torch's profiler,
the share spent in convolutions, their arithmetic per second, and that of one large 3x3 convolution for comparison.
"""

import argparse
import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from solo.artifacts import write_json
from solo.device import pick_device, set_threads
from solo.environment import environment
from tests.parity import bench_sides
from tests.parity.bench import FULL, QUICK
from tests.parity.matching import threshold_in_a_gap


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="small images: only to see that it runs")
    args = parser.parse_args()
    set_threads(0)
    device, protocol = pick_device("cpu"), QUICK if args.quick else FULL
    best = best_rate()
    rows = []
    for head in bench_sides.MODELS:
        ours = bench_sides.Ours(head, device, "fp32")
        image, original = bench_sides.inference_image(protocol["inference"])
        scores = ours.category_scores(image)
        for count in protocol["candidates"]:
            threshold = threshold_in_a_gap(scores, round(0.97 * count), round(1.03 * count))
            rows.append(limits(ours.prepare_inference(image, original, threshold), head, f"inference, {count}"))
        images, truths, _ = bench_sides.training_images(protocol["training"])
        rows.append(limits(ours.prepare_training(images, truths), head, "training step", count=False))
    write_json(args.out, {"schema": 1, "best_gmac_per_s": best, "rows": rows, "environment": environment()})
    print(
        f"{'head':10} {'action':16} {'s':>6} {'in convolutions':>15} {'at GMAC/s':>9} (one large convolution: {best})"
    )
    for row in rows:
        share, rate = f"{row['convolution_share']:.0%}", row["gmac_per_s"] or "-"
        print(f"{row['head']:10} {row['action']:16} {row['seconds']:6.2f} {share:>15} {rate:>9}")


def limits(action: Callable[[], Any], head: str, name: str, count: bool = True) -> dict[str, Any]:
    """One row: the action is run once to warm up and, if asked to, count its arithmetic; once under the profiler.

    torch's counter does not work where gradients are asked for in parts, so a training step's is not counted.
    """
    with FlopCounterMode(display=False) if count else contextlib.nullcontext() as counter:
        action()
    by_operator = counter.get_flop_counts()["Global"] if counter else {}
    gmac = sum(flops for operator, flops in by_operator.items() if "convolution" in str(operator)) / 2e9
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        action()
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events) / 1e6
    convolutions = sum(event.self_cpu_time_total for event in events if "convolution" in event.key) / 1e6
    others = sorted((e for e in events if "convolution" not in e.key), key=lambda e: -e.self_cpu_time_total)
    return {
        "head": head,
        "action": name,
        "seconds": round(total, 3),
        "convolution_share": round(convolutions / total, 3),
        "gmac": round(gmac, 1) if count else None,
        "gmac_per_s": round(gmac / convolutions) if count else None,
        "next": {event.key: round(event.self_cpu_time_total / 1e6, 3) for event in others[:5]},
    }


def best_rate() -> int:
    """GMAC/s of a 3x3 convolution of 256 channels on 100x152 pixels, the largest of the heads: best of ten runs."""
    x = torch.randn(1, 256, 100, 152).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(256, 256, 3, 3).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        F.conv2d(x, kernel, padding=1)
        times.append(time.perf_counter() - start)
    return round(9 * 256 * 256 * 100 * 152 / 1e9 / min(times))


if __name__ == "__main__":
    main()
