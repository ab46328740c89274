"""Settings: to JSON and back, overridden, and loaded from configs/."""

import dataclasses
from pathlib import Path

import pytest

from frcnn_jax.config import (
    Config,
    DataConfig,
    EvalConfig,
    FaultPolicy,
    InputConfig,
    LossConfig,
    OptimizerConfig,
    ParameterRule,
    TrainConfig,
    from_json,
    load_config,
    override,
    to_json,
)

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
CHANGED = Config(
    data=DataConfig(train=("folder/a", "folder/b"), root="x", classes=("a",), faults=FaultPolicy(size_mismatch="drop")),
    input=InputConfig(scales=(480, 600), buckets=((480, 640), (640, 480))),
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


def test_settings_that_are_not_there_have_their_defaults():
    assert from_json('{"train": {"steps": 7}}') == dataclasses.replace(
        Config(), train=dataclasses.replace(Config().train, steps=7)
    )


def test_overrides():
    arguments = ["--optimizer.learning-rate", "0.5", "--input.scales", "480", "600", "--data.root", "somewhere",
                 "--train.steps", "3", "--input.no-flip", "--data.faults.box_outside", "clip"]  # fmt: skip
    config = override(CHANGED, arguments)
    assert config == dataclasses.replace(
        CHANGED,
        optimizer=dataclasses.replace(CHANGED.optimizer, learning_rate=0.5),
        input=dataclasses.replace(CHANGED.input, scales=(480, 600), flip=False),
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
        (["--model.name", "vgg17"], ("model.name", "vgg16")),
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
        (EvalConfig, {"per_class": 0}, r"evaluate\.per_class"),
        (LossConfig, {"localization_weight": -1.0}, r"loss\.localization_weight must be at least 0, not -1\.0"),
        (OptimizerConfig, {"learning_rate": float("nan")}, r"optimizer\.learning_rate must be at least 0, not nan"),
        (OptimizerConfig, {"clip_norm": -1.0}, r"optimizer\.clip_norm must be at least 0, not -1\.0"),
        (OptimizerConfig, {"drops": (80, 40)}, r"optimizer\.drops must be steps in ascending order.*\(80, 40\)"),
        (OptimizerConfig, {"drops": (40, 40)}, r"optimizer\.drops must be"),
        (ParameterRule, {"pattern": "conv("}, r"optimizer\.rules: 'conv\(' is no regular expression: missing \)"),
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


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.steps = 1
