"""Images padded to one of a few sizes, compared with a single size: pixels, and time of a step."""

import collections
import dataclasses
import time
from collections.abc import Iterator, Mapping

import jax

from bench.pictures import picture_sizes
from bench.programs import constant_params, training_run
from bench.result import Row
from bench.scene import build_model, make_batch, training_config
from bench.sizes import STRIDE, Sizes
from bench.timing import Timing, measure
from bench.topics import Setup
from frcnn_jax.config import InputConfig
from frcnn_jax.data.batch_plan import Bucket, choose_bucket, resize_scale, resized_size
from frcnn_jax.data.pipeline import training_buckets
from frcnn_jax.training.state import create_state
from frcnn_jax.training.statistics import identity_statistics

# Height and width of a hundred images, assumed to be distributed as in VOC 2007: half 4:3, most others 3:2.
VOC_SIZES = (
    46 * [(375, 500)] + 3 * [(412, 500)] + 2 * [(450, 500)] + [(500, 500)] + 18 * [(333, 500)] + 4 * [(332, 500)]
    + 3 * [(344, 500)] + 3 * [(357, 500)] + 7 * [(500, 375)] + [(500, 412)] + 4 * [(500, 333)] + 3 * [(500, 332)]
    + 3 * [(298, 500)] + [(246, 500)] + [(500, 300)]
)  # fmt: skip


def measure_buckets(setup: Setup) -> list[Row]:
    """A row for each used bucket, and the mean over the images compared with one size for all. The sizes are those of
    the setup's images, or VOC's.
    """
    sizes = setup.sizes
    config = InputConfig(batch_size=sizes.images, scales=(sizes.shorter,), max_size=sizes.longest)
    originals = VOC_SIZES if setup.images is None else picture_sizes(setup.images)
    resized = [resized_size(size, resize_scale(size, sizes.shorter, sizes.longest)) for size in originals]
    buckets = training_buckets(config, STRIDE)
    chosen = [choose_bucket(size, buckets) for size in resized]
    counts = collections.Counter(buckets[i] for i in chosen if i is not None)
    largest = tuple(max(size[side] for size in resized) for side in (0, 1))
    pixels = sum(height * width for height, width in resized)
    return [row for name in setup.models for row in _rows(name, sizes, counts, largest, pixels)]


def _rows(name: str, sizes: Sizes, counts: Mapping[Bucket, int], largest: Bucket, pixels: int) -> Iterator[Row]:
    stride = round(1 / build_model(name, sizes).spatial_scale)
    one = tuple(-(-side // stride) * stride for side in largest)
    timings: dict[Bucket, Timing] = {}
    compiling: dict[Bucket, float] = {}
    total = sum(counts.values())
    for bucket in (*sorted(counts, key=counts.get, reverse=True), one):
        timings[bucket], compiling[bucket] = _time(name, dataclasses.replace(sizes, image=bucket))
        part = f"{counts[bucket] / total:.0%} of the images" if bucket in counts else "one size for all"
        yield Row(
            topic="buckets",
            what=f"{name}: step, N={sizes.images}, {bucket[0]}x{bucket[1]}, {part}",
            ours=timings[bucket],
            unit="steps",
            note=f"compiled in {compiling[bucket]:.1f} s",
        )
    padding = sum(count * bucket[0] * bucket[1] for bucket, count in counts.items()) / pixels - 1
    mean = sum(count * timings[bucket].median for bucket, count in counts.items()) / total
    yield Row(
        topic="buckets",
        what=f"{name}: step, mean over the images with {len(counts)} buckets",
        ours=Timing((mean,)),
        unit="steps",
        note=f"padding {padding:.0%} of the images' pixels, one size {total * one[0] * one[1] / pixels - 1:.0%}"
        f"; one size takes {timings[one].median / mean:.2f} times as long"
        f"; compiling {sum(compiling[b] for b in counts):.0f} s, one size {compiling[one]:.0f} s",
    )


def _time(name: str, sizes: Sizes) -> tuple[Timing, float]:
    """Time of a step, and seconds to compile it."""
    model, config = build_model(name, sizes), training_config(name, sizes)
    state = create_state(config, constant_params(model), identity_statistics(sizes.num_classes))
    batch = make_batch(sizes, sizes.images)
    started = time.perf_counter()
    run, _ = training_run(model, config, state, batch)
    seconds = time.perf_counter() - started
    del state
    return measure(run, jax.block_until_ready, sizes.effort), seconds
