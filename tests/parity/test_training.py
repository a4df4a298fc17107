"""One epoch on the synthetic set: the product's training loop beside the peer's model, loss and optimizer.

The peer gets our order and our draws of scale and flip, and makes its batches with its own data set and pipeline.
"""

import json
from unittest import mock

import numpy as np
import pytest
import torch

import solo.dataset
from solo.batches import MicroBatches, epoch_batches
from solo.dataset import CocoSplit, TrainingSet
from solo.distributed import Group
from solo.loop import Training
from tests.parity import ledger, ours, small_coco
from tests.parity.ledger import check
from tests.parity.peer import CONFIGS, Peer, import_mmdet

pytestmark = pytest.mark.parity
SPLIT = "train2017"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_coco.drawn(tmp_path_factory.mktemp("data") / "synth", 16, 1, 128, seed=ledger.SEED)


def their_data(peer, root, split):
    """The peer's own data set over our folder, with its filter of empty and small images."""
    from mmdet.datasets import CocoDataset

    return CocoDataset(
        data_root=str(root), ann_file=f"annotations/instances_{SPLIT}.json", data_prefix={"img": f"{SPLIT}/"},
        metainfo={"classes": tuple(category.name for category in split.categories)}, pipeline=[],
        filter_cfg=dict(peer.cfg.train_dataloader.dataset.filter_cfg),
    )  # fmt: skip


def their_sample(dataset, index, scale, flip):
    """One image through the peer's training pipeline with given draws."""
    from mmengine.dataset import Compose

    steps = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
        {"type": "Resize", "scale": scale, "keep_ratio": True},
        {"type": "RandomFlip", "prob": float(flip)},
        {"type": "PackDetInputs"},
    ]
    return Compose(steps)(dataset.get_data_info(index))


def our_draws(training, key):
    """Scale and flip of a sample, as the product draws them."""
    with mock.patch.object(solo.dataset, "training_sample", lambda *args: args[-2:]):
        return training[key]


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("images_per_device", [2, 3])
def test_order_of_the_images(rng, processes, images_per_device):
    """mmengine's shuffle and mmdetection's batches of one aspect, for any number of processes."""
    import_mmdet()
    from mmdet.datasets.samplers import AspectRatioBatchSampler
    from mmengine.dataset import sampler

    wide = (rng.random(37) < 0.6).tolist()
    shapes = [{"width": 100 + w, "height": 100} if w else {"width": 99, "height": 100} for w in wide]

    class Shapes:
        def __len__(self):
            return len(shapes)

        def get_data_info(self, index):
            return shapes[index]

    for epoch in range(3):
        theirs = []
        for rank in range(processes):
            with mock.patch.object(sampler, "get_dist_info", lambda rank=rank: (rank, processes)):
                order = sampler.DefaultSampler(Shapes(), shuffle=True, seed=ledger.SEED)
            order.set_epoch(epoch)
            theirs.append(list(AspectRatioBatchSampler(order, images_per_device)))
        mine = epoch_batches(wide, images_per_device, processes, ledger.SEED, epoch)
        different = sum(mine[rank::processes] != batches for rank, batches in enumerate(theirs))
        check("order: batches that differ", f"{processes} x {images_per_device}", different)


