"""Mask AP and AR of a predictions file: the field's evaluator, in percent.

solo evaluate --predictions predictions.json --annotations instances_val2017.json --out metrics.json
"""

import argparse
import contextlib
import io
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from solo.artifacts import read_json, sha256, write_json
from solo.errors import UserError

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
BACKENDS = ("pycocotools", "faster-coco-eval")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `solo evaluate`."""
    parser.add_argument("--predictions", required=True, help="COCO results: image_id, category_id, score, segmentation")
    parser.add_argument("--annotations", required=True, help="COCO instances file of the same images")
    parser.add_argument("--out", required=True, help="metrics.json to write; AP and AR in percent")
    parser.add_argument("--iou-type", choices=("segm", "bbox"), default="segm", help="overlap of masks or of boxes")
    parser.add_argument("--backend", choices=BACKENDS, default="pycocotools", help="the second needs the extra `fast`")


def run(args: argparse.Namespace) -> None:
    """Evaluate, write metrics.json and print the main figures."""
    result = evaluate(args.predictions, args.annotations, args.iou_type, args.backend)
    write_json(args.out, result)
    shown = ", ".join(f"{name} {_text(result['metrics'][name])}" for name in NAMES[:6])
    print(f"{args.iou_type}: {shown} ({result['images']} images, {result['detections']} detections)")


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def evaluate(
    predictions: str | Path, annotations: str | Path, iou_type: str = "segm", backend: str = "pycocotools"
) -> dict[str, Any]:
    """The fields of metrics.json.

    Args:
        predictions: COCO results file; may hold no detection at all.
        annotations: COCO instances file; every image in it counts.
        iou_type: segm or bbox.
        backend: a name of `BACKENDS`.

    Raises:
        UserError: a file that is missing or not of COCO's format, or results of images that are not annotated.
    """
    truth = _load_truth(annotations, backend)
    results = read_json(predictions)
    check_results(results, truth, iou_type, predictions, annotations)
    scores, per_category = _figures(truth, results, iou_type, backend)
    return {
        "schema": 1,
        "iou_type": iou_type,
        "backend": f"{backend} {version(backend)}",
        "metrics": dict(zip(NAMES, (_percent(value) for value in scores), strict=True)),
        "per_category": per_category,
        "images": len(truth.getImgIds()),
        "detections": len(results),
        "annotations_sha256": sha256(annotations),
        "predictions_sha256": sha256(predictions),
    }


def check_results(results: Any, truth: Any, iou_type: str, predictions: object, annotations: object) -> None:
    """Refuse what the evaluator would trip over or, worse, count wrongly."""
    if not isinstance(results, list):
        raise UserError(f"{predictions} must hold a list of detections, not {type(results).__name__}")
    wanted = {"image_id", "category_id", "score", "segmentation" if iou_type == "segm" else "bbox"}
    images, categories = set(truth.getImgIds()), set(truth.getCatIds())
    for number, result in enumerate(results):
        if not isinstance(result, dict) or not wanted <= result.keys():
            raise UserError(f"{predictions}: detection {number} lacks one of {', '.join(sorted(wanted))}")
        if result["image_id"] not in images:
            raise UserError(f"{predictions}: detection {number} is of image {result['image_id']}, not in {annotations}")
        if result["category_id"] not in categories:
            raise UserError(
                f"{predictions}: detection {number} has category {result['category_id']}; valid: {sorted(categories)}"
            )
        if iou_type == "segm" and "bbox" in result:
            raise UserError(
                f"{predictions}: detection {number} has a `bbox`; the evaluator would split sizes by box area "
                "instead of mask area. Leave it out"
            )


def _load_truth(annotations: str | Path, backend: str) -> Any:
    data = read_json(annotations)
    if not isinstance(data, dict) or not {"images", "annotations", "categories"} <= data.keys():
        raise UserError(f"{annotations} is not COCO's instances format: images, annotations, categories")
    truth = _classes(backend)[0]()
    truth.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def _classes(backend: str) -> tuple[Any, Any]:
    if backend == "pycocotools":
        return COCO, COCOeval
    try:
        from faster_coco_eval import COCO as FastCOCO
        from faster_coco_eval import COCOeval_faster
    except ImportError:
        raise UserError("backend faster-coco-eval is not installed; install the extra `fast`") from None
    return FastCOCO, COCOeval_faster


def _figures(
    truth: Any, results: list[dict[str, Any]], iou_type: str, backend: str
) -> tuple[list[float], dict[str, float | None]]:
    """The twelve summary figures in [0, 1] (-1: undefined), and AP in percent per category name."""
    names = {category["id"]: category["name"] for category in truth.dataset["categories"]}
    if not results:
        defined = bool([a for a in truth.dataset["annotations"] if not a.get("iscrowd")])
        return [0.0 if defined else -1.0] * len(NAMES), {
            name: 0.0 if truth.getAnnIds(catIds=[key], iscrowd=0) else None for key, name in names.items()
        }
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _classes(backend)[1](truth, truth.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"]  # (IoU, recall, category, area, detections)
    per_category = {}
    for k, key in enumerate(evaluation.params.catIds):
        values = precision[:, :, k, 0, -1]
        values = values[values > -1]
        per_category[names[key]] = _percent(float(np.mean(values))) if values.size else None
    return [float(value) for value in evaluation.stats[:12]], per_category


def _percent(value: float) -> float | None:
    return None if value < 0 else 100 * value
