"""Measured rows beside published ones: what may be compared, the difference, and a verdict or the reason for none.

Thresholds, in points of mask AP, between figures of one decimal (a published 33.1 is anything from 33.05 to 33.15):

- suite `published` (the published weights, evaluated again): at most 0.1 is "reproduced". Weights and images are the
  same, so only rounding and the last bits of arithmetic may differ.
- suite `zoo` (trained anew): at most 0.3 is "agrees". 0.3 is the largest gap in the ledger between two published
  trainings of one configuration (36.7 and 36.4), so a smaller one cannot be told from another seed.

Any other suite gets no difference and no verdict: reduced models or other data have no published figure.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from solo.errors import UserError
from solo.ledger import CARD, METAFILE, ZOO, Figure, Ledger, ZooModel

THRESHOLDS = {"published": 0.1, "zoo": 0.3}
PASSED = {"published": "reproduced", "zoo": "agrees"}
VAL2017_IMAGES = 5000
GIB = 2**30
STAGE = "network+nms+masks"
NOT_MEASURED = "not measured"

Record = dict[str, Any]


@dataclass(frozen=True)
class Quantity:
    """One measured quantity of a row: the mean over its seeds, and its difference to a published figure."""

    value: float | None = None
    deviation: float | None = None  # sample standard deviation, from two seeds up
    count: int = 0
    gpu: bool = True
    published: Figure | None = None
    difference: float | None = None
    note: str = ""  # what the value is, or why there is none or no difference


@dataclass(frozen=True)
class Row:
    """One model in one suite, with its records of every seed (none: not measured)."""

    model: ZooModel
    suite: str
    records: tuple[Record, ...]
    ap: Quantity
    memory: Quantity
    speed: Quantity
    verdict: str
    protocol: str
    printed_speed: Figure | None  # the model card's, as printed
    contradictions: dict[str, str]  # by metric of the ledger; none: no entry

    def mean(self, metric: str) -> float | None:
        """The mean of a metric of metrics.json over the seeds."""
        return spread([record["metrics"]["metrics"].get(metric) for record in self.records])[0]


def rows(records: Iterable[Record], ledger: Ledger) -> list[Row]:
    """Five rows per suite, in the model card's order; ablation runs are left out.

    Raises:
        UserError: two different records of one run and seed, or one row mixes configurations or data.
    """
    own = [record for record in unique(records) if not is_ablation(record)]
    suites = sorted({record["suite"] for record in own}) or [""]
    return [_row(model, suite, own, ledger) for suite in suites for model in ZOO]


def is_ablation(record: Record) -> bool:
    """Whether a record belongs to an ablation study and not to the zoo."""
    return bool(record.get("setting")) or "--" in record["run"]


def unique(records: Iterable[Record]) -> list[Record]:
    """The records sorted by suite, run and seed; the same one given twice counts once."""
    found: dict[tuple[str, str, int], Record] = {}
    for record in records:
        key = (record["suite"], record["run"], record["seed"])
        if found.setdefault(key, record) != record:
            raise UserError("two different records of {}/{}/seed{}; give one of them".format(*key))
    return [found[key] for key in sorted(found)]


def no_comparison(record: Record) -> str | None:
    """Why a record's figures may not be set against published ones; None where they may."""
    suite = record["suite"]
    if suite not in THRESHOLDS:
        base, _, folder = suite.partition("-")
        if base == "smoke":
            return "synthetic data, reduced model" if not folder else f"reduced model, data {folder}"
        return f"data {folder}, not COCO" if folder else f"suite {suite} has no published figures"
    images = record["metrics"].get("images")
    if images != VAL2017_IMAGES:
        return f"{images} images evaluated, val2017 has {VAL2017_IMAGES:,}"
    epochs = (record.get("train") or {}).get("epochs")
    wanted = next((model.epochs for model in ZOO if model.id == record["model"]), epochs)
    return f"trained {epochs} epochs, the published row {wanted}" if epochs not in (None, wanted) else None


def _row(model: ZooModel, suite: str, records: Sequence[Record], ledger: Ledger) -> Row:
    chosen = tuple(r for r in records if (r["suite"], r["model"]) == (suite, model.id))
    _check_alike(chosen)
    reason = next((why for why in map(no_comparison, chosen) if why), None)
    ap = _ap(model, chosen, ledger, reason)
    contradictions = {
        metric: " ".join(ledger.contradictions(model.id, metric))
        for metric in ("mask_ap", "train_memory", "inference_time")
    }
    return Row(
        model=model,
        suite=suite,
        records=chosen,
        ap=ap,
        memory=_memory(model, chosen, ledger, reason),
        speed=_speed(model, chosen, ledger, reason),
        verdict=_verdict(suite, ap, reason) if chosen else NOT_MEASURED,
        protocol=protocol(chosen[0]) if chosen else NOT_MEASURED,
        printed_speed=ledger.figure(model.id, "inference_time", CARD),
        contradictions={metric: text for metric, text in contradictions.items() if text},
    )


def _check_alike(records: Sequence[Record]) -> None:
    for what, of in (
        ("config_digest", lambda r: r["config_digest"]),
        ("data digest", lambda r: (r.get("data") or {}).get("digest")),
    ):
        found = {of(record): f"{record['suite']}/{record['run']}/seed{record['seed']}" for record in records}
        if len(found) > 1:
            listed = "; ".join(f"{place} has {str(digest)[:12]}" for digest, place in found.items())
            raise UserError(f"seeds of one row differ in {what}: {listed}; make those records anew, or leave one out")


