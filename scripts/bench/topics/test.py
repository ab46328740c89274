"""Testing: the network on all proposals of an image, and the path to detections, suppression included.

Detections are timed as one program, with every proposal as an RoI, and as in `frcnn_jax.detect`: from an image and
boxes on the host, each distinct RoI once, to detections on the host. The two are compared first.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import frcnn_jax as frcnn
from bench.agreement import PEER_MODELS, by_path, check_close, check_detections
from bench.floors import Rates, layer_operations, pooling_operation, seconds
from bench.peer import Peer, PeerSession, open_peer
from bench.result import Row, Target
from bench.scene import build_model, make_batch, network_dtype
from bench.sizes import Sizes, sizes_of
from bench.timing import measure
from bench.topics import Setup
from frcnn_jax.detection.detect import detect_batch, trim
from frcnn_jax.detection.roi_plan import plan_rois
from frcnn_jax.models.fast_rcnn import FastRCNN, init_params
from frcnn_jax.training.statistics import identity_statistics
from frcnn_jax.types import Batch, Detections

# With random weights all scores are near 1 / classes: no threshold, so that suppression gets its 100 boxes a class.
THRESHOLD = 0.0


def measure_test(setup: Setup) -> list[Row]:
    """Rows of each model: one image at a time and, on accelerators, batches of images. Raises PeerError if the peer's
    logits or offsets differ.
    """
    rows = []
    for name in setup.models:
        peer = setup.peer if name in PEER_MODELS else None
        rows += _measure_model(name, sizes_of(name, setup.sizes), setup.rates, peer)
    return rows


def _measure_model(name: str, sizes: Sizes, rates: Rates, peer: Peer | None) -> list[Row]:
    model = build_model(name, sizes)
    params = init_params(model, jax.random.key(0))
    on_cpu = jax.devices()[0].platform == "cpu"
    counts = {"network alone": (1,), "with NMS": (1,) if on_cpu else (1, sizes.batched_images)}
    cases = [(what, n) for what, several in counts.items() for n in several]
    largest = make_batch(sizes, max(n for _, n in cases))
    inputs = {"images": largest.images, "boxes": largest.proposals, "threshold": np.float32(THRESHOLD)}
    height, width = sizes.image
    setting = f"{height}x{width}, {sizes.proposals} proposals, {jnp.dtype(network_dtype()).name}"
    rows = []
    with open_peer(peer, "test", [f"{name}, {what}, {n}" for what, n in cases], inputs | by_path(params)) as other:
        for what, n in cases:
            batch = jax.device_put(jax.tree.map(lambda x, n=n: x[:n], largest))
            run = partial(_network if what == "network alone" else _detections, model, params, batch)
            case = f"{name}, {what}, {n}"
            if what == "network alone":
                _compare(case, run(), other)
            ours, theirs = other.measure(case, run, jax.block_until_ready, sizes)
            rows.append(
                Row(
                    topic="test",
                    what=f"{name} {setting}, {what}" + (f", {n} images a batch" if n > 1 else ""),
                    ours=ours,
                    peer=theirs,
                    floor=_floor(model, n, sizes, rates),
                    target=_target(name, what, n, on_cpu),
                    items=n,
                    unit="images",
                    note=other.note(case),
                )
            )
    return [*rows, _measure_detect(name, setting, model, params, sizes, rates)]


def _measure_detect(name: str, setting: str, model: FastRCNN, params: Any, sizes: Sizes, rates: Rates) -> Row:
    """`frcnn_jax.detect` on one image."""
    batch = make_batch(sizes, 1)
    _compare_detect(name, params, batch, sizes)
    run = partial(_detect, model, params, batch, score_threshold=THRESHOLD)
    distinct = len(plan_rois(batch.proposals[0], batch.scales, model.spatial_scale).chosen)
    return Row(
        topic="test",
        what=f"{name} {setting}, frcnn.detect",
        ours=measure(run, effort=sizes.effort),
        floor=_floor(model, 1, dataclasses.replace(sizes, proposals=distinct), rates),
        unit="images",
        note=f"{distinct} distinct RoIs, work on the host included",
    )


def _compare_detect(name: str, params: Any, batch: Batch, sizes: Sizes) -> None:
    """Compares boxes and scores of every proposal in every class, of both implementations, in float32.

    Nothing is suppressed or left out: with scores that differ only by rounding, the kept boxes could differ.
    """
    model = build_model(name, sizes, jnp.float32)
    settings = {"nms_iou": 1.0, "score_threshold": 0.0, "per_class": sizes.proposals}
    statistics = identity_statistics(sizes.num_classes)
    with jax.default_matmul_precision("highest"):
        ours = _detect(model, params, batch, **settings)
        found = detect_batch(params, statistics, jax.device_put(batch), model=model, **settings)
    one_program = trim(jax.tree.map(lambda x: x[0], jax.device_get(found)))
    check_detections(f"test, {name}: frcnn.detect", ours, one_program, max(sizes.image))


def _target(name: str, what: str, images: int, on_cpu: bool) -> Target | None:
    if name not in ("vgg16", "efficientnet_lite0"):
        return None
    if on_cpu:
        return Target("ratio", 0.9) if what == "network alone" else None
    return Target("share", 0.4) if images > 1 else None


def _compare(case: str, ours: tuple[jax.Array, jax.Array], other: PeerSession) -> None:
    for name, value in zip(("logits", "deltas"), ours, strict=True):
        if f"{case}/{name}" in other.arrays:
            value = np.asarray(value)
            check_close(f"test, {case}: {name}", value.reshape(-1, *value.shape[2:]), other.arrays[f"{case}/{name}"])


def _network(model: FastRCNN, params: Any, batch: Batch) -> Any:
    return _apply(params, batch, model=model)


def _detections(model: FastRCNN, params: Any, batch: Batch) -> Any:
    statistics = identity_statistics(model.head.num_classes)
    return detect_batch(params, statistics, batch, model=model, score_threshold=THRESHOLD)


@partial(jax.jit, static_argnames="model")
def _apply(params: Any, batch: Batch, *, model: FastRCNN) -> Any:
    return model.apply(
        {"params": params}, batch.images, batch.proposals, scales=batch.scales, image_sizes=batch.image_sizes
    )


def _detect(model: FastRCNN, params: Any, batch: Batch, **settings: Any) -> Detections:
    """Detection in the first image of a batch, at its size."""
    image, boxes = batch.images[0], batch.proposals[0]
    shorter, longer = sorted(image.shape[:2])
    return frcnn.detect(model, params, image, boxes, scale=shorter, max_size=longer, **settings)


def _floor(model: FastRCNN, images: int, sizes: Sizes, rates: Rates) -> float:
    """The floor of the network alone, as the selection of detections is small in comparison."""
    layers = layer_operations(model, images, sizes.image, sizes.proposals)
    return seconds([*layers, pooling_operation(model, images, sizes.image, sizes.proposals)], rates)
