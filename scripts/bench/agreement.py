"""Comparison of outputs before timing: with the peer's, and between the two implementations of detection."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import KDTree

from bench.peer import Peer, PeerError
from bench.scene import build_model, make_batch, training_config
from bench.sizes import Sizes
from frcnn_jax.config import SamplingConfig
from frcnn_jax.models.fast_rcnn import FastRCNN, init_params
from frcnn_jax.ops.boxes import encode_boxes
from frcnn_jax.ops.losses import multi_task_loss
from frcnn_jax.ops.roi_pool.pool import project_rois
from frcnn_jax.training.losses.batch_loss import sample_batch
from frcnn_jax.training.optimizer import merge, split_frozen
from frcnn_jax.training.statistics import identity_statistics
from frcnn_jax.types import Batch, Detections, RoiSample

PEER_MODELS = ("vgg16", "caffenet", "vgg_cnn_m_1024", "efficientnet_lite0")  # networks of the peer


def by_path(params: Any) -> dict[str, np.ndarray]:
    """Parameters by their paths, such as `backbone/conv1_1/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}


def check_close(what: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-3) -> None:
    """Checks that the norm of the difference over the norm of the peer's values is at most `tolerance`.

    On accelerators, which use shorter types, the bound is fifty times that.

    Raises:
        PeerError: it is larger, or shapes differ.
    """
    if ours.shape != theirs.shape:
        raise PeerError(f"{what} is {ours.shape}, the peer's {theirs.shape}")
    distance = np.linalg.norm((ours - theirs).ravel()) / max(np.linalg.norm(theirs.ravel()), np.finfo(np.float32).tiny)
    if not distance <= tolerance * (1 if jax.devices()[0].platform == "cpu" else 50):
        raise PeerError(f"{what} differs from the peer's by {distance:.2g} of its length")


def check_detections(what: str, ours: Detections, theirs: Detections, side: int, tolerance: float = 1e-5) -> None:
    """Each detection of either has one of its class in the other whose score and box, in `side`s, are that close.

    Args:
        side: pixels that a box's coordinates are divided by; float32 has no finer steps than 6e-8 of the largest.
        tolerance: on a CPU. On accelerators, whose convolutions round more, two hundred times that.

    Raises:
        ValueError: one has none, or their numbers differ.
    """
    if len(ours.scores) != len(theirs.scores):
        raise ValueError(f"{what} gives {len(ours.scores)} detections, one program {len(theirs.scores)}")
    points = [np.column_stack([found.boxes / side, found.scores]).astype(np.float64) for found in (ours, theirs)]
    for label in np.union1d(ours.labels, theirs.labels):
        first, second = (x[found.labels == label] for x, found in zip(points, (ours, theirs), strict=True))
        if len(first) != len(second):
            raise ValueError(f"{what} gives {len(first)} detections of class {label}, one program {len(second)}")
        pairs = ((first, second), (second, first))
        farthest = max(KDTree(others).query(some, p=np.inf)[0].max() for some, others in pairs)
        if not farthest <= tolerance * (1 if jax.devices()[0].platform == "cpu" else 200):
            raise ValueError(f"{what} differs from one program by {farthest:.2g}, class {label}")


def check_gradients(name: str, sizes: Sizes, peer: Peer) -> None:
    """Compares loss and gradients of one small image, without dropout: each parameter's gradient must agree.

    Raises:
        PeerError: it does not.
    """
    sizes = dataclasses.replace(sizes, image=sizes.compared_image, widths=sizes.compared_widths, proposals=64)
    model = build_model(name, sizes, jnp.float32)
    batch, config = make_batch(sizes, 1), training_config(name, sizes)
    params = init_params(model, jax.random.key(0))
    sample = draw(batch, config.sampling)
    trainable, frozen = split_frozen(params, config.optimizer.rules)
    loss, gradients = jax.jit(
        jax.value_and_grad(lambda t: _loss(merge(t, frozen), model, batch, sample)),
    )(trainable)
    smaller = dataclasses.replace(peer, sizes=sizes)
    with smaller.start("gradient", [name], peer_inputs(batch, sample) | by_path(params)) as other:
        theirs = other.arrays
    check_close(f"train_step, {name}: the loss", np.asarray(loss), theirs["loss"])
    ours = by_path(gradients)
    if set(ours) != set(theirs) - {"loss"}:
        raise PeerError(f"train_step, {name}: other parameters learn than the peer's")
    for path, gradient in ours.items():
        # If rounding decides differently between two maxima, a gradient goes to another cell.
        check_close(f"train_step, {name}: the gradient of {path}", gradient, theirs[path], tolerance=1e-2)


def draw(batch: Batch, sampling: SamplingConfig) -> RoiSample:
    """RoIs of a training step."""
    return jax.jit(partial(sample_batch, config=sampling))(batch, jax.random.key(2))


def peer_inputs(batch: Batch, sample: RoiSample) -> dict[str, np.ndarray]:
    """Pixels, RoIs as (image, inclusive corners), labels and box targets for the peer, without padding."""
    real = np.asarray(sample.mask).reshape(-1)
    corners = project_rois(sample.rois, 1.0).reshape(-1, 4)
    images = np.repeat(np.arange(len(batch.images), dtype=np.float32), sample.rois.shape[1])
    return {
        "images": batch.images,
        "rois": np.concatenate([images[:, None], corners], axis=1)[real],
        "labels": np.asarray(sample.labels).reshape(-1).astype(np.int64)[real],
        "targets": np.asarray(encode_boxes(sample.rois, sample.gt_boxes)).reshape(-1, 4)[real],
    }


def _loss(params: Any, model: FastRCNN, batch: Batch, sample: RoiSample) -> jax.Array:
    images, sizes = jnp.asarray(batch.images), jnp.asarray(batch.image_sizes)
    logits, deltas = model.apply({"params": params}, images, sample.rois, image_sizes=sizes)
    sample, logits, deltas = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (sample, logits, deltas))
    statistics = identity_statistics(model.head.num_classes)
    return multi_task_loss(
        logits, deltas, sample.rois, sample.labels, sample.gt_boxes, sample.mask, statistics.mean, statistics.std
    )[0]
