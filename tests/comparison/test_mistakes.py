"""Mistakes that are found before proposals are computed and anything is trained."""

import dataclasses
import importlib.util
import shutil

import pytest

from frcnn_jax.comparison import fast_rcnn, rcnn, sppnet
from frcnn_jax.comparison.stages import run
from frcnn_jax.comparison.stages.folder import claim_folder, describe_settings
from frcnn_jax.config import absolute_paths, replace
from frcnn_jax.models import architectures
from frcnn_jax.training import loop
from tests.comparison.cases import SMALL, case

pytestmark = pytest.mark.usefixtures("small")


def never(*_, **__):
    raise AssertionError


@pytest.mark.parametrize("system", [rcnn, sppnet, fast_rcnn])
def test_a_test_set_is_opened_before_proposals_are(data, tmp_path, monkeypatch, system):
    config, comparison = case(data)
    for module in (run, fast_rcnn, loop):
        monkeypatch.setattr(module, "open_joined_proposals", never, raising=False)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        system.train(replace(config, data={"test": "folder/nowhere"}), comparison, tmp_path)
    shutil.copytree(data, tmp_path / "other", ignore=shutil.ignore_patterns("prepared", "rcnn", "*.npz"))
    for path in (tmp_path / "other/Annotations").glob("t*.xml"):
        path.write_text(path.read_text().replace(">dog<", ">cow<"))
    root = {"root": str(tmp_path / "other"), "tfds_dir": str(tmp_path / "prepared")}
    opened = run.open_dataset
    changed = lambda name, data: opened(name, replace(config, data=root).data if name == "folder/test" else data)  # noqa: E731
    monkeypatch.setattr(run, "open_dataset", changed)
    monkeypatch.setattr(fast_rcnn, "open_dataset", changed)
    with pytest.raises(ValueError, match=r"has the classes .*'cow'.*, the training set .*'dog'"):
        system.train(config, comparison, tmp_path / "work")


@pytest.mark.parametrize("context", [24, 30])  # half of the window of 48 pixels, and more
def test_a_context_that_leaves_nothing_of_the_window(data, tmp_path, monkeypatch, context):
    config, comparison = case(data)
    monkeypatch.setattr(run, "open_joined_proposals", never)
    comparison = replace(comparison, rcnn={"context": context})
    message = f"comparison.rcnn.context = {context} on each side .* window of tiny, 48 pixels: give at most 23"
    with pytest.raises(ValueError, match=message):
        rcnn.train(config, comparison, tmp_path)


@pytest.mark.parametrize(
    ("system", "model", "message"),
    [
        (rcnn, {"weights": "missing.safetensors"}, "missing.safetensors"),
        (sppnet, {"weights": "missing.safetensors"}, "missing.safetensors"),
        (rcnn, {"name": "efficientnet_lite4"}, "has no network for whole windows"),
    ],
)
def test_a_network_is_built_before_proposals_are_opened(data, tmp_path, monkeypatch, system, model, message):
    config, comparison = case(data)
    monkeypatch.setattr(run, "open_joined_proposals", never)
    windowless = dataclasses.replace(SMALL, window=None)
    monkeypatch.setattr(architectures, "ARCHITECTURES", {"tiny": SMALL, "efficientnet_lite4": windowless})
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        system.train(replace(config, model=model), comparison, tmp_path)


@pytest.mark.parametrize(
    ("package", "evaluate", "svm"),
    [("pycocotools", {"coco": True}, {}), ("scikit-learn", {}, {"solver": "liblinear"})],
)
def test_a_missing_package_is_named_before_proposals_are_opened(data, tmp_path, monkeypatch, package, evaluate, svm):
    config, comparison = case(data)
    monkeypatch.setattr(run, "open_joined_proposals", never)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config, comparison = replace(config, evaluate=evaluate), replace(comparison, svm=svm)
    with pytest.raises(ImportError, match=f"need {package}: pip install"):
        rcnn.train(config, comparison, tmp_path)
    # Neither is needed where a share is timed and the SVMs are there.
    (tmp_path / "svms.npz").write_text("")
    with pytest.raises(AssertionError):
        rcnn.train(config, dataclasses.replace(comparison, share=0.5), tmp_path)


def test_a_test_set_of_other_classes_is_refused(data, tmp_path):
    config, comparison = case(data)
    description = describe_settings(absolute_paths(config), comparison, "rcnn", comparison.rcnn)
    claim_folder(tmp_path, description | {"classes": ["cat", "cow"]})
    with pytest.raises(ValueError, match=r"has the classes \('cat', 'dog'\), the training set \('cat', 'cow'\): give"):
        rcnn.test(config, comparison, tmp_path)
