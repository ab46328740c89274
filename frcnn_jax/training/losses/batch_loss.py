"""The loss of a batch, from pixels to one number, and the RoIs that it samples."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from frcnn_jax.config import SamplingConfig
from frcnn_jax.distributed.arrays import mean_over_devices
from frcnn_jax.models.dropout import dropout_by_image
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.ops import losses
from frcnn_jax.ops.arguments import is_traced
from frcnn_jax.ops.precision import as_mask, widen
from frcnn_jax.ops.sampling import sample_rois
from frcnn_jax.training.losses.multi_task import MultiTaskLoss, check_loss
from frcnn_jax.training.statistics import identity_statistics
from frcnn_jax.types import Batch, BoxStatistics, RoiSample

__all__ = ["Metrics", "check_sampling", "loss_fn", "loss_keys", "sample_batch"]

Metrics = dict[str, Float[Array, ""]]


def sample_batch(
    batch: Batch, key: PRNGKeyArray, *, config: SamplingConfig | None = None, first_image: Array | int = 0
) -> RoiSample:
    """`sample_rois` per image of a batch: every field gains a leading N.

    Args:
        first_image: position of this batch's first image in the batch over all devices. So an image draws the same RoIs
            for any number of devices.

    Raises:
        TypeError: the settings are not a `SamplingConfig`.
    """
    check_sampling(config)
    config = SamplingConfig() if config is None else config
    batch = jax.tree.map(jnp.asarray, batch)
    image_mask = as_mask(batch.image_mask)[:, None]
    gt_mask = as_mask(batch.gt_mask) & image_mask
    if not config.use_difficult:
        # A crowd remains a crowd, difficult or not.
        difficult = as_mask(batch.gt_difficult)
        unused = difficult if batch.gt_crowd is None else difficult & ~as_mask(batch.gt_crowd)
        gt_mask = gt_mask & ~unused
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first_image + jnp.arange(batch.images.shape[0]))
    sample = partial(
        sample_rois,
        rois_per_image=config.rois_per_image,
        foreground_fraction=config.foreground_fraction,
        foreground_iou=config.foreground_iou,
        background_iou=config.background_iou,
        foreground_balance=config.foreground_balance,
    )
    proposal_mask = as_mask(batch.proposal_mask) & image_mask
    objects = batch.gt_boxes, batch.gt_labels, gt_mask, batch.gt_crowd
    return jax.vmap(sample)(keys, batch.proposals, proposal_mask, *objects)


def loss_fn(
    params: Mapping[str, Any],
    batch: Batch,
    key: PRNGKeyArray,
    *,
    model: FastRCNN,
    loss: MultiTaskLoss | None = None,
    sampling: SamplingConfig | None = None,
    statistics: BoxStatistics | None = None,
    train: bool = True,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """The multi-task loss of a batch (equation 1), from pixels to one number: made for `jax.grad(..., has_aux=True)`.

    Args:
        params: as `init_params` and `load_weights` give them.
        batch: images with proposals and ground truth. Floating images are network input (`normalize_images`); the loss
            has a gradient with respect to them. Labels above K are refused if the batch is concrete; in a traced
            batch, as under `jax.jit`, they make the loss NaN. `make_batch(..., num_classes=...)` refuses them earlier.
        key: draws the RoIs and the dropout.
        loss: the paper's if None.
        sampling: the paper's if None.
        statistics: box-target statistics of the deltas; mean 0 and deviation 1 if None.
        train: apply dropout.
        axis_name: mapped axis over which the batch is split. Loss and accuracy are then divided by the mean number of
            RoIs per device, so that the mean over devices is the value of the whole batch.

    Returns:
        The loss and {"loss", "classification", "localization", "foreground", "background", "accuracy"}: the number of
        foreground and background RoIs, and the share of RoIs whose most probable class is the true one.

    Raises:
        TypeError: the loss is not a `MultiTaskLoss`, or the sampling not a `SamplingConfig`.
        ValueError: a label of an object is not 1 ... K.
    """
    check_loss(loss)
    check_sampling(sampling)
    _check_labels(batch, model.head.num_classes)
    batch = jax.tree.map(jnp.asarray, batch)
    loss = MultiTaskLoss() if loss is None else loss
    if statistics is None:
        statistics = identity_statistics(model.head.num_classes, model.head.param_dtype)
    device = 0 if axis_name is None else jax.lax.axis_index(axis_name)
    sampling_key, dropout_key = loss_keys(key)
    images = batch.images.shape[0]
    first_image = device * images
    sample = sample_batch(batch, sampling_key, config=sampling, first_image=first_image)
    with dropout_by_image(first_image + jnp.arange(images)):
        logits, deltas = model.apply(
            {"params": params},
            batch.images,
            sample.rois,
            scales=batch.scales,
            image_sizes=batch.image_sizes,
            train=train,
            rngs={"dropout": dropout_key},
        )
    # Half precision of a head cannot hold the pixels of a box, or count RoIs.
    logits, deltas = widen(logits), widen(deltas)
    sample, logits, deltas = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (sample, logits, deltas))
    real = jnp.sum(sample.mask).astype(logits.dtype)
    count = mean_over_devices(real, axis_name)
    total, parts = losses.multi_task_loss(
        logits,
        deltas,
        sample.rois.astype(logits.dtype),
        sample.labels,
        sample.gt_boxes.astype(logits.dtype),
        sample.mask,
        statistics.mean,
        statistics.std,
        classification=loss.classification,
        localization=loss.localization,
        localization_weight=loss.localization_weight,
        count=count,
    )
    foreground = jnp.sum(sample.labels > 0).astype(logits.dtype)
    right = jnp.sum((jnp.argmax(logits, axis=-1) == sample.labels) & sample.mask).astype(logits.dtype)
    aux = {
        "loss": total,
        **parts,
        "foreground": foreground,
        "background": real - foreground,
        "accuracy": right / jnp.maximum(count, jnp.finfo(count.dtype).tiny),  # a mean over devices may be below 1
    }
    return total, aux


def loss_keys(key: PRNGKeyArray) -> PRNGKeyArray:
    """The keys [2] for drawing RoIs and dropout."""
    return jax.random.split(key)


def check_sampling(sampling: Any) -> None:
    """Raises TypeError if settings of sampling are neither None nor a `SamplingConfig`."""
    if sampling is not None and not isinstance(sampling, SamplingConfig):
        raise TypeError(
            "sampling must be a frcnn_jax.SamplingConfig, as SamplingConfig(rois_per_image=32), not "
            f"{type(sampling).__name__}"
        )


def _check_labels(batch: Batch, num_classes: int) -> None:
    """Raises ValueError if a label is not a class of the model; a traced batch is not checked."""
    arrays = batch.gt_labels, batch.gt_mask, batch.image_mask
    if any(map(is_traced, arrays)):
        return
    labels, mask, image_mask = map(np.asarray, arrays)
    labels = labels[as_mask(mask) & as_mask(image_mask)[:, None]]
    wrong = labels[(labels < 1) | (labels >= num_classes)]
    if wrong.size:
        raise ValueError(
            f"batch.gt_labels: {wrong[0]} is not of 1 ... {num_classes - 1}, the model's num_classes = {num_classes} "
            "counts background"
        )
