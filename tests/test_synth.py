"""The synthetic set: same bytes for a seed, sound COCO annotations, whole or absent."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle

from solo.cli import main
from solo.errors import UserError
from solo.shapes import CATEGORIES, Shape, draw_scene, shape_mask
from solo.synth import describe, encode_png, synthesize

# pycocotools 2.0 under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("synth") / "set"
    assert synthesize(root, images=100, val_images=50, seed=3)
    return root


def annotations(root, split):
    return json.loads((root / f"annotations/instances_{split}.json").read_text())


def decode(annotation, height, width):
    """(H, W) bool, by the field's own decoder."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
        segmentation = rle.frPyObjects(segmentation, height, width)
    if isinstance(segmentation, list):
        segmentation = rle.merge(segmentation)
    return rle.decode(segmentation).astype(bool)


def test_same_bytes_on_every_machine(tmp_path):
    synthesize(tmp_path / "a", images=6, val_images=2, size=64, seed=7)
    digest = json.loads((tmp_path / "a/synth.json").read_text())["digest"]
    assert digest == "a4ab1dfa55810d654269e29321fdd387fa2d7867cf66f7d0f2bb9f8b65c67b13"


def test_seed_matters_and_a_smaller_set_is_the_start_of_a_larger_one(tmp_path):
    for name, count, seed in (("small", 3, 0), ("large", 6, 0), ("other", 3, 1)):
        synthesize(tmp_path / name, images=count, val_images=1, size=64, seed=seed)
    images = [path.name for path in sorted((tmp_path / "small/train2017").iterdir())]
    small, large, other = (
        [(tmp_path / name / "train2017" / image).read_bytes() for image in images]
        for name in ("small", "large", "other")
    )
    assert small == large
    assert all(a != b for a, b in zip(small, other, strict=True))


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_annotations_decode_to_disjoint_masks_with_their_area_and_box(drawn, split):
    coco = annotations(drawn, split)
    taken = {i["id"]: np.zeros((i["height"], i["width"]), dtype=bool) for i in coco["images"]}
    for annotation in coco["annotations"]:
        seen = taken[annotation["image_id"]]
        mask = decode(annotation, *seen.shape)
        ys, xs = np.nonzero(mask)
        assert annotation["area"] == mask.sum() >= 20
        box = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert annotation["bbox"] == box
        assert all(isinstance(value, float) for value in annotation["bbox"])
        assert annotation["category_id"] in CATEGORIES
        assert not (seen & mask).any()
        seen |= mask
    ids = [annotation["id"] for annotation in coco["annotations"]]
    assert len(set(ids)) == len(ids)
    assert min(ids) > 0  # COCOeval takes a matched id 0 for no match


def test_a_fair_miniature(drawn):
    for split in ("train2017", "val2017"):
        coco = annotations(drawn, split)
        objects = [a for a in coco["annotations"] if not a["iscrowd"]]
        sizes = np.digitize([a["area"] for a in objects], [32**2, 96**2])
        assert (np.bincount(sizes, minlength=3) >= 5).all()
        assert {a["category_id"] for a in objects} == set(CATEGORIES)
        crowds = [a for a in coco["annotations"] if a["iscrowd"]]
        assert crowds
        assert all(isinstance(a["segmentation"]["counts"], list) for a in crowds)
        kinds = [type(a["segmentation"]) for a in objects]
        assert kinds.count(list) > 2 * kinds.count(dict) > 0
        empty = {i["id"] for i in coco["images"]} - {a["image_id"] for a in objects}
        assert 0 < len(empty) < len(coco["images"]) / 10
        landscape = [i["width"] > i["height"] for i in coco["images"]]
        assert 0.5 < np.mean(landscape) < 0.7


