"""The training step from 8-bit pixels to updated parameters, sampling of RoIs included.

The peer is given the RoIs that were sampled, their labels and targets: it has less to do.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bench.floors import Rates, backward_operations, layer_operations, pooling_operation, seconds, update_operation
from bench.peer_process import NO_RESULT, Peer, PeerError
from bench.result import Row
from bench.scene import build_model, make_batch, network_dtype, parameter_count, training_config
from bench.sizes import Sizes
from bench.timing import Timing, measure
from frcnn_jax.models.detector import FastRCNN, init_params
from frcnn_jax.ops.boxes import encode_boxes
from frcnn_jax.ops.roi_pool import project_rois
from frcnn_jax.training.loop import create_state
from frcnn_jax.training.optimizer import create_optimizer
from frcnn_jax.training.step import AXIS, TrainState, identity_statistics, make_train_step, map_train_step, sample_batch
from frcnn_jax.types import Batch

PEER_MODEL = "vgg16"  # the one that the peer has


def measure_train_step(sizes: Sizes, rates: Rates, peer: Peer | None, models: Sequence[str]) -> list[Row]:
    """A row for each model. Raises PeerError where the peer's network is not the same."""
    batch = make_batch(sizes, sizes.images)
    return [_measure_model(name, sizes, rates, peer if name == PEER_MODEL else None, batch) for name in models]


def _measure_model(name: str, sizes: Sizes, rates: Rates, peer: Peer | None, batch: Batch) -> Row:
    config = training_config(name, sizes)
    model = build_model(name, sizes)
    params = init_params(model, jax.random.key(0))
    count = parameter_count(params)
    state = create_state(config, params, identity_statistics(sizes.num_classes))
    del params  # the state is donated, and this would point at what is gone
    forward = layer_operations(model, sizes.images, sizes.image, sizes.rois_per_image)
    pooling = pooling_operation(model, sizes.images, sizes.image, sizes.rois_per_image)
    frozen = sum(path[-1].key == "kernel" for path, _ in jax.tree_util.tree_leaves_with_path(state.frozen))
    update = update_operation(state.trainable)
    floor = seconds([*forward, *backward_operations(forward, frozen), pooling, pooling, update], rates)

    optimizer = create_optimizer(config.optimizer, state.params, config.train.steps)
    timing = _time_steps(model, optimizer, config.sampling, state, batch, sizes)
    del state
    result = NO_RESULT
    if peer is not None:
        result = peer.run("train_step", [name], _peer_inputs(batch, config.sampling))
        if result.facts["parameters"] != count:
            raise PeerError(f"train_step: {count} parameters, but the peer's has {result.facts['parameters']}")
    height, width = sizes.image
    return Row(
        topic="train_step",
        what=f"{name} {height}x{width}, N={sizes.images}, R={sizes.images * sizes.rois_per_image}, "
        f"{jnp.dtype(network_dtype()).name}",
        ours=timing,
        peer=result.timing(name),
        floor=floor,
        unit="steps",
        note=result.note(name),
    )


def _time_steps(model: FastRCNN, optimizer, sampling, state: TrainState, batch: Batch, sizes: Sizes) -> Timing:
    """Times the step as the training loop runs it, on one device and with the batch there."""
    mesh = Mesh(np.array(jax.devices()[:1]), (AXIS,))
    step = map_train_step(make_train_step(model, optimizer, sampling=sampling), mesh)
    current = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec(AXIS)))
    key = jax.random.key(2)

    def run():
        nonlocal current
        current, metrics = step(current, batch, key)
        return current, metrics

    timing = measure(run, jax.block_until_ready, sizes.effort)
    _, metrics = run()
    if not math.isfinite(metrics["loss"]):
        raise FloatingPointError(f"train_step: the loss is {metrics['loss']}; the time says nothing")
    return timing


def _peer_inputs(batch: Batch, sampling) -> dict[str, np.ndarray]:
    """Pixels, RoIs as (image, inclusive corners), labels and box targets of the RoIs that a step samples."""
    sample = jax.jit(partial(sample_batch, config=sampling))(batch, jax.random.key(2))
    corners = project_rois(sample.rois, 1.0).reshape(-1, 4)
    images = np.repeat(np.arange(len(batch.images), dtype=np.float32), sample.rois.shape[1])
    return {
        "images": batch.images,
        "rois": np.concatenate([images[:, None], corners], axis=1),
        "labels": np.asarray(sample.labels).reshape(-1).astype(np.int64),
        "targets": np.asarray(encode_boxes(sample.rois, sample.gt_boxes)).reshape(-1, 4),
    }
