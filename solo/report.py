"""One self-contained HTML page of a suite: table, curves, bars, pictures, and where every number comes from.

    solo report --records results/smoke/*/seed*/record.json --out results/smoke/report.html

Curves and pictures are read from the folder of each record (metrics.jsonl, overlays/*.png). The page needs no
network, and the same files give the same bytes.
"""

import argparse
import base64
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import yaml

from solo import figures, plots, table
from solo.artifacts import write_text
from solo.compare import Record, Row, is_ablation, rows
from solo.errors import UserError
from solo.ledger import ZOO, Ledger
from solo.render import page

SUITES = {
    "smoke": (
        "Reduced models on a small data set, trained on whatever machine is at hand in minutes. It shows that every "
        "stage works from end to end; its figures say nothing about SOLO on COCO and are not set against the "
        "published ones."
    ),
    "published": "The published checkpoints, converted and evaluated again on COCO val2017; nothing was trained here.",
    "zoo": "Full training on COCO train2017, evaluated on val2017, under the published schedules.",
}
PICTURE_WIDTH = 1200  # pixels; a wider picture is scaled down
PICTURE_BYTES = 150_000  # a larger file is embedded as JPEG


@dataclass(frozen=True)
class Suite:
    """All that the page shows of one suite."""

    name: str
    about: str
    facts: list[tuple[str, str]]
    training: list[figures.Drawn]
    sizes: figures.Drawn | None
    costs: list[figures.Drawn]
    pictures: list[tuple[str, list[tuple[str, str]]]]  # image name, then (caption, data URI)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `solo report`."""
    parser.add_argument("--records", nargs="+", required=True, type=Path, metavar="FILE", help="record.json files")
    parser.add_argument("--out", required=True, type=Path, help="page to write (HTML)")
    parser.add_argument("--published", type=Path, default=table.PUBLISHED, help="ledger of the published numbers")
    parser.add_argument("--table-dir", type=Path, help="folder of table.md and table.csv, to link to")


def run(args: argparse.Namespace) -> None:
    """Write the page."""
    text = build(args.records, Ledger.read(args.published), _links(args.table_dir, args.out))
    write_text(args.out, text)
    print(f"{args.out}: {len(text.encode()) / 1e6:.1f} MB")


def build(paths: Sequence[Path], ledger: Ledger, links: Sequence[tuple[str, str]] = ()) -> str:
    """The page for the records at `paths`; ablation runs are left out, as in the table."""
    found = table.read_records(paths)
    lines = rows(found, ledger)
    folders = {
        (record["suite"], record["model"], record["seed"]): path.parent
        for record, path in zip(found, paths, strict=True)
        if not is_ablation(record)
    }
    suites = [
        _suite(
            name,
            list(members),
            {key[1:]: path for key, path in sorted(folders.items(), key=_place) if key[0] == name},
            ledger,
        )
        for name, members in itertools.groupby(lines, key=lambda row: row.suite)
    ]
    records = [record for row in lines for record in row.records]
    return page(
        "report.html.j2",
        title="SOLO: "
        + " and ".join(suite.name or "no" for suite in suites)
        + (" suites" if len(suites) > 1 else " suite"),
        suites=suites,
        view=table.view(lines),
        links=links,
        legend=[(f"{model.title} {model.schedule}", plots.color(model.id)) for model in ZOO],
        runs=[provenance(record) for record in records],
        environments=environments(records),
    )


def _place(item: tuple[tuple[str, str, int], Path]) -> tuple[str, int, str, int]:
    (suite, model, seed), _ = item
    order = [known.id for known in ZOO]
    return suite, order.index(model) if model in order else len(order), model, seed


def _suite(name: str, lines: Sequence[Row], folders: Mapping[tuple[str, int], Path], ledger: Ledger) -> Suite:
    base, _, data = name.partition("-")
    about = SUITES.get(base, f"Suite {name}.")
    if data:
        about += f" The data are one's own: {data}."
    return Suite(
        name=name,
        about=about,
        facts=_facts(lines),
        training=figures.training(name, figures.read_curves(folders)),
        sizes=figures.sizes(name, lines),
        costs=figures.speed(name, lines, ledger) + figures.memory(name, lines, ledger),
        pictures=pictures(folders, {row.model.id: row for row in lines}),
    )


def _facts(lines: Sequence[Row]) -> list[tuple[str, str]]:
    records = [record for row in lines for record in row.records]
    facts = [("Rows measured", f"{sum(bool(row.records) for row in lines)} of {len(lines)}")]
    for data in _distinct(record.get("data") for record in records):
        splits = ", ".join(f"{split['images']:,} {name}" for name, split in data["splits"].items())
        facts.append(("Data", f"{data['name']}: {splits} images"))
    places = _distinct(r["environment"].get("gpu") or r["environment"].get("cpu") for r in records)
    facts.append(("Device", ", ".join(places) or "none"))
    hours = [h for h in map(device_hours, records) if h is not None]
    if hours:
        gpu = any(record["environment"].get("gpu") for record in records)
        facts.append(("Training", f"{sum(hours):.2f} {'GPU' if gpu else 'CPU process'} hours in {len(hours)} runs"))
    shas = _distinct(_code(record["environment"]) for record in records)
    facts.append(("Code", ", ".join(shas)))
    return facts


