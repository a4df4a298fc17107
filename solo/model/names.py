"""Parameter names: the reference's (mmdetection 2.x and 3.x agree) to ours and back.

The backbone's names are torchvision's in both.
"""

import re

RULES = [
    (r"backbone\.(.+)", r"backbone.{}"),
    (r"neck\.lateral_convs\.(\d)\.conv\.(.+)", r"neck.inner_blocks.{}.0.{}"),
    (r"neck\.fpn_convs\.(\d)\.conv\.(.+)", r"neck.layer_blocks.{}.0.{}"),
    (r"mask_head\.cls_convs\.(\d+)\.conv\.(.+)", r"head.category_branch.{}.conv.{}"),
    (r"mask_head\.cls_convs\.(\d+)\.gn\.(.+)", r"head.category_branch.{}.norm.{}"),
    (r"mask_head\.conv_cls\.(.+)", r"head.category_out.{}"),
    (r"mask_head\.mask_convs(?:_x)?\.(\d+)\.conv\.(.+)", r"head.mask_branches.0.convs.{}.conv.{}"),
    (r"mask_head\.mask_convs(?:_x)?\.(\d+)\.gn\.(.+)", r"head.mask_branches.0.convs.{}.norm.{}"),
    (r"mask_head\.mask_convs_y\.(\d+)\.conv\.(.+)", r"head.mask_branches.1.convs.{}.conv.{}"),
    (r"mask_head\.mask_convs_y\.(\d+)\.gn\.(.+)", r"head.mask_branches.1.convs.{}.norm.{}"),
    (r"mask_head\.conv_mask_list\.(\d)\.(.+)", r"head.mask_out.{}.{}"),
    (r"mask_head\.conv_mask_list_x\.(\d)\.(.+)", r"head.mask_out_x.{}.{}"),
    (r"mask_head\.conv_mask_list_y\.(\d)\.(.+)", r"head.mask_out_y.{}.{}"),
]


def from_reference(name: str) -> str | None:
    """Our name of a reference parameter, or None where the reference has no such part."""
    for pattern, template in RULES:
        if match := re.fullmatch(pattern, name):
            return template.format(*match.groups())
    return None
