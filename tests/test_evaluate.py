"""The evaluator: perfect and empty predictions, the published figures of its own demonstration, and refusals."""

import json
import re

import numpy as np
import pytest
from pycocotools import mask as rle

from solo.cli import main
from solo.errors import UserError
from solo.evaluate import NAMES, evaluate

CATEGORIES = [{"id": 3, "name": "cup"}, {"id": 7, "name": "dog"}, {"id": 9, "name": "cow"}]


def square(left, top, side, size=(200, 200)):
    """A filled square as RLE."""
    mask = np.zeros(size, np.uint8, order="F")
    mask[top : top + side, left : left + side] = 1
    return {"size": list(size), "counts": rle.encode(mask)["counts"].decode()}


def truth(tmp_path, objects):
    """Two images and objects of (image, category, left, top, side)."""
    annotations = [
        {
            "id": number, "image_id": image, "category_id": category, "iscrowd": 0, "area": side * side,
            "bbox": [left, top, side, side], "segmentation": square(left, top, side),
        }
        for number, (image, category, left, top, side) in enumerate(objects, start=1)
    ]  # fmt: skip
    images = [{"id": i, "file_name": f"{i}.png", "height": 200, "width": 200} for i in (1, 2)]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    return path


OBJECTS = [(1, 3, 10, 10, 20), (1, 3, 60, 60, 50), (1, 7, 100, 10, 80), (2, 7, 20, 20, 120)]


def predictions(tmp_path, results):
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(results))
    return path


def result(image, category, left, top, side, score=0.9, **fields):
    segmentation = square(left, top, side)
    return {"image_id": image, "category_id": category, "score": score, "segmentation": segmentation, **fields}


def test_perfect_predictions_are_a_hundred(tmp_path):
    figures = evaluate(predictions(tmp_path, [result(*o) for o in OBJECTS]), truth(tmp_path, OBJECTS))
    assert {name: figures["metrics"][name] for name in NAMES if not name.startswith("AR")} == pytest.approx(
        dict.fromkeys(NAMES[:6], 100.0)
    )
    assert figures["metrics"]["AR100"] == pytest.approx(100)
    assert figures["metrics"]["AR1"] == pytest.approx(75)  # one detection per image of two cups
    assert figures["per_category"] == {"cup": pytest.approx(100), "dog": pytest.approx(100), "cow": None}
    assert (figures["images"], figures["detections"]) == (2, 4)


def test_half_of_the_objects_of_a_category(tmp_path):
    figures = evaluate(predictions(tmp_path, [result(*OBJECTS[0])]), truth(tmp_path, OBJECTS))
    assert figures["per_category"]["cup"] == pytest.approx(100 * 51 / 101)  # 101 recall points, up to recall 0.5
    assert figures["per_category"]["dog"] == 0


def test_no_prediction_is_zero_and_no_object_is_undefined(tmp_path):
    empty = predictions(tmp_path, [])
    figures = evaluate(empty, truth(tmp_path, OBJECTS))
    assert set(figures["metrics"].values()) == {0.0}
    assert figures["per_category"] == {"cup": 0.0, "dog": 0.0, "cow": None}
    nothing = evaluate(empty, truth(tmp_path, []))
    assert set(nothing["metrics"].values()) == {None}
    json.dumps(nothing, allow_nan=False)


def test_sizes_are_split_by_mask_area(tmp_path):
    """A thin mask in a large box is small; a `bbox` in the results would make it large and is refused."""
    objects = [(1, 3, 10, 10, 20)]
    figures = evaluate(predictions(tmp_path, [result(*objects[0])]), truth(tmp_path, objects))["metrics"]
    assert (figures["APs"], figures["APm"], figures["APl"]) == (pytest.approx(100), None, None)
    boxed = predictions(tmp_path, [result(*objects[0], bbox=[0, 0, 190, 190])])
    with pytest.raises(UserError, match="detection 0 has a `bbox`"):
        evaluate(boxed, truth(tmp_path, objects))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([result(5, 3, 0, 0, 5)], "detection 0 is of image 5, not in"),
        ([result(*OBJECTS[0]), result(1, 4, 0, 0, 5)], r"detection 1 has category 4; valid: \[3, 7, 9\]"),
        ([{"image_id": 1, "category_id": 3, "score": 0.5}], "detection 0 lacks one of .*segmentation"),
        ({"predictions": []}, "must hold a list of detections, not dict"),
        ([3], "detection 0 lacks"),
    ],
)
def test_results_that_do_not_fit_are_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        evaluate(predictions(tmp_path, content), truth(tmp_path, OBJECTS))


def test_truth_that_is_no_instances_file(tmp_path):
    path = tmp_path / "truth.json"
    path.write_text("{}")
    with pytest.raises(UserError, match=f"{path} is not COCO's instances format"):
        evaluate(predictions(tmp_path, []), path)


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("backend", ["pycocotools", "faster-coco-eval"])
def test_published_figures_of_the_evaluators_own_demonstration(reference, tmp_path, iou_type, backend):
    """100 images of val2014: twelve figures each, to three decimals."""
    if backend == "faster-coco-eval":
        pytest.importorskip("faster_coco_eval")
    folder = reference / "reference/evaluator"
    text = (folder / "val2014_fake_eval_res.txt").read_text()
    section = re.split(r"type=(\w+)", text)
    figures = re.findall(r"= ([\d.]+)$", section[section.index(iou_type) + 1], re.MULTILINE)
    assert len(figures) == 12
    out = tmp_path / "metrics.json"
    status = main([
        "evaluate", "--predictions", str(folder / f"instances_val2014_fake{iou_type}100_results.json"),
        "--annotations", str(folder / "instances_val2014_100.json"), "--iou-type", iou_type, "--backend", backend,
        "--out", str(out),
    ])  # fmt: skip
    assert status == 0
    found = json.loads(out.read_text())["metrics"]
    assert [f"{found[name] / 100:.3f}" for name in NAMES] == figures


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_the_fast_backend_agrees_with_pycocotools(reference, iou_type):
    """To 1e-6 of a percent point, the categories included."""
    pytest.importorskip("faster_coco_eval")
    folder = reference / "reference/evaluator"
    files = folder / f"instances_val2014_fake{iou_type}100_results.json", folder / "instances_val2014_100.json"
    slow, fast = (evaluate(*files, iou_type=iou_type, backend=b) for b in ("pycocotools", "faster-coco-eval"))
    assert fast["metrics"] == pytest.approx(slow["metrics"], abs=1e-6)
    assert fast["per_category"] == pytest.approx(slow["per_category"], abs=1e-6)
