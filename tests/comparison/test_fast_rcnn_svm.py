"""Fast R-CNN with SVMs: its vectors and offsets are the detector's, and the whole runs on drawn images."""

import json
import shutil
from functools import partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.comparison.ablations import fast_rcnn_svm
from frcnn_jax.comparison.feature_store import FeatureStore
from frcnn_jax.comparison.record import Record
from frcnn_jax.comparison.settings import ComparisonConfig
from frcnn_jax.comparison.svm import LinearSvms
from frcnn_jax.config import Config, replace
from frcnn_jax.detection.stages import untimed
from frcnn_jax.models.heads import FastRCNNHead, StagesHead
from frcnn_jax.runs.detector import load_detector
from frcnn_jax.training.loop import train
from tests.comparison.cases import case, shrink_tiny
from tests.models.efficientnet import LAST_STAGES
from tests.training.runs import write_data


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Settings, and a folder with a Fast R-CNN of a few steps in `run`."""
    with pytest.MonkeyPatch.context() as patch:
        shrink_tiny(patch.setattr)
        root = tmp_path_factory.mktemp("data")
        write_data(root)
        config, comparison = case(root)
        config = replace(config, train={"steps": 2}, optimizer={"drops": (2,)})
        train(config, root / "run")
        yield config, comparison, root


def test_vectors_and_offsets_are_the_detectors(trained):
    detector = load_detector(trained[2] / "run")
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    boxes = np.array([[0, 0, 20, 20], [5, 7, 33, 28]], np.float32)
    network = fast_rcnn_svm.hidden_network(detector.model)
    (part,) = fast_rcnn_svm.describe(detector, network, image, boxes, untimed)
    assert part.rows.tolist() == [0, 1]
    svms = LinearSvms(np.eye(2, 16, dtype=np.float32), np.array([0.5, 1], np.float32))
    scores, deltas = fast_rcnn_svm.score_by_svms_and_offsets(detector, svms)(part.pooled, part.vectors)
    np.testing.assert_allclose(scores, part.vectors[:, :2] + np.array([[0.5, 1]]), rtol=1e-5)
    found = jax.jit(lambda params, pooled: detector.model.head.apply({"params": params}, pooled))
    _, offsets = found(detector.params["head"], part.pooled)
    mean, std = np.asarray(detector.statistics.mean), np.asarray(detector.statistics.std)
    assert not np.allclose(std[1:], 1)
    np.testing.assert_allclose(deltas, (offsets * std[None] + mean[None])[:, 1:], rtol=1e-4, atol=1e-6)


def test_the_layers_below_those_of_scores():
    heads = {5: FastRCNNHead(3, widths=(8, 5)), 9: StagesHead(3, partial(LAST_STAGES, expanded=True))}
    backbone = SimpleNamespace(dtype=jnp.float32)
    for length, head in heads.items():
        network = fast_rcnn_svm.hidden_network(SimpleNamespace(head=head, backbone=backbone))
        vectors, _ = network.init_with_output(jax.random.key(0), jnp.zeros((2, 7, 7, 12)))
        assert vectors.shape == (2, length)
    with pytest.raises(ValueError, match=r"of a FastRCNNHead or a StagesHead, not of Dense"):
        fast_rcnn_svm.hidden_network(SimpleNamespace(head=nn.Dense(3), backbone=backbone))


def test_end_to_end(trained):
    config, comparison, root = trained
    folder = root / "svm"
    fast = Record(root / "record.json", system="fast_rcnn", model="tiny")
    fast.set_train("fine_tuning", 7.5)
    fast.set(steps=2, windows=32, paper_share=0.25)
    fast_rcnn_svm.train(config, comparison, folder, root / "run")
    metrics = fast_rcnn_svm.test(config, comparison, folder, root / "run")
    record = json.loads((folder / "record.json").read_text())
    assert set(record["train"]) == {"fine_tuning", "features", "svms"}
    assert record["train"]["fine_tuning"] == {"seconds": 7.5, "share": 1}
    assert (record["steps"], record["windows"], record["paper_share"]) == (2, 32, 0.25)
    assert set(record["test"][""]) == {"resize", "convolution", "pooling", "fc", "suppression"}
    assert record["map"] == metrics["map"]
    made_from = json.loads((folder / "vectors/settings.json").read_text())["made_from"]
    assert FeatureStore.open(folder / "vectors", made_from).shape == (70, 16)
    with pytest.raises(FileNotFoundError, match="holds no run"):
        fast_rcnn_svm.test(config, comparison, folder, root / "nowhere")


def test_a_detector_with_several_scales_is_refused(tmp_path, monkeypatch):
    config = replace(Config(), input={"test_scales": (600, 800)})
    monkeypatch.setattr(fast_rcnn_svm, "load_detector", lambda workdir: SimpleNamespace(config=config))
    for system in (fast_rcnn_svm.train, fast_rcnn_svm.test):
        with pytest.raises(
            ValueError, match=r"test_scales = \(600, 800\) of the Fast R-CNN in .*: leave .* out for both"
        ):
            system(config, ComparisonConfig(), tmp_path)


def test_training_time_of_a_record_that_was_deleted_is_unknown(tmp_path):
    path = tmp_path / "fast/record.json"
    Record(path, system="fast_rcnn", model="tiny").set_test_images(4)
    record = Record(tmp_path / "svm/record.json", system="fast_rcnn_svm", model="tiny")
    fast_rcnn_svm._record_fine_tuning(record, tmp_path / "fast/run")
    assert record.content["train"] == {}


def test_vectors_of_another_size_of_images_are_not_reused(trained):
    config, comparison, root = trained
    folder = root / "svm-size"
    fast_rcnn_svm.train(config, comparison, folder, root / "run")
    stored = json.loads((root / "run/config.json").read_text())
    sizes = stored["input"]
    shutil.copytree(root / "run", root / "larger")
    stored["input"] = sizes | {"test_scale": sizes["test_scale"] + 16}
    (root / "larger/config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="test_scale"):
        fast_rcnn_svm.train(config, comparison, folder, root / "larger")
