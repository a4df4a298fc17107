"""Learning real photos by heart: eight of them, with each kind of head, through the command line.

It needs SOLO_REFERENCE (data/coco158, real COCO photos) and some three minutes of one core per head.
"""

import json
import os
import shutil

import pytest
import yaml

MODEL = {
    "name": "overfit",
    "backbone": {
        "depth": 18, "width": 0.5, "norm": "gn", "frozen_stages": -1, "pretrained": "none", "fpn_channels": 64,
    },
    # Objects go to finer levels than the zoo would send them, whose masks are coarse at this image size.
    "head": {
        "grid_sizes": [24, 20, 16, 12, 8], "stacked_convs": 2, "feat_channels": 64, "norm_groups": 16,
        "scale_ranges": [[1, 48], [32, 96], [64, 192], [160, 256], [240, 2048]],
        "init_std": 0.04,  # a narrow head's outputs hardly differ between cells at 0.01
    },
    "loss": {"category_weight": 2.0},
    "input": {"image_scale": [320, 320], "train_scales": [[320, 320]], "flip_probability": 0.0},
    "schedule": {
        "epochs": 500, "milestones": [380, 450], "lr": 0.02, "warmup_steps": 30, "warmup_factor": 0.1,
        "batch_size": 4, "images_per_device": 4, "clip_norm": 10.0, "eval_every": 0, "log_every": 20,
    },
    "runtime": {"workers": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def eight(reference, tmp_path_factory):
    """The first eight photos with two to five objects, none a crowd or smaller than 32x32; they are both splits."""
    source, root = reference / "data/coco158", tmp_path_factory.mktemp("eight")
    coco = json.loads((source / "annotations/instances_train2017.json").read_text())
    objects = {image["id"]: [] for image in coco["images"]}
    for annotation in coco["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    images = [
        image
        for image in coco["images"]
        if 2 <= len(objects[image["id"]]) <= 5
        and all(o["area"] >= 32**2 and not o["iscrowd"] for o in objects[image["id"]])
    ][:8]
    assert len(images) == 8
    coco["annotations"] = [o for image in images for o in objects[image["id"]]]
    (root / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (root / split).mkdir()
        (root / f"annotations/instances_{split}.json").write_text(json.dumps({**coco, "images": images}))
        for image in images:
            shutil.copy(source / "train2017" / image["file_name"], root / split)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["solo", "decoupled_solo", "decoupled_solo_light"])
def test_eight_real_photos_are_learnt_by_heart(kind, eight, solo, tmp_path):
    """Train, predict and evaluate as a user does; mask AP above 60."""
    config = tmp_path / "overfit.yaml"
    config.write_text(yaml.safe_dump(MODEL))
    cores = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    truth = eight / "annotations/instances_val2017.json"
    for words in (
        ["train", "--config", config, "--data", eight, "--out", tmp_path, "--set", f"head.kind={kind}"],
        ["predict", "--model", tmp_path / "model.pth", "--data", eight, "--out", tmp_path / "predictions.json"],
        ["evaluate", "--predictions", tmp_path / "predictions.json", "--annotations", truth, "--out",
         tmp_path / "metrics.json"],
    ):  # fmt: skip
        done = solo(*words, **cores)
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    seconds = json.loads((tmp_path / "train.json").read_text())["seconds"]
    print(f"{kind}: mask AP {found['AP']:.1f}, AP50 {found['AP50']:.1f}, trained in {seconds:.0f} s")
    assert found["AP"] > 60
