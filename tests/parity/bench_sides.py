"""The two sides of the bench: what is timed, and nothing else. Each side is built without importing the other."""

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from solo import config
from solo.batches import Collate, TestBatch, stack
from solo.convert import ZOO_FILES
from solo.dataset import CocoSplit, TrainingSample, TrainingSet
from solo.device import autocast
from solo.inference import detect
from solo.layers import load, merge, with_classes
from solo.loop import TrainingStep
from solo.model.detector import build_detector
from solo.model.folding import folded
from solo.model.names import from_reference
from solo.postprocess import point_nms
from solo.predict import masks_at_original_size
from solo.segmentation import decode_segmentation
from solo.targets import Targets
from solo.transforms import MaskResizer, resize_image
from tests.golden import fill, synth
from tests.parity.ours import training_batch
from tests.parity.scenes import Truth, draw
from tests.regions import region_of

MODELS = {
    "solo": "solo_r50_1x",
    "decoupled": "decoupled_solo_r50_1x",
    "light": "decoupled_solo_light_r50_3x",
}
SEED = 20191204
NAMES = Path(__file__).parents[1] / "golden" / "public"


class Ours:
    """This implementation, through the functions that `solo predict`, `solo train` and its loader call."""

    def __init__(self, head: str, device: torch.device, precision: str) -> None:
        self.device, self.precision = device, precision
        spec = with_classes(load(ZOO_FILES / f"{MODELS[head]}.yaml"), 80)
        self.config: config.Config = spec.config
        detector = build_detector(self.config.backbone, self.config.head)
        names = json.loads((NAMES / f"names_{head}.json").read_text())["tensors"]
        state = detector.state_dict()
        fill.fill({name: state[str(from_reference(name))] for name in names}, SEED)
        self.detector = detector.to(device)

    def category_scores(self, image: np.ndarray) -> np.ndarray:
        """Category probabilities above zero, flat: where to put the score threshold."""
        pixels, sizes = stack([image])
        with torch.no_grad(), autocast(self.device, "fp32"):
            features = self.detector.eval().features(
                self.detector.normalize(pixels.to(self.device), sizes.to(self.device))
            )
            grids = [point_nms(grid.sigmoid()).flatten() for grid in self.detector.head.category_logits(features)]
        scores = torch.cat(grids)
        return scores[scores > 0].cpu().numpy()

    def prepare_inference(self, image: np.ndarray, original: tuple[int, int], threshold: float) -> Any:
        """An action: from pixels in host memory to masks of the original size in host memory."""
        detector = folded(self.detector)
        pixels, sizes = stack([image])
        batch = TestBatch((0,), pixels, sizes, (original,))
        test = self.config.test.model_copy(update={"score_threshold": threshold})

        def infer() -> int:
            with torch.no_grad(), autocast(self.device, self.precision):
                normalized = detector.normalize(batch.pixels.to(self.device), batch.sizes.to(self.device))
                found = detect(detector, normalized, test, self.config.head.strides)[0]
            return len(masks_at_original_size(found.masks, batch, 0, test.mask_threshold))

        return infer

    def prepare_training(self, images: list[np.ndarray], truths: list[Truth]) -> Any:
        """An action: one SGD step, its targets included although the loader's workers make them."""
        step = TrainingStep(self.detector.train(), self.config).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            [p for p in self.detector.parameters() if p.requires_grad], lr=1e-6, momentum=0.9, weight_decay=1e-4,
            fused=True,
        )  # fmt: skip

        def train() -> float:
            batch = training_batch(images, truths, self.config).to(self.device)
            optimizer.zero_grad()
            with autocast(self.device, self.precision):
                losses = step(batch)
            (losses["loss_mask"] + losses["loss_category"]).backward()
            optimizer.step()
            return float(losses["loss_mask"].detach())

        return train

    def prepare_targets(self, image: np.ndarray, truth: Truth) -> Any:
        """An action: from the regions of the drawn objects to everything the losses compare with."""
        masks, boxes, labels = truth
        collate, size = Collate(self.config.head), (image.shape[0], image.shape[1])
        regions = [region_of(mask) for mask in masks]

        def make() -> Targets:
            resize = MaskResizer(size, size, False)
            sample = TrainingSample(0, image, boxes, labels, [resize(region) for region in regions])
            return collate.targets([sample], size).to(self.device)

        return make

    def prepare_loader(self, data: Path, split: str) -> Any:
        """An action: image number i decoded, augmented, with its objects; every second one completes a batch of two."""
        dataset = TrainingSet(CocoSplit(data, split), self.config.input, 0)
        collate = Collate(self.config.head)
        waiting: list[TrainingSample] = []

        def load_one(i: int) -> None:
            waiting.append(dataset[(0, i % len(dataset))])
            if len(waiting) == self.config.schedule.images_per_device:
                collate(waiting)
                waiting.clear()

        return load_one


