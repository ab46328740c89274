"""RoI pooling alone, forward and backward, against torchvision.ops.roi_pool: equal first, then timed."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bench.peer import PeerError, open_peer
from bench.result import Row, Target
from bench.scene import random_boxes
from bench.sizes import GRID, STRIDE, Sizes
from bench.topics import Setup
from frcnn_jax.ops.roi_pool.pool import roi_max_pool

# Ratio to the peer's time on a CPU.
TARGETS = {"forward": (0.7, 0.12), "forward+backward": (0.9, None)}


def measure_roi_pool(setup: Setup) -> list[Row]:
    """Rows of the topic. Raises PeerError where outputs differ."""
    sizes, rates = setup.sizes, setup.rates
    inputs, rows = make_inputs(sizes), []
    accelerated = jax.devices()[0].platform != "cpu"
    with open_peer(setup.peer, "roi_pool", list(inputs), _flat(inputs)) as other:
        for case, arrays in inputs.items():
            function = _pool_and_gradient if "cotangent" in arrays else _pool_alone
            # torchvision pools in float32 alone, so bfloat16 has no peer. The kernels are XLA's operations on a CPU.
            variants = itertools.product((jnp.float32, jnp.bfloat16), ("xla", "pallas"))
            for dtype, implementation in variants if accelerated else [(jnp.float32, "xla")]:
                values = {k: jnp.asarray(v, jnp.float32 if k == "rois" else dtype) for k, v in arrays.items()}
                shared = dtype == jnp.float32
                run = partial(jax.jit(partial(function, implementation)), *values.values())
                if shared and case in other.cases:
                    _compare(case, run(), other.arrays)
                ours, theirs = other.measure(case if shared else "", run, jax.block_until_ready, sizes)
                rows.append(
                    Row(
                        topic="roi_pool",
                        what=case + ("" if shared else ", bfloat16") + ("" if implementation == "xla" else ", pallas"),
                        ours=ours,
                        peer=theirs,
                        floor=_bytes(arrays, jnp.dtype(dtype).itemsize) / rates.bandwidth,
                        target=None if accelerated else _target(case, arrays, sizes),
                    )
                )
    return rows


def _target(case: str, arrays: dict[str, np.ndarray], sizes: Sizes) -> Target | None:
    """The target of single images at the two numbers of RoIs."""
    images, count = arrays["rois"].shape[:2]
    if images > 1:
        return None
    bound = TARGETS[case.split(",")[0]][sizes.pooled_rois.index(count)]
    return None if bound is None else Target("ratio", bound)


def make_inputs(sizes: Sizes) -> dict[str, dict[str, np.ndarray]]:
    """Inputs by case: features [N, H, W, C], rois [N, R, 4] (inclusive corners in pixels), and for gradients the
    cotangent.

    Images are only batched if N > 1; the first case has N = 1 too, and `vmap` over it changes nothing.
    """
    height, width, channels = sizes.feature_map
    few, many = sizes.pooled_rois
    random = np.random.default_rng(0)
    inputs = {}
    for n, count, backward in ((1, few, False), (1, many, False), (1, few, True), (2, few // 2, False),
                               (2, few // 2, True)):  # fmt: skip
        arrays = {
            "features": random.standard_normal((n, height, width, channels), np.float32),
            "rois": np.stack([random_boxes(random, count, (height * STRIDE, width * STRIDE)) for _ in range(n)]),
        }
        if backward:
            arrays["cotangent"] = random.standard_normal((n, count, *GRID, channels), np.float32)
        rois = f"{count} RoIs" if n == 1 else f"{n} images x {count} RoIs"
        inputs[f"{'forward+backward' if backward else 'forward'}, {rois}"] = arrays
    return inputs


def _pool(implementation: str, features: jax.Array, rois: jax.Array) -> jax.Array:
    pool = partial(roi_max_pool, output_size=GRID, spatial_scale=1 / STRIDE, implementation=implementation)
    return jax.vmap(pool)(features, rois)


def _pool_alone(implementation: str, features: jax.Array, rois: jax.Array) -> tuple[jax.Array]:
    return (_pool(implementation, features, rois),)


def _pool_and_gradient(
    implementation: str, features: jax.Array, rois: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    pooled, pullback = jax.vjp(lambda f: _pool(implementation, f, rois), features)
    return pooled, pullback(cotangent)[0]


def _compare(case: str, ours: tuple[jax.Array, ...], peers: dict[str, np.ndarray]) -> None:
    """Pooled values must be equal; gradients are sums in another order."""
    for name, value in zip(("pooled", "gradient"), ours, strict=False):
        expected, value = peers[f"{case}/{name}"], np.asarray(value)
        same = np.array_equal(value, expected) if name == "pooled" else np.allclose(value, expected, 1e-4, 1e-4)
        if not same:
            worst = np.abs(value - expected).max() if value.shape == expected.shape else expected.shape
            raise PeerError(f"roi_pool, {case}: {name} differs from the peer's (largest difference {worst})")


def _bytes(arrays: dict[str, np.ndarray], itemsize: int) -> int:
    """Bytes of the features read and the output written; backward, also of the output's gradient read and the features'
    written.
    """
    n, count, channels = len(arrays["rois"]), arrays["rois"].shape[1], arrays["features"].shape[-1]
    once = arrays["features"].size + n * count * math.prod(GRID) * channels
    return itemsize * once * (2 if "cotangent" in arrays else 1)


def _flat(inputs: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {f"{case}/{name}": array for case, arrays in inputs.items() for name, array in arrays.items()}
