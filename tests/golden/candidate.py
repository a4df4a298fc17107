"""Write this implementation's side of the golden vectors, in the files and names of the reference's.

    python -m tests.golden.candidate --spec tests/golden/spec_public.py --out build/candidate
    python tests/golden/compare.py tests/golden/public build/candidate --tol tests/golden/tolerances.json

Any other spec (seed, sizes, scenes) works the same way. What only the reference can state, such as the description
of its own synthetic ground truth, is recomputed here from the same generators.
"""

import argparse
import gc
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from tests.golden import misc, network, results

SECTIONS = {
    "names": network.names,
    "forward": network.forward,
    "scenes": network.scenes,
    "predict": results.predict,
    "post": results.post,
    "grad": network.grad,
    "traj": network.traj,
}  # of each model
SHARED = {"nms": results.nms, "func": results.func, "misc": misc.misc}


def load_spec(path: Path) -> ModuleType:
    """Import a spec file from anywhere."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(spec: ModuleType, out: Path, kinds: list[str], wanted: list[str], reference: Path | None) -> None:
    """Write the wanted sections; `reference` supplies inputs that the spec does not determine."""
    out.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        for name, section in SECTIONS.items():
            if name in wanted:
                section(kind, spec, out)
                gc.collect()
    for name, shared in SHARED.items():
        if name in wanted:
            shared(spec, out, reference)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=Path, default=Path(__file__).with_name("spec_public.py"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--reference", type=Path, default=Path(__file__).with_name("public"))
    parser.add_argument("--kinds", default="solo,decoupled,light")
    parser.add_argument("--sections", default=",".join([*SECTIONS, *SHARED]))
    args: Any = parser.parse_args()
    torch.set_num_threads(2)
    write(load_spec(args.spec), args.out, args.kinds.split(","), args.sections.split(","), args.reference)


if __name__ == "__main__":
    main()
