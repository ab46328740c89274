"""The training step: loss, gradient and update as one pure function for one device, and its mapping over devices."""

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray

from frcnn_jax.config import SamplingConfig
from frcnn_jax.distributed.arrays import AXIS, mean_over_devices
from frcnn_jax.models.dropout import dropout_by_image
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.ops import losses
from frcnn_jax.ops.arguments import is_traced
from frcnn_jax.ops.precision import widen
from frcnn_jax.ops.sampling import sample_rois
from frcnn_jax.ops.varying import equally_varying
from frcnn_jax.training.losses import MultiTaskLoss, check_loss
from frcnn_jax.training.optimizer import merge
from frcnn_jax.training.state import TrainState
from frcnn_jax.training.statistics import identity_statistics
from frcnn_jax.types import Batch, BoxStatistics, RoiSample

Metrics = dict[str, Float[Array, ""]]
StepFunction = Callable[..., tuple[TrainState, Metrics]]


def sample_batch(
    batch: Batch, key: PRNGKeyArray, *, config: SamplingConfig | None = None, first_image: Array | int = 0
) -> RoiSample:
    """`sample_rois` per image of a batch: every field gains a leading N.

    Args:
        first_image: position of this batch's first image in the batch over all devices. So an image draws the same RoIs
            for any number of devices.
    """
    config = SamplingConfig() if config is None else config
    batch = jax.tree.map(jnp.asarray, batch)
    gt_mask = batch.gt_mask & batch.image_mask[:, None]
    if not config.use_difficult:
        # A crowd remains a crowd, difficult or not.
        unused = batch.gt_difficult if batch.gt_crowd is None else batch.gt_difficult & ~batch.gt_crowd
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
    proposal_mask = batch.proposal_mask & batch.image_mask[:, None]
    objects = batch.gt_boxes, batch.gt_labels, gt_mask, batch.gt_crowd
    return jax.vmap(sample)(keys, batch.proposals, proposal_mask, *objects)


def sample_step(
    batch: Batch, key: PRNGKeyArray, step: Array | int, *, config: SamplingConfig | None = None
) -> RoiSample:
    """The RoIs that a step of `make_train_step` draws from a batch: every field has a leading N.

    Args:
        key: the key of the run.
        step: number of updates made before.
    """
    return sample_batch(batch, _loss_keys(_step_key(key, step))[0], config=config)


def _step_key(key: PRNGKeyArray, step: Array | int) -> PRNGKeyArray:
    """The key of the loss of a step."""
    return jax.random.fold_in(key, step)


def _loss_keys(key: PRNGKeyArray) -> PRNGKeyArray:
    """The keys [2] for drawing RoIs and dropout."""
    return jax.random.split(key)


