"""What `solo fetch` can get, and from where: the one table of addresses."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """One file to download.

    Attributes:
        url: where its publisher has it.
        size: its size in bytes where known beforehand; the server's word is taken before this one.
    """

    url: str
    size: int | None = None

    @property
    def name(self) -> str:
        """The file's name, the last part of its URL."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def sha256(self) -> str:
        """The first digits of the file's SHA-256, which torch's convention keeps in its name; "" without them."""
        found = re.search(r"-([0-9a-f]{8,64})\.pth$", self.name)
        return found.group(1) if found else ""


@dataclass(frozen=True)
class CocoPart:
    """One archive of COCO and the folder it becomes.

    Attributes:
        folder: the folder in the archive and in the data set.
        source: the archive.
        images: images in the folder; 0 for annotations.
        expansion: extracted bytes per archive byte, for the check of free disk before the download.
    """

    folder: str
    source: Source
    images: int = 0
    expansion: float = 1.02


_TORCHVISION = "https://download.pytorch.org/models/"
_MMDETECTION = "https://download.openmmlab.com/mmdetection/v2.0/solo/"
_COCO = "http://images.cocodataset.org/"

# torchvision's IMAGENET1K_V1 weights, those that the published models started from.
BACKBONES: dict[str, Source] = {
    "resnet18": Source(f"{_TORCHVISION}resnet18-f37072fd.pth"),
    "resnet34": Source(f"{_TORCHVISION}resnet34-b627a593.pth"),
    "resnet50": Source(f"{_TORCHVISION}resnet50-0676ba61.pth"),
    "resnet101": Source(f"{_TORCHVISION}resnet101-63fe2227.pth"),
}

# The model card's checkpoints (mmdetection 3.3.0, configs/solo/metafile.yml).
CHECKPOINTS: dict[str, Source] = {
    model: Source(f"{_MMDETECTION}{folder}/{folder}_{stamp}.pth")
    for model, folder, stamp in (
        ("solo_r50_1x", "solo_r50_fpn_1x_coco", "20210821_035055-2290a6b8"),
        ("solo_r50_3x", "solo_r50_fpn_3x_coco", "20210901_012353-11d224d7"),
        ("decoupled_solo_r50_1x", "decoupled_solo_r50_fpn_1x_coco", "20210820_233348-6337c589"),
        ("decoupled_solo_r50_3x", "decoupled_solo_r50_fpn_3x_coco", "20210821_042504-7b3301ec"),
        ("decoupled_solo_light_r50_3x", "decoupled_solo_light_r50_fpn_3x_coco", "20210906_142703-e70e226f"),
    )
}

# Its publisher gives no checksums: size, the archives' CRCs and the number of images are what can be verified.
COCO2017: dict[str, CocoPart] = {
    "train": CocoPart("train2017", Source(f"{_COCO}zips/train2017.zip", 19_336_861_798), 118_287),
    "val": CocoPart("val2017", Source(f"{_COCO}zips/val2017.zip", 815_585_330), 5_000),
    "annotations": CocoPart(
        "annotations",
        Source(f"{_COCO}annotations/annotations_trainval2017.zip", 252_907_541),
        expansion=3.5,
    ),
}

FILES: dict[str, Source] = BACKBONES | CHECKPOINTS
