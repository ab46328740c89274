"""Growth of time and memory of each part with the numbers of RoIs, proposals, boxes and classes."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.programs import compiled_call
from bench.result import Row
from bench.scene import random_boxes
from bench.sizes import GRID, STRIDE, Sizes
from bench.timing import Effort, measure
from bench.topics import Setup
from frcnn_jax.detection.selection import select_detections
from frcnn_jax.ops.losses import multi_task_loss
from frcnn_jax.ops.nms import nms
from frcnn_jax.ops.roi_pool.pool import roi_max_pool
from frcnn_jax.ops.sampling import sample_rois
from frcnn_jax.training.statistics import identity_statistics

EFFORT = Effort(min_runs=3, min_seconds=0.2)


@dataclasses.dataclass(frozen=True)
class Case:
    """A function with its arguments at one value of the growing number."""

    section: str
    letter: str
    value: int
    build: Callable[[], tuple[Callable[[], Any], int | None]]  # a call to time, and the bytes it needs


def measure_growth(setup: Setup) -> list[Row]:
    """Rows of RoI pooling, sampling, loss, selection and suppression."""
    return measure_cases(_cases(setup.sizes), setup.sizes)


def measure_cases(cases: Iterator[Case], sizes: Sizes) -> list[Row]:
    """A row for each case; the note gives the exponent of the growth since the previous case of the same section."""
    effort = dataclasses.replace(EFFORT, min_runs=min(EFFORT.min_runs, sizes.effort.min_runs))
    rows: list[Row] = []
    before: tuple[Case, float] | None = None
    for case in cases:
        run, memory = case.build()
        timing = measure(run, jax.block_until_ready, effort)
        del run  # frees its arguments before the next case
        note = ""
        if before is not None and (before[0].section, before[0].letter) == (case.section, case.letter):
            power = math.log(timing.median / before[1]) / math.log(case.value / before[0].value)
            note = f"time grows as {case.letter}^{power:.2f}"
        before = case, timing.median
        what = f"{case.section}, {case.letter}={case.value}"
        rows.append(Row(topic="growth", what=what, ours=timing, memory=memory, note=note))
    return rows


def _cases(sizes: Sizes) -> Iterator[Case]:
    roi_counts, class_counts, classes = sizes.growing_rois, sizes.growing_classes, sizes.num_classes - 1
    for section, function in (("RoI pooling", _pool), ("RoI pooling, forward+backward", _pool_gradient)):
        for count in roi_counts:
            yield Case(section, "R", count, partial(_pooling, function, count, sizes))
    for count in roi_counts:
        yield Case("sampling of RoIs, G=64", "P", count, partial(_sampling, count, sizes))
    for count in roi_counts:
        yield Case("loss and its gradient", "R", count, partial(_loss, count, classes))
    for number in class_counts:
        yield Case("loss and its gradient, R=128", "K", number, partial(_loss, 128, number))
    for count in roi_counts:
        yield Case("detections of scores, 100 a class", "R", count, partial(_selection, count, classes, 100))
    for number in class_counts:
        section = f"detections of scores, R={sizes.proposals}, 100 a class"
        yield Case(section, "K", number, partial(_selection, sizes.proposals, number, 100))
    for count in roi_counts:
        yield Case("suppression in one class", "B", count, partial(_suppression, count))


def _pooling(function: Callable[..., Any], count: int, sizes: Sizes) -> tuple[Callable[[], Any], int | None]:
    height, width, channels = sizes.feature_map
    random = np.random.default_rng(0)
    features = random.standard_normal((height, width, channels), np.float32)
    return compiled_call(function, features, random_boxes(random, count, (height * STRIDE, width * STRIDE)))


def _pool(features: jax.Array, rois: jax.Array) -> jax.Array:
    return roi_max_pool(features, rois, GRID, 1 / STRIDE)


def _pool_gradient(features: jax.Array, rois: jax.Array) -> jax.Array:
    pooled, pullback = jax.vjp(lambda f: _pool(f, rois), features)
    return pullback(pooled)[0]


def _sampling(count: int, sizes: Sizes) -> tuple[Callable[[], Any], int | None]:
    random = np.random.default_rng(0)
    objects = random_boxes(random, 64, sizes.image)
    boxes = random_boxes(random, count, sizes.image)
    draw = partial(sample_rois, rois_per_image=64)
    labels = np.ones(64, np.int32)
    return compiled_call(draw, jax.random.key(0), boxes, np.ones(count, bool), objects, labels, np.ones(64, bool))


def _loss(count: int, classes: int) -> tuple[Callable[[], Any], int | None]:
    random = np.random.default_rng(0)
    boxes = jnp.asarray(random_boxes(random, count, (600, 1000)))
    labels = jnp.asarray(random.integers(0, classes + 1, count).astype(np.int32))
    statistics = identity_statistics(classes + 1)

    def gradient(logits: jax.Array, deltas: jax.Array) -> Any:
        def total(logits: jax.Array, deltas: jax.Array) -> jax.Array:
            rows = (boxes, labels, boxes + 3, jnp.ones(count, bool))
            return multi_task_loss(logits, deltas, *rows, statistics.mean, statistics.std)[0]

        return jax.value_and_grad(total, argnums=(0, 1))(logits, deltas)

    shape = (count, classes + 1)
    return compiled_call(gradient, random.standard_normal(shape, np.float32), np.zeros((*shape, 4), np.float32))


def _selection(count: int, classes: int, per_class: int) -> tuple[Callable[[], Any], int | None]:
    random = np.random.default_rng(0)
    boxes = random_boxes(random, count, (600, 1000))
    statistics = identity_statistics(classes + 1)

    def select(logits: jax.Array, deltas: jax.Array, rois: jax.Array) -> Any:
        return select_detections(
            logits,
            deltas,
            rois,
            jnp.ones(count, bool),
            jnp.array([600, 1000]),
            statistics,
            score_threshold=0.0,
            per_class=per_class,
        )

    shape = (count, classes + 1)
    return compiled_call(select, random.standard_normal(shape, np.float32), np.zeros((*shape, 4), np.float32), boxes)


def _suppression(count: int) -> tuple[Callable[[], Any], int | None]:
    random = np.random.default_rng(0)
    scores = random.random(count, np.float32)
    return compiled_call(nms, random_boxes(random, count, (600, 1000)), scores, np.ones(count, bool))
