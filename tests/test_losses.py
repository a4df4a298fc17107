"""Losses: by hand, against torchvision's focal loss, and against all masks computed and most of them thrown away."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from solo.batches import Collate
from solo.config import Backbone, Head, Loss
from solo.dataset import TrainingSample
from solo.losses import MASK_LOSSES, detection_losses, dice_loss, focal_loss
from solo.model.detector import build_detector
from solo.model.head import MaskMaps
from solo.transforms import MaskResizer
from tests.regions import region_of

KINDS = ["solo", "decoupled_solo", "decoupled_solo_light"]
BACKBONE = Backbone(depth=18, width=0.25, norm="gn", frozen_stages=-1, pretrained="none", fpn_channels=16)


def head(kind):
    return Head(
        kind=kind, num_classes=4, grid_sizes=(6, 5, 4, 3, 2), stacked_convs=2, feat_channels=16, norm_groups=4,
        scale_ranges=((1, 16), (12, 32), (24, 48), (40, 96), (64, 2048)), init_std=0.1,
    )  # fmt: skip


def training_batch(head, *images):
    """Images of 64x96 pixels, each a list of (left, top, right, bottom, label)."""
    rng = np.random.default_rng(0)
    resize = MaskResizer((64, 96), (64, 96), False)
    samples = []
    for number, objects in enumerate(images):
        masks = []
        for left, top, right, bottom, _ in objects:
            bitmap = np.zeros((64, 96), np.uint8)
            bitmap[top:bottom, left:right] = 1
            masks.append(resize(region_of(bitmap)))
        table = np.array(objects, np.float32).reshape(-1, 5)
        pixels = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
        samples.append(TrainingSample(number, pixels, table[:, :4], table[:, 4].astype(np.int64), masks))
    return Collate(head)(samples)


def losses(detector, batch, loss):
    features = detector.features(detector.normalize(batch.pixels, batch.sizes))
    return detection_losses(detector.head, features, batch.targets, loss)


def test_dice_by_hand():
    half = [MaskMaps(torch.zeros(1, 2, 2), torch.tensor([0]))]
    target = torch.tensor([[[True, True], [False, False]]])
    # overlap 2 * 0.5, squares 4 * 0.25 and 2
    assert dice_loss(half, target, Loss()).item() == pytest.approx(1 - 2 * 1 / (1.001 + 2.001))
    sure = [MaskMaps(100 * (2.0 * target - 1), torch.tensor([0]))]
    assert dice_loss(sure, target, Loss()).item() == pytest.approx(1 - 4 / 4.002, abs=1e-7)
    assert dice_loss(sure, ~target, Loss()).item() == pytest.approx(1)
    nothing = [MaskMaps(torch.full((1, 2, 2), -100.0), torch.tensor([0]))]
    assert dice_loss(nothing, torch.zeros(1, 2, 2, dtype=torch.bool), Loss()).item() == 1


def test_decoupled_factors_are_multiplied_by_cell():
    x, y = torch.randn(2, 3, 4), torch.randn(3, 3, 4)
    factors = [MaskMaps(x, torch.tensor([1, 0])), MaskMaps(y, torch.tensor([2, 2]))]
    target = torch.rand(2, 3, 4) > 0.5
    p = (x.sigmoid()[[1, 0]] * y.sigmoid()[[2, 2]]).flatten(1)
    t = target.flatten(1).float()
    expected = 1 - 2 * (p * t).sum(1) / ((p**2).sum(1) + (t**2).sum(1) + 0.002)
    torch.testing.assert_close(dice_loss(factors, target, Loss()), expected)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (1.5, 0.9)])
def test_focal_loss_is_torchvisions(gamma, alpha):
    logits = 6 * torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 6  # 5 is background
    mine, theirs = (logits.clone().requires_grad_() for _ in range(2))
    one_hot = F.one_hot(labels, 6)[:, :5].float()
    found, expected = focal_loss(mine, labels, gamma, alpha), sigmoid_focal_loss(theirs, one_hot, alpha, gamma)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_the_other_mask_losses_are_pixel_means():
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    target = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(2)) > 0.4
    maps, t = [MaskMaps(logits, torch.arange(3))], target.float()
    bce = F.binary_cross_entropy_with_logits(logits, t, reduction="none").mean((1, 2))
    torch.testing.assert_close(MASK_LOSSES["bce"](maps, target, Loss()), bce)
    focal = sigmoid_focal_loss(logits, t, 0.25, 2.0).mean((1, 2))
    torch.testing.assert_close(MASK_LOSSES["focal"](maps, target, Loss()), focal)


@pytest.mark.parametrize("kind", KINDS)
def test_without_objects_the_mask_loss_is_zero_and_still_has_gradients(kind):
    torch.manual_seed(0)
    detector = build_detector(BACKBONE, head(kind))
    batch = training_batch(head(kind), [], [])
    found = losses(detector, batch, Loss())
    assert found["loss_mask"].item() == 0
    assert found["loss_category"].item() > 0
    found["loss_mask"].backward(retain_graph=True)  # the features are shared
    assert all(p.grad is not None and not p.grad.any() for p in detector.head.mask_parameters())
    found["loss_category"].backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []
    assert detector.head.category_out.weight.grad.any()


def dense_losses(detector, batch, loss):
    """The definition: every cell's mask at every level, the positive ones picked afterwards."""
    head, targets = detector.head, batch.targets
    features = detector.features(detector.normalize(batch.pixels, batch.sizes))
    logits = [grid.permute(0, 2, 3, 1).flatten(0, 2) for grid in head.category_logits(features)]
    count = sum(map(sum, targets.counts))
    one_hot = F.one_hot(targets.labels, logits[0].shape[1] + 1)[:, :-1].float()
    category = sigmoid_focal_loss(torch.cat(logits), one_hot, loss.focal_alpha, loss.focal_gamma).sum() / (count + 1)
    each = []
    for level, feature in enumerate(features):
        size = head.grid_sizes[level]
        hidden = [F.interpolate(h, scale_factor=2, mode="bilinear") for h in head.mask_features(feature)]
        if hasattr(head, "mask_out"):
            masks = head.mask_out[level](hidden[0]).sigmoid()  # (B, S*S, h, w)
        else:
            columns, rows = head.mask_out_x[level](hidden[0]).sigmoid(), head.mask_out_y[level](hidden[-1]).sigmoid()
            masks = (rows[:, :, None] * columns[:, None]).flatten(1, 2)
            assert masks.shape[1] == size**2
        p = masks[targets.images[level], targets.cells[level]].flatten(1)
        t = targets.level_masks(level).flatten(1).float()
        each.append(1 - 2 * (p * t).sum(1) / ((p * p).sum(1) + 1e-3 + (t * t).sum(1) + 1e-3))
    mask = torch.cat(each).mean()
    return {"loss_mask": loss.mask_weight * mask, "loss_category": loss.category_weight * category}


