"""Digests of what a result depends on: the data, and the code of the model and its training."""

import ast
import hashlib
from functools import cache
from pathlib import Path

from solo.artifacts import sha256
from solo.dataset import CocoSplit

# everything that a trained weight depends on; formatting, comments and docstrings do not count
CODE = (
    "model/backbone.py", "model/neck.py", "model/head.py", "model/detector.py", "targets.py", "losses.py",
    "transforms.py", "dataset.py", "batches.py", "schedule.py", "loop.py",
)  # fmt: skip


@cache
def code_version() -> str:
    """SHA-256 over the syntax trees of the model and training code, docstrings left out."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for name in CODE:
        tree = ast.parse((folder / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                value = body[0].value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    body.pop(0)
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def data_digest(*splits: CocoSplit) -> str:
    """SHA-256 over each split's annotation file and the name and size in bytes of every image."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(f"{split.split} {sha256(split.annotation_file)}\n".encode())
        for image in sorted(split.images, key=lambda image: image.file_name):
            path = split.root / split.split / image.file_name
            digest.update(f"{image.file_name} {path.stat().st_size if path.exists() else -1}\n".encode())
    return digest.hexdigest()
