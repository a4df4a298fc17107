"""Same weights, same random images: configuration, forward pass, targets, losses, gradients, predictions."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from solo.config import Config
from solo.inference import detect
from solo.model.detector import Detector
from solo.paste import paste
from tests.parity import ledger, matching, ours, scenes
from tests.parity.ledger import check
from tests.parity.peer import CONFIGS, Peer

pytestmark = pytest.mark.parity


class Pair(NamedTuple):
    model: str
    peer: Peer
    detector: Detector
    config: Config


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request):
    peer = Peer(request.param)
    detector, config = ours.same_weights(peer, request.param, ledger.seed_of(request.param))
    return Pair(request.param, peer, detector.train(), config)


def test_configuration(pair):
    """Every setting that bears on the result, read from both sides."""
    cfg, config = pair.peer.cfg, pair.config
    head, test, schedule = cfg.model.mask_head, cfg.model.test_cfg, config.schedule
    resize = next(step for step in cfg.train_dataloader.dataset.pipeline if "Resize" in step["type"])
    warmup, drops = cfg.param_scheduler
    optimizer = cfg.optim_wrapper.optimizer
    sides = {
        "grids": (config.head.grid_sizes, tuple(head.num_grids)),
        "strides": (config.head.strides, tuple(head.strides)),
        "ranges": (config.head.scale_ranges, tuple(tuple(bounds) for bounds in head.scale_ranges)),
        "sigma": (config.head.center_sigma, head.pos_scale),
        "convolutions": (config.head.stacked_convs, head.stacked_convs),
        "losses": ((config.loss.mask_weight, config.loss.category_weight),
                   (head.loss_mask.loss_weight, head.loss_cls.loss_weight)),
        "focal": ((config.loss.focal_gamma, config.loss.focal_alpha), (head.loss_cls.gamma, head.loss_cls.alpha)),
        "thresholds": ((config.test.score_threshold, config.test.mask_threshold, config.test.update_threshold),
                       (test.score_thr, test.mask_thr, test.filter_thr)),
        "nms": ((config.test.nms_pre, config.test.max_per_image, config.test.nms_kernel, config.test.nms_sigma),
                (test.nms_pre, test.max_per_img, test.kernel, test.sigma)),
        "train scales": (config.input.train_scales, tuple(map(tuple, resize.get("scales") or [resize.scale]))),
        "test scale": (config.input.image_scale, tuple(cfg.test_dataloader.dataset.pipeline[1].scale)),
        "epochs": ((schedule.epochs, schedule.milestones), (cfg.train_cfg.max_epochs, tuple(drops.milestones))),
        "warm-up": ((schedule.warmup_steps, schedule.warmup_factor), (warmup.end, warmup.start_factor)),
        "optimizer": ((schedule.lr, schedule.momentum, schedule.weight_decay),
                      (optimizer.lr, optimizer.momentum, optimizer.weight_decay)),
        "batch": (schedule.images_per_device, cfg.train_dataloader.batch_size),
        "min size": (config.input.min_size, cfg.train_dataloader.dataset.filter_cfg.min_size),
        "clipping": (schedule.clip_norm, cfg.optim_wrapper.get("clip_grad")),
        "parameters": (sum(p.numel() for p in pair.detector.parameters() if p.requires_grad),
                       sum(p.numel() for p in pair.peer.network.parameters() if p.requires_grad)),
    }  # fmt: skip
    different = {name: values for name, values in sides.items() if values[0] != values[1]}
    check("config: settings that differ", pair.model, len(different), str(different))


@torch.no_grad()
def test_forward(pair, rng):
    images, truths = scenes.batch(rng, (0,))
    inputs, _ = pair.peer.inputs(images, truths)
    theirs = pair.peer.network.extract_feat(inputs)
    grids, masks = pair.peer.outputs(inputs)

    batch = ours.training_batch(images, truths, pair.config)
    features = pair.detector.features(pair.detector.normalize(batch.pixels, batch.sizes))
    for level in (1, 2, 3):  # the others are resized inside the peer's head
        check("forward: features, max / rms", pair.model, ours.relative(features[level] - theirs[level], theirs[level]))
    logits = pair.detector.head.category_logits(features)
    for level, size in enumerate(pair.config.head.grid_sizes):
        error = ours.relative(logits[level] - grids[level], grids[level])
        check("forward: category logits, max / rms", pair.model, error, f"level {level}")
        cells = torch.from_numpy(rng.choice(size**2, 40, replace=False))
        chosen = [cells] if len(masks) == 1 else [cells % size, cells // size]
        maps = ours.mask_logits(pair.detector, features[level], level, cells)
        for mine, factor, channels in zip(maps, masks, chosen, strict=True):
            reference = factor[level][0, channels]
            error = ours.relative(mine - reference, reference)
            check("forward: mask logits, max / rms", pair.model, error, f"level {level}")


SCENES = {"many": (9, 12), "one_empty": (7, 0), "empty": (0, 0), "single": (4,)}


@pytest.mark.parametrize("scene", SCENES)
def test_targets(pair, rng, scene):
    images, truths = scenes.batch(rng, SCENES[scene])
    inputs, samples = pair.peer.inputs(images, truths)
    batch = ours.training_batch(images, truths, pair.config)
    head, targets = pair.config.head, batch.targets
    sizes = [tuple(2 * side // stride for side in inputs.shape[2:]) for stride in head.strides]
    labels = targets.labels.split([len(images) * size**2 for size in head.grid_sizes])
    for number, sample in enumerate(samples):
        masks, their_labels, positives = pair.peer.head._get_targets_single(sample.gt_instances, featmap_sizes=sizes)
        for level, size in enumerate(head.grid_sizes):
            mine = labels[level].view(len(images), size**2)[number]
            here = targets.images[level] == number
            cells = positives[level]
            cells = cells.nonzero()[:, 0] if cells.dim() == 1 else cells[:, 0] * size + cells[:, 1]
            wrong = int((mine != their_labels[level].flatten()).sum())
            wrong += len(set(cells.tolist()) ^ set(targets.cells[level][here].tolist()))
            check("targets: cells that differ", pair.model, wrong, f"level {level}")
            different = (targets.level_masks(level)[here] != masks[level].bool()).sum()
            check("targets: mask pixels that differ", pair.model, different, f"level {level}")


@torch.no_grad()
@pytest.mark.parametrize("scene", SCENES)
def test_losses(pair, rng, scene):
    images, truths = scenes.batch(rng, SCENES[scene])
    theirs = pair.peer.losses(*pair.peer.inputs(images, truths))
    mine = ours.losses(pair.detector, ours.training_batch(images, truths, pair.config), pair.config)
    for name, key in (("mask", "loss_mask"), ("category", "loss_cls")):
        reference = float(theirs[key])
        error = abs(float(mine[f"loss_{name}"]) - reference) / max(abs(reference), 1e-12)
        check(f"loss: {name}, relative", pair.model, error, scene)


def test_gradients(pair, rng):
    images, truths = scenes.batch(rng, (8, 6))
    sum(pair.peer.losses(*pair.peer.inputs(images, truths)).values()).backward()
    sum(ours.losses(pair.detector, ours.training_batch(images, truths, pair.config), pair.config).values()).backward()
    theirs = {name: p for name, p in pair.peer.network.named_parameters() if p.requires_grad}
    mine = ours.by_reference_name(pair.detector, theirs)
    assert mine.keys() == theirs.keys()
    groups: dict[str, list[tuple[Any, Any]]] = {}
    for name, parameter in theirs.items():
        assert mine[name].grad is not None, name
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        groups.setdefault(".".join(name.split(".")[:2]), []).append((mine[name].grad, gradient))
    vectors = {name: [torch.cat([g.flatten() for g in side]).double() for side in zip(*pairs, strict=True)]
               for name, pairs in groups.items()}  # fmt: skip
    for name, (a, b) in vectors.items():
        check("gradient: norm of a group, relative", pair.model, abs(a.norm() - b.norm()) / b.norm(), name)
        check("gradient: vector of a group, relative", pair.model, (a - b).norm() / b.norm(), name)
    totals = [np.sqrt(sum(float(v[side].norm()) ** 2 for v in vectors.values())) for side in (0, 1)]
    check("gradient: total norm, relative", pair.model, abs(totals[0] - totals[1]) / totals[1])
    pair.peer.network.zero_grad()
    pair.detector.zero_grad()


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_predict(pair, rng, kernel):
    """With a score threshold in a gap between the category scores, so that noise decides no candidate's fate."""
    images, _ = scenes.batch(rng, (0,), short=160)
    original = tuple(int(1.4 * side) for side in images[0].shape[:2])
    inputs, samples = pair.peer.inputs(images)
    samples = [pair.peer.sample(images[0].shape[:2], None, original)]
    samples[0].set_metainfo({"batch_input_shape": tuple(inputs.shape[2:])})
    scores = pair.peer.category_scores(inputs)
    test = pair.config.test.model_copy(
        update={"score_threshold": matching.threshold_in_a_gap(scores, 60, 150), "nms_kernel": kernel}
    )
    theirs = pair.peer.predict(inputs, samples, score_thr=test.score_threshold, kernel=kernel)[0]
    batch = ours.training_batch(images, [scenes.draw(rng, 0)[1]], pair.config)
    detector = pair.detector.eval()
    found = detect(detector, detector.normalize(batch.pixels, batch.sizes), test, pair.config.head.strides)[0]
    masks = paste(found.masks, images[0].shape[:2], original, test.mask_threshold).numpy()
    mine = matching.encode(found.labels.tolist(), found.scores.tolist(), masks)
    result = matching.compare(mine, matching.of_peer(theirs))
    detector.train()
    assert result["peers"] > 10, "too few detections to compare"
    check("predict: unmatched fraction", pair.model, result["unmatched"], str(result))
    check("predict: score", pair.model, result["score"])
    check("predict: 1 - mask IoU", pair.model, result["mask"])
