"""A model with its settings, and a batch of random images with objects and proposals, for training and testing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.sizes import STRIDE, Sizes
from frcnn_jax.config import Config, OptimizerConfig, SamplingConfig
from frcnn_jax.models.architectures import ARCHITECTURES, create_model
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.types import Batch

OBJECTS = 4  # per image


def network_dtype() -> Any:
    """Type of activations: bfloat16 on accelerators."""
    return jnp.float32 if jax.devices()[0].platform == "cpu" else jnp.bfloat16


def build_model(name: str, sizes: Sizes, dtype: Any = None) -> FastRCNN:
    """`create_model`, with the widths in `sizes`, if any, for fully connected layers."""
    model = create_model(name, sizes.num_classes, dtype=network_dtype() if dtype is None else dtype)
    if sizes.widths is None or not hasattr(model.head, "widths"):
        return model
    return model.clone(head=model.head.clone(widths=sizes.widths))


def training_config(name: str, sizes: Sizes) -> Config:
    """The paper's settings, with a learning rate that keeps random weights finite for any number of steps."""
    return Config(
        optimizer=OptimizerConfig(learning_rate=1e-7, rules=ARCHITECTURES[name].rules),
        sampling=SamplingConfig(rois_per_image=sizes.rois_per_image),
    )


def make_batch(sizes: Sizes, images: int) -> Batch:
    """Random pixels; a quarter of the proposals lie on objects, a quarter beside them, the others anywhere."""
    random = np.random.default_rng(1)
    height, width = sizes.image
    count = sizes.proposals
    limits = np.array([width, height])
    objects = _anywhere(random, (images, OBJECTS), limits, smallest=0.25)
    matched = np.take_along_axis(objects, random.integers(0, OBJECTS, (images, count // 2))[..., None], axis=1)
    reach = np.where(np.arange(count // 2) % 2, 0.05, 0.3)[None, :, None]
    sides = np.tile(matched[..., 2:] - matched[..., :2], 2)
    near = np.clip(matched + random.uniform(-1, 1, matched.shape) * reach * sides, 0, np.tile(limits, 2))
    far = _anywhere(random, (images, count - count // 2), limits, smallest=STRIDE / max(limits))
    frame = np.tile(np.array([[height, width]], np.int32), (images, 1))
    return Batch(
        images=random.integers(0, 256, (images, height, width, 3), np.uint8),
        image_sizes=frame,
        original_sizes=frame,
        scales=np.ones(images, np.float32),
        image_mask=np.ones(images, bool),
        image_index=np.arange(images, dtype=np.int32),
        proposals=np.concatenate([near, far], axis=1).astype(np.float32),
        proposal_mask=np.ones((images, count), bool),
        gt_boxes=objects.astype(np.float32),
        gt_labels=random.integers(1, sizes.num_classes, (images, OBJECTS)).astype(np.int32),
        gt_difficult=np.zeros((images, OBJECTS), bool),
        gt_mask=np.ones((images, OBJECTS), bool),
    )


def random_boxes(random: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    """Boxes [count, 4] float32 inside an image of `size`, with sides from a feature cell to the whole image."""
    limits = np.array([size[1], size[0]], np.float64)
    sides = np.exp(random.uniform(np.log(STRIDE), np.log(limits), (count, 2)))
    corners = random.random((count, 2)) * (limits - sides)
    return np.concatenate([corners, corners + sides - 1], axis=1).astype(np.float32)


def parameter_count(params: Any) -> int:
    """Number of weights and biases."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _anywhere(random: np.random.Generator, shape: tuple[int, int], limits: np.ndarray, smallest: float) -> np.ndarray:
    """Half-open boxes [*shape, 4] inside the image, with sides of at least the share `smallest` of it."""
    sides = random.uniform(smallest, 0.8, (*shape, 2)) * limits
    corners = random.random((*shape, 2)) * (limits - sides)
    return np.concatenate([corners, corners + sides], axis=-1)
