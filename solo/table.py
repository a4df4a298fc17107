"""The results table: every row of the model card, published beside measured, as Markdown, CSV and HTML.

    solo table --records results/smoke/*/seed*/record.json --out-dir results/smoke
    solo table --study workflow/config/ablations/grid.yaml --records ... --out-dir results/smoke/grid

The files depend on the records and the ledger only: the same records, in any order, give the same bytes. What may
be compared, the thresholds of a verdict and the reasons for them stand in solo/compare.py.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from solo.artifacts import read_json, write_text
from solo.compare import NOT_MEASURED, Quantity, Record, Row, is_ablation, rows
from solo.errors import UserError
from solo.ledger import Figure, Ledger
from solo.render import MISSING, Cell, Column, View, as_csv, markdown, page, signed

PUBLISHED = Path("results/published.csv")
COLUMNS = (
    ("", "Model, Backbone, Style, MS train, Lr schd"),
    ("Mem (GB)", "published, ours, Δ"),
    ("Inf time (fps)", "printed, published, ours, Δ"),
    ("mask AP", "published, ours, Δ"),
    ("", "Verdict, Suite"),
)
VERDICTS = (
    "Verdicts: suite published, |difference| ≤ 0.1 AP: reproduced (same weights: rounding only); suite zoo, "
    "≤ 0.3 AP: agrees (the largest gap between two published trainings of one configuration); "
    "other suites: none, because reduced models or other data have no published figure."
)
MEMORY_UNIT = (
    "Memory: ours is bytes / 2^30. The training log behind the published figure counts MiB; whether it was divided "
    "by 1,000 or 1,024 (2.4 % apart) is not stated."
)
SPEED_UNIT = (
    "Inf time: “printed” is the model card's column as it stands; “published” is mmdetection's metafile.yml, whose "
    "ms/image are converted as 1000 / ms. Published speeds are of a V100; ours of the device in its footnote, to "
    "finished masks at batch 1, so a difference is of machines as much as of code. Sources are never averaged."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `solo table`."""
    parser.add_argument("--records", nargs="*", type=Path, default=[], metavar="FILE", help="record.json files")
    parser.add_argument("--out-dir", required=True, type=Path, help="folder of table.md, table.csv and table.html")
    parser.add_argument("--published", type=Path, default=PUBLISHED, help="ledger of the published numbers")
    parser.add_argument("--study", type=Path, help="study file: an ablation table and plot instead of the zoo's")
    parser.add_argument(
        "--published-ablations",
        type=Path,
        help="published points of the studies; default: published_ablations.csv beside --published",
    )


def run(args: argparse.Namespace) -> None:
    """Write the table of the given records."""
    records = read_records(args.records)
    if args.study:
        from solo import study

        study.write(args.study, records, args.published_ablations or _beside(args.published), args.out_dir)
        return
    table = rows(records, Ledger.read(args.published))
    write(table, args.out_dir)
    left_out = sum(map(is_ablation, records))
    if left_out:
        print(f"{left_out} ablation records left out of the zoo table; --study shows them")
    print(f"{args.out_dir / 'table.md'}: {sum(bool(row.records) for row in table)} of {len(table)} rows measured")


def read_records(paths: Sequence[Path]) -> list[Record]:
    """Read record files.

    Raises:
        UserError: a file is no record of `solo record`.
    """
    records = []
    for path in paths:
        record = read_json(path)
        missing = [key for key in ("suite", "run", "model", "seed", "config_digest", "metrics") if key not in record]
        if missing:
            raise UserError(f"{path} is no record: it lacks {', '.join(missing)}; `solo record` writes one")
        records.append(record)
    return records


def write(table: Sequence[Row], folder: Path) -> None:
    """Write table.md, table.csv and table.html into `folder`."""
    seen = view(table)
    write_text(folder / "table.md", markdown(seen, "Results"))
    write_text(folder / "table.csv", as_csv([_values(row) for row in table]))
    write_text(folder / "table.html", page("table.html.j2", title="Results beside the published numbers", view=seen))


def view(table: Sequence[Row]) -> View:
    """The cells and notes of the zoo table."""
    result = View([Column(name, group) for group, names in COLUMNS for name in names.split(", ")])
    for row in table:
        result.lines.append(_line(row, result))
    for (suite, text), members in _grouped(table).items():
        result.protocols.append((f"{suite or 'no suite'}: {', '.join(members)}", text))
    result.remarks = [VERDICTS, MEMORY_UNIT, SPEED_UNIT, *_sources(table)]
    return result


