"""Settings: to JSON and back, overridden, and loaded from configs/."""

import dataclasses
import re
from pathlib import Path

import pytest

from frcnn_jax.config import (
    CLASSIFICATION_LOSSES,
    LOCALIZATION_LOSSES,
    AugmentConfig,
    Config,
    DataConfig,
    EvalConfig,
    FaultPolicy,
    InputConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ParameterRule,
    ProposalConfig,
    SamplingConfig,
    TrainConfig,
    changed_settings,
    from_json,
    load_config,
    override,
    replace,
    to_json,
)

INF, NAN = float("inf"), float("nan")
CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
CHANGED = Config(
    data=DataConfig(train=("folder/a", "folder/b"), root="x", classes=("a",), faults=FaultPolicy(size_mismatch="drop")),
    input=InputConfig(
        scales=(480, 600), buckets=((480, 640), (640, 480)), augment=AugmentConfig(scale_jitter=(0.5, 1.5))
    ),
    optimizer=OptimizerConfig(clip_norm=5.0, rules=(ParameterRule("^a", None), ParameterRule("b", 2.0, 0.5))),
)


@pytest.mark.parametrize("config", [Config(), CHANGED])
def test_json_there_and_back(config):
    again = from_json(to_json(config))
    assert again == config
    assert hash(again) == hash(config)  # tuples are tuples again, at every depth


def test_json_of_another_version_is_an_error():
    with pytest.raises(ValueError, match=r"config: unknown settings modle"):
        from_json('{"modle": {}}')
    with pytest.raises(ValueError, match=r"config\.optimizer\.rules\[1\]: unknown settings rate"):
        from_json('{"optimizer": {"rules": [{"pattern": "a"}, {"pattern": "b", "rate": 1}]}}')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r"config: settings by name are wanted, not \[\]"),
        ('{"input": {"scales": 3}}', r"config\.input\.scales must be a list, as \[\.\.\.\], not 3"),
        ('{"plugins": "abc"}', r'config\.plugins must be a list, as \[\.\.\.\], not "abc"'),
        ('{"plugins": [1]}', r"config\.plugins must be a tuple of str, not \(1,\)"),
        ('{"data": {"train": "folder/train"}}', r'config\.data\.train must be a list, .*, not "folder/train"'),
        ('{"data": {"classes": {"a": 1}}}', r'config\.data\.classes must be a list, .*, not \{"a": 1\}'),
        ('{"data": {"root": 3}}', r"data\.root must be a path or None, not 3"),
        ('{"model": {"name": ["a"]}}', r"model\.name must be str, not \['a'\]"),
        ('{"model": {"dtype": ["float32"]}}', r"model\.dtype must be one of .*, not \['float32'\]"),
        (
            '{"sampling": {"background_iou": [0.5]}}',
            r"config\.sampling\.background_iou must be a list of 2, .* \[0\.5\]",
        ),
        ('{"input": {"buckets": [5]}}', r"config\.input\.buckets\[0\] must be a list of 2, as .*, not 5"),
        ('{"optimizer": {"rules": [{}]}}', r"config\.optimizer\.rules\[0\]: no pattern"),
        ('{"optimizer": {"rules": [{"pattern": 5}]}}', r"optimizer\.rules\.pattern must be str, not 5"),
    ],
)
def test_json_with_values_of_other_kinds(text, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        from_json(text)


def test_paths_may_be_path_objects():
    assert DataConfig(root=Path("x")).root == Path("x")


def test_settings_that_are_not_there_have_their_defaults():
    assert from_json('{"train": {"steps": 7}}') == dataclasses.replace(
        Config(), train=dataclasses.replace(Config().train, steps=7)
    )


def test_overrides():
    arguments = ["--optimizer.learning-rate", "0.5", "--input.scales", "480", "600", "--data.root", "somewhere",
                 "--input.augment.scale-jitter", "0.7", "1.4", "--input.augment.hue", "0.05",
                 "--train.steps", "3", "--input.no-flip", "--data.faults.box_outside", "clip"]  # fmt: skip
    config = override(CHANGED, arguments)
    assert config == dataclasses.replace(
        CHANGED,
        optimizer=dataclasses.replace(CHANGED.optimizer, learning_rate=0.5),
        input=dataclasses.replace(
            CHANGED.input, scales=(480, 600), flip=False, augment=AugmentConfig(scale_jitter=(0.7, 1.4), hue=0.05)
        ),
        data=dataclasses.replace(
            CHANGED.data, root="somewhere", faults=dataclasses.replace(CHANGED.data.faults, box_outside="clip")
        ),
        train=dataclasses.replace(CHANGED.train, steps=3),
    )
    assert override(CHANGED, []) == CHANGED


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--optimizer.learning_rat", "0.5"], ("optimizer.learning_rat", "--optimizer.learning-rate")),
        (["--train.step", "5"], ("train.step", "--train.steps")),
        (["--train.steps", "many"], ("train.steps", "many")),
        (["--evaluate.metric", "voc12"], ("evaluate.metric", "voc10")),
    ],
)
def test_an_override_that_does_not_fit_names_what_would(arguments, expected, capsys):
    with pytest.raises(SystemExit) as stopped:
        override(Config(), arguments, "train.py")
    assert stopped.value.code != 0
    printed = capsys.readouterr()
    text = (printed.out + printed.err).replace("_", "-")
    for part in expected:
        assert part.replace("_", "-") in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--evaluate.per-class -1", "evaluate.per_class must be at least 1, not -1"),
        ("--evaluate.score-threshold nan", "evaluate.score_threshold must be in 0 ... 1, not nan"),
        ("--input.augment.crop 0", "input.augment.crop must be above 0 and at most 1, not 0.0"),
        ("--loss.localization a.b", "loss.localization must be smooth_l1, giou or \"module:function\", not 'a.b'"),
        ("--plugins trunks.py/", "plugins must be names of modules, as in my_trunks or my.trunks, not 'trunks.py/'"),
    ],
)
def test_a_value_out_of_range_is_one_line(arguments, message, capfd):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        override(Config(), arguments.split(), "train.py")
    assert capfd.readouterr() == ("", "")


