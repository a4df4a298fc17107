"""One list of dependencies, no trace of the machine that built it, and files of a size that can be read."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GIVEN = ("tests/golden/fill.py", "tests/golden/synth.py", "tests/golden/compare.py", "tests/golden/spec_public.py")


def tracked(*patterns):
    """Files of the repository, those not added yet included."""
    command = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z", "--", *patterns]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [name for name in sorted(set(done.stdout.split("\0"))) if name and (ROOT / name).is_file()]


def test_the_conda_environment_installs_the_project_and_repeats_nothing():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-e ."]
    assert [Requirement(entry).name for entry in plain] == ["python", "pip"]
    python, project = Requirement(plain[0]).specifier, SpecifierSet(PROJECT["requires-python"])
    for minor in range(8, 30):
        version = Version(f"3.{minor}")
        assert version not in python or version in project, f"conda's Python {version} is not the project's"
    oldest = min(Version(s.version) for s in project)
    assert oldest in python, "the oldest Python of the project is not conda's"


def test_the_versions_whose_torchvision_cannot_be_imported_are_left_out():
    requirements = {Requirement(text).name: Requirement(text).specifier for text in PROJECT["dependencies"]}
    for name, wrong, right in (("torch", "2.13.0", "2.14.1"), ("torchvision", "0.28.0", "0.29.1")):
        assert wrong not in requirements[name]
        assert right in requirements[name]


def test_every_import_is_declared():
    names = {"cv2": "opencv-python-headless", "yaml": "pyyaml", "faster_coco_eval": None, "markupsafe": "jinja2"}
    interface = "snakemake-interface-"
    declared = {Requirement(text).name for text in PROJECT["dependencies"]}
    optional = {Requirement(text).name for extra in PROJECT["optional-dependencies"].values() for text in extra}
    used = {}
    for path in tracked("solo/*.py", "slurm/*.py"):
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                used[node.module.split(".")[0]] = path
            elif isinstance(node, ast.Import):
                used.update({alias.name.split(".")[0]: path for alias in node.names})
    for module, path in used.items():
        if module in sys.stdlib_module_names or module in ("solo", "snakemake_executor_plugin_submitit"):
            continue
        name = names.get(module, module)
        if name is None:
            continue
        if module.startswith("snakemake_interface"):
            name = interface + module.removeprefix("snakemake_interface_").replace("_", "-")
        assert name in declared | optional, f"{path} imports {module}"


def test_no_place_of_a_build_machine_and_no_index_of_packages():
    home = re.compile(r"(?<![\w.~}$])/(?:work|root|farm|home/\w+|Users/\w+)/")
    index = re.compile(r"--(?:extra-)?index-url|pythonhosted\.|registry\.npm|://[\w.-]*pypi\.|deb\.debian")
    private = re.compile(r"://(?:10\.|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\.)")
    wrong = []
    for name in tracked():
        path = ROOT / name
        if path.suffix in (".npz", ".png", ".pth", ".jpg") or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if home.search(line) or index.search(line) or private.search(line):
                wrong.append(f"{name}:{number}: {line.strip()[:100]}")
    assert wrong == []


def test_every_file_says_what_it_is_and_is_short():
    long, silent = [], []
    for name in tracked("*.py"):
        if name in GIVEN:
            continue
        text = (ROOT / name).read_text(encoding="utf-8")
        if text.count("\n") > 300:
            long.append(f"{name}: {text.count(chr(10))} lines")
        if text.strip() and ast.get_docstring(ast.parse(text)) is None:
            silent.append(name)
    assert long == []
    assert silent == []


def test_large_files_stay_out():
    large = [name for name in tracked() if (ROOT / name).stat().st_size > 2 * 2**20]
    assert large == []
