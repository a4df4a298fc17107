"""The plan's models against measurement, and which source of a rate it prefers."""

import json

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from solo import plan
from solo.batches import Collate
from solo.dataset import TrainingSample
from solo.layers import load, with_classes
from solo.losses import detection_losses
from solo.model.detector import build_detector
from solo.suite import resolve
from solo.transforms import MaskResizer
from tests.conftest import ROOT
from tests.regions import region_of

ZOO = ROOT / "workflow/config/zoo"


def allocated_peak(action):
    """Bytes by which an action's allocations exceed those before it, at their highest."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        action()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    return int(np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]).max())


@pytest.mark.parametrize("model", ["solo_r50_1x", "decoupled_solo_light_r50_3x"])
def test_memory_is_what_a_training_step_allocates(model):
    config = with_classes(load(ZOO / f"{model}.yaml"), 80).config
    config = config.model_copy(update={"input": config.input.model_copy(update={"train_scales": ((336, 256),)})})
    detector = build_detector(config.backbone, config.head).train().to(memory_format=torch.channels_last)
    size = (256, 352)
    assert plan.on_paper(config, 2, size)[1].shape[2:] == size
    bitmap = np.zeros(size, np.uint8)
    bitmap[40:200, 60:220] = 1
    mask = MaskResizer(size, size, False)(region_of(bitmap))
    samples = [
        TrainingSample(i, np.zeros((*size, 3), np.uint8), np.array([[60, 40, 220, 200]], np.float32), np.array([3]),
                       [mask])
        for i in range(2)
    ]  # fmt: skip
    batch = Collate(config.head)(samples)

    def step():
        images = detector.normalize(batch.pixels, batch.sizes).contiguous(memory_format=torch.channels_last)
        losses = detection_losses(detector.head, detector.features(images), batch.targets, config.loss)
        sum(losses.values()).backward()

    before = plan.size_of(detector.parameters()) + plan.size_of(p for p in detector.parameters() if p.requires_grad)
    assert allocated_peak(step) == pytest.approx(plan.training_memory(config) - before, rel=0.15)


def test_the_rate_is_the_runs_own_then_the_benchmarks_then_arithmetic(tmp_path):
    folder = tmp_path / "results/smoke/solo_r50_1x/seed0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(resolve(ZOO / "solo_r50_1x.yaml", None, {}, 0, {}).to_yaml())
    first = plan.estimate(folder / "config.yaml", rate=1e12)
    assert first.source == "arithmetic"
    assert first.images_per_second == pytest.approx(1e12 / (first.gflop_per_image * 1e9))
    step = {"images_per_device": 2, "milliseconds": {"median": 400}}
    (folder / "speed.json").write_text(json.dumps({"training_step": step}))
    assert plan.estimate(folder / "config.yaml", rate=1e12).images_per_second == 5
    (folder / "speed.json").write_text(json.dumps({"training_step": None}))
    assert plan.estimate(folder / "config.yaml", rate=1e12).source == "arithmetic"
    lines = [{"step": step, "images_per_second": step / 10} for step in (100, 190)]
    (folder / "throughput.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert plan.estimate(folder / "config.yaml", rate=1e12).source == "arithmetic"
    with (folder / "throughput.jsonl").open("a") as file:
        file.write(json.dumps({"step": 200, "images_per_second": 20.0}) + "\n")
    assert plan.estimate(folder / "config.yaml", rate=1e12).images_per_second == 20


def test_the_plan_adds_up(tmp_path):
    folder = tmp_path / "results/smoke/solo_r50_1x/seed0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(resolve(ZOO / "solo_r50_1x.yaml", None, {}, 0, {}).to_yaml())
    estimate = plan.estimate(folder / "config.yaml", rate=1e12)
    assert estimate.steps == 12 * 7330  # COCO train2017, batches of 16
    text = plan.render([estimate, estimate], 2, 1e12, "given")
    assert f"Together {2 * estimate.hours:.2f} device-hours" in text
    assert f"| {estimate.hours / 2:.2f} | arithmetic |" in text
