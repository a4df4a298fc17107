"""The one configuration: frozen, checked, every field with a default, a unit and a sentence.

YAML files hold only what differs from these defaults, which are those of SOLO R-50 1x in the reference
(mmdetection 3.3.0, configs/solo/solo_r50_fpn_1x_coco.py).

    solo config --model workflow/config/zoo/solo_r50_3x.yaml --suite workflow/config/suites/smoke.yaml
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Scale = tuple[Positive, Positive]


class Section(BaseModel):
    """A frozen group of fields; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Backbone(Section):
    """ResNet and its feature pyramid."""

    depth: Literal[18, 34, 50, 101] = Field(50, description="ResNet depth")
    width: float = Field(1.0, gt=0, le=4, description="multiplier of all channels")
    norm: Literal["frozen_bn", "bn", "gn"] = Field(
        "frozen_bn",
        description="frozen_bn: stored statistics, trainable affine (the reference); bn, gn: train from scratch",
    )
    frozen_stages: int = Field(1, ge=-1, le=4, description="stem and stages up to this one get no gradient; -1: none")
    pretrained: Literal["imagenet", "none"] = Field("imagenet", description="torchvision's ImageNet weights, or none")
    fpn_channels: Positive = Field(256, description="channels of P2..P6")


class Head(Section):
    """Category branch and mask branch; one entry per pyramid level where a tuple."""

    kind: Literal["solo", "decoupled_solo", "decoupled_solo_light"] = Field("solo", description="head variant")
    num_classes: Positive = Field(80, description="categories; set from the data set when training")
    grid_sizes: tuple[Positive, ...] = Field((40, 36, 24, 16, 12), description="grid number S per level, cells")
    strides: tuple[Positive, ...] = Field((8, 8, 16, 32, 32), description="feature stride per level, input pixels")
    scale_ranges: tuple[tuple[float, float], ...] = Field(
        ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048)),
        description="sqrt(w*h) bounds per level, input pixels, both ends included",
    )
    center_sigma: float = Field(0.2, gt=0, le=1, description="centre region as a fraction of the box")
    stacked_convs: Positive = Field(7, description="3x3 convolutions in each branch")
    feat_channels: Positive = Field(256, description="channels of each branch")
    norm_groups: Positive = Field(32, description="groups of the head's GroupNorm")
    init_std: float = Field(0.01, gt=0, description="standard deviation of the convolutions' initial weights")
    coordinate_layers: int = Field(1, ge=0, description="first mask-branch convolutions that see coordinates")

    @model_validator(mode="after")
    def _one_entry_per_level(self) -> Self:
        counts = {len(self.grid_sizes), len(self.strides), len(self.scale_ranges)}
        if counts != {5}:
            raise ValueError(
                f"grid_sizes, strides and scale_ranges need five entries each (P2..P6), not "
                f"{len(self.grid_sizes)}, {len(self.strides)}, {len(self.scale_ranges)}; "
                "give a level that is not wanted an empty scale range such as [0, 0]"
            )
        if self.strides != (8, 8, 16, 32, 32):
            raise ValueError(f"strides {self.strides} do not fit the pyramid; valid: (8, 8, 16, 32, 32)")
        if self.feat_channels % self.norm_groups:
            raise ValueError(f"norm_groups {self.norm_groups} does not divide feat_channels {self.feat_channels}")
        if self.coordinate_layers > self.stacked_convs:
            raise ValueError(f"coordinate_layers {self.coordinate_layers} > stacked_convs {self.stacked_convs}")
        return self


class Loss(Section):
    """Training losses (paper sec. 3.3.2, eq. 2-5)."""

    mask: Literal["dice", "focal", "bce"] = Field("dice", description="mask loss")
    mask_weight: float = Field(3.0, ge=0, description="weight of the mask loss")
    category_weight: float = Field(1.0, ge=0, description="weight of the category loss")
    focal_gamma: float = Field(2.0, ge=0, description="focusing exponent")
    focal_alpha: Probability = Field(0.25, description="weight of the positive class")


