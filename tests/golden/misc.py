"""The section misc: learning rates, the data pipeline, COCO figures, initialization."""

import json
import tempfile
import zlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from solo import evaluate
from solo.batches import stack
from solo.config import Schedule
from solo.dataset import Annotation, training_sample
from solo.model.detector import MEAN, STD, Detector
from solo.schedule import learning_rate
from solo.segmentation import decode_segmentation
from solo.transforms import resized_size
from tests.golden import synth
from tests.golden.common import (
    KINDS,
    build,
    by_reference_name,
    dump,
)

SCHEDULES = {
    "solo_r50_fpn_1x_coco": Schedule(),
    "solo_r50_fpn_3x_coco": Schedule(epochs=36, milestones=(27, 33), warmup_factor=1 / 3),
}


def misc(spec: ModuleType, out: Path, reference: Path | None) -> None:
    given = json.loads((reference / "misc.json").read_text()) if reference else {}
    result: dict[str, Any] = {}
    for key, wanted in given.items():
        if key.startswith("lr/"):
            _, name, steps = key.split("/")
            rate = SimpleNamespace(schedule=SCHEDULES[name], steps=int(steps.removeprefix("ipe")))
            result[key] = {i: learning_rate(rate.schedule, int(i), rate.steps) for i in wanted}
    result["pipeline"] = [pipeline(case, k, spec) for k, case in enumerate(given.get("pipeline", []))]
    if "coco" in given:
        result["coco"] = dict(metrics=coco_metrics(given["coco"]))
    for kind in KINDS:
        torch.manual_seed(0)
        detector = build(kind, None)
        result[f"init/{kind}"] = {
            n: [
                float(p.detach().double().mean()),
                float(p.detach().double().std()) if p.numel() > 1 else 0.0,
                float(p.detach().min()),
                float(p.detach().max()),
            ]
            for n, p in by_reference_name(kind, detector).items()
            if isinstance(p, nn.Parameter) and not n.startswith("backbone")
        }
    dump(result, out / "misc.json")


def pipeline(case: dict[str, Any], number: int, spec: ModuleType) -> dict[str, Any]:
    h, w = case["ori"]
    pixels = synth.image(h, w, spec.TAG, "pipe", number)
    annotations = [
        Annotation(tuple(i["bbox"]), i["bbox_label"], i["mask"], bool(i["ignore_flag"])) for i in case["instances"]
    ]
    sample = training_sample(number, pixels, annotations, tuple(case["scale"]), case["flip"])
    size = resized_size(h, w, tuple(case["scale"]))
    bitmaps = [decode_segmentation(a.segmentation, h, w) for a in annotations]
    detector = SimpleNamespace(mean=torch.tensor(MEAN)[:, None, None], std=torch.tensor(STD)[:, None, None])
    batch, sizes = stack([sample.pixels])
    x = Detector.normalize(detector, batch, sizes)
    channels_first = np.ascontiguousarray(sample.pixels.transpose(2, 0, 1))
    value, stat = synth.summary(f"pipe{number}", x.numpy(), 256)
    return dict(
        img_shape=list(size),
        scale_factor=[size[1] / w, size[0] / h],
        n_gt=len(sample.masks),
        raw_masks=dict(
            area=[int(b.sum()) for b in bitmaps], crc=[zlib.crc32(np.packbits(b).tobytes()) for b in bitmaps]
        ),
        resized_crc=zlib.crc32(channels_first.tobytes()),
        resized_mean=channels_first.reshape(3, -1).mean(1).tolist(),
        n_ignored=sum(a.crowd for a in annotations),
        bboxes=sample.boxes.tolist(),
        labels=sample.labels.tolist(),
        mask_area=[m.area for m in sample.masks],
        padded=list(x.shape),
        input_val=value.tolist(),
        input_stat=stat.tolist(),
    )


def coco_metrics(case: dict[str, Any]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        truth, predictions = Path(folder, "gt.json"), Path(folder, "predictions.json")
        dump(case["gt"], truth)
        dump(case["predictions"], predictions)
        metrics = evaluate.evaluate(predictions, truth)["metrics"]
    ours = {"mAP": "AP", "mAP_50": "AP50", "mAP_75": "AP75", "mAP_s": "APs", "mAP_m": "APm", "mAP_l": "APl"}
    return {f"coco/segm_{k}": round(metrics[v] / 100, 3) for k, v in ours.items() if metrics[v] is not None}