def test_help_is_printed(capsys):
    with pytest.raises(SystemExit) as stopped:
        override(Config(), ["--help"], "train.py")
    assert stopped.value.code == 0
    assert capsys.readouterr().out.count("--evaluate.per-class") == 1


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configs_load(path):
    config = load_config(path)
    assert from_json(to_json(config)) == config
    assert override(config, ["--train.steps", "1"]).train.steps == 1
    assert f"configs/{path.name}" in path.read_text()  # the command that runs it


def test_there_are_configs():
    assert {"bccd", "demo", "voc07_vgg16"} <= {path.stem for path in CONFIGS}


def test_a_config_file_of_another_kind_or_with_a_slip(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json: a config is a \.py file"):
        load_config(tmp_path / "config.json")
    (tmp_path / "slip.py").write_text(
        "from frcnn_jax.config import Config\ndef get_config():\n    return Config(trian=1)\n"
    )
    with pytest.raises(ValueError, match=r"slip\.py: .*trian"):
        load_config(tmp_path / "slip.py")


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (TrainConfig, {"log_every": 0}, r"train\.log_every must be at least 1, not 0"),
        (InputConfig, {"batch_size": 0}, r"input\.batch_size must be at least 1"),
        (InputConfig, {"scales": ()}, r"input\.scales"),
        (InputConfig, {"test_scales": (600, 0)}, r"input\.test_scales must be lengths of at least 1, not \(600, 0\)"),
        (InputConfig, {"scales": [600]}, r"input\.scales must be a tuple of int, not \[600\]"),
        (InputConfig, {"buckets": ((64, 0),)}, r"input\.buckets must be heights and widths of at least 1"),
        (
            InputConfig,
            {"buckets": ((64,),)},
            r"input\.buckets must be a tuple of a tuple of int, int, not \(\(64,\),\)",
        ),
        (InputConfig, {"max_objects": 0}, r"input\.max_objects must be at least 1, not 0"),
        (
            AugmentConfig,
            {"scale_jitter": (0.0, 1.0)},
            r"input\.augment\.scale_jitter must be a range above 0, not \(0\.0,",
        ),
        (
            AugmentConfig,
            {"scale_jitter": (2.0, 1.0)},
            r"input\.augment\.scale_jitter must be a range above 0, not \(2\.0,",
        ),
        (
            AugmentConfig,
            {"scale_jitter": (1.0, INF)},
            r"input\.augment\.scale_jitter must be a range above 0, not \(1\.0,",
        ),
        (
            AugmentConfig,
            {"scale_jitter": (NAN, 1.0)},
            r"input\.augment\.scale_jitter must be a range above 0, not \(nan,",
        ),
        (
            AugmentConfig,
            {"scale_jitter": 0.5},
            r"input\.augment\.scale_jitter must be a tuple of float, float, not 0\.5",
        ),
        (AugmentConfig, {"crop": 0.0}, r"input\.augment\.crop must be above 0 and at most 1, not 0\.0"),
        (AugmentConfig, {"crop": 1.1}, r"input\.augment\.crop must be above 0 and at most 1, not 1\.1"),
        (AugmentConfig, {"crop": NAN}, r"input\.augment\.crop must be above 0 and at most 1, not nan"),
        (AugmentConfig, {"min_visible": 1.5}, r"input\.augment\.min_visible must be in 0 \.\.\. 1, not 1\.5"),
        (AugmentConfig, {"brightness": -0.1}, r"input\.augment\.brightness must be in 0 \.\.\. 1, not -0\.1"),
        (AugmentConfig, {"contrast": 1.1}, r"input\.augment\.contrast must be in 0 \.\.\. 1, not 1\.1"),
        (AugmentConfig, {"saturation": NAN}, r"input\.augment\.saturation must be in 0 \.\.\. 1, not nan"),
        (AugmentConfig, {"hue": 0.6}, r"input\.augment\.hue must be in 0 \.\.\. 0\.5, not 0\.6"),
        (InputConfig, {"augment": {"hue": 0.1}}, r"input\.augment must be AugmentConfig, not \{'hue': 0\.1\}"),
        (InputConfig, {"flip": 1}, r"input\.flip must be bool, not 1"),
        (DataConfig, {"train": ()}, r"data\.train must name at least one data set, not \(\)"),
        (DataConfig, {"test": ""}, r"data\.test must not be empty"),
        (FaultPolicy, {"box_outside": "cut"}, r"data\.faults\.box_outside must be one of error, drop, clip, not 'cut'"),
        (ProposalConfig, {"max_count": 0}, r"proposals\.max_count must be at least 1, not 0"),
        (ProposalConfig, {"min_side": INF}, r"proposals\.min_side must be at least 0, not inf"),
        (ProposalConfig, {"method": "edge_boxes"}, r"proposals\.method must be one of selective_search_fast, "),
        (SamplingConfig, {"rois_per_image": 0}, r"sampling\.rois_per_image must be at least 1"),
        (
            SamplingConfig,
            {"foreground_fraction": 1.5},
            r"sampling\.foreground_fraction must be in 0 \.\.\. 1, not 1\.5",
        ),
        (SamplingConfig, {"foreground_iou": NAN}, r"sampling\.foreground_iou must be in 0 \.\.\. 1, not nan"),
        (SamplingConfig, {"background_iou": (0.5, 0.1)}, r"sampling\.background_iou must be a range within 0 \.\.\. 1"),
        (SamplingConfig, {"background_iou": (0.5, 0.5)}, r"sampling\.background_iou must be a range within 0 \.\.\. 1"),
        (
            SamplingConfig,
            {"foreground_iou": 0.4},
            r"background_iou \(0\.1, 0\.5\) must end at sampling\.foreground_iou = 0\.4 or below, as no RoI is both",
        ),
        (SamplingConfig, {"background_iou": (0.1, NAN)}, r"sampling\.background_iou must be a range within 0 \.\.\. 1"),
        (
            SamplingConfig,
            {"foreground_balance": "classes"},
            r"sampling\.foreground_balance must be one of none, class, object, not 'classes'",
        ),
        (ModelConfig, {"dropout": 1.0}, r"model\.dropout must be in 0 \.\.\. 1, below 1, not 1\.0"),
        (ModelConfig, {"dtype": "float16"}, r"model\.dtype must be one of float32, bfloat16, not 'float16'"),
        (ModelConfig, {"fc6_rank": 0}, r"model\.fc6_rank must be at least 1, not 0"),
        (LossConfig, {"classification": "hinge"}, r'loss\.classification must be cross_entropy, focal or "module:fun'),
        (LossConfig, {"localization": "focal"}, r"loss\.localization must be smooth_l1, giou or .*, not 'focal'"),
        (LossConfig, {"localization": "a b:c"}, r"loss\.localization must be .*, not 'a b:c'"),
        (TrainConfig, {"seed": -1}, r"train\.seed must be at least 0, not -1"),
        (TrainConfig, {"steps": 2.5}, r"train\.steps must be int or None, not 2\.5"),
        (TrainConfig, {"epochs": 0}, r"train\.epochs must be above 0, not 0"),
        (TrainConfig, {"epochs": -1.0}, r"train\.epochs must be at least 0, not -1\.0"),
        (TrainConfig, {"epochs": "20"}, r"train\.epochs must be float or None, not '20'"),
        (TrainConfig, {"evaluate_every": 0.0}, r"train\.evaluate_every must be above 0, not 0"),
        (
            TrainConfig,
            {"evaluate_every": 2.5},
            r"train\.evaluate_every must be whole steps, or a share below 1, not 2\.5",
        ),
        (TrainConfig, {"evaluate_every": 5, "patience": 0}, r"train\.patience must be at least 1, not 0"),
        (TrainConfig, {"patience": 3}, r"train\.patience = 3 counts measurements: set train\.evaluate_every too"),
        (DataConfig, {"validation": ""}, r"data\.validation must not be empty"),
        (OptimizerConfig, {"warmup": 2.5}, r"optimizer\.warmup must be whole steps, or a share below 1, not 2\.5"),
        (
            OptimizerConfig,
            {"drops": (0.5, 40)},
            r"optimizer\.drops must be steps .*, or shares below 1, not \(0\.5, 40\)",
        ),
        (OptimizerConfig, {"drops": (40.5,)}, r"optimizer\.drops must be steps of at least 1, or shares"),
        (EvalConfig, {"per_class": 0}, r"evaluate\.per_class must be at least 1, not 0"),
        (EvalConfig, {"per_class": True}, r"evaluate\.per_class must be int, not True"),
        (EvalConfig, {"score_threshold": NAN}, r"evaluate\.score_threshold must be in 0 \.\.\. 1, not nan"),
        (EvalConfig, {"nms_iou": 30.0}, r"evaluate\.nms_iou must be in 0 \.\.\. 1, not 30\.0"),
        (EvalConfig, {"picture_score": -0.5}, r"evaluate\.picture_score must be in 0 \.\.\. 1, not -0\.5"),
        (Config, {"plugins": ("my-trunks",)}, r"plugins must be names of modules, .*, not 'my-trunks'"),
        (Config, {"plugins": ("trunks.py/",)}, r"plugins must be names of modules, .*, not 'trunks\.py/'"),
        (Config, {"model": {"name": "tiny"}}, r"config\.model must be ModelConfig, not \{'name': 'tiny'\}"),
        (OptimizerConfig, {"momentum": 1.0}, r"optimizer\.momentum must be below 1, not 1\.0"),
        (OptimizerConfig, {"drops": (0, 40)}, r"optimizer\.drops must be steps of at least 1, .*, not \(0, 40\)"),
        (ParameterRule, {"pattern": "a", "learning_rate": -1.0}, r"optimizer\.rules\.learning_rate must be at least 0"),
        (LossConfig, {"localization_weight": -1.0}, r"loss\.localization_weight must be at least 0, not -1\.0"),
        (OptimizerConfig, {"learning_rate": float("nan")}, r"optimizer\.learning_rate must be at least 0, not nan"),
        (OptimizerConfig, {"clip_norm": -1.0}, r"optimizer\.clip_norm must be at least 0, not -1\.0"),
        (OptimizerConfig, {"drops": (80, 40)}, r"optimizer\.drops must be steps in ascending order.*\(80, 40\)"),
        (OptimizerConfig, {"drops": (40, 40)}, r"optimizer\.drops must be"),
        (ParameterRule, {"pattern": "conv("}, r"optimizer\.rules: 'conv\(' is not a regular expression: missing \)"),
    ],
)
def test_values_out_of_range(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_a_file_without_a_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config file .*none\.py"):
        load_config(tmp_path / "none.py")
    for text in ("x = 1\n", "def get_config():\n    return 1\n"):
        path = tmp_path / "some.py"
        path.write_text(text)
        with pytest.raises(ValueError, match=r"some\.py must define get_config\(\)"):
            load_config(path)
        path.unlink()


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "my_losses:hinge", "my.losses:hinge"])
def test_names_of_losses(name):
    assert LossConfig(classification=name).classification == name