def _grouped(table: Sequence[Row]) -> dict[tuple[str, str], list[str]]:
    """Model ids by suite and protocol, so that rows measured alike share a line."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in table:
        groups.setdefault((row.suite, row.protocol), []).append(row.model.id)
    return groups


def _line(row: Row, result: View) -> list[Cell]:
    model, cell = row.model, result.cell
    doubts, converted = row.contradictions, row.speed.published
    return [
        *(cell(text) for text in (model.title, model.backbone, model.style, model.multi_scale, model.schedule)),
        cell(_published(row.memory.published), doubts.get("train_memory", "")),
        cell(measured(row.memory, row.records), _note(row.memory)),
        cell(signed(row.memory.difference)),
        cell(_published(row.printed_speed), doubts.get("inference_time", "")),
        cell(f"{converted.printed} ms = {converted.fps:.1f}" if converted else MISSING),
        cell(measured(row.speed, row.records), _note(row.speed)),
        cell(signed(row.speed.difference)),
        cell(_published(row.ap.published), doubts.get("mask_ap", "")),
        cell(measured(row.ap, row.records), row.ap.note and f"No difference: {row.ap.note}."),
        cell(signed(row.ap.difference)),
        cell(row.verdict),
        cell(row.suite or MISSING),
    ]


def measured(quantity: Quantity, records: Sequence[Record]) -> str:
    """`33.2`, `33.2 ± 0.1 (n = 3)`, or what stands in for it; a CPU figure says so."""
    if quantity.value is None:
        return NOT_MEASURED if not records or quantity.note == NOT_MEASURED else MISSING
    text = f"{quantity.value:.1f}"
    if quantity.deviation is not None:
        text += f" ± {quantity.deviation:.1f} (n = {quantity.count})"
    return text if quantity.gpu else f"{text} (CPU)"


def _note(quantity: Quantity) -> str:
    note = "" if quantity.note == NOT_MEASURED else quantity.note
    return note[:1].upper() + note[1:] + "." if note else ""


def _published(figure: Figure | None) -> str:
    return MISSING if figure is None else figure.printed


def _sources(table: Sequence[Row]) -> list[str]:
    found: dict[str, list[str]] = {}
    for row in table:
        for what, figure in (
            ("mask AP", row.ap.published),
            ("Mem", row.memory.published),
            ("Inf time, printed", row.printed_speed),
            ("Inf time, published", row.speed.published),
        ):
            text = f"{what}: {figure.origin}; {figure.protocol}" if figure else f"{what}: no published figure"
            found.setdefault(text, []).append(row.model.id)
    every = {row.model.id for row in table}
    return [
        f"Source of {text}." if set(ids) == every else f"Source of {text} ({', '.join(dict.fromkeys(ids))})."
        for text, ids in found.items()
    ]


def _values(row: Row) -> dict[str, Any]:
    """One row of table.csv: numbers unrounded but for the last bits, every published figure with its source."""
    model, printed, converted = row.model, row.printed_speed, row.speed.published
    mean = {name: _rounded(row.mean(name)) for name in ("AP50", "AP75", "APs", "APm", "APl")}
    return {
        "model": model.id,
        "suite": row.suite,
        "backbone": model.backbone,
        "style": model.style,
        "multi_scale": model.multi_scale,
        "schedule": model.schedule,
        **_figure("published_memory_gb", row.memory.published),
        **_quantity("memory_gb", row.memory),
        **_figure("printed_inference_time", printed),
        "printed_inference_time_unit": printed.unit if printed else None,
        **_figure("published_ms_per_image", converted),
        "published_fps": round(converted.fps, 1) if converted else None,
        **_quantity("fps", row.speed),
        **_figure("published_ap", row.ap.published),
        **_quantity("ap", row.ap),
        **mean,
        "seeds": " ".join(str(record["seed"]) for record in row.records),
        "verdict": row.verdict,
        "protocol": row.protocol,
        "contradictions": " ".join(row.contradictions.values()),
    }


def _figure(name: str, figure: Figure | None) -> dict[str, Any]:
    return {name: figure.value if figure else None, f"{name}_source": figure.origin if figure else None}


def _quantity(name: str, quantity: Quantity) -> dict[str, Any]:
    numbers = (("", quantity.value), ("_sd", quantity.deviation), ("_difference", quantity.difference))
    rounded = {name + suffix: _rounded(value) for suffix, value in numbers}
    return {**rounded, f"{name}_note": quantity.note}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _beside(published: Path) -> Path:
    return published.with_name("published_ablations.csv")
