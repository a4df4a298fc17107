"""The sections of the golden vectors, computed with this implementation."""

import json
import tempfile
import zlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle_tools
from torch import Tensor, nn
from torch.nn import functional as F

from solo import config, evaluate
from solo.batches import stack
from solo.config import Loss, Schedule, Test
from solo.dataset import Annotation, training_sample
from solo.inference import detect
from solo.losses import detection_losses, dice_loss, focal_loss
from solo.matrix_nms import matrix_nms
from solo.model.detector import MEAN, STD, Detector, build_detector
from solo.model.head import MaskMaps, coordinates
from solo.model.names import from_reference
from solo.paste import paste
from solo.postprocess import find_candidates, point_nms, select
from solo.schedule import learning_rate
from solo.targets import Objects, Targets, build_targets
from solo.transforms import MaskResizer, decode_segmentation, resized_size
from tests.golden import fill, synth

KINDS = {"solo": "solo", "decoupled": "decoupled_solo", "light": "decoupled_solo_light"}
OUTPUTS = {"solo": ["mask", "cls"], "decoupled": ["maskx", "masky", "cls"], "light": ["maskx", "masky", "cls"]}
LIGHT = dict(
    stacked_convs=4, scale_ranges=((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048))
)  # reference: decoupled-solo-light_r50_fpn_3x_coco


def head_config(kind: str) -> config.Head:
    return config.Head(kind=KINDS[kind], **(LIGHT if kind == "light" else {}))


def reference_names(kind: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "public" / f"names_{kind}.json").read_text())["tensors"]


def by_reference_name(kind: str, detector: Detector) -> dict[str, Tensor]:
    """Our tensors under the reference's names; fails unless the two sets of names match exactly."""
    ours = detector.state_dict(keep_vars=True)
    named = {name: ours.pop(from_reference(name)) for name in reference_names(kind)}
    assert not ours, f"left over: {sorted(ours)}"
    return named


def build(kind: str, seed: int | None) -> Detector:
    detector = build_detector(config.Backbone(pretrained="none"), head_config(kind))
    if seed is not None:
        with torch.no_grad():
            fill.fill(by_reference_name(kind, detector), seed)
    return detector.train()


def image_info(h: int, w: int, spec: list, key: tuple) -> tuple[np.ndarray, dict[str, Any], tuple]:
    pixels = synth.image(h, w, *key)
    masks, boxes, labels = synth.instances(h, w, spec, *key)
    info = dict(
        h=h, w=w, image_crc=zlib.crc32(pixels.tobytes()), masks_crc=zlib.crc32(np.packbits(masks).tobytes()),
        boxes=boxes.tolist(), labels=labels.tolist(), mask_area=masks.sum((1, 2), dtype=np.int64).tolist(),
    )  # fmt: skip
    return pixels, info, (masks, boxes, labels)


def prepare(detector: Detector, images: list[np.ndarray]) -> Tensor:
    pixels, sizes = stack(images)
    return detector.normalize(pixels, sizes)


