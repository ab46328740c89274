"""Metadata of files: the config and what other programs read from the JSON; files of format 1 still load."""

import dataclasses
import json
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from frcnn_jax.config import Config, EvalConfig, InputConfig, ModelConfig
from frcnn_jax.runs.export import describe
from frcnn_jax.weights.folding import fold_statistics
from frcnn_jax.weights.load import load_weights, read_metadata, read_pixels
from frcnn_jax.weights.metadata import from_json, to_json
from tests.weights.detectors import CLASSES, CONFIG, PIXELS, random_params, small_detector, small_model

# Written by the last version that wrote format 1, for `small_detector` with some settings changed.
FORMAT_1 = (Path(__file__).parent / "format_1.json").read_text()


@pytest.fixture(scope="module")
def detector():
    return small_detector()


def test_the_config_is_in_it(detector):
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, root="/somewhere", classes=("ä", "b")))
    read = from_json(to_json(describe(dataclasses.replace(detector, config=config))))
    assert (read.config, read.classes, read.pixels, read.step, read.num_classes) == (config, CLASSES, PIXELS, 7, 4)
    jax.tree.map(np.testing.assert_array_equal, read.statistics, detector.statistics)
    assert read.statistics.std.dtype == np.float32


def test_what_other_programs_read(detector):
    about = json.loads(to_json(describe(detector), function={"height": 96}))
    assert (about["format"], about["model"], about["step"]) == (2, "tiny", 7)
    assert about["classes"] == ["one", "two", "three"]
    assert about["pixels"] == {"mean": [100.1, 110.2, 120.3], "std": [60.0, 61.0, 62.5], "order": "bgr"}
    assert (about["test"]["scale"], about["test"]["max_size"]) == (48, 96)
    np.testing.assert_array_equal(np.float32(about["box_statistics"]["std"]), detector.statistics.std)
    np.testing.assert_array_equal(np.float32(about["box_statistics"]["mean"]), detector.statistics.mean)
    assert about["function"] == {"height": 96}


def test_format_1(detector):
    read = from_json(FORMAT_1)
    assert read.config == Config(
        model=ModelConfig("tiny", dtype="bfloat16", fc6_rank=6),
        input=InputConfig(test_scale=48, test_max_size=96, test_scales=(32, 48)),
        evaluate=EvalConfig(score_threshold=0.1, nms_iou=0.4, per_class=20, box_regression=False),
    )
    assert (read.classes, read.pixels, read.step) == (CLASSES, PIXELS, 7)
    jax.tree.map(np.testing.assert_array_equal, read.statistics, detector.statistics)
    # Written again it is of today's format.
    assert from_json(to_json(read)).config == read.config


def test_format_1_of_before_there_were_ranks_and_pyramids():
    described = json.loads(FORMAT_1)
    del described["fc6_rank"], described["fc7_rank"], described["test"]["scales"], described["test"]["box_regression"]
    config = from_json(json.dumps(described)).config
    assert (config.model.fc6_rank, config.input.test_scales, config.evaluate.box_regression) == (None, (), True)


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz", "a.stablehlo"])
def test_files_of_format_1(detector, tmp_path, name):
    path, model = tmp_path / name, small_model()
    arrays = {key: np.asarray(array) for key, array in flatten_dict(random_params(model), sep="/").items()}
    if name == "a.safetensors":
        safetensors.numpy.save_file(arrays, path, metadata={"frcnn_jax": FORMAT_1})
    elif name == "a.npz":
        np.savez(path, **arrays, __metadata__=np.array(FORMAT_1))
    else:
        path.write_bytes(b"a function")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("metadata.json", FORMAT_1)
    assert to_json(read_metadata(path)) == to_json(from_json(FORMAT_1))
    assert read_pixels(path) == PIXELS
    if name != "a.stablehlo":
        expected = fold_statistics(detector.params, detector.statistics)
        jax.tree.map(np.testing.assert_array_equal, load_weights(path, model), expected)


BAD_STATISTICS = {"mean": [[0] * 4] * 4, "std": [[0] * 4] * 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, "^its format is 3, this version of frcnn_jax reads 1 and 2$"),
        ({"classes": None}, "incomplete"),
        ({"classes": ["one"]}, r"box statistics are \[4, 4\]"),
        ({"box_statistics": BAD_STATISTICS}, "a deviation is not positive"),
        ({"format": 1, "test": {}}, "incomplete: 'dtype'"),
        ({"config": {"model": {"colour": 1}}}, r"config\.model: unknown settings colour"),
        ({"config": None}, "settings by name are wanted"),
    ],
)
def test_metadata_is_checked(detector, change, message):
    described = json.loads(to_json(describe(detector))) | change
    with pytest.raises(ValueError, match=message) as caught:
        from_json(json.dumps(described))
    assert "\n" not in str(caught.value)