def test_images_are_as_annotated(drawn):
    for image in annotations(drawn, "val2017")["images"][:5]:
        pixels = cv2.imread(str(drawn / "val2017" / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3)
        assert pixels.std() > 5


def test_png_is_lossless_over_several_blocks():
    image = np.random.RandomState(0).randint(0, 256, size=(150, 161, 3)).astype(np.uint8)
    assert np.array_equal(cv2.imdecode(np.frombuffer(encode_png(image), np.uint8), cv2.IMREAD_COLOR), image)


def test_disc_square_and_cut_shape():
    disc, whole = shape_mask(Shape("disc", 20, 20, 8, 0), 40, 40)
    assert whole == disc.sum() == 49  # integer points within 4 of the origin
    square, whole = shape_mask(Shape("square", 20, 20, 11, 0), 40, 40)
    assert whole == square[15:26, 15:26].sum() == 11**2
    cut, whole = shape_mask(Shape("disc", 0, 20, 8, 0), 40, 40)
    assert cut.sum() < whole == 49


def test_mask_with_diagonal_touch_parts_and_hole():
    mask = np.zeros((9, 12), dtype=bool)
    mask[1, 1] = mask[2, 2] = mask[6:8, 5:9] = mask[0, 11] = True
    polygons = describe(mask)
    assert len(polygons["segmentation"]) == 3
    assert np.array_equal(decode(polygons, 9, 12), mask)
    assert polygons["segmentation"][-1] == [11.0, 0.0, 12.0, 0.0, 12.0, 1.0, 11.0, 1.0]  # clockwise on the screen
    mask[3:8, 5:10] = True
    mask[5, 7] = False
    holed = describe(mask)
    assert isinstance(holed["segmentation"]["counts"], str)
    assert np.array_equal(decode(holed, 9, 12), mask)
    assert np.array_equal(decode(describe(mask, crowd=True), 9, 12), mask)


def test_every_object_stays_visible():
    for seed in range(20):
        scene = draw_scene(np.random.RandomState(seed), 160, 128, objects=6, crowd=seed % 2 == 0)
        assert len(scene.objects) >= 2
        assert all(scene.visible(index).sum() >= 20 for index in range(len(scene.objects)))


def test_second_run_does_nothing_and_other_parameters_are_refused(tmp_path, capsys):
    out = tmp_path / "set"
    command = ["synth", "--out", str(out), "--images", "3", "--val-images", "2", "--size", "64"]
    assert main(command) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert main(command) == 0
    assert "already there" in capsys.readouterr().out
    assert main([*command, "--seed", "1"]) == 2
    assert "'seed': 0" in capsys.readouterr().err
    next(out.glob("train2017/*")).write_bytes(b"")
    assert main(command) == 2
    assert "changed since" in capsys.readouterr().err
    assert before.keys() == set(out.rglob("*"))


def test_other_folder_is_refused_and_an_empty_one_filled(tmp_path):
    other = tmp_path / "mine"
    other.mkdir()
    synthesize(other, images=1, val_images=1, size=64)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/thesis.tex").write_text("")
    with pytest.raises(UserError, match="is not a synthetic data set"):
        synthesize(tmp_path / "theirs", images=1, val_images=1, size=64)


def test_failure_leaves_nothing_and_a_killed_run_is_drawn_over(tmp_path, monkeypatch):
    def full(image):
        raise OSError(28, "No space left on device")

    leftover = tmp_path / ".set.part"
    (leftover / "train2017").mkdir(parents=True)
    (leftover / "train2017/junk.png").write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr("solo.synth.encode_png", full)
        with pytest.raises(UserError, match="No space left"):
            synthesize(tmp_path / "set", images=1, val_images=1, size=64)
    assert not (tmp_path / "set").exists()
    assert not leftover.exists()
    synthesize(tmp_path / "set", images=1, val_images=1, size=64)
    assert len(list((tmp_path / "set/train2017").iterdir())) == 1


@pytest.mark.parametrize("wrong", [{"images": 0}, {"val_images": 0}, {"size": 63}, {"seed": -1}])
def test_values_out_of_range(tmp_path, wrong):
    with pytest.raises(UserError, match="out of range; valid: "):
        synthesize(tmp_path / "set", **wrong)
