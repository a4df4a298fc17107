"""From grids and masks to instances: no shortcut changes the result; thresholds; pasting against two resizes."""

import pytest
import torch
from torch.nn import functional as F

from solo.config import Backbone, Head, Test
from solo.inference import detect
from solo.matrix_nms import matrix_nms
from solo.model.detector import build_detector
from solo.paste import paste
from solo.postprocess import Candidates, MaskSource, find_candidates, point_nms, select

STRIDES = (8, 8, 16, 32, 32)


class GivenMasks(MaskSource):
    """Cell k of level 0 has the k-th given mask."""

    def __init__(self, masks):
        self.masks, self.size, self.asked = masks, tuple(masks.shape[1:]), []

    def __call__(self, levels, cells):
        self.asked.append(len(cells))
        return self.masks[cells]


def candidates(count, classes=3, seed=0):
    """Descending scores, labels, and smooth random masks of stride-4 probabilities."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(count, generator=generator).sort(descending=True).values * 0.8 + 0.15
    labels = torch.randint(classes, (count,), generator=generator)
    coarse = 3 * torch.randn(count, 1, 4, 5, generator=generator) - 1
    masks = F.interpolate(coarse, size=(24, 30), mode="bilinear")[:, 0].sigmoid()
    return Candidates(scores, labels, torch.zeros(count, dtype=torch.int64), torch.arange(count)), masks


def everything_at_once(found, masks, test):
    """The definition: all masks, all scores, then Matrix NMS."""
    binary = masks > test.mask_threshold
    areas = binary.sum((1, 2)).float()
    kept = areas > STRIDES[0]
    scores = found.scores * (masks * binary).sum((1, 2)) / areas
    final, order = matrix_nms(
        binary[kept], found.labels[kept], scores[kept], areas[kept], test.nms_pre, test.max_per_image,
        test.nms_kernel, test.nms_sigma, test.update_threshold,
    )  # fmt: skip
    return final, found.labels[kept][order], masks[kept][order]


@pytest.mark.parametrize("nms_pre", [1, 5, 37, 500])
@pytest.mark.parametrize("chunk", [1, 7, 100, 1000])
def test_neither_chunks_nor_stopping_early_change_anything(chunk, nms_pre):
    found, masks = candidates(150)
    test = Test(chunk=chunk, nms_pre=nms_pre, max_per_image=20)
    source = GivenMasks(masks)
    instances = select(found, source, STRIDES, test)
    scores, labels, winners = everything_at_once(found, masks, test)
    torch.testing.assert_close(instances.scores, scores, rtol=1e-6, atol=0)  # sums of other lengths, last bit
    assert torch.equal(instances.labels, labels)
    assert torch.equal(instances.masks, winners)
    if (chunk, nms_pre) == (7, 5):
        assert sum(source.asked[:-1]) < 150  # it did stop early


@pytest.mark.parametrize("kind", ["solo", "decoupled_solo", "decoupled_solo_light"])
def test_a_detector_in_chunks_and_in_a_batch(kind):
    torch.manual_seed(0)
    head = Head(
        kind=kind, num_classes=3, grid_sizes=(6, 5, 4, 3, 2), stacked_convs=1, feat_channels=16, norm_groups=4,
        init_std=0.3,
    )  # fmt: skip
    detector = build_detector(Backbone(depth=18, width=0.25, norm="gn", pretrained="none", fpn_channels=16), head)
    torch.nn.init.zeros_(detector.head.category_out.bias)  # many candidates,
    for name, parameter in detector.head.named_parameters():
        if name.startswith("mask_out") and name.endswith("bias"):
            torch.nn.init.zeros_(parameter)  # of large masks
    detector.eval()
    images = torch.randn(2, 3, 64, 96)
    whole = Test(chunk=1000)
    expected = detect(detector, images, whole, head.strides)
    assert min(len(instances.scores) for instances in expected) > 10
    small = detect(detector, images, whole.model_copy(update={"chunk": 3}), head.strides)
    alone = [detect(detector, images[i : i + 1], whole, head.strides)[0] for i in range(2)]
    for other in (small, alone):
        for a, b in zip(expected, other, strict=True):
            torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-5)
            assert a.masks.shape[1:] == (16, 24)
            assert len(a.labels) == len(b.labels)


def test_thresholds_are_strict_before_nms_and_not_after():
    grids = [torch.zeros(1, size, size) for size in (3, 1, 1, 1, 1)]
    grids[0][0] = torch.tensor([[0.5, 0.25, 0.0], [0.0, 0.75, 0.0], [0.0, 0.0, 0.0]])
    found = find_candidates(grids, Test(score_threshold=0.25))
    assert (found.scores.tolist(), found.cells.tolist()) == ([0.75, 0.5], [4, 0])
    masks = torch.zeros(9, 4, 4)
    masks[0, :2] = 0.75  # 8 pixels: as many as the stride, so left out
    masks[4, :2], masks[4, 2, 0] = 1.0, 0.5  # a pixel at the mask threshold is outside
    instances = select(found, GivenMasks(masks), STRIDES, Test(update_threshold=0.0))
    assert len(instances.scores) == 0
    masks[4, 2, 0] = 0.75
    expected = 0.75 * (8 + 0.75) / 9
    instances = select(found, GivenMasks(masks), STRIDES, Test())
    assert instances.scores.tolist() == pytest.approx([expected])
    at = Test(update_threshold=instances.scores.item())
    assert len(select(found, GivenMasks(masks), STRIDES, at).scores) == 1


def test_candidates_are_numbered_within_their_level_and_capped_best_first():
    generator = torch.Generator().manual_seed(0)
    grids = [torch.rand(2, size, size, generator=generator) for size in (4, 3, 2, 2, 1)]
    found = find_candidates(grids, Test(score_threshold=0.2))
    assert (found.scores.diff() <= 0).all()
    for score, label, level, cell in zip(found.scores, found.labels, found.levels, found.cells, strict=True):
        assert grids[level][label].flatten()[cell] == score
    assert len(found.scores) == sum(int((grid > 0.2).sum()) for grid in grids)
    capped = find_candidates(grids, Test(score_threshold=0.2, max_candidates=5))
    for field in ("scores", "labels", "levels", "cells"):
        assert torch.equal(getattr(capped, field), getattr(found, field)[:5])


def test_point_nms_looks_up_and_left():
    grid = torch.tensor([[0.3, 0.2, 0.9], [0.4, 0.3, 0.1], [0.4, 0.1, 0.0]])
    kept = point_nms(grid[None, None])[0, 0]
    # a cell stays where it is the largest of itself, the one above, the one to the left and the one between them
    expected = torch.tensor([[0.3, 0.0, 0.9], [0.4, 0.0, 0.0], [0.4, 0.0, 0.0]])
    assert torch.equal(kept, expected)


def test_no_candidate_gives_no_instance():
    found = find_candidates([torch.zeros(2, 3, 3)] * 5, Test())
    instances = select(found, GivenMasks(torch.zeros(9, 5, 6)), STRIDES, Test())
    assert instances.scores.shape == instances.labels.shape == (0,)
    assert instances.labels.dtype == torch.int64
    assert paste(torch.zeros(0, 5, 6), (20, 24), (31, 37), 0.5).shape == (0, 31, 37)


def two_resizes(masks, image, original):
    """The reference: to the padded input, cropped to the image, to the original size."""
    padded = F.interpolate(masks[None], scale_factor=4, mode="bilinear")[:, :, : image[0], : image[1]]
    return F.interpolate(padded, size=original, mode="bilinear")[0]


@pytest.mark.parametrize(
    ("cells", "image", "original"),
    [
        ((24, 32), (96, 128), (96, 128)),
        ((24, 32), (90, 125), (180, 250)),
        ((24, 32), (65, 97), (33, 49)),
        ((16, 24), (64, 70), (211, 231)),
        ((8, 8), (3, 32), (5, 61)),
    ],
)
def test_pasting_equals_two_resizes(cells, image, original):
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(6, 1, 4, 4, generator=generator), size=cells, mode="bicubic")[:, 0].clamp(0, 1)
    rough = torch.rand(4, *cells, generator=generator)
    single = torch.zeros(3, *cells)
    single[0, 0, 0] = single[1, -1, -1] = single[2, cells[0] // 2, cells[1] // 2] = 1
    masks = torch.cat([smooth, rough, single, torch.zeros(1, *cells), torch.ones(1, *cells)])
    expected = two_resizes(masks, image, original)
    found = paste(masks, image, original, 0.5)
    clear = (expected - 0.5).abs() > 1e-5  # both sides round in float32
    assert torch.equal(found[clear], (expected > 0.5)[clear])
    assert clear.float().mean() > 0.99
    assert found[-1].all()
    assert not found[-2].any()


def test_what_lies_in_the_padding_is_cropped():
    mask = torch.zeros(1, 8, 8)
    mask[0, :, 5:] = 1  # beyond column 20 of a padded input of 32
    assert not paste(mask, (32, 18), (32, 18), 0.5).any()
    assert paste(mask, (32, 24), (32, 24), 0.5)[0].any(0).nonzero().flatten().tolist() == [20, 21, 22, 23]
