"""Matrix NMS against a double loop written from its paper, and its cuts."""

import math

import pytest
import torch

from solo.matrix_nms import decayed_scores, intersections, matrix_nms


def blobs(count, classes, seed):
    """Random rectangles: masks (n, 20, 24) bool, labels, descending scores, areas."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, 20, 24, dtype=torch.bool)
    for mask in masks:
        top, left = (int(torch.randint(0, n, (), generator=generator)) for n in (12, 14))
        height, width = (int(torch.randint(3, n, (), generator=generator)) for n in (12, 14))
        mask[top : top + height, left : left + width] = True
    labels = torch.randint(classes, (count,), generator=generator)
    scores = torch.rand(count, generator=generator).sort(descending=True).values
    return masks, labels, scores, masks.sum((1, 2)).float()


def double_loop(masks, labels, scores, kernel, sigma):
    """Each score times the least f(overlap with a better mask) / f(that mask's own largest overlap)."""

    def overlap(i, j):
        both, either = (masks[i] & masks[j]).sum().item(), (masks[i] | masks[j]).sum().item()
        return both / either if labels[i] == labels[j] else 0.0

    def f(iou):
        return math.exp(-sigma * iou**2) if kernel == "gaussian" else 1 - iou

    result = []
    for j in range(len(scores)):
        factors = [f(overlap(i, j)) / f(max((overlap(k, i) for k in range(i)), default=0.0)) for i in range(j)]
        result.append(scores[j].item() * min([1.0, *factors]))
    return torch.tensor(result)


@pytest.mark.parametrize(("kernel", "sigma"), [("gaussian", 2.0), ("gaussian", 0.5), ("linear", 2.0)])
@pytest.mark.parametrize(("count", "classes"), [(1, 1), (2, 1), (30, 1), (40, 3)])
def test_equal_to_a_double_loop(kernel, sigma, count, classes):
    masks, labels, scores, areas = blobs(count, classes, seed=count)
    if kernel == "linear":  # identical masks are the subject of another test
        assert len(torch.unique(masks.flatten(1), dim=0)) == count
    found = decayed_scores(masks, labels, scores, areas, kernel, sigma)
    torch.testing.assert_close(found, double_loop(masks, labels, scores, kernel, sigma), rtol=1e-5, atol=1e-7)


def test_intersections_are_counted_within_a_label_only():
    masks, labels, *_ = blobs(12, 3, seed=1)
    found = intersections(masks, labels)
    for i in range(12):
        for j in range(12):
            if i != j:
                expected = (masks[i] & masks[j]).sum() if labels[i] == labels[j] else 0
                assert found[i, j] == expected


def test_any_order_gives_the_same_and_the_candidates_numbers():
    masks, labels, scores, areas = blobs(25, 2, seed=3)
    shuffle = torch.randperm(25, generator=torch.Generator().manual_seed(0))
    expected, order = matrix_nms(masks, labels, scores, areas)
    found, numbers = matrix_nms(masks[shuffle], labels[shuffle], scores[shuffle], areas[shuffle])
    assert torch.equal(found, expected)
    assert torch.equal(shuffle[numbers], order)
    assert (found.diff() <= 0).all()


def test_equal_scores_one_stays_and_its_copies_decay():
    masks = torch.ones(3, 4, 4, dtype=torch.bool)
    found, _ = matrix_nms(masks, torch.zeros(3, dtype=torch.int64), torch.full((3,), 0.8), torch.full((3,), 16.0))
    # an exact copy decays by e^-2, and so does a copy of a copy: the first suppresses it without being suppressed
    torch.testing.assert_close(found, 0.8 * torch.tensor([1, math.exp(-2), math.exp(-2)]))


def test_the_linear_kernel_keeps_the_references_not_a_number_for_a_third_copy():
    masks = torch.ones(3, 4, 4, dtype=torch.bool)
    scores = torch.tensor([0.9, 0.8, 0.7])
    found = decayed_scores(masks, torch.zeros(3, dtype=torch.int64), scores, torch.full((3,), 16.0), "linear")
    assert found[:2].tolist() == [pytest.approx(0.9), 0.0]
    assert found[2].isnan()


def test_cuts():
    masks = torch.eye(4, dtype=torch.bool).view(4, 2, 2)  # disjoint: nothing decays
    labels, areas = torch.zeros(4, dtype=torch.int64), torch.ones(4)
    scores = torch.tensor([0.25, 1.0, 0.5, 0.125])
    found, numbers = matrix_nms(masks, labels, scores, areas, update_threshold=0.25)
    assert (found.tolist(), numbers.tolist()) == ([1.0, 0.5, 0.25], [1, 2, 0])  # at the threshold: kept
    assert matrix_nms(masks, labels, scores, areas, nms_pre=2)[1].tolist() == [1, 2]
    assert matrix_nms(masks, labels, scores, areas, max_per_image=1)[1].tolist() == [1]
    assert len(matrix_nms(masks, labels, scores, areas, update_threshold=2.0)[0]) == 0


def test_a_candidate_beyond_nms_pre_suppresses_nothing():
    masks, labels, scores, areas = blobs(20, 1, seed=5)
    cut = matrix_nms(masks, labels, scores, areas, nms_pre=8)
    alone = matrix_nms(masks[:8], labels[:8], scores[:8], areas[:8])
    assert torch.equal(cut[0], alone[0])
    assert torch.equal(cut[1], alone[1])


def test_no_candidate():
    none = torch.zeros(0)
    scores, numbers = matrix_nms(torch.zeros(0, 4, 4, dtype=torch.bool), none.long(), none, none, 500, 100)
    assert scores.shape == numbers.shape == (0,)
    assert numbers.dtype == torch.int64
