"""Zoo, suites, studies and where the workflow puts them."""

import json
import shutil
from pathlib import Path

import pytest

from solo import version
from solo.config import Config
from solo.errors import UserError
from solo.layers import load
from solo.layout import Layout
from solo.schema import schema
from solo.suite import ZOO, read_study, read_suite, resolve, run_name

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "workflow/config"
REFERENCE_NAMES = {
    "solo_r50_1x": "solo_r50_fpn_1x_coco",
    "solo_r50_3x": "solo_r50_fpn_3x_coco",
    "decoupled_solo_r50_1x": "decoupled-solo_r50_fpn_1x_coco",
    "decoupled_solo_r50_3x": "decoupled-solo_r50_fpn_3x_coco",
    "decoupled_solo_light_r50_3x": "decoupled-solo-light_r50_fpn_3x_coco",
}
HEADS = {"solo": "SOLOHead", "decoupled_solo": "DecoupledSOLOHead", "decoupled_solo_light": "DecoupledSOLOLightHead"}


def test_the_zoo_is_the_five_models():
    assert {path.stem for path in (CONFIG / "zoo").glob("*.yaml")} == set(ZOO) == set(REFERENCE_NAMES)


def as_lists(value):
    return json.loads(json.dumps(value))


def steps_of(pipeline):
    return {step["type"]: step for step in pipeline}


@pytest.mark.parametrize("model", ZOO)
def test_every_zoo_file_equals_the_references_configuration(reference, model):
    theirs = json.loads((reference / f"reference/zoo_configs/{REFERENCE_NAMES[model]}.json").read_text())
    ours: Config = load(CONFIG / f"zoo/{model}.yaml").config
    network, head, test = theirs["model"], theirs["model"]["mask_head"], theirs["model"]["test_cfg"]
    mask, category = head["loss_mask"], head["loss_cls"]
    train = theirs["train_dataloader"]["dataset"]
    steps, test_steps = steps_of(train["pipeline"]), steps_of(theirs["test_dataloader"]["dataset"]["pipeline"])
    warmup, drops = theirs["param_scheduler"]
    optimizer = theirs["optim_wrapper"]["optimizer"]
    scales = steps["RandomChoiceResize"]["scales"] if "RandomChoiceResize" in steps else [steps["Resize"]["scale"]]
    pairs = {
        "depth": (ours.backbone.depth, network["backbone"]["depth"]),
        "width": (ours.backbone.width, 1.0),
        "frozen stages": (ours.backbone.frozen_stages, network["backbone"].get("frozen_stages", 1)),
        "weights": (f"torchvision://resnet{ours.backbone.depth}", network["backbone"]["init_cfg"]["checkpoint"]),
        "pretrained": (ours.backbone.pretrained, "imagenet"),
        "norm": (ours.backbone.norm, "frozen_bn"),
        "fpn channels": (ours.backbone.fpn_channels, network["neck"]["out_channels"]),
        "head": (HEADS[ours.head.kind], head["type"]),
        "head input": (ours.backbone.fpn_channels, head["in_channels"]),
        "classes": (ours.head.num_classes, head["num_classes"]),
        "grids": (ours.head.grid_sizes, head["num_grids"]),
        "strides": (ours.head.strides, head["strides"]),
        "scale ranges": (ours.head.scale_ranges, head["scale_ranges"]),
        "sigma": (ours.head.center_sigma, head["pos_scale"]),
        "convolutions": (ours.head.stacked_convs, head["stacked_convs"]),
        "channels": (ours.head.feat_channels, head["feat_channels"]),
        "groups": (ours.head.norm_groups, head["norm_cfg"]["num_groups"]),
        "mask loss": (f"{ours.loss.mask}loss", mask["type"].lower()),
        "mask weight": (ours.loss.mask_weight, mask["loss_weight"]),
        "category weight": (ours.loss.category_weight, category["loss_weight"]),
        "gamma": (ours.loss.focal_gamma, category["gamma"]),
        "alpha": (ours.loss.focal_alpha, category["alpha"]),
        "test scale": (ours.input.image_scale, test_steps["Resize"]["scale"]),
        "train scales": (ours.input.train_scales, scales),
        "flip": (ours.input.flip_probability, steps["RandomFlip"]["prob"]),
        "least size": (ours.input.min_size, train["filter_cfg"]["min_size"]),
        "epochs": (ours.schedule.epochs, theirs["train_cfg"]["max_epochs"]),
        "milestones": (ours.schedule.milestones, drops["milestones"]),
        "drop": (ours.schedule.gamma, drops["gamma"]),
        "warm-up": (ours.schedule.warmup_steps, warmup["end"]),
        "warm-up factor": (ours.schedule.warmup_factor, warmup["start_factor"]),
        "lr": (ours.schedule.lr, optimizer["lr"]),
        "momentum": (ours.schedule.momentum, optimizer["momentum"]),
        "decay": (ours.schedule.weight_decay, optimizer["weight_decay"]),
        "clipping": (ours.schedule.clip_norm, theirs["optim_wrapper"].get("clip_grad")),
        "images per device": (ours.schedule.images_per_device, theirs["train_dataloader"]["batch_size"]),
        "batch": (ours.schedule.batch_size, theirs["auto_scale_lr"]["base_batch_size"]),
        "lr scaling": (ours.schedule.lr_reference_batch is not None, theirs["auto_scale_lr"]["enable"]),
        "score threshold": (ours.test.score_threshold, test["score_thr"]),
        "mask threshold": (ours.test.mask_threshold, test["mask_thr"]),
        "update threshold": (ours.test.update_threshold, test["filter_thr"]),
        "nms_pre": (ours.test.nms_pre, test["nms_pre"]),
        "per image": (ours.test.max_per_image, test["max_per_img"]),
        "kernel": (ours.test.nms_kernel, test["kernel"]),
        "nms sigma": (ours.test.nms_sigma, test["sigma"]),
    }
    assert {name: as_lists(pair[0]) for name, pair in pairs.items()} == {name: pair[1] for name, pair in pairs.items()}


