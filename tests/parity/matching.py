"""Two sets of detections of one image, set against each other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle_tools

from solo.coco_categories import COCO
from solo.evaluate import evaluate

Detection = tuple[int, float, dict[str, Any]]  # label, score, RLE
IDS = list(COCO.values())


def encode(labels: Any, scores: Any, masks: np.ndarray) -> list[Detection]:
    """Detections of parallel arrays; masks (n, h, w) bool."""
    rles = [rle_tools.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    return [(int(label), float(score), rle) for label, score, rle in zip(labels, scores, rles, strict=True)]


def of_peer(instances: Any) -> list[Detection]:
    """Detections of the peer's InstanceData."""
    return encode(instances.labels.tolist(), instances.scores.tolist(), instances.masks.cpu().numpy())


def of_results(results: list[dict[str, Any]]) -> dict[int, list[Detection]]:
    """Detections by image of a COCO results file with COCO's categories."""
    labels = {key: label for label, key in enumerate(IDS)}
    found: dict[int, list[Detection]] = {}
    for r in results:
        found.setdefault(r["image_id"], []).append((labels[r["category_id"]], r["score"], r["segmentation"]))
    return found


def average_precision(detections: dict[int, list[Detection]], truth: Path, scratch: Path) -> float:
    """Mask AP in percent; writes the detections as COCO results to `scratch`."""
    scratch.write_text(json.dumps([
        {"image_id": image, "category_id": IDS[label], "score": score, "segmentation": _plain(rle)}
        for image, found in detections.items() for label, score, rle in found
    ]))  # fmt: skip
    return float(evaluate(scratch, truth)["metrics"]["AP"] or 0.0)


def as_truth(detections: dict[int, list[Detection]], truth: Path, out: Path) -> Path:
    """Every other detection as an annotation of the same images: with random weights the real ones are never met."""
    content = json.loads(truth.read_text())
    content["annotations"] = []
    for image, found in detections.items():
        for label, _, rle in found[::2]:
            area, box = float(rle_tools.area(rle)), rle_tools.toBbox(rle).tolist()
            content["annotations"].append({
                "id": len(content["annotations"]) + 1, "image_id": image, "category_id": IDS[label], "iscrowd": 0,
                "area": area, "bbox": box, "segmentation": _plain(rle),
            })  # fmt: skip
    out.write_text(json.dumps(content))
    return out


def _plain(rle: dict[str, Any]) -> dict[str, Any]:
    counts = rle["counts"]
    return {"size": list(map(int, rle["size"])), "counts": counts.decode() if isinstance(counts, bytes) else counts}


def compare(ours: list[Detection], peers: list[Detection], score: float = 1e-3, iou: float = 0.99) -> dict[str, float]:
    """How far two sets are apart.

    Returns:
        unmatched: fraction of the detections of either without a partner of the same label whose score differs by
            less than `score` and whose mask overlaps by more than `iou`.
        score, mask: largest score difference and largest 1 - IoU of the pairs with the same label that overlap by
            more than a half, each detection's best partner taken.
        ours, peers: numbers of detections.
    """
    if not ours and not peers:
        return {"unmatched": 0.0, "score": 0.0, "mask": 0.0, "ours": 0, "peers": 0}
    if not ours or not peers:
        return {"unmatched": 1.0, "score": 0.0, "mask": 0.0, "ours": len(ours), "peers": len(peers)}
    overlaps = np.asarray(rle_tools.iou([d[2] for d in ours], [d[2] for d in peers], [False] * len(peers)))
    same = np.array([d[0] for d in ours])[:, None] == np.array([d[0] for d in peers])[None]
    differences = np.abs(np.array([d[1] for d in ours])[:, None] - np.array([d[1] for d in peers])[None])
    fits = same & (differences < score) & (overlaps > iou)
    unmatched = (~fits.any(1)).sum() + (~fits.any(0)).sum()
    quality = np.where(same, overlaps - differences, -1)
    pairs = [(i, j) for i, j in enumerate(quality.argmax(1)) if same[i, j] and overlaps[i, j] > 0.5]
    return {
        "unmatched": unmatched / (len(ours) + len(peers)),
        "score": max((differences[i, j] for i, j in pairs), default=0.0),
        "mask": max((1 - overlaps[i, j] for i, j in pairs), default=0.0),
        "ours": len(ours),
        "peers": len(peers),
    }


def threshold_in_a_gap(scores: np.ndarray, least: int, most: int) -> float:
    """A score that between `least` and `most` of `scores` exceed, in the widest gap, so that noise crosses it least."""
    ranked = np.sort(scores)[::-1][: most + 1]
    if len(ranked) <= least + 1:
        return float(ranked[-1]) / 2 if len(ranked) else 0.1
    gaps = ranked[least - 1 : -1] - ranked[least:]
    place = least - 1 + int(gaps.argmax())
    return float(ranked[place] + ranked[place + 1]) / 2