def device_hours(record: Record) -> float | None:
    """Seconds of training times the number of processes, in hours; None where nothing was trained."""
    train = record.get("train")
    return None if not train else train["seconds"] * train["world_size"] / 3600


def pictures(
    folders: Mapping[tuple[str, int], Path], lines: Mapping[str, Row]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Overlays grouped by image, one per model (its first seed), as (image, [(caption, data URI), ...])."""
    seen: dict[str, list[tuple[str, str]]] = {}
    shown: set[str] = set()
    for (model, seed), folder in folders.items():
        files = sorted((folder / "overlays").glob("*.png"))
        if not files or model in shown:
            continue
        shown.add(model)
        known = lines.get(model)
        title = f"{known.model.title} {known.model.schedule}" if known else model
        for file in files:
            seen.setdefault(file.stem, []).append((f"{title}, seed {seed}", data_uri(file)))
    return sorted(seen.items())


def data_uri(path: Path) -> str:
    """A picture as a data URI: as it is where it is small, else scaled to PICTURE_WIDTH and as JPEG.

    Raises:
        UserError: the file is no picture.
    """
    raw, kind = path.read_bytes(), "png"
    if len(raw) > PICTURE_BYTES:
        picture = cv2.imread(str(path))
        if picture is None:
            raise UserError(f"{path} is no picture; `solo show` draws it anew")
        height, width = picture.shape[:2]
        if width > PICTURE_WIDTH:
            size = (PICTURE_WIDTH, round(height * PICTURE_WIDTH / width))
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        raw, kind = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 86])[1].tobytes(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def provenance(record: Record) -> dict[str, Any]:
    """One run's origin: short cells for the overview, every field for the details, and how to make it again."""
    place, train, data = record["environment"], record.get("train") or {}, record.get("data") or {}
    job = place.get("job") or {}
    hours = device_hours(record)
    target = f"results/{record['suite']}/{record['run']}/seed{record['seed']}/record.json"
    base = record["suite"].partition("-")[0]
    source = f" data={data['root']}" if "-" in record["suite"] and data.get("root") else ""
    checkout = f"git checkout {place['git_sha']}\n" if place.get("git_sha") else ""
    return {
        "name": f"{record['suite']}/{record['run']}/seed{record['seed']}",
        "code": _code(place),
        "config": record["config_digest"][:12],
        "data": f"{data.get('name', 'unknown')} {str(data.get('digest') or '')[:12]}".strip(),
        "device": place.get("gpu") or place.get("cpu") or "unknown",
        "job": job.get("id") or "none",
        "hours": "–" if hours is None else f"{hours:.2f}",
        "resumes": "–" if not train else str(train.get("resumes", 0)),
        "fields": _fields(record),
        "command": f"{checkout}snakemake {target} --cores all --config suite={base}{source}",
        "config_yaml": yaml.safe_dump(record.get("config") or {}, sort_keys=False, default_flow_style=None, width=110),
    }


def _fields(record: Record) -> list[tuple[str, str]]:
    place, metrics = record["environment"], record["metrics"]
    fields = {
        "commit": place.get("git_sha"),
        "uncommitted changes": place.get("git_dirty"),
        "code version of training": record.get("code_version"),
        "config digest": record["config_digest"],
        "data digest": (record.get("data") or {}).get("digest"),
        "annotations": metrics.get("annotations_sha256"),
        "predictions": metrics.get("predictions_sha256"),
        "evaluator": metrics.get("backend"),
        **{f"job {key.replace('_', ' ')}": value for key, value in (place.get("job") or {}).items()},
        **{f"{key} version": value for key, value in (place.get("packages") or {}).items()},
    }
    return [(key, str(value)) for key, value in fields.items() if value is not None]


def environments(records: Sequence[Record]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each distinct machine and software once: its runs, then its fields."""
    groups: dict[str, tuple[list[str], list[tuple[str, str]]]] = {}
    for record in records:
        place = record["environment"]
        keep = {key: value for key, value in place.items() if key not in ("job", "git_sha", "git_dirty", "packages")}
        if keep.get("memory"):
            keep["memory"] = f"{keep['memory'] / 2**30:.1f} GiB"
        keep.update(place.get("packages") or {})
        fields = [(key.replace("_", " "), str(value)) for key, value in keep.items() if value is not None]
        names, _ = groups.setdefault(str(fields), ([], fields))
        names.append(f"{record['suite']}/{record['run']}/seed{record['seed']}")
    return [(", ".join(names), fields) for names, fields in groups.values()]


def _code(place: Mapping[str, Any]) -> str:
    sha = place.get("git_sha")
    return "unknown" if not sha else sha[:12] + (" with uncommitted changes" if place.get("git_dirty") else "")


def _distinct(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value is not None and value not in found:
            found.append(value)
    return found


def _links(folder: Path | None, out: Path) -> list[tuple[str, str]]:
    if folder is None:
        return []
    files = [folder / name for name in ("table.md", "table.csv", "table.html")]
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        raise UserError(f"--table-dir {folder} lacks {', '.join(missing)}; `solo table --out-dir {folder}` writes them")
    return [(file.name, os.path.relpath(file, out.parent)) for file in files]