def test_the_known_losses_are_those_that_exist():
    from frcnn_jax.training.losses import create_loss

    for classification in CLASSIFICATION_LOSSES:
        for localization in LOCALIZATION_LOSSES:
            assert create_loss(LossConfig(classification, localization))


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.steps = 1


def test_replace_goes_down_to_single_settings():
    config = replace(CHANGED, data={"root": "y", "faults": {"unknown_class": "drop"}}, plugins=("mine",))
    assert config == dataclasses.replace(
        CHANGED,
        data=dataclasses.replace(
            CHANGED.data, root="y", faults=FaultPolicy(size_mismatch="drop", unknown_class="drop")
        ),
        plugins=("mine",),
    )
    assert replace(CHANGED, train=TrainConfig(steps=3)).train == TrainConfig(steps=3)
    assert replace(CHANGED) == CHANGED


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"modle": {}}, r"no setting 'modle' in Config; did you mean 'model'\?"),
        ({"data": {"faults": {"size": "drop"}}}, r"no setting 'size' in FaultPolicy; did you mean 'size_mismatch'\?"),
        ({"train": {"steps": 0}}, r"train\.steps must be at least 1, not 0"),
        ({"train": 5}, r"config\.train must be TrainConfig, not 5"),
    ],
)
def test_replace_names_what_is_wrong(sections, message):
    with pytest.raises(ValueError, match=message):
        replace(Config(), **sections)