def _check_labels(batch: Batch, num_classes: int) -> None:
    """Raises ValueError if a label is not a class of the model; a traced batch is not checked."""
    arrays = batch.gt_labels, batch.gt_mask, batch.image_mask
    if any(map(is_traced, arrays)):
        return
    labels, mask, image_mask = map(np.asarray, arrays)
    labels = labels[mask & image_mask[:, None]]
    wrong = labels[(labels < 1) | (labels >= num_classes)]
    if wrong.size:
        raise ValueError(
            f"batch.gt_labels: {wrong[0]} is not of 1 ... {num_classes - 1}, the model's num_classes = {num_classes} "
            "counts background"
        )


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
        TypeError: the loss is not a `MultiTaskLoss`.
        ValueError: a label of an object is not 1 ... K.
    """
    check_loss(loss)
    _check_labels(batch, model.head.num_classes)
    batch = jax.tree.map(jnp.asarray, batch)
    loss = MultiTaskLoss() if loss is None else loss
    if statistics is None:
        statistics = identity_statistics(model.head.num_classes, model.head.param_dtype)
    device = 0 if axis_name is None else jax.lax.axis_index(axis_name)
    sampling_key, dropout_key = _loss_keys(key)
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


def make_train_step(
    model: FastRCNN,
    optimizer: optax.GradientTransformation,
    *,
    loss: MultiTaskLoss | None = None,
    sampling: SamplingConfig | None = None,
    axis_name: str | None = AXIS,
    fixed_order: bool = False,
) -> StepFunction:
    """The pure step of one device, `(state, batch, key) -> (state, metrics)`, averaging over `axis_name`.

    The key is that of the run, the same in every step; the step folds its number into it. Map the function with
    `map_train_step`, with `jax.pmap(step, axis_name="data")`, or with a `jax.shard_map` of your own with
    check_vma=False. On several devices the metrics also have "finite" [D]: true for devices with a finite loss.

    For one device alone give axis_name None, as in `jax.jit(make_train_step(model, optimizer, axis_name=None),
    donate_argnums=0)`: `jax.jit` binds no axis, and the step then averages over none.

    With an optimizer of `create_optimizer`, a fourth argument replaces the schedule's learning rate; the compiled
    program then does not depend on the schedule. Optax's own optimizers ignore or refuse that argument.

    Args:
        axis_name: the mapped axis, also the attribute `axis_name` of the step.
        fixed_order: sum gradients in the order of the devices, instead of the unspecified order of `pmean`.

    Raises:
        TypeError: the loss is not a `MultiTaskLoss`.
    """
    check_loss(loss)

    def step(
        state: TrainState, batch: Batch, key: PRNGKeyArray, learning_rate: Float[Array, ""] | None = None
    ) -> tuple[TrainState, Metrics]:
        def trainable_loss(trainable: Any) -> tuple[Array, Metrics]:
            return loss_fn(
                merge(trainable, state.frozen),
                batch,
                _step_key(key, state.step),
                model=model,
                loss=loss,
                sampling=sampling,
                statistics=state.statistics,
                axis_name=axis_name,
            )

        # Under `check_vma`, gradients of parameters that all devices share would be summed before the mean below.
        gradient, metrics = jax.grad(trainable_loss, has_aux=True)(equally_varying(state.trainable, batch)[0])
        finite = jnp.isfinite(metrics["loss"])
        gradient, metrics = mean_over_devices((gradient, metrics), axis_name, fixed_order=fixed_order)
        if axis_name is not None and jax.lax.axis_size(axis_name) > 1:
            metrics["finite"] = jax.lax.all_gather(finite, axis_name)
        if axis_name is not None:
            devices = jax.lax.axis_size(axis_name)
            metrics |= {kind: devices * metrics[kind] for kind in ("foreground", "background")}
        given = {} if learning_rate is None else {"learning_rate": learning_rate}
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.trainable, **given)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        new_state = state.replace(
            step=state.step + 1,
            trainable=optax.apply_updates(state.trainable, updates),
            opt_state=opt_state,
        )
        return new_state, metrics

    step.axis_name = axis_name
    return step


def map_train_step(step: StepFunction, mesh: Mesh) -> StepFunction:
    """`step` over the devices of `mesh`: the batch is split by image, everything else is on each.

    The state is donated, with the parameters that it was created from: use the returned one.

    Args:
        step: as `make_train_step` returns it, mapped along its `axis_name`; a function without this attribute is mapped
            along "data".
        mesh: has an axis of that name.

    Raises:
        ValueError: the step averages over no axis and there are several devices, which would learn different
            parameters; or the mesh has no axis of that name.
    """
    axis = getattr(step, "axis_name", AXIS)
    if axis is None and mesh.size > 1:
        raise ValueError(
            f"the step does not average over the {mesh.size} devices of the mesh, as its axis_name is None: give "
            f"make_train_step axis_name={mesh.axis_names[0]!r}"
        )
    if axis is not None and axis not in mesh.axis_names:
        raise ValueError(
            f"the step averages over the axis {axis!r}, and the mesh has {', '.join(map(repr, mesh.axis_names))}: give "
            f"make_train_step axis_name={mesh.axis_names[0]!r}, or a mesh with the axis {axis!r}"
        )
    if isinstance(mesh, Mesh):
        # The axes of `jax.make_mesh` are explicit, and would have to be stated in the types of all arguments.
        mesh = Mesh(mesh.devices, mesh.axis_names)
    everywhere, by_image = PartitionSpec(), PartitionSpec(axis)

    @wraps(step)
    def mapped(
        state: TrainState, batch: Batch, key: PRNGKeyArray, learning_rate: Float[Array, ""] | None = None
    ) -> tuple[TrainState, Metrics]:
        given = () if learning_rate is None else (learning_rate,)
        over_devices = jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(everywhere, by_image, everywhere, *[everywhere] * len(given)),
            out_specs=(everywhere, everywhere),
            # Gathered values, as "finite", are the same on all devices, which check_vma does not know.
            check_vma=False,
        )
        return over_devices(state, batch, key, *given)

    return jax.jit(mapped, donate_argnums=0)