class Theirs:
    """The peer, through its own entry points."""

    def __init__(self, head: str, device: torch.device, precision: str) -> None:
        from tests.parity.peer import Peer

        self.device, self.precision = device, precision
        self.peer = Peer(MODELS[head])
        fill.fill(self.peer.state(), SEED)
        self.peer.network.to(device)

    def prepare_inference(self, image: np.ndarray, original: tuple[int, int], threshold: float) -> Any:
        """As Ours.prepare_inference."""
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))

        def infer() -> int:
            with torch.no_grad(), autocast(self.device, self.precision):
                sample = self.peer.sample(image.shape[:2], None, original)
                inputs, samples = self.peer.preprocess([tensor], [sample], training=False)
                return len(self.peer.predict(inputs, samples, score_thr=threshold)[0].masks.cpu())

        return infer

    def prepare_training(self, images: list[np.ndarray], truths: list[Truth]) -> Any:
        """As Ours.prepare_training."""
        from mmengine.optim import build_optim_wrapper

        settings = dict(self.peer.cfg.optim_wrapper)
        settings["optimizer"] = {**settings["optimizer"], "lr": 1e-6}
        wrapper = build_optim_wrapper(self.peer.network.train(), settings)

        def train() -> float:
            with autocast(self.device, self.precision):
                losses = self.peer.losses(*self.peer.inputs(images, truths))
            wrapper.update_params(losses["loss_mask"] + losses["loss_cls"])
            return float(losses["loss_mask"].detach())

        return train

    def prepare_targets(self, image: np.ndarray, truth: Truth) -> Any:
        """As Ours.prepare_targets; its bitmaps are padded beforehand."""
        inputs, samples = self.peer.inputs([image], [truth])
        sizes = [tuple(2 * side // stride for side in inputs.shape[2:]) for stride in self.peer.head.strides]
        objects = samples[0].gt_instances.to(self.device)
        return lambda: self.peer.head._get_targets_single(objects, featmap_sizes=sizes)

    def prepare_loader(self, data: Path, split: str) -> Any:
        """As Ours.prepare_loader; padding and targets are left to its training step."""
        from mmdet.registry import DATASETS
        from mmengine.dataset import pseudo_collate

        settings = self.peer.cfg.train_dataloader.dataset
        settings = merge(settings, {"data_root": str(data), "ann_file": f"annotations/instances_{split}.json"})
        settings["data_prefix"] = {"img": f"{split}/"}
        categories = CocoSplit(data, split).categories
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells that it loads
            dataset = DATASETS.build(settings | {"metainfo": {"classes": tuple(c.name for c in categories)}})
        return lambda i: pseudo_collate([dataset[i % len(dataset)]])


def real_data() -> tuple[Path, str] | None:
    """coco158 and its training split, where SOLO_REFERENCE names the folder that holds it."""
    folder = Path(os.environ.get("SOLO_REFERENCE", "")) / "data" / "coco158"
    return (folder, "train2017") if os.environ.get("SOLO_REFERENCE") and folder.is_dir() else None


def inference_image(size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """A drawn image, and the size of the file that it may have come from."""
    return synth.image(*size, "bench"), (size[0] * 3 // 5, size[1] * 3 // 5)


def training_images(size: tuple[int, int]) -> tuple[list[np.ndarray], list[Truth], str]:
    """Two images with objects that fill `size` when padded, and where they are from."""
    source = real_data()
    if source is None:
        rng = np.random.default_rng(SEED)
        drawn = [draw(rng, count, *size) for count in (7, 8)]  # COCO has 7.3 objects per training image
        return [image for image, _ in drawn], [truth for _, truth in drawn], "drawn, 7 and 8 objects"
    split = CocoSplit(*source)
    shape = (split.images[0].height, split.images[0].width)
    wide = [i for i, image in enumerate(split.images) if (image.height, image.width) == (480, 640)]
    chosen = sorted(wide, key=lambda i: abs(len(split.annotations(i)) - 7))[:2]
    resized = (size[1] * 3 // 4, size[1]) if size[1] * 3 // 4 <= size[0] else (size[0], size[0] * 4 // 3)
    images, truths = [], []
    for number in chosen:
        annotations = [a for a in split.annotations(number) if not a.crowd]
        shape = (480, 640)
        masks = [decode_segmentation(a.segmentation, *shape) for a in annotations]
        rows, columns = (np.arange(n) * o // n for n, o in zip(resized, shape, strict=True))
        bitmaps = np.stack([np.asarray(mask)[rows][:, columns] for mask in masks]).astype(np.uint8)
        factor = np.array([resized[1] / 640, resized[0] / 480] * 2)
        boxes = (np.array([a.box for a in annotations]) * factor).astype(np.float32)
        images.append(resize_image(split.read(number), resized))
        truths.append((bitmaps, boxes, np.array([a.label for a in annotations], np.int64)))
    counts = " and ".join(str(len(truth[2])) for truth in truths)
    return images, truths, f"coco158, {counts} objects"


def many_objects(size: tuple[int, int], count: int) -> tuple[np.ndarray, Truth]:
    """A drawn image with `count` objects."""
    kinds = ("rect", "ellipse", "poly", "ring", "tiny")
    masks = synth.instances(*size, [kinds[i % len(kinds)] for i in range(count)], "bench", count)
    return synth.image(*size, "bench", count), masks
