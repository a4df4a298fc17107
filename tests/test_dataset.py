"""COCO folders: what is read, what is left out, and what is said when something is wrong."""

import json

import cv2
import numpy as np
import pytest

from solo.config import Input
from solo.data import describe
from solo.dataset import CocoSplit, TestSet, TrainingSet, resize_boxes, training_sample
from solo.errors import UserError

CATEGORIES = [{"id": 3, "name": "cup"}, {"id": 7, "name": "dog"}]


def ann(image=1, category=3, box=(2, 2, 20, 10), **fields):
    x, y, w, h = box
    polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {
        "image_id": image, "category_id": category, "bbox": list(box), "area": w * h, "iscrowd": 0,
        "segmentation": polygon, **fields,
    }  # fmt: skip


def write(root, annotations, images=((1, 40, 60),), categories=CATEGORIES, split="train2017"):
    """A split; `images` are (id, height, width)."""
    folder, described = root / split, []
    folder.mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    for number, height, width in images:
        name = f"{number:04}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), pixels)
        described.append({"id": number, "file_name": name, "height": height, "width": width})
    value = {"images": described, "annotations": annotations, "categories": categories}
    (root / f"annotations/instances_{split}.json").write_text(json.dumps(value))
    return root


def kept(root):
    split = CocoSplit(root, "train2017")
    return [[a.label for a in split.annotations(i)] for i in range(len(split.images))]


def test_labels_follow_the_file_and_boxes_are_corners(tmp_path):
    split = CocoSplit(write(tmp_path, [ann(category=7), ann(category=3, box=(1, 2, 3, 4))]), "train2017")
    assert [(a.label, a.box) for a in split.annotations(0)] == [(1, (2, 2, 22, 12)), (0, (1, 2, 4, 6))]


@pytest.mark.parametrize(
    "unusable",
    [
        {"ignore": 1},
        {"area": 0},
        {"category": 99},
        {"box": (2, 2, 0.5, 10), "area": 5},
        {"box": (60, 2, 10, 10)},  # beside the image
        {"box": (-20, 2, 20, 10)},
    ],
)
def test_unusable_annotations_are_left_out(tmp_path, unusable):
    assert kept(write(tmp_path, [ann(**unusable), ann()])) == [[0]]


def test_crowds_are_parsed_and_no_training_target(tmp_path):
    crowd = ann(iscrowd=1, segmentation={"size": [40, 60], "counts": [100, 50, 2250]})
    split = CocoSplit(write(tmp_path, [crowd, ann(), ann(segmentation=[[1, 1, 2, 2]])]), "train2017")
    found = split.annotations(0)
    assert [a.crowd for a in found] == [True, False, False]
    sample = training_sample(1, split.read(0), found, (60, 40), flip=False)
    assert sample.boxes.tolist() == [[2, 2, 22, 12]]  # nor is a polygon of two points
    assert len(sample.masks) == len(sample.labels) == 1


def test_training_leaves_out_small_images_and_those_never_annotated(tmp_path):
    images = [(1, 40, 60), (2, 31, 60), (3, 32, 32), (4, 40, 40), (5, 40, 60), (6, 60, 40)]
    annotations = [ann(1), ann(2), ann(3), ann(5, iscrowd=1, segmentation={"size": [40, 60], "counts": [2400]})]
    annotations.append(ann(6, area=0))  # not usable, and still an annotation, as in the reference
    split = CocoSplit(write(tmp_path, annotations, images), "train2017")
    training = TrainingSet(split, Input(), seed=0)
    assert [split.images[i].id for i in training.indices] == [1, 3, 5, 6]
    assert training.is_wide() == [True, True, True, False]
    assert len(TestSet(split, Input())) == 6
    with pytest.raises(UserError, match=r"none of 6 images .* input.min_size = 64"):
        TrainingSet(split, Input(min_size=64), seed=0)


def test_a_sample_depends_on_seed_epoch_and_image_alone(tmp_path):
    images = [(i, 40, 60) for i in range(1, 9)]
    split = CocoSplit(write(tmp_path, [ann(i) for i, _, _ in images], images), "train2017")
    settings = Input(train_scales=((60, 40), (90, 60), (120, 80)))

    def drawn(seed, epoch):
        training = TrainingSet(split, settings, seed)
        return [(s.pixels.shape, s.boxes.tolist()) for s in (training[(epoch, i)] for i in reversed(range(8)))][::-1]

    assert drawn(0, 1) == drawn(0, 1)
    assert drawn(0, 1) != drawn(0, 2)
    assert drawn(0, 1) != drawn(1, 1)
    assert {shape for shape, _ in drawn(0, 1) + drawn(0, 2)} == {(40, 60, 3), (60, 90, 3), (80, 120, 3)}


