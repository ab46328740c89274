"""A detector read from its workdir: its parameters without the optimizer, and errors in one line."""

import dataclasses
import inspect
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.checkpoint import Checkpoints
from frcnn_jax.config import ProposalConfig, to_json
from frcnn_jax.data.proposals.selective_search import search_image, search_settings, selective_search
from frcnn_jax.models import architectures
from frcnn_jax.runs.detector import load_detector
from frcnn_jax.runs.export import describe
from frcnn_jax.training.initial import abstract_state
from frcnn_jax.weights.metadata import from_json
from frcnn_jax.weights.metadata import to_json as to_text
from tests.weights.detectors import (
    CONFIG,
    PIXELS,
    SMALL_TINY,
    assert_same_detections,
    image_and_boxes,
    save_run,
    small_detector,
)


@pytest.fixture(scope="module", autouse=True)
def small_tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "ARCHITECTURES", {"tiny": SMALL_TINY})
        yield


@pytest.fixture(scope="module")
def workdir(small_tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_run(small_detector(), folder)
    return folder


def test_parameters_are_those_of_the_checkpoint(workdir):
    checkpoints = Checkpoints(workdir)
    state, _, _ = checkpoints.restore(abstract_state(CONFIG, 4))
    checkpoints.close()
    detector = load_detector(str(workdir))
    for ours, theirs in ((detector.params, state.params), (detector.statistics, state.statistics)):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(ours))
    made = small_detector()
    assert (detector.step, detector.classes, detector.config) == (7, made.classes, made.config)
    assert detector.model.pixels == PIXELS
    scene = image_and_boxes()
    jax.tree.map(np.testing.assert_array_equal, detector.detect(*scene), made.detect(*scene))


def test_neither_the_optimizer_nor_warnings(workdir, monkeypatch, caplog):
    def refuse(*arguments):
        raise AssertionError("the whole state is read")

    monkeypatch.setattr(Checkpoints, "restore", refuse)
    assert load_detector(workdir).step == 7
    assert not caplog.records


def test_the_way_of_testing_is_that_of_the_workdir(workdir, tmp_path):
    """A run that went on with other settings of evaluation is tested with these."""
    shutil.copytree(workdir, tmp_path / "run")
    config = dataclasses.replace(CONFIG, evaluate=dataclasses.replace(CONFIG.evaluate, nms_iou=0.25))
    (tmp_path / "run/config.json").write_text(to_json(config))
    assert load_detector(tmp_path / "run").config.evaluate.nms_iou == 0.25


def test_faults_in_one_line(workdir, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none holds no run: there is no .*none/config\.json"):
        load_detector(tmp_path / "none")
    (tmp_path / "config.json").write_text(to_json(CONFIG))
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path} holds no checkpoint yet$"):
        load_detector(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    shutil.copytree(workdir, tmp_path / "run")
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, fc7_rank=3))
    (tmp_path / "run/config.json").write_text(to_json(config))
    with pytest.raises(ValueError, match=r"run does not fit the model: missing: head/fc7_L/kernel") as caught:
        load_detector(tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_boxes_are_searched_where_none_are_given():
    detector = small_detector()
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    for config in (
        CONFIG,
        dataclasses.replace(CONFIG, proposals=ProposalConfig("selective_search_fast", min_side=4.0)),
    ):
        detector = dataclasses.replace(detector, config=config)
        boxes = search_image(image, config.proposals)
        assert len(boxes) > 5
        assert_same_detections(detector.detect(image), detector.detect(image, boxes), 0)
    from_file = dataclasses.replace(CONFIG, proposals=ProposalConfig("file", train_files=("a.npz",), test_file="b.npz"))
    with pytest.raises(ValueError, match=r"proposals\.method is 'file': there is nothing to compute; give the boxes"):
        dataclasses.replace(detector, config=from_file).detect(image)


def test_the_name_of_a_file_is_no_image():
    with pytest.raises(ValueError, match=r"not the name of a file: read it, as by cv2\.imread\('a\.jpg'\)"):
        small_detector().detect("a.jpg")


def test_the_search_has_the_configs_defaults():
    arguments = inspect.signature(selective_search).parameters
    assert search_settings(ProposalConfig()) == {name: arguments[name].default for name in list(arguments)[1:]}


def test_orientation_is_that_of_the_images_trained_on(tmp_path):
    save_run(dataclasses.replace(small_detector(), orientation="ignore"), tmp_path)
    detector = load_detector(tmp_path)
    assert (detector.orientation, detector.config.data.orientation) == ("ignore", "auto")
    exported = to_text(describe(detector))
    assert json.loads(exported)["orientation"] == from_json(exported).orientation == "ignore"


def test_detectors_are_told_apart_and_shown_without_their_numbers():
    first, second = small_detector(), small_detector()
    assert first == first
    assert first != second
    assert second in [first, second]
    assert {first: 1, second: 2}[second] == 2
    assert "classes=" in repr(first)
    assert "Array" not in repr(first)