def test_a_config_derives_from_the_file_beside_it(tmp_path, monkeypatch):
    (tmp_path / "base.py").write_text(
        "from frcnn_jax.config import Config, TrainConfig\n"
        "def get_config():\n    return Config(train=TrainConfig(steps=7, seed=3))\n"
    )
    (tmp_path / "derived.py").write_text(
        "from frcnn_jax.config import derive\n"
        "def get_config():\n    return derive('base.py', __file__, train={'steps': 9})\n"
    )
    monkeypatch.chdir("/")
    assert load_config(tmp_path / "derived.py") == Config(train=TrainConfig(steps=9, seed=3))
    (tmp_path / "base.py").unlink()
    with pytest.raises(FileNotFoundError, match=f"no config file {tmp_path}/base.py"):
        load_config(tmp_path / "derived.py")
    (tmp_path / "base.py").write_text("from frcnn_jax.config import replace\n")
    with pytest.raises(ValueError, match=r"derived\.py: .*base\.py must define get_config\(\)"):
        load_config(tmp_path / "derived.py")


def test_photographs_are_trained_as_anything_else_but_from_imagenet():
    photographs, scratch = (load_config(CONFIGS[0].parent / f"{name}.py") for name in ("folder", "folder_scratch"))
    changed = {name.partition(".")[0] for name in changed_settings(scratch, photographs)}
    assert changed == {"model", "input", "sampling", "optimizer", "train"}
    assert photographs.model.weights == "imagenet"
    assert photographs.optimizer.rules == ()
    assert photographs.train.steps is None
    assert photographs.optimizer.warmup < 1


