"""From a checkpoint that the peer wrote to a table row's figures, through the command line alone."""

import json

import numpy as np
import pytest
import torch

from solo.checkpoint import load_model
from solo.coco_categories import COCO
from solo.model.names import from_reference
from tests.golden import fill
from tests.parity import checkpoints, ledger, matching, ours, small_coco
from tests.parity.ledger import check
from tests.parity.peer import CONFIGS, Peer

pytestmark = pytest.mark.parity
SCALE = (200, 128)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = small_coco.drawn(tmp_path_factory.mktemp("data") / "synth", 1, 4, 128, seed=ledger.SEED)
    return small_coco.with_coco_categories(root)


def filled(model):
    peer = Peer(model)
    fill.fill(peer.state(), ledger.seed_of(model))
    return peer


def small_config(model, folder, threshold):
    """The zoo file with small test images and a score threshold that noise does not cross."""
    zoo, out = f"workflow/config/zoo/{model}.yaml", folder / "config.yaml"
    changes = (f"input.image_scale=[{SCALE[0]},{SCALE[1]}]", f"test.score_threshold={threshold}")
    ours.solo("config", "--model", zoo, "--out", out, "--set", *changes)
    return out


def peer_detections(peer, data, threshold=None):
    """The peer's detections of every validation image, and its category scores when no threshold is given."""
    peer.cfg.test_dataloader.dataset.pipeline[1].scale = SCALE
    pipeline = peer.test_pipeline()
    found, scores = {}, []
    for image in small_coco.images(data, "val2017"):
        path = data / "val2017" / image["file_name"]
        if threshold is None:
            packed = pipeline({"img_path": str(path), "img_id": image["id"]})
            inputs, _ = peer.preprocess([packed["inputs"]], [packed["data_samples"]], training=False)
            scores.append(peer.category_scores(inputs))
        else:
            found[image["id"]] = matching.of_peer(peer.predict_file(path, image["id"], pipeline, score_thr=threshold))
    return np.concatenate(scores) if threshold is None else found


FORMS = dict(zip(CONFIGS, [("2.x", False), ("3.x", True), ("3.x", False), ("2.x", True), ("2.x", False)], strict=True))


@pytest.mark.parametrize("model", CONFIGS)
def test_from_checkpoint_to_figures(model, data, tmp_path, capsys):
    form, optimizer = FORMS[model]
    peer = filled(model)
    threshold = matching.threshold_in_a_gap(peer_detections(peer, data), 150, 400)
    published = checkpoints.write(peer, model, form, tuple(COCO), tmp_path, optimizer)
    theirs = peer_detections(peer, data, threshold)

    out = tmp_path / "model.pth"
    config = small_config(model, tmp_path, threshold)
    ours.solo("convert", published, "--out", out, "--config", config)
    assert f"{len(peer.state())} tensors as {model}" in capsys.readouterr().out
    truth = data / "annotations/instances_val2017.json"
    predictions, metrics = tmp_path / "predictions.json", tmp_path / "metrics.json"
    ours.solo("predict", "--model", out, "--data", data, "--out", predictions, *ours.HERE)
    ours.solo("evaluate", "--predictions", predictions, "--annotations", truth, "--out", metrics)

    mine = matching.of_results(json.loads(predictions.read_text()))
    assert sum(map(len, theirs.values())) > 20, "too few detections to compare"
    for image, detections in theirs.items():
        result = matching.compare(mine.get(image, []), detections)
        check("published: unmatched fraction", model, result["unmatched"], str(result))
    reference = matching.average_precision(theirs, truth, tmp_path / "peer.json")
    ap = json.loads(metrics.read_text())["metrics"]["AP"]
    check("published: AP difference", model, abs(ap - reference))


@pytest.mark.parametrize("form", checkpoints.FORMS)
@pytest.mark.parametrize("model", CONFIGS)
def test_the_contents_name_the_model(model, form, tmp_path, capsys):
    """Without --config: model and categories come from the file, and every tensor from its place."""
    peer = filled(model)
    path = checkpoints.write(peer, model, form, tuple(COCO), tmp_path)
    path = path.rename(tmp_path / f"checkpoint-{path.stem[-8:]}.pth")  # the contents alone must tell
    ours.solo("convert", path, "--out", tmp_path / "model.pth")
    assert f"as {model}" in capsys.readouterr().out
    converted = load_model(tmp_path / "model.pth")
    state = converted.detector.state_dict()
    assert all(torch.equal(state.pop(from_reference(name)), tensor) for name, tensor in peer.state().items())
    assert not state
    assert {category.name: category.id for category in converted.categories} == COCO