@pytest.mark.parametrize("model", CONFIGS)
def test_one_epoch(model, data, tmp_path, monkeypatch):
    split, validation = CocoSplit(data, SPLIT), CocoSplit(data, "val2017")
    peer = Peer(model, len(split.categories))
    detector, config = ours.same_weights(peer, model, ledger.seed_of(model), len(split.categories))
    config = shortened(config)
    monkeypatch.setattr("solo.loop.save", lambda *args: None)  # checkpoints are another test's matter
    start = {name: tensor.clone() for name, tensor in peer.state().items()}

    training = Training(
        config, detector, split, validation, ledger.SEED, tmp_path, "train", {}, torch.device("cpu"), Group()
    )
    training.fit(None)  # nothing stops it
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    mine = [line for line in lines if line["kind"] == "train"]

    samples = TrainingSet(split, config.input, ledger.SEED)
    theirs = train_peer(peer, model, config, samples, their_data(peer, data, split))
    assert len(mine) == len(theirs) == training.steps
    for step, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        check("train: learning rate, relative", model, abs(a["lr"] - b["lr"]) / b["lr"], f"step {step}")
        for name, key in (("mask", "loss_mask"), ("category", "loss_cls")):
            error = abs(a[f"loss_{name}"] - b[key]) / max(abs(b[key]), 1e-9)
            check(f"train: {name} loss of a step, relative", model, error, f"step {step}")
    compare_weights(model, start, peer, detector)


def shortened(config):
    """The model's schedule with four steps of warm-up to a tenth of its rate, at which untrained weights diverge."""
    schedule = config.schedule.model_copy(
        update={"epochs": 1, "milestones": (1,), "batch_size": 2, "warmup_steps": 4, "lr": 0.001, "log_every": 1}
    )
    settings = config.input.model_copy(update={"train_scales": ((200, 128), (170, 112)), "image_scale": (200, 128)})
    runtime = config.runtime.model_copy(update={"workers": 0})
    return config.model_copy(update={"schedule": schedule, "input": settings, "runtime": runtime})


def train_peer(peer, model, config, samples, dataset):
    """The peer's epoch over our batches: lr and losses of each step."""
    from mmengine.optim import LinearLR, build_optim_wrapper

    schedule = config.schedule
    settings = dict(peer.cfg.optim_wrapper)
    settings["optimizer"] = {**settings["optimizer"], "lr": schedule.lr}
    wrapper = build_optim_wrapper(peer.network, settings)
    warmup = LinearLR(wrapper.optimizer, start_factor=schedule.warmup_factor, by_epoch=False, end=schedule.warmup_steps)
    mine = [samples.split.images[i].id for i in samples.indices]
    theirs = [dataset.get_data_info(i)["img_id"] for i in range(len(dataset))]
    check("order: batches that differ", model, mine != theirs)
    log = []
    peer.network.train()
    for keys in MicroBatches(samples.is_wide(), schedule.images_per_device, 1, 0, 1, ledger.SEED, 1):
        packed = [their_sample(dataset, key[1], *our_draws(samples, key)) for key in keys]
        for key, sample in zip(keys, packed, strict=True):
            pixels = samples[key].pixels.transpose(2, 0, 1)
            check("data: images that differ", model, not np.array_equal(pixels, sample["inputs"].numpy()), str(key))
        inputs, truths = peer.preprocess([p["inputs"] for p in packed], [p["data_samples"] for p in packed], True)
        losses = peer.losses(inputs, truths)
        log.append({"lr": wrapper.optimizer.param_groups[0]["lr"], **{name: v.item() for name, v in losses.items()}})
        wrapper.update_params(losses["loss_mask"] + losses["loss_cls"])
        warmup.step()
    return log


def compare_weights(model, start, peer, detector):
    """Final weights and what the epoch changed, by group of parameters."""
    theirs = dict(peer.network.named_parameters())
    mine = ours.by_reference_name(detector, theirs)
    groups = {}
    for name, parameter in theirs.items():
        group = groups.setdefault(".".join(name.split(".")[:2]), [])
        group.append(tuple(t.detach().flatten().double() for t in (mine[name], parameter, start[name])))
    for name, parts in groups.items():
        a, b, before = (torch.cat(side) for side in zip(*parts, strict=True))
        check("train: final weight norm, relative", model, abs(a.norm() - b.norm()) / b.norm(), name)
        if (moved := (b - before).norm()) > 0:
            check("train: update of a group, relative", model, (a - b).norm() / moved, name)
        else:
            check("train: update of a group, relative", model, float(not torch.equal(a, b)), f"{name} is frozen")