def test_a_flipped_sample_is_the_mirror_image(tmp_path):
    split = CocoSplit(write(tmp_path, [ann()]), "train2017")
    straight, flipped = (training_sample(1, split.read(0), split.annotations(0), (60, 40), f) for f in (False, True))
    assert np.array_equal(flipped.pixels, straight.pixels[:, ::-1])
    assert straight.boxes.tolist() == [[2, 2, 22, 12]]
    assert flipped.boxes.tolist() == [[38, 2, 58, 12]]
    canvases = np.zeros((2, 10, 15), np.bool_)
    for canvas, sample in zip(canvases, (straight, flipped), strict=True):
        sample.masks[0].block(4).paint(canvas)
    assert canvases[0].any()
    assert np.array_equal(canvases[1], canvases[0][:, ::-1])


def test_boxes_are_scaled_and_clipped():
    boxes = np.array([[-4, 10, 70, 50]], np.float32)
    assert resize_boxes(boxes, (40, 60), (80, 120), flip=False).tolist() == [[0, 20, 120, 80]]


def test_an_image_without_objects_is_a_sample(tmp_path):
    split = CocoSplit(write(tmp_path, [ann(iscrowd=1, segmentation={"size": [40, 60], "counts": [2400]})]), "train2017")
    sample = TrainingSet(split, Input(), seed=0)[(0, 0)]
    assert sample.boxes.shape == (0, 4)
    assert sample.labels.shape == (0,)
    assert sample.masks == []


def test_faults_name_the_file(tmp_path):
    with pytest.raises(UserError, match=r"no .*instances_train2017.json; a data folder holds"):
        CocoSplit(tmp_path / "nowhere", "train2017")
    file = write(tmp_path, [ann()]) / "annotations/instances_train2017.json"
    good = json.loads(file.read_text())
    for content, message in (
        ("", "is not a JSON file"),
        ("{'a': 1}", "is not a JSON file"),
        ("[]", "is not COCO's instances format"),
        (json.dumps({**good, "images": []}), "lists no images|is not COCO's"),
        (json.dumps({**good, "images": [], "annotations": []}), "lists no images"),
        (json.dumps({**good, "categories": []}), "lists no categories"),
        (json.dumps({**good, "annotations": [{"image_id": 1}]}), "is not COCO's instances format"),
        (json.dumps({"images": good["images"]}), "is not COCO's instances format"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=f"{file}.*({message})"):
            CocoSplit(tmp_path, "train2017")


def test_missing_and_damaged_images_are_named(tmp_path):
    split = CocoSplit(write(tmp_path, [ann()], [(1, 40, 60), (2, 40, 60)]), "train2017")
    path = tmp_path / "train2017/0002.png"
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(UserError, match=f"cannot decode image {path}"):
        split.read(1)
    path.unlink()
    with pytest.raises(UserError, match=f"cannot decode image {path}"):
        split.read(1)
    with pytest.raises(UserError, match=r"lacks 1 of 2 images: 0002.png"):
        describe(tmp_path, ["train2017"])


def test_a_description_counts_and_its_digest_follows_the_content(tmp_path):
    images = [(1, 40, 60), (2, 40, 60)]
    write(tmp_path, [ann(), ann(iscrowd=1, segmentation={"size": [40, 60], "counts": [2400]})], images)
    write(tmp_path, [ann(2)], images, split="val2017")
    found = describe(tmp_path, ["train2017", "val2017"])
    counts = {k: v for k, v in found["splits"]["train2017"].items() if k != "annotations_sha256"}
    assert counts == {"images": 2, "annotations": 2, "crowds": 1, "images_without_objects": 1}
    assert found["categories"] == CATEGORIES
    tmp_path.rename(tmp_path.with_name("elsewhere"))
    moved = tmp_path.with_name("elsewhere")
    assert describe(moved, ["train2017", "val2017"])["digest"] == found["digest"]
    write(moved, [ann(2, box=(2, 2, 21, 10))], images, split="val2017")
    assert describe(moved, ["train2017", "val2017"])["digest"] != found["digest"]


def test_a_wrong_size_and_unequal_categories_are_refused(tmp_path):
    write(tmp_path, [ann()])
    write(tmp_path, [ann()], categories=CATEGORIES[::-1], split="val2017")
    with pytest.raises(UserError, match="lists other categories"):
        describe(tmp_path, ["train2017", "val2017"])
    cv2.imwrite(str(tmp_path / "train2017/0001.png"), np.zeros((30, 60, 3), np.uint8))
    with pytest.raises(UserError, match=r"is 60x30, .* says 60x40"):
        describe(tmp_path, ["train2017"])
