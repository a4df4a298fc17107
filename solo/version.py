"""The version of the code that a trained weight depends on."""

import ast
import hashlib
from functools import cache
from pathlib import Path

# formatting, comments and docstrings do not count, nor does anything outside these files
FILES = (
    "model/backbone.py", "model/neck.py", "model/head.py", "model/detector.py", "targets.py", "losses.py",
    "transforms.py", "dataset.py", "batches.py", "schedule.py", "loop.py",
)  # fmt: skip


@cache
def code_version() -> str:
    """SHA-256 over the syntax trees of the model and training code, docstrings left out."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for name in FILES:
        tree = ast.parse((folder / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and _is_docstring(body[0]):
                body.pop(0)
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