class Input(Section):
    """Image scales (long side, short side) in pixels, and augmentation."""

    image_scale: Scale = Field((1333, 800), description="test-time scale: longest and shortest side, pixels")
    train_scales: tuple[Scale, ...] = Field(((1333, 800),), min_length=1, description="one is drawn per image")
    flip_probability: Probability = Field(0.5, description="horizontal flip")
    min_size: int = Field(32, ge=0, description="training images with a shorter side are left out, pixels")


class Schedule(Section):
    """SGD with linear warm-up and steps."""

    epochs: Positive = Field(12, description="passes over the training split")
    milestones: tuple[Positive, ...] = Field((8, 11), description="epochs after which the rate drops")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each drop")
    lr: float = Field(0.01, gt=0, description="learning rate at batch_size, after warm-up")
    lr_reference_batch: Positive | None = Field(
        None, description="when set, lr is multiplied by batch_size / this; never scaled otherwise"
    )
    momentum: Probability = Field(0.9, description="SGD momentum")
    weight_decay: float = Field(1e-4, ge=0, description="L2 on every trainable parameter")
    clip_norm: float | None = Field(None, gt=0, description="bound of the gradient norm; none: no clipping")
    warmup_steps: int = Field(500, ge=0, description="optimizer steps of linear warm-up")
    warmup_factor: float = Field(0.001, gt=0, le=1, description="fraction of lr at the first step")
    batch_size: Positive = Field(16, description="images per optimizer step, over all devices")
    images_per_device: Positive = Field(2, description="images per forward pass; the losses are normalized over these")
    eval_every: int = Field(
        3, ge=0, description="epochs between evaluations on the validation split; 0: only at the end"
    )
    log_every: Positive = Field(50, description="optimizer steps between lines of metrics.jsonl")
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = Field("fp32", description="arithmetic of the forward pass")

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        if self.batch_size % self.images_per_device:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of images_per_device {self.images_per_device}"
            )
        return self


class Test(Section):
    """Post-processing (paper sec. 3.3.3; mmdetection test_cfg)."""

    __test__ = False  # not a pytest class

    score_threshold: Probability = Field(0.1, description="category score before NMS, strictly above")
    mask_threshold: Probability = Field(0.5, description="mask probability per pixel, strictly above")
    update_threshold: Probability = Field(0.05, description="score after NMS, at least")
    nms_pre: Positive = Field(500, description="candidates that enter Matrix NMS")
    max_per_image: Positive = Field(100, description="instances per image")
    nms_kernel: Literal["gaussian", "linear"] = Field("gaussian", description="Matrix NMS decay")
    nms_sigma: float = Field(2.0, gt=0, description="width of the gaussian decay")
    max_candidates: Positive = Field(20000, description="hard cap of cells per image, best scores first")
    chunk: Positive = Field(100, description="masks computed at once; bounds memory, changes nothing else")


class Runtime(Section):
    """How a run is carried out; none of it changes the result."""

    workers: int = Field(2, ge=0, description="loader processes per device; 0: in the training process")
    checkpoint_minutes: float = Field(10, gt=0, description="minutes between checkpoints within an epoch")
    compile: bool = Field(False, description="torch.compile the network")
    channels_last: bool = Field(True, description="NHWC memory format")


class Config(Section):
    """A model and its training, complete."""

    backbone: Backbone = Backbone()
    head: Head = Head()
    loss: Loss = Loss()
    input: Input = Input()
    schedule: Schedule = Schedule()
    test: Test = Test()
    runtime: Runtime = Runtime()

    def digest(self) -> str:
        """SHA-256 over every field that bears on the result: all but `runtime` and the data set's class count."""
        fields = self.model_dump(mode="json", exclude={"runtime": True, "head": {"num_classes"}})
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


class RunConfig(Section):
    """A resolved run: a model id, where it belongs, and its complete configuration."""

    name: str = Field(description="model id, such as solo_r50_1x")
    suite: str = Field("none", description="suite the run belongs to")
    seed: int = Field(0, ge=0, description="seed of initialization, data order and augmentation")
    setting: dict[str, Any] = Field(default_factory=dict, description="overrides of an ablation run, dotted keys")
    config: Config = Config()

    def to_yaml(self) -> str:
        """Canonical YAML of every field, with the digest."""
        data = self.model_dump(mode="json")
        config = data.pop("config")
        return yaml.safe_dump({**data, "config_digest": self.config.digest(), "config": config}, sort_keys=False)
