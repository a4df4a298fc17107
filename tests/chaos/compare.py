"""Whether two results folders hold the same results: files byte by byte, tables but for times and memory."""

import csv
import json
from pathlib import Path

SAME_BYTES = ("config.yaml", "metrics.jsonl", "metrics.json", "predictions.json")
MEASURED = ("memory", "fps", "protocol")  # columns whose names hold one of these depend on the moment


def differences(left: Path, right: Path) -> list[str]:
    """What differs, in words; an empty list where nothing does."""
    found = []
    runs = [sorted(str(p.parent.relative_to(side)) for p in side.glob("*/seed*/model.pth")) for side in (left, right)]
    if runs[0] != runs[1]:
        found.append(f"runs: {runs[0]} in {left}, {runs[1]} in {right}")
    for run in sorted(set(runs[0]) & set(runs[1])):
        for name in SAME_BYTES:
            if (left / run / name).read_bytes() != (right / run / name).read_bytes():
                found.append(f"{run}/{name}")
    if _rows(left / "table.csv") != _rows(right / "table.csv"):
        found.append("table.csv")
    return found


def summary(folder: Path) -> list[str]:
    """A line for each run: mask AP, how often it was resumed, steps trained twice."""
    lines = []
    for path in sorted(folder.glob("*/seed*/train.json")):
        train, metrics = (json.loads((path.parent / name).read_text()) for name in ("train.json", "metrics.json"))
        lines.append(
            f"{path.parent.relative_to(folder)}: mask AP {metrics['metrics']['AP']:.1f}, resumed {train['resumes']} "
            f"times, {train['lost_steps']} of {train['steps']} steps trained twice"
        )
    return lines


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return [
            {key: value for key, value in row.items() if not any(word in key for word in MEASURED)}
            for row in csv.DictReader(file)
        ]
