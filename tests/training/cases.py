"""A small batch, model and config that the training tests share."""

import functools
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from frcnn_jax.config import Config, OptimizerConfig, ParameterRule, SamplingConfig
from frcnn_jax.models.fast_rcnn import FastRCNN, init_params
from frcnn_jax.models.heads import FastRCNNHead
from frcnn_jax.models.layers import mask_outside
from frcnn_jax.models.pixels import CENTERED_PIXELS
from frcnn_jax.models.tiny import TinyBackbone
from frcnn_jax.types import Batch

SAMPLING = SamplingConfig(rois_per_image=8, background_iou=(0.0, 0.5))
RULES = (ParameterRule(r"/(bias|scale)$", 2.0, 0.0), ParameterRule(r"/kernel$"))
CONFIG = Config(optimizer=OptimizerConfig(learning_rate=0.01, rules=RULES, drops=(1000,)), sampling=SAMPLING)


def small_model(dropout: float = 0.0, dtype=np.float32) -> FastRCNN:
    """`tiny` with a tenth of its channels, two classes beside background."""
    types = {"dtype": np.dtype(dtype), "param_dtype": np.dtype(dtype)}
    return FastRCNN(
        backbone=TinyBackbone(channels=(16, 16, 16), blocks=(1, 1, 1), **types),
        head=FastRCNNHead(3, (16, 8), dropout, **types),
        pixels=CENTERED_PIXELS,
        output_size=(3, 3),
    )


class OneLayer(nn.Module):
    """A trunk that compiles in a moment."""

    dtype: Any = np.dtype("float32")
    param_dtype: Any = np.dtype("float32")

    @nn.compact
    def __call__(self, x, sizes):
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        sizes = None if sizes is None else -(-sizes // 16)
        return mask_outside(nn.relu(nn.Conv(16, (16, 16), 16, **types)(x)), sizes), sizes


def least_model() -> FastRCNN:
    """`small_model` with a trunk of one layer, where the trunk does not matter."""
    return small_model().clone(backbone=OneLayer())


@functools.cache
def small_params(dropout: float = 0.0):
    return random_params(small_model(dropout))


def random_params(model: FastRCNN):
    with jax.ensure_compile_time_eval():  # kept, so never a tracer, even if a traced function calls it first
        return init_params(model, jax.random.key(0))


def small_batch(images: int = 2, seed: int = 0) -> Batch:
    """Random pixels; two objects an image, and proposals around them and elsewhere. Every image has another size."""
    random = np.random.default_rng(seed)
    height, width = 64, 96
    objects = np.array([[5, 5, 40, 40], [50, 20, 90, 60], [0, 0, 0, 0]], np.float32)
    near = objects[random.integers(0, 2, (images, 12))] + random.uniform(-6, 6, (images, 12, 4))
    ends = random.uniform(0, 1, (images, 12, 2, 2)) * [width - 8, height - 8]
    far = np.concatenate([ends.min(2), ends.max(2) + 8], axis=-1)
    sizes = np.stack([height - 2 * np.arange(images), width - 3 * np.arange(images)], axis=1).astype(np.int32)
    pixels = random.integers(0, 256, (images, height, width, 3)).astype(np.uint8)
    return Batch(
        images=pixels,
        image_sizes=sizes,
        original_sizes=sizes,
        scales=np.ones(images, np.float32),
        image_mask=np.ones(images, bool),
        image_index=np.arange(images, dtype=np.int32),
        proposals=np.concatenate([near, far], axis=1).astype(np.float32),
        proposal_mask=np.ones((images, 24), bool),
        gt_boxes=np.tile(objects, (images, 1, 1)),
        gt_labels=np.tile(np.array([1, 2, 0], np.int32), (images, 1)),
        gt_difficult=np.zeros((images, 3), bool),
        gt_mask=np.tile([True, True, False], (images, 1)),
    )
