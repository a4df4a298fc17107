"""Configurations: layers, checks that name the mend, and a digest over what bears on the result."""

import pytest
from pydantic import ValidationError

from solo.config import Config, Head, RunConfig, Runtime, Schedule, Section
from solo.errors import UserError
from solo.layers import load, merge, nested, parse_assignments, read_yaml, with_classes


def write(tmp_path, text, name="model.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_file_holds_only_differences_and_later_layers_win(tmp_path):
    path = write(tmp_path, "head: {kind: decoupled_solo}\nschedule: {lr: 0.02, epochs: 24}\n")
    run = load(path, {"schedule": {"lr": 0.03}}, parse_assignments(["schedule.momentum=0.8"]))
    schedule = run.config.schedule
    assert (run.name, run.config.head.kind) == ("model", "decoupled_solo")
    assert (schedule.lr, schedule.epochs, schedule.momentum) == (0.03, 24, 0.8)
    assert run.config.test == Config().test


def test_a_resolved_file_reads_back_as_itself(tmp_path):
    run = load(write(tmp_path, "name: mine\nloss: {mask: focal}\n"), {"head": {"grid_sizes": [9, 8, 7, 6, 5]}})
    text = run.to_yaml()
    again = load(write(tmp_path, text, "config.yaml"))
    assert again == run
    assert again.to_yaml() == text


def test_assignments_are_yaml_and_lists_replace_whole():
    found = parse_assignments(["head.grid_sizes=[9, 8, 7, 6, 5]", "schedule.clip_norm=null", "loss.mask=bce"])
    assert found == {"head": {"grid_sizes": [9, 8, 7, 6, 5]}, "schedule": {"clip_norm": None}, "loss": {"mask": "bce"}}
    assert merge({"a": {"b": [1, 2], "c": 1}}, {"a": {"b": [3]}}) == {"a": {"b": [3], "c": 1}}
    assert nested({"a.b": 1, "a.c": 2}) == {"a": {"b": 1, "c": 2}}
    for wrong in ("schedule.lr", "=3"):
        with pytest.raises(UserError, match=r"not of the form section.key=value"):
            parse_assignments([wrong])
    with pytest.raises(UserError, match="is not YAML"):
        parse_assignments(["schedule.lr=[1"])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "schedule.learning_rate=1",
            r"unknown key 'schedule.learning_rate'; valid keys here: epochs, .*lr",
        ),
        ("scheduler.lr=1", r"unknown key 'scheduler'; valid keys here: backbone, head, loss"),
        ("head.kind=yolo", r"head.kind = 'yolo': .*'solo', 'decoupled_solo' or 'decoupled_solo_light'"),
        ("schedule.lr=-1", r"schedule.lr = -1: .*greater than 0"),
        ("schedule.batch_size=3", r"batch_size 3 is no multiple of images_per_device 2"),
        ("head.grid_sizes=[1, 2]", r"five entries each \(P2..P6\), not 2, 5, 5"),
        ("head.strides=[4, 8, 16, 32, 64]", r"valid: \(8, 8, 16, 32, 32\)"),
        ("head.norm_groups=7", r"norm_groups 7 does not divide feat_channels 256"),
        ("head.coordinate_layers=9", r"coordinate_layers 9 > stacked_convs 7"),
        ("input.train_scales=[]", r"train_scales"),
        ("schedule=3", r"schedule = 3"),
    ],
)
def test_errors_name_key_value_and_what_is_valid(tmp_path, assignment, message):
    path = write(tmp_path, "name: mine\n")
    with pytest.raises(UserError, match=f"{path}: .*{message}"):
        load(path, parse_assignments([assignment]))


def test_files_that_are_no_configuration(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nowhere.yaml: No such file"):
        read_yaml(tmp_path / "nowhere.yaml")
    for text in ("a: [", "- 1\n- 2\n", ""):
        path = write(tmp_path, text)
        with pytest.raises(UserError, match=str(path)):
            read_yaml(path)


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Config().schedule.lr = 1.0  # type: ignore[misc]


def test_the_digest_covers_every_field_but_runtime_and_classes():
    digest = Config().digest()
    fields = {
        "workers": 7, "checkpoint_minutes": 1, "compile": True, "channels_last": not Runtime().channels_last,
    }  # fmt: skip
    assert set(fields) == set(Runtime.model_fields), "a new runtime field: add it here"
    assert Config(runtime=Runtime(**fields)).digest() == digest
    assert with_classes(RunConfig(name="a"), 3).config.digest() == digest
    assert Config(schedule=Schedule(lr=0.02)).digest() != digest
    assert Config(head=Head(center_sigma=0.3)).digest() != digest
    assert RunConfig(name="a", seed=1).config.digest() == digest


def test_every_field_has_a_description_with_its_meaning():
    sections = [Config.model_fields[name].annotation for name in Config.model_fields]
    assert all(issubclass(section, Section) for section in sections)
    assert [
        f"{section.__name__}.{name}"
        for section in sections
        for name, field in section.model_fields.items()
        if not field.description or field.is_required()
    ] == []
