"""The peer: mmdetection's own SOLO models, driven through mmdetection's own entry points.

mmcv-lite comes without compiled operators. SOLO calls none, but mmdetection imports their names, so a module stands in
for `mmcv._ext` whose every attribute raises when it is called. Import this module before anything of mmdet.
"""

import importlib.machinery
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CONFIGS = {
    "solo_r50_1x": "solo_r50_fpn_1x_coco",
    "solo_r50_3x": "solo_r50_fpn_3x_coco",
    "decoupled_solo_r50_1x": "decoupled-solo_r50_fpn_1x_coco",
    "decoupled_solo_r50_3x": "decoupled-solo_r50_fpn_3x_coco",
    "decoupled_solo_light_r50_3x": "decoupled-solo-light_r50_fpn_3x_coco",
}


class NoOperators(types.ModuleType):
    """Stands for the extension module that mmcv-lite does not ship."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def absent(*args: Any, **kwargs: Any) -> str:
            if name.startswith("get_"):  # compiler versions, asked for by logs
                return "none"
            raise RuntimeError(f"mmcv operator {name} was called; mmcv-lite has no compiled operators")

        return absent


def import_mmdet() -> None:
    """Make mmdet's registries usable.

    Raises:
        ImportError: the extra `parity` is not installed.
    """
    if "mmcv._ext" not in sys.modules:
        stand_in = NoOperators("mmcv._ext")
        stand_in.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)
        sys.modules["mmcv._ext"] = stand_in
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third-party modules warn on import about each other
        import mmdet.models  # noqa: F401  its modules enter the registries
        from mmdet.utils import register_all_modules
        from mmengine.logging import MMLogger

        register_all_modules()
        MMLogger.get_instance("parity", log_level="ERROR")


def read_config(model: str) -> Any:
    """mmdetection's own configuration of a zoo model, without the download of ImageNet weights."""
    import_mmdet()
    import mmdet
    from mmengine.config import Config

    cfg = Config.fromfile(Path(mmdet.__file__).parent / f".mim/configs/solo/{CONFIGS[model]}.py")
    cfg.model.backbone.init_cfg = None
    return cfg


class Peer:
    """One model of the peer.

    Args:
        model: zoo model, a key of `CONFIGS`.
        classes: categories, where not COCO's 80.
    """

    def __init__(self, model: str, classes: int = 80) -> None:
        self.cfg = read_config(model)
        self.cfg.model.mask_head.num_classes = classes
        from mmdet.registry import MODELS

        # train() freezes the batch statistics (norm_eval); a network fresh from the registry would use the batch's
        self.network: nn.Module = MODELS.build(self.cfg.model).train()
        self.head: Any = self.network.mask_head

    def state(self) -> dict[str, Tensor]:
        """Its tensors by their own names; writing to them changes the network."""
        return self.network.state_dict()

    def inputs(self, images: list[np.ndarray], truths: list[Any] | None = None) -> tuple[Tensor, list[Any]]:
        """Its own preprocessing: channel order, normalization, padding.

        Args:
            images: (h, w, 3) uint8, B G R.
            truths: (masks (n, h, w) uint8, boxes (n, 4) float32 x1 y1 x2 y2, labels (n,)) of each image.

        Returns:
            (B, 3, H, W) float32 and one data sample per image.
        """
        given = truths or [None] * len(images)
        samples = [self.sample(image.shape[:2], truth) for image, truth in zip(images, given, strict=True)]
        tensors = [torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))) for image in images]
        return self.preprocess(tensors, samples, training=truths is not None)

    @staticmethod
    def sample(size: tuple[int, ...], truth: Any, original: tuple[int, int] | None = None) -> Any:
        """A DetDataSample of an image of `size`, with its objects where given."""
        from mmdet.structures import DetDataSample
        from mmdet.structures.mask import BitmapMasks
        from mmengine.structures import InstanceData

        height, width = size
        meta = {"img_id": 0, "img_shape": (height, width), "ori_shape": original or (height, width)}
        sample = DetDataSample(metainfo=meta | {"scale_factor": (1.0, 1.0)})
        if truth is not None:
            masks, boxes, labels = truth
            sample.gt_instances = InstanceData(
                bboxes=torch.from_numpy(boxes), labels=torch.from_numpy(labels), masks=BitmapMasks(masks, height, width)
            )
        return sample

    def preprocess(self, tensors: list[Tensor], samples: list[Any], training: bool) -> tuple[Tensor, list[Any]]:
        """Its data preprocessor on (3, h, w) uint8 images."""
        data = self.network.data_preprocessor({"inputs": tensors, "data_samples": samples}, training)
        return data["inputs"], data["data_samples"]

    def outputs(self, inputs: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Category logits per level, and mask logits per factor (one, or columns and rows) and level."""
        self.network.train()
        *masks, grids = self.head(self.network.extract_feat(inputs))
        return grids, masks

    @torch.no_grad()
    def category_scores(self, inputs: Tensor) -> np.ndarray:
        """Its category probabilities above zero after its point NMS, flat."""
        self.network.eval()
        grids = self.head(self.network.extract_feat(inputs))[-1]
        scores = torch.cat([grid.flatten() for grid in grids])
        return scores[scores > 0].cpu().numpy()

    def losses(self, inputs: Tensor, samples: list[Any]) -> dict[str, Tensor]:
        """loss_mask and loss_cls of a training batch."""
        return self.network.loss(inputs, samples)

    @torch.no_grad()
    def predict(self, inputs: Tensor, samples: list[Any], rescale: bool = True, **test_cfg: Any) -> list[Any]:
        """InstanceData (scores, labels, masks) of each image; `test_cfg` overrides its thresholds."""
        self.network.eval()
        before = self.head.test_cfg
        self.head.test_cfg = type(before)({**before, **test_cfg})
        try:
            return [sample.pred_instances for sample in self.network.predict(inputs, samples, rescale=rescale)]
        finally:
            self.head.test_cfg = before

    def test_pipeline(self) -> Any:
        """Its test pipeline from file to input, without the annotations."""
        from mmengine.dataset import Compose

        steps = self.cfg.test_dataloader.dataset.pipeline
        return Compose([step for step in steps if step["type"] != "LoadAnnotations"])

    def predict_file(self, path: Path, image_id: int, pipeline: Any, **test_cfg: Any) -> Any:
        """Decode, resize, normalize and predict one image file; masks are at the file's size."""
        data = pipeline({"img_path": str(path), "img_id": image_id})
        inputs, samples = self.preprocess([data["inputs"]], [data["data_samples"]], training=False)
        return self.predict(inputs, samples, **test_cfg)[0]