@pytest.mark.parametrize("kind", KINDS)
def test_the_needed_cells_alone_give_the_loss_and_gradient_of_all_cells(kind):
    torch.manual_seed(1)
    detector = build_detector(BACKBONE, head(kind))
    objects = [(3, 4, 20, 18, 0), (8, 6, 60, 50, 2), (30, 20, 90, 62, 3), (50, 40, 62, 52, 1)]
    batch = training_batch(head(kind), objects, [], objects[1:3])
    assert sum(map(sum, batch.targets.counts)) > 15
    gradients = []
    values = []
    for function in (losses, dense_losses):
        detector.zero_grad()
        found = function(detector, batch, Loss(category_weight=0.5))
        sum(found.values()).backward()
        values.append(found)
        gradients.append({name: p.grad.clone() for name, p in detector.named_parameters() if p.grad is not None})
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-6)
    assert gradients[0].keys() == gradients[1].keys() == dict(detector.named_parameters()).keys()
    for name, gradient in gradients[0].items():
        scale = gradient.norm().item()
        difference = (gradient - gradients[1][name]).norm().item()
        assert difference <= 1e-4 * scale + 1e-7, name


def test_an_untrained_category_branch_starts_at_its_prior():
    torch.manual_seed(0)
    settings = head("solo").model_copy(update={"init_std": 0.01})
    detector = build_detector(BACKBONE, settings)
    batch = training_batch(settings, [(10, 10, 50, 50, 1)])
    found = losses(detector, batch, Loss(focal_gamma=0.0, focal_alpha=0.5))
    positives = sum(map(sum, batch.targets.counts))
    cells = sum(size**2 for size in settings.grid_sizes) * settings.num_classes
    expected = 0.5 * (positives * -math.log(0.01) + (cells - positives) * -math.log(0.99)) / (positives + 1)
    assert found["loss_category"].item() == pytest.approx(expected, rel=0.1)
