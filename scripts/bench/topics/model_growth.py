"""Growth of a step and a test with the image, the batch, the RoIs and the classes."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from bench.programs import compiled_call, constant_params, training_run
from bench.result import Row
from bench.scene import build_model, make_batch, training_config
from bench.sizes import Sizes
from bench.topics import Setup
from bench.topics.growth import Case, measure_cases
from frcnn_jax.detection.detect import detect_batch
from frcnn_jax.training.state import create_state
from frcnn_jax.training.statistics import identity_statistics

# The image size grows with one image per step, as two of 2000 x 2000 exceed the memory of most machines. RoIs and
# classes grow only for smaller models, as each step takes minutes.
LARGE = ("vgg16",)


def measure_model_growth(setup: Setup) -> list[Row]:
    """Rows of each model."""
    return [row for name in setup.models for row in measure_cases(_cases(name, setup.sizes), setup.sizes)]


def _cases(name: str, sizes: Sizes) -> Iterator[Case]:
    large = name in LARGE
    for count in sizes.growing_rois:
        changed = dataclasses.replace(sizes, proposals=count)
        yield Case(f"{name}: test of {_size(sizes)}", "R", count, partial(_test, name, changed, 1))
    for side in sizes.growing_sides:
        changed = dataclasses.replace(sizes, image=(side, side))
        yield Case(f"{name}: test, {sizes.proposals} RoIs", "side", side, partial(_test, name, changed, 1))
    for images in sizes.growing_images:
        yield Case(f"{name}: test of {_size(sizes)}", "N", images, partial(_test, name, sizes, images))
    images = 1 if large else sizes.images
    for side in sizes.growing_sides:
        changed = dataclasses.replace(sizes, image=(side, side), images=images)
        yield Case(f"{name}: step, N={images}", "side", side, partial(_step, name, changed))
    for images in sizes.growing_images:
        changed = dataclasses.replace(sizes, images=images)
        yield Case(f"{name}: step, {_size(sizes)}", "N", images, partial(_step, name, changed))
    if large:
        return
    for count in sizes.growing_rois:
        changed = dataclasses.replace(sizes, rois_per_image=count, proposals=2 * count)
        yield Case(f"{name}: step, {_size(sizes)}, N={sizes.images}", "R", count, partial(_step, name, changed))
    for number in sizes.growing_classes:
        changed = dataclasses.replace(sizes, num_classes=number + 1)
        yield Case(f"{name}: step, {_size(sizes)}, N={sizes.images}", "K", number, partial(_step, name, changed))


def _size(sizes: Sizes) -> str:
    return f"{sizes.image[0]}x{sizes.image[1]}"


def _test(name: str, sizes: Sizes, images: int) -> tuple[Callable[[], Any], int | None]:
    model = build_model(name, sizes)
    params = constant_params(model)
    statistics = identity_statistics(sizes.num_classes)

    def detect(params: Any, batch: Any) -> Any:
        return detect_batch(params, statistics, batch, model=model, score_threshold=0.0)

    return compiled_call(detect, params, make_batch(sizes, images))


def _step(name: str, sizes: Sizes) -> tuple[Callable[[], Any], int | None]:
    model, config = build_model(name, sizes), training_config(name, sizes)
    state = create_state(config, constant_params(model), identity_statistics(sizes.num_classes))
    return training_run(model, config, state, make_batch(sizes, sizes.images))
