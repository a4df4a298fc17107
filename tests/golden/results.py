"""The sections about results and functions: predict, post, nms, func."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle_tools
from torch import Tensor

from solo.config import Loss, Test
from solo.inference import detect
from solo.losses import dice_loss, focal_loss
from solo.matrix_nms import matrix_nms
from solo.model.folding import folded
from solo.model.head import MaskMaps, coordinates
from solo.paste import paste
from solo.postprocess import find_candidates, select
from solo.transforms import MaskResizer
from tests.golden import synth
from tests.golden.common import (
    Bag,
    build,
    dump,
    head_config,
    image_info,
    prepare,
)
from tests.regions import region_of


def test_config(overrides: dict[str, Any]) -> Test:
    ours = dict(score_thr="score_threshold", mask_thr="mask_threshold", filter_thr="update_threshold",
                max_per_img="max_per_image", kernel="nms_kernel", sigma="nms_sigma", nms_pre="nms_pre")  # fmt: skip
    return Test(**{ours[key]: value for key, value in overrides.items()})


def packed(instances: Any, image_size: tuple, original: tuple, test: Test, n_rle: int) -> dict[str, Any]:
    empty = not len(instances.scores)
    masks = paste(instances.masks, image_size, original, test.mask_threshold).numpy().astype(np.uint8)
    rles = [rle_tools.encode(np.asfortranarray(m)) for m in masks[:n_rle]]
    return dict(
        n=len(masks), scores=instances.scores.tolist(), labels=instances.labels.tolist(),
        labels_dtype="torch.float32" if empty else "torch.int64", masks_shape=list(masks.shape),
        area=masks.sum((1, 2), dtype=np.int64).tolist(),
        rle=[dict(size=list(map(int, r["size"])), counts=r["counts"].decode()) for r in rles],
    )  # fmt: skip


def predict(kind: str, spec: ModuleType, out: Path) -> None:
    detector = build(kind, spec.SEED).eval()
    result = {}
    for case in spec.PREDICT:
        key = (spec.TAG, "pred", case["name"])
        pixels, info, _ = image_info(*case["img"], [], key)
        test = test_config(case["cfg"])
        x = prepare(detector, [pixels])
        found = detect(folded(detector), x, test, head_config(kind).strides)[0]
        result[case["name"]] = dict(
            img=list(case["img"]), ori=list(case["ori"]), key=list(key), image_crc=info["image_crc"],
            padded=list(x.shape[-2:]), **packed(found, case["img"], case["ori"], test, 40),
        )  # fmt: skip
    dump(result, out / f"predict_{kind}.json")


class GivenMasks:
    """A mask source over given test-mode outputs."""

    def __init__(self, maps: list[list[Tensor]], size: tuple[int, int], grid_sizes: tuple[int, ...]) -> None:
        self.maps, self.size, self.grid_sizes = maps, size, grid_sizes

    def __call__(self, levels: Tensor, cells: Tensor) -> Tensor:
        rows = []
        for level, cell in zip(levels.tolist(), cells.tolist(), strict=True):
            if len(self.maps) == 1:
                rows.append(self.maps[0][level][0, cell])
            else:
                y, x = divmod(cell, self.grid_sizes[level])
                rows.append(self.maps[0][level][0, x] * self.maps[1][level][0, y])
        return torch.stack(rows) if rows else torch.zeros(0, *self.size)


def post(kind: str, spec: ModuleType, out: Path) -> None:
    head = head_config(kind)
    result = {}
    for case in spec.POST:
        height, width = case["pad"]
        key = (spec.TAG, case["name"])
        *maps, grids = synth.test_preds(kind, height, width, case["n"], case["dup"], *key)
        test = test_config(case["cfg"])
        source = GivenMasks(
            [[torch.from_numpy(a) for a in lv] for lv in maps], (height // 4, width // 4), head.grid_sizes
        )
        candidates = find_candidates([torch.from_numpy(g[0]) for g in grids], test)
        found = select(candidates, source, head.strides, test)
        result[case["name"]] = dict(key=list(key), result=packed(found, case["img"], case["ori"], test, 100))
    dump(result, out / f"post_{kind}.json")


def nms(spec: ModuleType, out: Path, reference: Path | None) -> None:
    bag = Bag()
    for i, (n, h, w, classes, kwargs) in enumerate(spec.NMS):
        masks, labels, scores = synth.nms_input(n, h, w, classes, spec.TAG, i)
        areas = masks.reshape(n, -1).sum(1).astype(np.float32) + 3 * kwargs.get("give_area", False)
        ours = dict(max_num="max_per_image", filter_thr="update_threshold")
        options = {ours.get(k, k): v for k, v in kwargs.items() if k != "give_area"}
        kept_scores, kept = matrix_nms(*map(torch.from_numpy, (masks, labels, scores, areas)), **options)
        bag[f"{i}/scores"], bag[f"{i}/labels"], bag[f"{i}/keep"] = (
            kept_scores.numpy(),
            labels[kept.numpy()],
            kept.numpy(),
        )
    mask = torch.zeros(4, 8, 8, dtype=torch.bool)
    mask[:, 2:6, 1:7] = True
    for kernel in ("gaussian", "linear"):
        scores, keep = matrix_nms(
            mask, torch.zeros(4, dtype=torch.int64), torch.tensor([0.9, 0.75, 0.5, 0.25]), mask.sum((1, 2)).float(),
            kernel=kernel,
        )  # fmt: skip
        bag[f"dup_{kernel}/scores"], bag[f"dup_{kernel}/keep"] = scores.numpy(), keep.numpy()
    bag.save(out / "nms.npz")


def func(spec: ModuleType, out: Path, reference: Path | None) -> None:
    bag = Bag()
    rs = synth.rng("func", spec.TAG)
    target = np.zeros((9, 60), np.uint8)
    for i in range(9):
        target[i, rs.permutation(60)[: [0, 1, 1, 2, 4, 15, 30, 59, 60][i]]] = 1
    logits = synth.uniform((9, 60), -4, 4, spec.TAG, "dice")
    for row in (2, 4):
        logits[row] = np.where(target[row], 12, -12)
    logits[0] = -12
    bag["dice/target"], bag["dice/logits"] = target, logits
    for activate in (True, False):
        x = torch.from_numpy(logits).requires_grad_()
        maps = [MaskMaps(x, torch.arange(9))]
        value = 3.0 * dice_loss(maps, torch.from_numpy(target), Loss())
        value.sum().backward()
        bag[f"dice/activate{int(activate)}/loss"] = value.detach().numpy()
        bag[f"dice/activate{int(activate)}/grad"] = x.grad.numpy()
    labels = rs.randint(0, 81, 40).astype(np.int64)
    labels[:12] = 80
    focal = synth.uniform((40, 80), -8, 4, spec.TAG, "focal")
    focal[0, :4] = focal[39, :4] = [50, -50, 100, -100]
    bag["focal/labels"], bag["focal/logits"] = labels, focal
    for factor in (1, 29):
        x = torch.from_numpy(focal).requires_grad_()
        loss = focal_loss(x, torch.from_numpy(labels), 2.0, 0.25).sum() / factor
        loss.backward()
        bag[f"focal/avg{factor}/loss"], bag[f"focal/avg{factor}/grad"] = loss.detach().numpy(), x.grad.numpy()
    kinds = ["poly", "ring", "two", "border", "tiny", "full"]
    bitmaps, _, _ = synth.instances(61, 77, kinds, spec.TAG, "com")
    resize = MaskResizer((61, 77), (61, 77), False)
    bag["com"] = np.array([resize(region_of(m)).center for m in bitmaps], np.float64)
    bag["coord"] = coordinates(torch.zeros(1, 3, 5, 8)).numpy()
    bag.save(out / "func.npz")
