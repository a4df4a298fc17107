"""Predictions: COCO results of every image, the same for any batch, worker or share, and no box."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from solo.checkpoint import Model, load_model, save_model
from solo.cli import main
from solo.dataset import Category, CocoSplit
from solo.errors import UserError
from solo.layers import load, with_classes
from solo.model.detector import build_detector
from solo.predict import check_categories, encode, predict_split


@pytest.fixture(scope="module")
def model_file(tiny_config, tiny_data, tmp_path_factory):
    """A random model that finds a lot."""
    split = CocoSplit(tiny_data, "val2017")
    run = with_classes(load(tiny_config, {"head": {"init_std": 0.3}}), len(split.categories))
    torch.manual_seed(1)
    detector = build_detector(run.config.backbone, run.config.head)
    for name, parameter in detector.head.named_parameters():
        if "out" in name and name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    path = tmp_path_factory.mktemp("model") / "model.pth"
    save_model(path, Model(detector, run, split.categories, {"seed": "1"}))
    return path


def predict(model_file, data, out, *more):
    words = ["predict", "--model", model_file, "--data", data, "--out", out, "--threads", 1, "--device", "cpu"]
    assert main([*map(str, words), "--workers", "0", *more]) == 0
    return json.loads(Path(out).read_text())


def test_results_are_cocos_and_hold_no_box(model_file, tiny_data, tmp_path):
    results = predict(model_file, tiny_data, tmp_path / "predictions.json")
    split = CocoSplit(tiny_data, "val2017")
    sizes = {image.id: [image.height, image.width] for image in split.images}
    assert {result["image_id"] for result in results} == set(sizes)
    for result in results:
        assert set(result) == {"image_id", "category_id", "score", "segmentation"}
        assert result["segmentation"]["size"] == sizes[result["image_id"]]
        assert isinstance(result["segmentation"]["counts"], str)
        assert result["category_id"] in {category.id for category in split.categories}
    per_image = [[r["score"] for r in results if r["image_id"] == i] for i in sizes]
    assert all(scores == sorted(scores, reverse=True) for scores in per_image)
    assert [r["image_id"] for r in results] == [i for i, scores in zip(sizes, per_image, strict=True) for _ in scores]


def agree(first, second):
    """Same detections in the same order, scores and masks but for rounding."""
    assert [(r["image_id"], r["category_id"]) for r in first] == [(r["image_id"], r["category_id"]) for r in second]
    np.testing.assert_allclose([r["score"] for r in first], [r["score"] for r in second], rtol=1e-4)
    for a, b in zip(first, second, strict=True):
        overlap = rle.iou([a["segmentation"]], [b["segmentation"]], [0])[0, 0]
        assert overlap > 0.99 or rle.area(a["segmentation"]) + rle.area(b["segmentation"]) == 0


def test_batches_and_workers_change_nothing(model_file, tiny_data, tmp_path):
    alone = predict(model_file, tiny_data, tmp_path / "a.json")
    words = ["predict", "--model", model_file, "--data", tiny_data, "--out", tmp_path / "b.json", "--threads", 1]
    assert main([*map(str, words), "--device", "cpu", "--workers", "2"]) == 0
    assert json.loads((tmp_path / "b.json").read_text()) == alone


def test_shares_of_processes_are_the_whole(model_file, tiny_data):
    model, split = load_model(model_file), CocoSplit(tiny_data, "val2017")

    def found(**more):
        return list(
            predict_split(model.detector, split, model.run.config, torch.device("cpu"), workers=0, **more)
        )  # fmt: skip

    whole = found()
    parts = [found(share=(rank, 4)) for rank in range(4)]
    for image in split.images:
        mine = [r for r in whole if r["image_id"] == image.id]
        theirs = [r for part in parts for r in part if r["image_id"] == image.id]
        assert mine == theirs


def test_images_of_one_size_in_a_batch(model_file, tiny_data, tmp_path):
    """With another padding the network sees other borders, so only equal sizes can be compared."""
    truth = json.loads((tiny_data / "annotations/instances_val2017.json").read_text())
    sizes = [(image["height"], image["width"]) for image in truth["images"]]
    common = max(set(sizes), key=sizes.count)
    truth["images"] = [image for image, size in zip(truth["images"], sizes, strict=True) if size == common]
    ids = {image["id"] for image in truth["images"]}
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in ids]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val2017.json").write_text(json.dumps(truth))
    (tmp_path / "val2017").symlink_to(tiny_data / "val2017")
    assert len(ids) >= 2
    agree(*(predict(model_file, tmp_path, tmp_path / f"{n}.json", "--batch", str(n)) for n in (1, 2)))


def test_a_model_that_finds_nothing_writes_an_empty_list(model_file, tiny_data, tmp_path):
    model = load_model(model_file)
    torch.nn.init.constant_(model.detector.head.category_out.bias, -100.0)
    save_model(tmp_path / "model.pth", model)
    assert predict(tmp_path / "model.pth", tiny_data, tmp_path / "predictions.json") == []


def test_encoding_keeps_the_mask():
    masks = np.random.default_rng(0).random((2, 5, 7)) > 0.5
    results = encode(4, [0.5, 0.25], [3, 9], masks)
    assert [np.array_equal(rle.decode(r["segmentation"]), m) for r, m in zip(results, masks, strict=True)] == [True] * 2
    assert [(r["image_id"], r["category_id"], r["score"]) for r in results] == [(4, 3, 0.5), (4, 9, 0.25)]


def test_a_data_set_of_other_categories_is_refused(tiny_data):
    split = CocoSplit(tiny_data, "val2017")
    with pytest.raises(UserError, match=r"the model knows 1 categories \(1:cat\), .*instances_val2017.json has"):
        check_categories([Category(1, "cat")], split)
    with pytest.raises(UserError, match="one order"):
        check_categories(split.categories[::-1], split)


def test_a_model_file_describes_itself(model_file):
    model = load_model(model_file)
    assert model.run.name == "tiny"
    assert not model.detector.training
    assert model.provenance == {"seed": "1"}
    value = torch.load(model_file, weights_only=True)
    assert value["categories"] == [[c.id, c.name] for c in model.categories]
    del value["state"]["head.category_out.bias"]
    broken = model_file.with_name("broken.pth")
    torch.save(value, broken)
    with pytest.raises(UserError, match=f"{broken}: its weights do not fit its configuration"):
        load_model(broken)
