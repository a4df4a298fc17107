"""The learning rate of all five zoo models at the steps that matter, and a plain one by hand."""

from pathlib import Path

import pytest
import torch

from solo.config import Schedule
from solo.layers import load
from solo.schedule import learning_rate

ZOO = Path(__file__).parents[1] / "workflow/config/zoo"
STEPS = 7330  # of an epoch: 117266 images in batches of 16


@pytest.mark.parametrize("file", sorted(ZOO.glob("*.yaml")), ids=lambda path: path.stem)
def test_zoo_schedules_equal_torchs_schedulers(file):
    """LinearLR over 500 steps, and MultiStepLR by epoch, multiplied."""
    schedule = load(file).config.schedule
    per_epoch = 90
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], schedule.lr)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, schedule.warmup_factor, total_iters=499)
    steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, [m * per_epoch for m in schedule.milestones])
    for step in range(schedule.epochs * per_epoch):
        assert learning_rate(schedule, step, per_epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        warmup.step()
        steps.step()


def test_ends_of_warm_up_and_drops():
    schedule = Schedule()
    rate = [learning_rate(schedule, step, STEPS) for step in (0, 498, 499, 500, 8 * STEPS - 1, 8 * STEPS, 11 * STEPS)]
    near = 0.01 * (0.001 + 0.999 * 498 / 499)
    assert rate == pytest.approx([1e-5, near, 0.01, 0.01, 0.01, 1e-3, 1e-4])


def test_no_warm_up_and_warm_up_of_one_step():
    for steps in (0, 1):
        assert learning_rate(Schedule(warmup_steps=steps), 0, 10) == 0.01


def test_the_rate_follows_the_batch_only_when_told_to():
    assert learning_rate(Schedule(batch_size=32), 1000, STEPS) == 0.01
    assert learning_rate(Schedule(batch_size=32, lr_reference_batch=16), 1000, STEPS) == 0.02
