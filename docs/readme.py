"""Put the table of results/smoke and the bench of results/measured into README.md; `make readme` calls it.

python docs/readme.py
"""

import json
from pathlib import Path

TABLE = "<!-- table: written by `make readme` from results/smoke -->", "<!-- end of table -->"
BENCH = "<!-- bench: written by `make readme` from results/measured/bench_cpu.json -->", "<!-- end of bench -->"
COLUMNS = ("Model", "MS train", "Lr schd", "mask AP published", "mask AP ours", "Inf time (fps) ours", "Mem (GB) ours")
HEADS = {"solo": "SOLO", "decoupled": "Decoupled", "light": "Decoupled Light"}
FIGURES = {
    "inference_time": "inference of an image, about 100 candidates",
    "inference_time_2000": "the same, about 2,000 candidates",
    "inference_memory": "peak memory of inference",
    "train_time": "training step of two images",
    "train_memory": "peak memory of a training step",
    "targets_time": "targets of an image, {objects} objects",
    "loader_rate": "loader",
}


def main() -> None:
    """Replace what stands between each pair of marks."""
    readme = Path("README.md")
    text = replaced(readme.read_text(encoding="utf-8"), TABLE, smoke_table())
    readme.write_text(replaced(text, BENCH, bench_table()), encoding="utf-8")


def replaced(text: str, marks: tuple[str, str], lines: list[str]) -> str:
    """The text with other lines between the marks."""
    before, rest = text.split(marks[0])
    return before + marks[0] + "\n".join(["", "", *lines, "", ""]) + marks[1] + rest.split(marks[1])[1]


def smoke_table() -> list[str]:
    """The smoke suite's table, fewer columns, without footnotes."""
    table = Path("results/smoke/table.md").read_text(encoding="utf-8").splitlines()
    header, _, *rows = [
        [cell.split("[^")[0].strip() for cell in line.strip("|").split("|")] for line in table if line.startswith("|")
    ]
    lines = ["| " + " | ".join(COLUMNS) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    for row in rows:
        cells = dict(zip((name.strip() for name in header), row, strict=True))
        lines.append("| " + " | ".join(cells[name] for name in COLUMNS) + " |")
    return [*lines, "", *(line for line in table if line.startswith("- `smoke"))]


def bench_table() -> list[str]:
    """Ours / peer = ratio for each figure and head."""
    bench = json.loads(Path("results/measured/bench_cpu.json").read_text(encoding="utf-8"))
    cells: dict[str, dict[str, str]] = {}
    for row in bench["rows"]:
        figure = FIGURES[row["figure"]].format(**row)
        digits = 1 if row["ours"] < 100 else 0
        values = " / ".join(f"{row[side]:,.{digits}f}" for side in ("ours", "peer"))
        cells.setdefault(f"{figure}, {row['unit']}", {})[row["head"]] = f"{values} = **{row['ratio']:.2f}**"
    lines = ["| ours / mmdetection's = ratio | " + " | ".join(HEADS.values()) + " |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | " + " | ".join(heads[head] for head in HEADS) + " |" for name, heads in cells.items()]
    protocol, versions = bench["protocol"], bench["versions"]
    height, width = protocol["inference"]
    return [
        *lines,
        "",
        f"{bench['environment']['cpu']}, {bench['threads']} threads, {bench['precision']}; inference on {height} x "
        f"{width} pixels, from pixels to masks of the original size; training on {protocol['training'][0]} x "
        f"{protocol['training'][1]} pixels; medians of {protocol['n']} pairs; torch {versions['torch']}, mmdet "
        f"{versions['mmdet']}. Memory is the growth of the resident size.",
    ]


if __name__ == "__main__":
    main()
