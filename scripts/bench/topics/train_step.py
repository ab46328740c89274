"""The training step from 8-bit pixels to updated parameters, sampling of RoIs included.

The peer gets the sampled RoIs, their labels and targets, and so has less to do.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bench.agreement import PEER_MODELS, by_path, check_gradients, draw, peer_inputs
from bench.floors import Rates, backward_operations, layer_operations, pooling_operation, seconds, update_operation
from bench.peer import Peer, PeerError, open_peer
from bench.programs import training_run
from bench.result import Row, Target
from bench.scene import build_model, make_batch, network_dtype, parameter_count, training_config
from bench.sizes import Sizes, sizes_of
from bench.timing import measure
from bench.topics import Setup
from frcnn_jax.models.fast_rcnn import FastRCNN, init_params
from frcnn_jax.training.state import TrainState, create_state
from frcnn_jax.training.statistics import identity_statistics


def measure_train_step(setup: Setup) -> list[Row]:
    """A row for each model. Raises PeerError if the peer's network differs."""
    return [
        _measure_model(name, sizes_of(name, setup.sizes), setup.rates, setup.peer if name in PEER_MODELS else None)
        for name in setup.models
    ]


def _measure_model(name: str, sizes: Sizes, rates: Rates, peer: Peer | None) -> Row:
    batch = make_batch(sizes, sizes.images)
    if peer is not None:
        check_gradients(name, sizes, peer)
    config, model = training_config(name, sizes), build_model(name, sizes)
    params = init_params(model, jax.random.key(0))
    count = parameter_count(params)
    inputs = {} if peer is None else peer_inputs(batch, draw(batch, config.sampling)) | by_path(params)
    # The state is donated, and `params` would be invalid afterwards.
    state = create_state(config, params, identity_statistics(sizes.num_classes))
    del params
    floor = _floor(model, state, sizes, rates)
    with open_peer(peer, "train_step", [name], inputs) as other:
        if other.facts.get("parameters", count) != count:
            raise PeerError(f"train_step: {count} parameters, but the peer's has {other.facts['parameters']}")
        run, memory = training_run(model, config, state, batch)
        del state
        ours, theirs = other.measure(name, run, jax.block_until_ready, sizes)
        check_finite(run)
        notes = [other.note(name), _pooling_share(model, sizes, ours.median)]
    height, width = sizes.image
    on_cpu = jax.devices()[0].platform == "cpu"
    return Row(
        topic="train_step",
        what=f"{name} {height}x{width}, N={sizes.images}, R={sizes.images * sizes.rois_per_image}, "
        f"{jnp.dtype(network_dtype()).name}",
        ours=ours,
        peer=theirs,
        floor=floor,
        target=_target(name, on_cpu),
        unit="steps",
        memory=memory,
        note="; ".join(filter(None, notes)),
    )


def check_finite(run: Callable[[], Any]) -> None:
    """Raises FloatingPointError if the loss of a step is not finite."""
    _, metrics = run()
    if not math.isfinite(metrics["loss"]):
        raise FloatingPointError(f"train_step: the loss is {metrics['loss']}; the time says nothing")


def _target(name: str, on_cpu: bool) -> Target | None:
    if on_cpu:
        bound = {"vgg16": 1.2, "efficientnet_lite0": 0.9}.get(name)
        return None if bound is None else Target("ratio", bound)
    return Target("share", 0.4 if name == "vgg16" else 0.3) if name in PEER_MODELS else None


def _floor(model: FastRCNN, state: TrainState, sizes: Sizes, rates: Rates) -> float:
    forward = layer_operations(model, sizes.images, sizes.image, sizes.rois_per_image)
    pooling = pooling_operation(model, sizes.images, sizes.image, sizes.rois_per_image)
    frozen = sum(path[-1].key == "kernel" for path, _ in jax.tree_util.tree_leaves_with_path(state.frozen))
    update = update_operation(state.trainable)
    return seconds([*forward, *backward_operations(forward, frozen), pooling, pooling, update], rates)


def _pooling_share(model: FastRCNN, sizes: Sizes, step: float) -> str:
    """Time of RoI pooling and its gradient alone, at the sizes of the step, as a share of the step."""
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    pixels = jax.ShapeDtypeStruct((sizes.images, *sizes.image, 3), model.backbone.dtype)
    shape = jax.eval_shape(lambda p, x: model.apply({"params": p}, x, method="features")[0], shapes, pixels)
    features = jax.random.normal(jax.random.key(0), shape.shape, shape.dtype)
    rois = jnp.asarray(make_batch(sizes, sizes.images).proposals[:, : sizes.rois_per_image])

    def pool_and_gradient(features: jax.Array) -> tuple[jax.Array, jax.Array]:
        pooled, pullback = jax.vjp(lambda f: model.apply({}, f, rois, method="pool"), features)
        return pooled, pullback(pooled)[0]

    timing = measure(partial(jax.jit(pool_and_gradient), features), jax.block_until_ready, sizes.effort)
    return f"RoI pooling {timing.median / step:.1%}"
