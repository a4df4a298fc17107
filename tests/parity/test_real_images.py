"""COCO's own images at full size: `solo predict` beside the peer's whole test pipeline, its decoder included.

SOLO_REFERENCE names the folder that holds data/coco158, a COCO-format folder of real images. SOLO_PARITY_IMAGES sets
their number for the slow test (default 24).
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from solo.coco_categories import COCO
from solo.dataset import CocoSplit, TestSet
from tests.golden import fill
from tests.parity import checkpoints, ledger, matching, ours, small_coco
from tests.parity.ledger import check
from tests.parity.peer import Peer

pytestmark = pytest.mark.parity
MODELS = ("solo_r50_1x", "decoupled_solo_r50_1x", "decoupled_solo_light_r50_3x")


@pytest.fixture(scope="module")
def coco():
    folder = Path(os.environ.get("SOLO_REFERENCE", "")) / "data" / "coco158"
    if not os.environ.get("SOLO_REFERENCE") or not folder.is_dir():
        pytest.skip("SOLO_REFERENCE does not name a folder with data/coco158")
    return folder


@pytest.mark.parametrize("model", MODELS)
def test_a_few_images(model, coco, rng, tmp_path):
    compare(model, coco, rng.choice(66, 4, replace=False).tolist(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_many_images(model, coco, rng, tmp_path):
    compare(
        model, coco, rng.choice(66, int(os.environ.get("SOLO_PARITY_IMAGES", "24")), replace=False).tolist(), tmp_path
    )


def compare(model, coco, numbers, folder):
    """The whole route on the images with these numbers."""
    data = small_coco.subset(coco, "val2017", sorted(numbers), folder / "data")
    peer = Peer(model)
    fill.fill(peer.state(), ledger.seed_of(model))
    published = checkpoints.write(peer, model, "2.x", tuple(COCO), folder)
    config = ours.zoo_config(model)
    compare_pixels(model, peer, CocoSplit(data, "val2017"), config)
    theirs = peer_detections(peer, data)

    output, predictions = folder / "model.pth", folder / "predictions.json"
    zoo = Path("workflow/config/zoo") / f"{model}.yaml"
    ours.solo("convert", published, "--out", output, "--config", zoo)
    ours.solo("predict", "--model", output, "--data", data, "--out", predictions, *ours.HERE)
    mine = matching.of_results(json.loads(predictions.read_text()))
    results = [matching.compare(mine.get(image, []), detections) for image, detections in theirs.items()]
    total = sum(r["ours"] + r["peers"] for r in results)
    assert total > 20, "too few detections to compare"
    unmatched = sum(r["unmatched"] * (r["ours"] + r["peers"]) for r in results) / total
    check("real images: unmatched fraction", model, unmatched, str(results))

    truth = data / "annotations/instances_val2017.json"
    ap = [matching.average_precision(side, truth, folder / "side.json") for side in (mine, theirs)]
    check("real images: AP difference", model, abs(ap[0] - ap[1]), str(ap))
    pseudo = matching.as_truth(theirs, truth, folder / "pseudo.json")
    ap = [matching.average_precision(side, pseudo, folder / "side.json") for side in (mine, theirs)]
    check("real images: AP difference, peer as truth", model, abs(ap[0] - ap[1]), str(ap))
    print(f"{model}: {total} detections of both, {unmatched:.2%} unmatched, AP against the peer's own {ap}")


def compare_pixels(model, peer, split, config):
    """Decoded and resized images, before normalization."""
    pipeline = peer.test_pipeline()
    for sample, image in zip(TestSet(split, config.input), split.images, strict=True):
        packed = pipeline({"img_path": str(split.root / split.split / image.file_name), "img_id": image.id})
        theirs = packed["inputs"].numpy().transpose(1, 2, 0)
        different = np.count_nonzero(theirs != sample.pixels) if theirs.shape == sample.pixels.shape else theirs.size
        check("real images: pixels that differ", model, different, image.file_name)


def peer_detections(peer, data):
    """The peer's detections by image id, from the files."""
    pipeline = peer.test_pipeline()
    return {
        image["id"]: matching.of_peer(peer.predict_file(data / "val2017" / image["file_name"], image["id"], pipeline))
        for image in small_coco.images(data, "val2017")
    }