def _ap(model: ZooModel, records: Sequence[Record], ledger: Ledger, reason: str | None) -> Quantity:
    published = ledger.figure(model.id, "mask_ap", CARD)
    mean, deviation, count = spread([r["metrics"]["metrics"]["AP"] for r in records])
    difference = None
    if mean is not None and published and not reason:
        difference = round(round(mean, 1) - published.value, 1)
    return Quantity(mean, deviation, count, True, published, difference, reason or "")


def _verdict(suite: str, ap: Quantity, reason: str | None) -> str:
    if reason or ap.difference is None:
        return f"none: {reason or 'no published figure'}"
    limit = THRESHOLDS[suite]
    return f"{PASSED[suite]} (within {limit})" if abs(ap.difference) <= limit else f"differs (by more than {limit})"


def _memory(model: ZooModel, records: Sequence[Record], ledger: Ledger, reason: str | None) -> Quantity:
    return _quantity(records, training_memory, ledger.figure(model.id, "train_memory", CARD), reason, lambda f: f.value)


def _speed(model: ZooModel, records: Sequence[Record], ledger: Ledger, reason: str | None) -> Quantity:
    return _quantity(records, fps, ledger.figure(model.id, "inference_time", METAFILE), reason, lambda f: f.fps)


def _quantity(
    records: Sequence[Record],
    measure: Callable[[Record], tuple[float, bool, str, str | None] | None],
    published: Figure | None,
    reason: str | None,
    convert: Callable[[Figure], float],
) -> Quantity:
    """The mean of `measure` over the records, if all were measured one way, and its difference if it may be taken."""
    measured = [found for found in map(measure, records) if found]
    if not measured:
        return Quantity(published=published, note=NOT_MEASURED)
    if len({(gpu, how) for _, gpu, how, _ in measured}) > 1:
        listed = "; ".join(f"{value:.1f} ({how})" for value, _, how, _ in measured)
        return Quantity(published=published, note=f"seeds measured under different protocols, not averaged: {listed}")
    mean, deviation, count = spread([value for value, *_ in measured])
    _, gpu, how, obstacle = measured[0]
    obstacle = obstacle or reason
    difference = None
    if not obstacle and published and mean is not None:
        difference = round(round(mean, 1) - round(convert(published), 1), 1)
    note = f"{how}; no difference: {obstacle}" if obstacle else how
    return Quantity(mean, deviation, count, gpu, published, difference, note)


def training_memory(record: Record) -> tuple[float, bool, str, str | None] | None:
    """Peak memory of training in GiB, whether it is a GPU's, what it is, and why it cannot be compared (or None)."""
    train, step = record.get("train"), (record.get("speed") or {}).get("training_step")
    if train:
        memory, images, precision, source = train["memory"], train["images_per_device"], train["precision"], "training"
    elif step:
        memory, images, precision = step["memory"], step["images_per_device"], record["speed"]["precision"]
        source = "training step"
    else:
        return None
    how = f"{source}, {images} images per device, {precision}"
    if memory.get("allocated") is not None:
        obstacle = None
        if (images, precision) != (2, "fp32"):
            obstacle = "published with 2 images per GPU, fp32"
        return memory["allocated"] / GIB, True, f"largest allocated GPU memory of {how}", obstacle
    if memory.get("resident") is None:
        return None
    return memory["resident"] / GIB, False, f"resident memory of the CPU process, {how}", "no GPU figure"


def fps(record: Record) -> tuple[float, bool, str, str | None] | None:
    """Images per second at batch 1 to finished masks; the rest as in `training_memory`."""
    speed = record.get("speed")
    found = [e for e in (speed or {}).get("inference", ()) if (e["batch"], e["stage"]) == (1, STAGE)]
    if speed is None or not found:
        return None
    height, width = speed["input_size"]
    device = speed["device"]["name"]
    compiled = ", compiled" if speed.get("compiled") else ""
    how = f"{device}, batch 1, {speed['precision']}{compiled}, {height}×{width}, {STAGE}"
    obstacle = None
    side = next((model.short_side for model in ZOO if model.id == record["model"]), height)
    if not speed["gpu_figure"]:
        obstacle = "no GPU figure"
    elif speed["precision"] != "fp32":
        obstacle = "published in FP32"
    elif not side <= min(height, width) < side + 32:
        obstacle = f"published with a short side of {side} pixels"
    return found[0]["images_per_second"], bool(speed["gpu_figure"]), how, obstacle


def protocol(record: Record) -> str:
    """How a record's figures were made, in one line."""
    data, train, metrics = record.get("data") or {}, record.get("train"), record["metrics"]
    parts = [f"data {data.get('name', 'unknown')}, {metrics['images']} images evaluated by {metrics['backend']}"]
    if train:
        batch = f"{train['world_size']} × {train['images_per_device']} images"
        if train.get("accumulation", 1) > 1:
            batch += f" × {train['accumulation']} accumulated"
        parts.append(f"{train['epochs']} epochs of {train['steps']} steps in all, {batch}, {train['precision']}")
    else:
        parts.append("published weights, not trained here")
    environment = record["environment"]
    parts.append(f"{environment.get('gpu') or environment.get('cpu') or 'unknown machine'}")
    return "; ".join(parts)


def spread(values: Sequence[float | None]) -> tuple[float | None, float | None, int]:
    """Mean, sample standard deviation (None below two values) and number of the values that exist."""
    known = [value for value in values if value is not None]
    if not known:
        return None, None, 0
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known)
