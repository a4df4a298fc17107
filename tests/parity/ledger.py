"""Every comparison goes through `check`: it is held to its tolerance, and its largest error is kept for the table.

Each entry of `TOLERANCES` says what is measured and why the bound is where it is. "Noise" is what the peer differs
from itself by when only the order of summation changes (one thread, or oneDNN off), as measured for the golden
vectors: tests/golden/tolerances.json has ten times that noise.
"""

import json
import math
import os
import secrets
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORD = Path("build") / "parity.json"
SEED = int(os.environ.get("SOLO_PARITY_SEED") or secrets.randbelow(2**31))


def seed_of(name: str) -> int:
    """A seed of its own for every test and model, the same whenever SOLO_PARITY_SEED is."""
    return (SEED + zlib.crc32(name.encode())) % 2**31


@dataclass(frozen=True)
class Tolerance:
    """The bound of one figure."""

    limit: float
    why: str


TOLERANCES: dict[str, Tolerance] = {
    "config: settings that differ": Tolerance(0, "read from both configurations"),
    "order: batches that differ": Tolerance(0, "integers"),
    "data: images that differ": Tolerance(0, "same decoder, same resize: bit for bit"),
    "forward: features, max / rms": Tolerance(1e-4, "golden: forward FPN"),
    "forward: category logits, max / rms": Tolerance(1e-4, "golden: forward head"),
    "forward: mask logits, max / rms": Tolerance(1e-4, "golden: forward head"),
    "targets: cells that differ": Tolerance(0, "integers"),
    "targets: mask pixels that differ": Tolerance(0, "integers"),
    "loss: mask, relative": Tolerance(1e-5, "golden: scenes"),
    "loss: category, relative": Tolerance(1e-5, "golden: scenes"),
    "gradient: norm of a group, relative": Tolerance(1e-3, "golden: grad group norm"),
    "gradient: total norm, relative": Tolerance(1e-4, "golden: grad total norm"),
    "gradient: vector of a group, relative": Tolerance(1e-2, "ReLU's kinks: ten times the noise of this measure"),
    "predict: unmatched fraction": Tolerance(0.05, "golden: predict; thresholds amplify noise"),
    "predict: score": Tolerance(0.0018, "golden: predict"),
    "predict: 1 - mask IoU": Tolerance(0.002, "golden: predict"),
    "train: mask loss of a step, relative": Tolerance(
        0.004, "golden: traj lr=0.001, steps 5-9, times 3 for other seeds"
    ),
    "train: category loss of a step, relative": Tolerance(0.015, "golden: traj lr=0.001, steps 5-9"),
    "train: final weight norm, relative": Tolerance(0.00017, "golden: traj lr=0.001"),
    "train: update of a group, relative": Tolerance(0.1, "eight steps of the gradient's noise"),
    "train: learning rate, relative": Tolerance(1e-9, "golden: lr"),
    "published: unmatched fraction": Tolerance(0.05, "as predict"),
    "published: AP difference": Tolerance(0.05, "requirement"),
    "real images: unmatched fraction": Tolerance(0.01, "requirement: 99 % matched"),
    "real images: pixels that differ": Tolerance(0, "same decoder, same resize: bit for bit"),
    "real images: AP difference": Tolerance(0.05, "requirement"),
    "real images: AP difference, peer as truth": Tolerance(0.05, "requirement"),
}

observed: dict[tuple[str, str], dict[str, Any]] = {}


def check(section: str, model: str, error: float, note: str = "") -> None:
    """Keep the largest error of (section, model); fail beyond the tolerance or when it is not finite."""
    error, limit = float(error), TOLERANCES[section].limit
    entry = observed.setdefault((section, model), {"error": 0.0, "checks": 0})
    entry["checks"] += 1
    entry["error"] = error if not error <= entry["error"] else entry["error"]
    assert error <= limit, f"{section}, {model}: {error:.3g} > {limit:g} {note} (SOLO_PARITY_SEED={SEED})"


def save() -> None:
    """Write what was observed, over what earlier runs left for other sections and models."""
    before = json.loads(RECORD.read_text())["rows"] if RECORD.exists() else []
    now = [
        {
            "section": section, "model": model, "error": entry["error"] if math.isfinite(entry["error"]) else None,
            "tolerance": TOLERANCES[section].limit, "checks": entry["checks"], "seed": SEED,
        }
        for (section, model), entry in observed.items()
    ]  # fmt: skip
    kept = [row for row in before if (row["section"], row["model"]) not in observed and row["section"] in TOLERANCES]
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps({"rows": kept + now}, indent=1) + "\n")


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of the table: section, model, largest error, tolerance."""
    order = {section: i for i, section in enumerate(TOLERANCES)}
    rows = sorted(rows, key=lambda row: (order[row["section"]], row["model"]))
    lines = [f"{'section':44} {'model':28} {'largest error':>13} {'tolerance':>9}"]
    for row in rows:
        error = math.nan if row["error"] is None else row["error"]
        mark = "" if error <= row["tolerance"] else "  FAIL"
        lines.append(f"{row['section']:44} {row['model']:28} {error:13.2e} {row['tolerance']:9.1e}{mark}")
    return lines