def test_voc_is_trained_as_other_photographs_and_tested_as_in_the_paper():
    voc07, photographs = (load_config(CONFIGS[0].parent / f"{name}.py") for name in ("voc07_photos", "folder"))
    changed = {name.rpartition(".")[0] for name in changed_settings(photographs, voc07)}
    assert changed == {"data", "data.faults", "train", "evaluate"}
    assert voc07.data == DataConfig(faults=FaultPolicy(tolerance=0))
    assert voc07.evaluate == EvalConfig()


def test_what_the_recipes_for_tiny_change():
    folder, bccd, demo = (
        load_config(path) for stem in ("folder_scratch", "bccd", "demo") for path in CONFIGS if path.stem == stem
    )
    assert {name: now for name, (_, now) in changed_settings(folder, bccd).items()} == {
        "data.root": "~/data/BCCD",
        "data.faults.degenerate_box": "drop",
        "proposals.method": "selective_search_quality",
        "proposals.segment_scale": 75,
        "input.flip_vertical": True,
        "input.cache_decoded": True,
        "train.steps": 1000,
        "evaluate.per_class": 600,
        "evaluate.score_threshold": 0.02,
    }
    assert demo.optimizer == dataclasses.replace(folder.optimizer, warmup=50)
    assert (demo.evaluate.score_threshold, folder.evaluate.score_threshold) == (0.05, 0.05)
    methods = [config.proposals.method for config in (folder, bccd, demo)]
    assert methods == ["selective_search_mutual", "selective_search_quality", "selective_search_fast"]
    assert bccd.proposals.max_side == 320
    assert (demo.proposals.max_side, demo.proposals.segment_scale, demo.proposals.max_count) == (160, 50, 400)
    assert (demo.sampling.rois_per_image, demo.train.steps, demo.evaluate.per_class) == (64, 420, 100)


def test_the_defaults_are_the_papers_experiment():
    (vgg16,) = [path for path in CONFIGS if path.stem == "voc07_vgg16"]
    strict = FaultPolicy(tolerance=0)  # by default a handful of faults is tolerated: in other people's data
    assert load_config(vgg16) == Config(data=DataConfig(faults=strict))
    paper = [path for path in CONFIGS if path.stem.startswith("voc") and path.stem != "voc07_photos"]
    assert len(paper) == 6
    assert all(load_config(path).data.faults == strict for path in paper)
    assert Config().evaluate == EvalConfig(0.3, 0.0, 100, True, "voc07")