def batch_targets(kind: str, truths: list[tuple], padded: tuple[int, int]) -> Targets:
    """Targets of ready-made bitmaps through the product's own path."""
    masks, images = [], []
    for i, (bitmaps, _, _) in enumerate(truths):
        resize = MaskResizer(bitmaps.shape[1:], bitmaps.shape[1:], False)
        masks += [resize(m) for m in bitmaps]
        images += [i] * len(bitmaps)
    objects = Objects(
        torch.from_numpy(np.concatenate([t[1] for t in truths])),
        torch.from_numpy(np.concatenate([t[2] for t in truths])),
        torch.tensor(np.array([m.center for m in masks], np.float32).reshape(-1, 2)),
        torch.tensor([m.area for m in masks], dtype=torch.int64),
        torch.tensor(images, dtype=torch.int64),
    )

    def table(stride: int, rows: Tensor) -> Tensor:
        result = np.zeros((len(rows), padded[0] // stride, padded[1] // stride), np.bool_)
        for canvas, row in zip(result, rows.tolist(), strict=True):
            masks[row].blocks[stride].paint(canvas)
        return torch.from_numpy(result)

    return build_targets(objects, table, padded, len(truths), head_config(kind))


class Bag(dict):
    """Arrays to be stored; `big` stores a summary."""

    def big(self, key: str, value: Tensor, n: int = 2048) -> None:
        sample, stat = synth.summary(key, value.detach().numpy(), n)
        self[key + "/val"], self[key + "/stat"] = sample, stat
        self[key + "/shape"] = np.array(value.shape, np.int32)

    def save(self, path: Path) -> None:
        np.savez_compressed(path, **self)


def dump(value: Any, path: Path) -> None:
    path.write_text(json.dumps(value))


def names(kind: str, spec: ModuleType, out: Path) -> None:
    detector = build(kind, spec.SEED)
    named = by_reference_name(kind, detector)
    trainable = {n: p.requires_grad for n, p in named.items() if isinstance(p, nn.Parameter)}
    dump(
        dict(
            n_params=sum(p.numel() for p in detector.parameters()),
            n_trainable=sum(p.numel() for p in detector.parameters() if p.requires_grad),
            n_head=sum(p.numel() for p in detector.head.parameters()),
            tensors={n: dict(shape=list(t.shape), requires_grad=trainable.get(n)) for n, t in named.items()},
            fill=fill.fingerprint({n: t.detach() for n, t in named.items()}),
            train_mode_of_bn=sorted({m.training for m in detector.modules() if isinstance(m, nn.BatchNorm2d)}),
        ),
        out / f"names_{kind}.json",
    )


def dense_maps(detector: Detector, feature: Tensor, level: int) -> list[Tensor]:
    """Logits of every cell (SOLO) or every column and row (decoupled) of a level, (1, n, h, w) each."""
    size = detector.head.grid_sizes[level]
    hidden = tuple(h[0] for h in detector.head.mask_features(feature))
    if hasattr(detector.head, "mask_out"):
        return [detector.head.mask_maps(level, hidden, torch.arange(size**2))[0].logits[None]]
    diagonal = torch.arange(size) * (size + 1)
    return [maps.logits[None] for maps in detector.head.mask_maps(level, hidden, diagonal)]


@torch.no_grad()
def forward(kind: str, spec: ModuleType, out: Path) -> None:
    detector = build(kind, spec.SEED)
    bag, meta = Bag(), []
    for k, (h, w) in enumerate(spec.FORWARD):
        key = (spec.TAG, "fw", k)
        pixels, info, _ = image_info(h, w, [], key)
        x = prepare(detector, [pixels])
        meta.append(dict(h=h, w=w, key=list(key), image_crc=info["image_crc"], padded=list(x.shape)))
        stages = detector.backbone(x)
        features = detector.neck(stages)
        bag.big(f"{k}/input", x)
        for i, t in enumerate(stages):
            bag.big(f"{k}/C{i + 2}", t)
        for i, t in enumerate(detector.neck.levels(stages)):
            bag.big(f"{k}/P{i + 2}", t)
        size = tuple(2 * s for s in features[0].shape[-2:])
        for i, (feature, logits) in enumerate(zip(features, detector.head.category_logits(features), strict=True)):
            grid = point_nms(logits.sigmoid())
            for name, maps in zip(OUTPUTS[kind][:-1], dense_maps(detector, feature, i), strict=True):
                upsampled = F.interpolate(maps.sigmoid(), size=size, mode="bilinear")
                for mode, value in (("train", maps), ("test", upsampled)):
                    bag.big(f"{k}/{mode}/{name}{i}", value)
                    bag[f"{k}/{mode}/{name}{i}/chmean"] = value.double().mean((2, 3)).numpy().astype(np.float32)
            bag.big(f"{k}/train/cls{i}", logits)
            bag.big(f"{k}/test/cls{i}", grid)
            bag[f"{k}/test/cls{i}/nonzero"] = np.array([(grid > t).sum().item() for t in (0, 0.1, 0.3)])
    bag.save(out / f"forward_{kind}.npz")
    dump(meta, out / f"forward_{kind}.json")


class GivenMaps(nn.Module):
    """A head whose outputs are given arrays: logits of all cells, or of all columns and rows."""

    def __init__(self, grid_sizes: tuple[int, ...], maps: list[list[Tensor]], grids: list[Tensor]) -> None:
        super().__init__()
        self.grid_sizes, self.maps, self.grids = grid_sizes, maps, grids

    def category_logits(self, features: list[Tensor]) -> list[Tensor]:
        return self.grids

    def mask_features(self, feature: Tensor) -> tuple[Tensor, ...]:
        return tuple(feature.unbind(1))

    def level_inputs(self) -> list[Tensor]:
        """Stand-ins for features: maps of each level, stacked so that a batch row can be taken."""
        return [torch.stack(parts, 1) for parts in zip(*self.maps, strict=True)]

    def mask_maps(self, level: int, features: tuple[Tensor, ...], cells: Tensor) -> list[MaskMaps]:
        if len(features) == 1:
            return [MaskMaps(features[0][cells], torch.arange(len(cells)))]
        size = self.grid_sizes[level]
        return [MaskMaps(features[0], cells % size), MaskMaps(features[1], cells // size)]


def level_targets(targets: Targets, head: config.Head, images: int) -> list[list[dict[str, Any]]]:
    """Targets in the golden files' form: per image and level."""
    result: list[list[dict[str, Any]]] = [[] for _ in range(images)]
    labels = targets.labels.split([images * s**2 for s in head.grid_sizes])
    for level, size in enumerate(head.grid_sizes):
        grid = labels[level].view(images, size**2)
        masks = targets.level_masks(level).numpy().astype(np.uint8)
        for image in range(images):
            mine = (targets.images[level] == image).numpy()
            cells = targets.cells[level][mine]
            result[image].append(
                dict(
                    size=list(masks.shape[1:]), pos=cells.tolist(), labels=grid[image][cells].tolist(),
                    n_fg_labels=int((grid[image] != head.num_classes).sum()),
                    area=masks[mine].sum((1, 2), dtype=np.int64).tolist(),
                    crc=[zlib.crc32(np.packbits(m).tobytes()) for m in masks[mine]],
                )
            )  # fmt: skip
    return result


def scenes(kind: str, spec: ModuleType, out: Path) -> None:
    detector = build(kind, spec.SEED)
    head = head_config(kind)
    result = {}
    for name, images in spec.SCENES.items():
        loaded = [image_info(h, w, kinds, (spec.TAG, name, i)) for i, (h, w, kinds) in enumerate(images)]
        x = prepare(detector, [pixels for pixels, _, _ in loaded])
        padded = x.shape[2], x.shape[3]
        targets = batch_targets(kind, [truth for _, _, truth in loaded], padded)
        given = [[torch.from_numpy(a).requires_grad_() for a in lv]
                 for lv in synth.train_preds(kind, len(images), *padded, spec.TAG, name)]  # fmt: skip
        fake = GivenMaps(head.grid_sizes, given[:-1], given[-1])
        losses = detection_losses(fake, fake.level_inputs(), targets, Loss())
        (losses["loss_mask"] + losses["loss_category"]).backward()
        with torch.no_grad():
            network = detection_losses(detector.head, detector.features(x), targets, Loss())
        result[name] = dict(
            images=[info for _, info, _ in loaded], padded=list(padded),
            targets=level_targets(targets, head, len(images)),
            synthetic=dict(
                loss_mask=losses["loss_mask"].item(), loss_cls=losses["loss_category"].item(),
                grad_norm={f"{n}{i}": 0.0 if t.grad is None else t.grad.double().norm().item()
                           for n, lv in zip(OUTPUTS[kind], given, strict=True) for i, t in enumerate(lv)},
            ),
            network=dict(loss_mask=network["loss_mask"].item(), loss_cls=network["loss_category"].item()),
        )  # fmt: skip
    dump(result, out / f"scenes_{kind}.json")


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
        found = detect(detector, x, test, head_config(kind).strides)[0]
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
    bag["com"] = np.array([resize(m).center for m in bitmaps], np.float64)
    bag["coord"] = coordinates(torch.zeros(1, 3, 5, 8)).numpy()
    bag.save(out / "func.npz")


def grad(kind: str, spec: ModuleType, out: Path) -> None:
    detector = build(kind, spec.SEED)
    name = spec.GRAD_SCENE
    loaded = [image_info(h, w, ks, (spec.TAG, name, i)) for i, (h, w, ks) in enumerate(spec.SCENES[name])]
    losses = step_losses(kind, detector, loaded)
    sum(losses.values()).backward()
    params, bag, groups = {}, Bag(), {}
    for parameter_name, p in by_reference_name(kind, detector).items():
        if not isinstance(p, nn.Parameter):
            continue
        params[parameter_name] = None
        if p.grad is not None:
            g = p.grad.double()
            params[parameter_name] = [g.norm().item(), g.sum().item()]
            bag[parameter_name] = synth.summary("g/" + parameter_name, p.grad.numpy(), 16)[0]
            group = ".".join(parameter_name.split(".")[:2])
            groups[group] = groups.get(group, 0.0) + params[parameter_name][0] ** 2
    dump(
        dict(scene=name, params=params, groups={k: v**0.5 for k, v in groups.items()}, total=sum(groups.values()) ** 0.5,
             losses=dict(loss_mask=losses["loss_mask"].item(), loss_cls=losses["loss_category"].item())),
        out / f"grad_{kind}.json",
    )  # fmt: skip
    bag.save(out / f"grad_{kind}.npz")


def step_losses(kind: str, detector: Detector, loaded: list) -> dict[str, Tensor]:
    x = prepare(detector, [pixels for pixels, _, _ in loaded])
    targets = batch_targets(kind, [truth for _, _, truth in loaded], (x.shape[2], x.shape[3]))
    return detection_losses(detector.head, detector.features(x), targets, Loss())


def traj(kind: str, spec: ModuleType, out: Path) -> None:
    settings, bag, runs = spec.TRAJ, Bag(), {}
    for lr in settings["lr"]:
        detector = build(kind, spec.SEED)
        optimizer = torch.optim.SGD(
            [p for p in detector.parameters() if p.requires_grad], lr=lr, momentum=0.9, weight_decay=1e-4
        )
        log = []
        for step in range(settings["steps"]):
            b = step % len(settings["batches"])
            loaded = [image_info(h, w, ks, (spec.TAG, "traj", b, i))
                      for i, (h, w, ks) in enumerate(settings["batches"][b])]  # fmt: skip
            losses = step_losses(kind, detector, loaded)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            log.append([losses["loss_mask"].item(), losses["loss_category"].item()])
        bag[f"lr{lr}/losses"] = np.array(log, np.float64)
        parameters = {n: p for n, p in by_reference_name(kind, detector).items() if isinstance(p, nn.Parameter)}
        for n, p in parameters.items():
            bag[f"lr{lr}/w/{n}"] = synth.summary("w/" + n, p.detach().numpy(), 8)[0]
        norms = {n: p.detach().double().norm().item() for n, p in parameters.items()}
        runs[str(lr)] = dict(losses=log, final_norms=norms)
    bag.save(out / f"traj_{kind}.npz")
    dump(dict(runs=runs), out / f"traj_{kind}.json")


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
            n: [float(p.detach().double().mean()), float(p.detach().double().std()) if p.numel() > 1 else 0.0, float(p.detach().min()), float(p.detach().max())]
            for n, p in by_reference_name(kind, detector).items()
            if isinstance(p, nn.Parameter) and not n.startswith("backbone")
        }  # fmt: skip
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
        img_shape=list(size), scale_factor=[size[1] / w, size[0] / h], n_gt=len(sample.masks),
        raw_masks=dict(area=[int(b.sum()) for b in bitmaps], crc=[zlib.crc32(np.packbits(b).tobytes()) for b in bitmaps]),
        resized_crc=zlib.crc32(channels_first.tobytes()), resized_mean=channels_first.reshape(3, -1).mean(1).tolist(),
        n_ignored=sum(a.crowd for a in annotations), bboxes=sample.boxes.tolist(), labels=sample.labels.tolist(),
        mask_area=[m.area for m in sample.masks], padded=list(x.shape), input_val=value.tolist(), input_stat=stat.tolist(),
    )  # fmt: skip


def coco_metrics(case: dict[str, Any]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        truth, predictions = Path(folder, "gt.json"), Path(folder, "predictions.json")
        dump(case["gt"], truth)
        dump(case["predictions"], predictions)
        metrics = evaluate.evaluate(predictions, truth)["metrics"]
    ours = {"mAP": "AP", "mAP_50": "AP50", "mAP_75": "AP75", "mAP_s": "APs", "mAP_m": "APm", "mAP_l": "APl"}
    return {f"coco/segm_{k}": round(metrics[v] / 100, 3) for k, v in ours.items() if metrics[v] is not None}
