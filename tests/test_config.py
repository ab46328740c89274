"""Settings: to JSON and back, overridden, replaced, and loaded from a file."""

import dataclasses
import re

import pytest

from frcnn_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    DistributedConfig,
    FaultPolicy,
    InputConfig,
    OptimizerConfig,
    ParameterRule,
    TrainConfig,
    from_json,
    load_config,
    override,
    replace,
    to_json,
)

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
        (["--train.step", "5"], ("no setting --train.step, the nearest is --train.steps\n",)),
        (["--train.min_step=5"], ("no setting --train.min-step, the nearest is --train.min-steps\n",)),
        (["--input.no-flipp"], ("no setting --input.no-flipp, the nearest is --input.no-flip\n",)),
        (["--train.lr", "0.1"], ("no setting --train.lr, the nearest is --optimizer.learning-rate\n",)),
        (["--learning_rate=1"], ("no setting --learning-rate, the nearest is --optimizer.learning-rate\n",)),
        (["--chekpoint", "best"], ("no setting --chekpoint, the nearest is --checkpoint\n",)),
        (["--accept-change-data"], ("no setting --accept-change-data, the nearest is --accept-changed-data\n",)),
        (["--train.frobnicate"], ("Unrecognized options: --train.frobnicate",)),
        (["--optimizer.rules", "x"], ("train.py: error: --optimizer.rules is set in a config file\n",)),
        (
            ["--optimizer.rule", "x"],
            ("no setting --optimizer.rule, the nearest is --optimizer.rules, which is set in a config file\n",),
        ),
        (["--data.no-verify", "--train.sed", "5"], ("no setting --train.sed, the nearest is --train.seed\n",)),
        (["--train.steps", "many"], ("train.steps", "many")),
        (["--evaluate.metric", "voc12"], ("evaluate.metric", "voc10")),
    ],
)
def test_an_override_that_does_not_fit_names_what_would(arguments, expected, capsys):
    with pytest.raises(SystemExit) as stopped:
        override(Config(), arguments, "train.py", options=("--checkpoint", "--accept-changed-data"))
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


def test_another_settings_dataclass_is_overridden():
    assert override(InputConfig(), ["--batch-size", "3"], "a.py") == InputConfig(batch_size=3)


def test_help_is_printed(capsys):
    with pytest.raises(SystemExit) as stopped:
        override(Config(), ["--help"], "train.py")
    assert stopped.value.code == 0
    assert capsys.readouterr().out.count("--evaluate.per-class") == 1


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("x = 1\ny = (\n", ValueError, r"some\.py: SyntaxError: '\(' was never closed \(some\.py, line 2\)$"),
        (
            "def get_config():\n    return tiny\n",
            ValueError,
            r"some\.py, line 2: NameError: name 'tiny' is not defined$",
        ),
        ("x = {}\nx['a']\n", ValueError, r"some\.py, line 2: KeyError: 'a'$"),
        ("import nothing_of_that_name\n", ImportError, r"some\.py: No module named 'nothing_of_that_name'$"),
    ],
)
def test_an_error_in_a_config_file_is_one_line(tmp_path, monkeypatch, text, error, message):
    (tmp_path / "some.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "some.py", "./some.py"):
        with pytest.raises(error, match=f"^({tmp_path}/)?{message}"):
            load_config(path)


def test_a_config_file_may_define_a_dataclass(tmp_path):
    (tmp_path / "some.py").write_text(
        "from __future__ import annotations\nimport dataclasses\nfrom frcnn_jax.config import Config\n"
        "@dataclasses.dataclass\nclass Plan:\n    workers: int = 3\n"
        "def get_config():\n    return Config()\n"
    )
    assert load_config(tmp_path / "some.py") == Config()


def test_a_config_file_of_another_kind_or_with_a_slip(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json: a config is a \.py file"):
        load_config(tmp_path / "config.json")
    (tmp_path / "slip.py").write_text(
        "from frcnn_jax.config import Config\ndef get_config():\n    return Config(trian=1)\n"
    )
    with pytest.raises(ValueError, match=r"slip\.py, line 3: .*trian"):
        load_config(tmp_path / "slip.py")


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
        ({"frobnicate": 1}, r"no setting 'frobnicate' in Config; there are data, .*, plugins$"),
        ({"optimizer": {"lr": 1}}, r"no setting 'lr' in OptimizerConfig; did you mean 'learning_rate'\?"),
        ({"train": {"steps": 0}}, r"train\.steps must be at least 1, not 0"),
        ({"train": 5}, r"config\.train must be TrainConfig, not 5"),
    ],
)
def test_replace_names_what_is_wrong(sections, message):
    with pytest.raises(ValueError, match=message):
        replace(Config(), **sections)


def test_configs_that_derive_from_each_other_are_named_once(tmp_path, monkeypatch):
    derived = "from frcnn_jax.config import derive\ndef get_config():\n    return derive({!r}, __file__)\n"
    for name, base in (("a", "b"), ("b", "c"), ("c", "b")):
        (tmp_path / f"{name}.py").write_text(derived.format(f"{base}.py"))
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the first call leaves nothing behind
        with pytest.raises(ValueError, match=r"^\S*b\.py derives from itself: \S*b\.py -> \S*c\.py -> \S*b\.py$"):
            load_config("./a.py")
    (tmp_path / "c.py").write_text("from frcnn_jax.config import Config as get_config\n")
    assert load_config("./a.py") == Config()


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
    with pytest.raises(ValueError, match=r"derived\.py, line 3: .*base\.py must define get_config\(\)"):
        load_config(tmp_path / "derived.py")


def test_settings_of_a_start_are_not_kept():
    kept = from_json(to_json(Config(data=DataConfig(verify=True), distributed=DistributedConfig(fixed_order=True))))
    assert kept == Config()


def test_text_that_is_nested_too_deeply_is_a_value_error():
    with pytest.raises(ValueError, match="not JSON: nested too deeply"):
        from_json("[" * 100_000)
