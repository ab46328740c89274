"""Depthwise convolution alone, forward and both gradients, against PyTorch's: equal first, then timed."""

import math
from functools import partial

import jax
import numpy as np

from bench.agreement import check_close
from bench.depthwise_cases import PARTS, Case, cases, compared
from bench.peer import open_peer
from bench.result import Row, Target
from bench.topics import Setup
from frcnn_jax.ops.layers.depthwise import depthwise_conv2d


def measure_depthwise(setup: Setup) -> list[Row]:
    """Rows of the topic. Raises PeerError where outputs differ."""
    rows = []
    for case in cases(setup.sizes):
        arrays = jax.device_put(case.arrays())
        with open_peer(setup.peer, "depthwise", [f"{case.name}, {part}" for part in PARTS]) as other:
            for part in PARTS:
                name = f"{case.name}, {part}"
                run = partial(jax.jit(partial(_compute, case, part)), *arrays)
                if name in other.cases:
                    # PyTorch's kernel gradients, sums over all cells, err by up to 2e-5.
                    tolerance = 1e-4 if part == "kernel gradient" else 1e-5
                    check_close(name, compared(part, np.asarray(run())), other.arrays[name], tolerance)
                ours, theirs = other.measure(name, run, jax.block_until_ready, setup.sizes)
                rows.append(
                    Row(
                        topic="depthwise",
                        what=name,
                        ours=ours,
                        peer=theirs,
                        floor=4 * sum(map(math.prod, case.shapes)) / setup.rates.bandwidth,
                        target=Target("ratio", 1.0) if jax.devices()[0].platform == "cpu" else None,
                        note=other.note(name),
                    )
                )
    return rows


def _compute(case: Case, part: str, x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return depthwise_conv2d(x, kernel, case.stride, case.size // 2)

    if part == "forward":
        return convolve(x, kernel)
    return jax.vjp(convolve, x, kernel)[1](cotangent)[PARTS.index(part) - 1]
