"""The report page: self-contained, deterministic, complete."""

import re
import xml.dom.minidom
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from solo.cli import main
from solo.ledger import Ledger
from solo.plots import thin
from solo.report import build, data_uri, device_hours
from tests.fixtures_runs import CARD_AP, MODELS, make_run, record_of

PUBLISHED = Path(__file__).parent.parent / "results" / "published.csv"
VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    """Collects ids, links and text, and checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[key] for key in ("src", "href", "xlink:href") if values.get(key)]
        self.images += [values] if tag == "img" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], str]:
    root = tmp_path_factory.mktemp("runs")
    records = [record_of(make_run(root, model, pictures=2)) for model in MODELS]
    return records, build(records, Ledger.read(PUBLISHED))


def test_the_page_is_one_well_formed_file_without_network(smoke):
    _, text = smoke
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert {link for link in checker.links if not link.startswith(("#", "data:"))} == set()
    assert {link[1:] for link in checker.links if link.startswith("#")} <= set(checker.ids)
    assert not re.search(r"<script|<link|@import|url\((?!#)", text)


def test_every_part_is_there(smoke):
    _, text = smoke
    for part in ("table", "training", "size", "cost", "pictures", "protocol", "again", "origin", "environment"):
        assert f'<section id="{part}">' in text
    assert text.count("<svg") == 7  # losses, AP, sizes; speed and memory, measured and published apart
    assert "Shown apart: not comparable with ours." in text
    assert "none: synthetic data, reduced model" in text
    assert "0123456789abcdef0123456789abcdef01234567" in text
    assert "snakemake results/smoke/solo_r50_1x/seed0/record.json --cores all --config suite=smoke" in text


def test_pictures_are_embedded_lazily_with_a_description(smoke):
    _, text = smoke
    checker = Checker()
    checker.feed(text)
    assert len(checker.images) == 2 * len(MODELS)
    assert all(image["loading"] == "lazy" and image["src"].startswith("data:image/png") for image in checker.images)
    assert checker.images[0]["alt"] == "Image 000000000000: ground truth beside the prediction of SOLO 1x, seed 0"


def test_the_same_bytes_in_any_order(smoke):
    records, text = smoke
    assert build(records[::-1], Ledger.read(PUBLISHED)) == text


def test_svgs_are_xml(smoke):
    _, text = smoke
    for body in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        xml.dom.minidom.parseString(body.replace("–", "-").encode())


def test_gpu_figures_get_the_published_marks(tmp_path: Path):
    options = {"suite": "zoo", "gpu": "NVIDIA H100"}
    records = [record_of(make_run(tmp_path, model, ap=CARD_AP[model], **options)) for model in MODELS[:2]]
    text = build(records, Ledger.read(PUBLISHED))
    assert text.count("<svg") == 5
    assert "Published (V100): ◇ mmdetection&#39;s metafile.yml" in text
    assert "Shown apart" not in text


def test_missing_curves_and_pictures_are_said(tmp_path: Path):
    folder = make_run(tmp_path)
    (folder / "metrics.jsonl").unlink()
    text = build([record_of(folder)], Ledger.read(PUBLISHED))
    assert "No curves:" in text
    assert "No pictures:" in text


def test_command_and_links(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    record, out = record_of(make_run(tmp_path)), tmp_path / "out"
    words = ["report", "--records", str(record), "--out", str(out / "report.html"), "--published", str(PUBLISHED)]
    assert main([*words, "--table-dir", str(out)]) == 2
    assert "solo table --out-dir" in capsys.readouterr().err
    assert main(["table", "--records", str(record), "--out-dir", str(out), "--published", str(PUBLISHED)]) == 0
    assert main([*words, "--table-dir", str(out)]) == 0
    assert '<a href="table.csv">table.csv</a>' in (out / "report.html").read_text()


def test_large_pictures_are_scaled_and_small_ones_kept(tmp_path: Path):
    import cv2

    noise = np.random.default_rng(0).integers(0, 255, (300, 2400, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "large.png"), noise)
    cv2.imwrite(str(tmp_path / "small.png"), noise[:20, :20])
    assert data_uri(tmp_path / "large.png").startswith("data:image/jpeg;base64,")
    assert data_uri(tmp_path / "small.png").startswith("data:image/png;base64,")


def test_device_hours():
    assert device_hours({"train": {"seconds": 1800, "world_size": 8}}) == 4.0
    assert device_hours({"train": None}) is None


def test_thin_keeps_short_curves_and_means_long_ones():
    assert thin([1, 2], [3.0, 5.0]) == ([1, 2], [3.0, 5.0])
    steps, values = thin(range(1200), [float(i) for i in range(1200)])
    assert (len(steps), steps[:2], values[:2]) == (600, [1, 3], [0.5, 2.5])
