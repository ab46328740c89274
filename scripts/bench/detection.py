"""Testing: the network on all proposals of an image, and the whole way to detections, suppression included."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.floors import Rates, layer_operations, pooling_operation, seconds
from bench.peer_process import NO_RESULT, Peer, PeerError
from bench.result import Row
from bench.scene import build_model, make_batch, network_dtype, parameter_count
from bench.sizes import Sizes
from bench.timing import measure
from bench.train_step import PEER_MODEL
from frcnn_jax.evaluation.detect import detect_batch
from frcnn_jax.models.detector import FastRCNN, init_params
from frcnn_jax.training.step import identity_statistics
from frcnn_jax.types import Batch

# With random weights all scores are near 1 / classes: no threshold, so that suppression gets its 100 boxes a class.
THRESHOLD = 0.0


def measure_test(sizes: Sizes, rates: Rates, peer: Peer | None, models: Sequence[str]) -> list[Row]:
    """Rows of each model: one image at a time and, on accelerators, images batched.

    Raises PeerError where the peer's network is not the same."""
    return [row for name in models for row in _measure_model(name, sizes, rates, peer if name == PEER_MODEL else None)]


def _measure_model(name: str, sizes: Sizes, rates: Rates, peer: Peer | None) -> list[Row]:
    model = build_model(name, sizes)
    params = init_params(model, jax.random.key(0))
    many = () if jax.devices()[0].platform == "cpu" else (sizes.batched_images,)
    cases = [("network alone", 1), *(("with NMS", n) for n in (1, *many))]
    largest = make_batch(sizes, max(n for _, n in cases))
    timings = {}
    for what, n in cases:
        batch = jax.device_put(jax.tree.map(lambda x, n=n: x[:n], largest))
        run = _network if what == "network alone" else _detections
        call = partial(run, model, params, batch, identity_statistics(sizes.num_classes))
        timings[f"{what}, {n}"] = measure(call, jax.block_until_ready, sizes.effort)
    result = NO_RESULT
    if peer is not None:
        inputs = {"images": largest.images, "boxes": largest.proposals, "threshold": np.float32(THRESHOLD)}
        result = peer.run("test", list(timings), inputs)
        if result.facts["parameters"] != parameter_count(params):
            raise PeerError(f"test: {parameter_count(params)} parameters, the peer's has {result.facts['parameters']}")
    height, width = sizes.image
    setting = f"{height}x{width}, {sizes.proposals} proposals, {jnp.dtype(network_dtype()).name}"
    return [
        Row(
            topic="test",
            what=f"{name} {setting}, {what}" + (f", {n} images a batch" if n > 1 else ""),
            ours=timings[f"{what}, {n}"],
            peer=result.timing(f"{what}, {n}"),
            floor=_floor(model, n, sizes, rates),
            items=n,
            unit="images",
            note=result.note(f"{what}, {n}"),
        )
        for what, n in cases
    ]


def _network(model: FastRCNN, params: Any, batch: Batch, statistics: Any) -> Any:
    del statistics
    return _apply(params, batch, model=model)


def _detections(model: FastRCNN, params: Any, batch: Batch, statistics: Any) -> Any:
    return detect_batch(params, statistics, batch, model=model, score_threshold=THRESHOLD)


@partial(jax.jit, static_argnames="model")
def _apply(params: Any, batch: Batch, *, model: FastRCNN) -> Any:
    return model.apply(
        {"params": params}, batch.images, batch.proposals, scales=batch.scales, image_sizes=batch.image_sizes
    )


def _floor(model: FastRCNN, images: int, sizes: Sizes, rates: Rates) -> float:
    """Network alone: what selects detections is small beside it."""
    layers = layer_operations(model, images, sizes.image, sizes.proposals)
    return seconds([*layers, pooling_operation(model, images, sizes.image, sizes.proposals)], rates)
