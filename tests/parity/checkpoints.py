"""Checkpoints as the peer writes them: 3.x by mmengine's own Runner, 2.x in the layout of the published files."""

import time
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from solo.artifacts import sha256
from tests.parity.peer import CONFIGS, Peer

FORMS = ("2.x", "3.x")


def write(peer: Peer, model: str, form: str, classes: tuple[str, ...], folder: Path, optimizer: bool = False) -> Path:
    """Write the peer's weights as a published file is named: `<config>_<time>-<sha256 prefix>.pth`.

    Args:
        peer: its weights are written.
        model: zoo model.
        form: an entry of `FORMS`.
        classes: category names.
        folder: existing folder.
        optimizer: whether the optimizer's momenta are kept, as in a checkpoint that was not prepared for publishing.
    """
    draft = folder / "epoch_12.pth"
    {"2.x": _write_2, "3.x": _write_3}[form](peer, model, classes, draft, optimizer)
    return draft.rename(folder / f"{CONFIGS[model].replace('-', '_')}_20210821_035055-{sha256(draft)[:8]}.pth")


def _optimizer(peer: Peer) -> Any:
    """mmengine's optimizer with a momentum for every parameter (their values matter to nobody)."""
    from mmengine.optim import build_optim_wrapper

    wrapper = build_optim_wrapper(peer.network, peer.cfg.optim_wrapper)
    for group in wrapper.optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad:
                # one element, expanded: as many entries as the real one in a smaller file
                wrapper.optimizer.state[parameter]["momentum_buffer"] = torch.zeros(1).expand(parameter.shape)
    return wrapper


def _write_3(peer: Peer, model: str, classes: tuple[str, ...], path: Path, optimizer: bool) -> None:
    from mmengine.logging import MessageHub
    from mmengine.optim import LinearLR, MultiStepLR
    from mmengine.runner import Runner

    hub = MessageHub.get_instance(f"parity {path}")
    for loss in (2.9, 2.7, 2.6):
        hub.update_scalar("train/loss", loss)
    hub.update_info("epoch", 11)
    wrapper = _optimizer(peer)
    runner = SimpleNamespace(
        cfg=peer.cfg, seed=1, epoch=11, iter=87960, model=peer.network, message_hub=hub, optim_wrapper=wrapper,
        experiment_name=f"{CONFIGS[model]}_{time.strftime('%Y%m%d')}", call_hook=lambda *args, **kwargs: None,
        train_dataloader=SimpleNamespace(
            dataset=SimpleNamespace(metainfo={"classes": classes, "palette": [(220, 20, 60)] * len(classes)})
        ),
        param_schedulers=[
            LinearLR(wrapper, start_factor=0.001, by_epoch=False, end=500),
            MultiStepLR(wrapper, milestones=[8, 11], by_epoch=True),
        ],
    )  # fmt: skip
    Runner.save_checkpoint(
        runner, str(path.parent), path.name, save_optimizer=optimizer, save_param_scheduler=optimizer
    )


def _write_2(peer: Peer, model: str, classes: tuple[str, ...], path: Path, optimizer: bool) -> None:
    epochs = peer.cfg.train_cfg.max_epochs
    meta = {
        "env_info": "sys.platform: linux\nMMCV: 1.3.9\n", "mmdet_version": "2.16.0+8ec25d2", "seed": None,
        "exp_name": f"{CONFIGS[model]}.py", "epoch": epochs, "iter": 7330 * epochs, "mmcv_version": "1.3.9",
        "config": f"model = dict(type='SOLO')\nrunner = dict(type='EpochBasedRunner', max_epochs={epochs})\n",
        "time": "Sat Aug 21 03:50:55 2021", "hook_msgs": {}, "CLASSES": classes,
        "PALETTE": [(220, 20, 60)] * len(classes),
    }  # fmt: skip
    checkpoint = {"meta": meta, "state_dict": OrderedDict(peer.state())}
    if optimizer:
        checkpoint["optimizer"] = _optimizer(peer).state_dict()
    torch.save(checkpoint, path)
