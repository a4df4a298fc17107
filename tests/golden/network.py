"""The sections that run the network: names, forward, scenes, gradients, trajectories."""

import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from solo import config
from solo.config import Loss
from solo.losses import detection_losses
from solo.model.detector import Detector
from solo.postprocess import point_nms
from solo.targets import Targets
from tests.golden import fill, synth
from tests.golden.common import (
    OUTPUTS,
    Bag,
    GivenMaps,
    batch_targets,
    build,
    by_reference_name,
    dump,
    head_config,
    image_info,
    prepare,
)


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
                    size=list(masks.shape[1:]),
                    pos=cells.tolist(),
                    labels=grid[image][cells].tolist(),
                    n_fg_labels=int((grid[image] != head.num_classes).sum()),
                    area=masks[mine].sum((1, 2), dtype=np.int64).tolist(),
                    crc=[zlib.crc32(np.packbits(m).tobytes()) for m in masks[mine]],
                )
            )
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
        given = [
            [torch.from_numpy(a).requires_grad_() for a in lv]
            for lv in synth.train_preds(kind, len(images), *padded, spec.TAG, name)
        ]
        fake = GivenMaps(head.grid_sizes, given[:-1], given[-1])
        losses = detection_losses(fake, fake.level_inputs(), targets, Loss())
        (losses["loss_mask"] + losses["loss_category"]).backward()
        with torch.no_grad():
            network = detection_losses(detector.head, detector.features(x), targets, Loss())
        result[name] = dict(
            images=[info for _, info, _ in loaded],
            padded=list(padded),
            targets=level_targets(targets, head, len(images)),
            synthetic=dict(
                loss_mask=losses["loss_mask"].item(),
                loss_cls=losses["loss_category"].item(),
                grad_norm={
                    f"{n}{i}": 0.0 if t.grad is None else t.grad.double().norm().item()
                    for n, lv in zip(OUTPUTS[kind], given, strict=True)
                    for i, t in enumerate(lv)
                },
            ),
            network=dict(loss_mask=network["loss_mask"].item(), loss_cls=network["loss_category"].item()),
        )
    dump(result, out / f"scenes_{kind}.json")


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
        dict(
            scene=name,
            params=params,
            groups={k: v**0.5 for k, v in groups.items()},
            total=sum(groups.values()) ** 0.5,
            losses=dict(loss_mask=losses["loss_mask"].item(), loss_cls=losses["loss_category"].item()),
        ),
        out / f"grad_{kind}.json",
    )
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
            loaded = [
                image_info(h, w, ks, (spec.TAG, "traj", b, i)) for i, (h, w, ks) in enumerate(settings["batches"][b])
            ]
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