@pytest.mark.parametrize("path", sorted((CONFIG / "suites").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_suite_resolves_every_model_to_another_configuration(path):
    suite = read_suite(path)
    assert suite.name == path.stem
    runs = {model: resolve(CONFIG / f"zoo/{model}.yaml", suite, {}, 0, {}) for model in suite.models}
    assert {run.suite for run in runs.values()} == {suite.name}
    assert len({run.config.digest() for run in runs.values()}) == len(suite.models)


def test_the_full_suites_change_nothing_of_the_zoo():
    for name in ("zoo", "published"):
        suite = read_suite(CONFIG / f"suites/{name}.yaml")
        for model in ZOO:
            path = CONFIG / f"zoo/{model}.yaml"
            assert resolve(path, suite, {}, 0, {}).config == load(path).config


def test_a_setting_that_equals_a_zoo_run_is_that_run():
    suite = read_suite(CONFIG / "suites/zoo.yaml")

    def runs(name):
        study = read_study(CONFIG / f"ablations/{name}.yaml")
        return {label: run_name(study.base, s, suite, CONFIG / "zoo") for label, s in study.settings("zoo")}

    schedules = runs("schedule")
    assert schedules["1x, single scale"] == "solo_r50_1x"
    assert schedules["3x, multi-scale"] == "solo_r50_3x"
    assert runs("grid")["pyramid"] == "solo_r50_3x"
    others = [run for run in (*schedules.values(), *runs("grid").values()) if "--" in run]
    assert len(others) == len(set(others)) == len(schedules) + len(runs("grid")) - 3


@pytest.mark.parametrize("path", sorted((CONFIG / "ablations").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("name", ["smoke", "zoo"])
def test_every_study_resolves_in_every_suite(path, name):
    study, suite = read_study(path), read_suite(CONFIG / f"suites/{name}.yaml")
    names = [run_name(study.base, setting, suite, CONFIG / "zoo") for _, setting in study.settings(name)]
    assert len(set(names)) == len(names), "two settings are one configuration"


def test_unknown_names_are_answered_with_the_valid_ones(tmp_path):
    path = tmp_path / "mine.yaml"
    for text, message in (
        ("name: a\ndescription: b\ndata: synth\nmodels: [resnet]\n", "unknown model .*'resnet'; valid: solo_r50_1x"),
        ("name: a\ndescription: b\ndata: synth\ncolour: red\n", "unknown key 'colour'; valid keys here: name"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_suite(path)
    path.write_text("name: a\ntitle: b\nbase: vgg\naxes: {x: [{label: y}]}\n")
    with pytest.raises(UserError, match=r"unknown base .*'vgg'; valid: solo_r50_1x"):
        read_study(path)
    with pytest.raises(UserError, match="unknown suite 'tiny'; valid: published, smoke, zoo"):
        Layout({"suite": "tiny"}, ROOT)
    with pytest.raises(UserError, match="unknown key 'sute'"):
        Layout({"sute": "zoo"}, ROOT)


def test_data_of_ones_own_has_a_folder_of_its_own(tmp_path):
    (tmp_path / "cats").mkdir()
    layout = Layout({"suite": "smoke", "data": str(tmp_path / "cats"), "seeds": [1, 2], "models": [ZOO[0]]}, ROOT)
    assert layout.chosen == "smoke-cats"
    assert layout.run_dirs(layout.chosen) == [f"results/smoke-cats/{ZOO[0]}/seed{seed}" for seed in (1, 2)]
    assert layout.data(layout.chosen) == str(tmp_path / "cats")
    with pytest.raises(UserError, match="does not exist"):
        Layout({"data": str(tmp_path / "dogs")}, ROOT)


def test_the_schema_is_up_to_date():
    assert (ROOT / "workflow/schemas/config.schema.json").read_text() == schema(), (
        "run: python -m solo.schema > workflow/schemas/config.schema.json"
    )


def test_the_code_version_ignores_comments_docstrings_and_layout(tmp_path, monkeypatch):
    before = version.code_version()
    package = tmp_path / "solo"
    for name in version.FILES:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "solo" / name, package / name)
    monkeypatch.setattr(version, "__file__", str(package / "version.py"))

    def now():
        version.code_version.cache_clear()
        return version.code_version()

    try:
        assert now() == before
        file = package / "schedule.py"
        text = file.read_text()
        edited = text.replace('"""The learning rate of every step."""', '"""Another title."""\n# a comment\n')
        edited = edited.replace("rate = schedule.lr\n", "rate = (\n        schedule.lr  # the base\n    )\n")
        assert edited.count("#") >= text.count("#") + 2
        file.write_text(edited)
        assert now() == before
        file.write_text(text.replace("else 1.0", "else 0.5"))
        assert file.read_text() != text
        assert now() != before
    finally:
        version.code_version.cache_clear()
