"""This implementation against vectors of the reference (tests/golden/README.md).

SOLO_GOLDEN=<folder> takes other vectors: a folder with one `spec*.py` and the vectors beside it or in `public/`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "golden"
FAST = ["names", "scenes", "nms", "func", "post", "misc", "forward", "grad"]
SLOW = ["predict", "traj"]
KINDS = ["solo", "decoupled", "light"]


def golden() -> tuple[Path, Path]:
    """The spec file and the folder of the vectors."""
    if "SOLO_GOLDEN" not in os.environ:
        return HERE / "spec_public.py", HERE / "public"
    root = Path(os.environ["SOLO_GOLDEN"]).absolute()
    specs = sorted(root.glob("spec*.py"))
    assert len(specs) == 1, f"{root} must hold one spec*.py, not {[path.name for path in specs]}"
    found = [folder for folder in (root, root / "public") if list(folder.glob("*.npz"))]
    assert found, f"no vectors (*.npz) in {root} or {root / 'public'}"
    return specs[0], found[0]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=HERE.parents[1], capture_output=True, text=True, check=False
    )


def compare(section: str, kinds: list[str], tmp_path: Path) -> None:
    spec, vectors = golden()
    shared = section in ("nms", "func", "misc")
    names = [path for kind in kinds for path in vectors.glob(f"{section}_{kind}.*")]
    if shared:
        names = list(vectors.glob(f"{section}.*"))
    assert names, f"{vectors} holds no section {section} of {kinds}"
    # the comparison reads every file of the reference's folder; this one holds the section's alone
    expected, found = tmp_path / "expected", tmp_path / "found"
    expected.mkdir()
    for path in names:
        (expected / path.name).symlink_to(path)
    made = run(
        "-m", "tests.golden.candidate", "--spec", spec, "--out", found, "--reference", vectors,
        "--sections", section, "--kinds", ",".join(kinds),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    table = run(HERE / "compare.py", expected, found, "--tol", HERE / "tolerances.json", "--kinds", ",".join(kinds))
    verdict = table.stdout.splitlines()[-1]
    print(f"{section} {','.join(kinds)}: {verdict}")
    if table.returncode != 0:
        full = run(HERE / "compare.py", expected, found, "--tol", HERE / "tolerances.json", "-v")
        pytest.fail(f"{section} {kinds}\n{full.stdout}{table.stderr}", pytrace=False)
    assert not verdict.startswith("0 measures"), f"{section}: nothing was compared"


@pytest.mark.parametrize("section", FAST)
def test_fast_sections(section, tmp_path):
    compare(section, KINDS, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("section", SLOW)
def test_slow_sections(section, kind, tmp_path):
    compare(section, [kind], tmp_path)


def test_a_wrong_value_is_noticed(tmp_path):
    """The comparison itself: one changed target cell fails."""
    _, vectors = golden()
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in vectors.glob("*"):
        if path.name != "scenes_solo.json":
            (changed / path.name).symlink_to(path)
    text = (vectors / "scenes_solo.json").read_text()
    (changed / "scenes_solo.json").write_text(text.replace('"pos": [', '"pos": [0, ', 1))
    table = run(HERE / "compare.py", vectors, changed, "--tol", HERE / "tolerances.json")
    assert table.returncode == 1
    assert "targets: levels with other pos" in table.stdout
