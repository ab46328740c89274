"""A detector small enough to be made, saved and exported in each test, whose deltas and statistics matter."""

import dataclasses
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from frcnn_jax.checkpoint import CheckpointMetadata, Checkpoints
from frcnn_jax.config import Config, EvalConfig, InputConfig, ModelConfig, OptimizerConfig, ParameterRule
from frcnn_jax.models.architectures import ARCHITECTURES
from frcnn_jax.models.fast_rcnn import FastRCNN, init_params
from frcnn_jax.models.heads import FastRCNNHead
from frcnn_jax.models.pixels import PixelNormalization
from frcnn_jax.models.tiny import TinyBackbone
from frcnn_jax.runs.detector import Detector
from frcnn_jax.training.state import create_state
from frcnn_jax.training.workdir import claim_workdir
from frcnn_jax.types import BoxStatistics

CLASSES = ("one", "two", "three")
PIXELS = PixelNormalization((100.1, 110.2, 120.3), (60.0, 61.0, 62.5), "bgr")
CONFIG = Config(
    model=ModelConfig("tiny"),
    input=InputConfig(test_scale=48, test_max_size=96),
    optimizer=OptimizerConfig(rules=(ParameterRule("^backbone/stem", None), ParameterRule("."))),
    evaluate=EvalConfig(score_threshold=0.1, nms_iou=0.4, per_class=20),
)

# `small_model` as the architecture that runs of `CONFIG` name.
SMALL_TINY = dataclasses.replace(
    ARCHITECTURES["tiny"],
    trunk=lambda **types: TinyBackbone((16, 16, 16), (1, 1, 1), **types),
    channels=16,
    pixels=PIXELS,
    output_size=(3, 3),
    head=partial(FastRCNNHead, widths=(12, 8)),
)


def small_model(num_classes: int = 4, pixels: PixelNormalization = PIXELS, **types) -> FastRCNN:
    backbone = TinyBackbone((16, 16, 16), (1, 1, 1), **types)
    return FastRCNN(backbone, FastRCNNHead(num_classes, (12, 8), **types), pixels, (3, 3))


def random_params(model: FastRCNN, seed: int = 0) -> dict:
    """Parameters for which scores and offsets are far from uniform; nothing is compiled for them."""
    random = np.random.default_rng(seed)

    def draw(shape: jax.ShapeDtypeStruct) -> jax.Array:
        spread = 1.5 / np.sqrt(np.prod(shape.shape[:-1])) if len(shape.shape) > 1 else 0.3
        return jnp.asarray(spread * random.standard_normal(shape.shape), shape.dtype)

    return jax.tree.map(draw, _shapes(model))


@cache
def _shapes(model: FastRCNN) -> dict:
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


def small_detector(**types) -> Detector:
    """Random parameters and statistics that matter."""
    model = small_model(**types)
    params = random_params(model)
    mean = np.float32([[0, 0, 0, 0], [0.1, -0.1, 0.2, 0], [0.03, 0, 0.1, 0.1], [0, 0.2, 0, -0.1]])
    std = np.float32([[1, 1, 1, 1], [0.1, 0.2, 0.3, 0.4], [0.15, 0.1, 0.2, 0.25], [0.3, 0.1, 0.2, 0.35]])
    statistics = BoxStatistics(mean=jnp.asarray(mean), std=jnp.asarray(std))
    return Detector(model=model, params=params, statistics=statistics, classes=CLASSES, config=CONFIG, step=7)


def save_run(detector: Detector, workdir: Path, devices: int = 1) -> None:
    """The checkpoint that training on so many devices would leave."""
    claim_workdir(workdir, detector.config)
    state = create_state(detector.config, detector.params, detector.statistics)
    state = dataclasses.replace(state, step=jnp.int32(detector.step))
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    checkpoints = Checkpoints(workdir)
    try:
        metadata = CheckpointMetadata(
            detector.classes, detector.model.pixels, detector.config, "", (), detector.orientation
        )
        checkpoints.save(state, jax.random.key(0), {}, metadata)
    finally:
        checkpoints.close()


def image_and_boxes(size: tuple[int, int] = (60, 80), count: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """A random picture with random boxes of at least 8 pixels inside."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (*size, 3), np.uint8)
    corners = random.uniform(0, np.array(size[::-1]) - 8, (count, 2))
    sides = random.uniform(8, np.array(size[::-1]) - corners)
    return image, np.float32(np.concatenate([corners, corners + sides], axis=1))


def assert_same_detections(a, b, tolerance: float = 1e-4) -> None:
    assert len(a.scores) == len(b.scores) > 3
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_allclose(a.scores, b.scores, rtol=0, atol=tolerance)
    np.testing.assert_allclose(a.boxes, b.boxes, rtol=0, atol=100 * tolerance)
