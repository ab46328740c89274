"""Losses of training in bfloat16 compared with float32, and bit-equality of repeated steps."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.programs import training_run
from bench.result import Row
from bench.scene import build_model, make_batch, training_config
from bench.sizes import Sizes
from bench.timing import Timing, measure
from bench.topics import Setup
from frcnn_jax.models.fast_rcnn import init_params
from frcnn_jax.training.state import TrainState, create_state
from frcnn_jax.training.statistics import identity_statistics


def measure_precision(setup: Setup) -> list[Row]:
    """Rows of each model: a step in either type; the notes compare losses and bits over a short training run."""
    sizes, rows = setup.sizes, []
    for name in setup.models:
        curves = {}
        for dtype in (jnp.float32, jnp.bfloat16):
            curves[dtype], state, timing = _train(name, sizes, dtype)
            note = f"loss {curves[dtype][0]:.3f} to {np.mean(curves[dtype][-5:]):.3f} in {sizes.curve_steps} steps"
            if dtype == jnp.bfloat16:
                note += f", {_distance(curves[dtype], curves[jnp.float32]):.1%} from float32's on average"
            again, other, _ = _train(name, sizes, dtype)
            note += (
                f"; a second run is {'bit-equal' if _equal((curves[dtype], state), (again, other)) else 'different'}"
            )
            rows.append(
                Row(
                    topic="precision",
                    what=f"{name}: step, {jnp.dtype(dtype).name}",
                    ours=timing,
                    unit="steps",
                    note=note,
                )
            )
    return rows


def _train(name: str, sizes: Sizes, dtype: Any) -> tuple[np.ndarray, TrainState, Timing]:
    """Losses of a short run from fixed weights on one batch, the state then, and the time of a step."""
    model, config = build_model(name, sizes, dtype), training_config(name, sizes)
    # A rate at which random weights learn, and a gradient bound that prevents divergence.
    optimizer = dataclasses.replace(config.optimizer, learning_rate=1e-3, clip_norm=1.0)
    config = dataclasses.replace(config, optimizer=optimizer)
    state = create_state(config, init_params(model, jax.random.key(0)), identity_statistics(sizes.num_classes))
    run, _ = training_run(model, config, state, make_batch(sizes, sizes.images))
    del state
    losses = []
    for _ in range(sizes.curve_steps):
        state, metrics = run()
        losses.append(float(metrics["loss"]))
    kept = jax.device_get(state)
    return np.array(losses), kept, measure(run, jax.block_until_ready, sizes.effort)


def _distance(losses: np.ndarray, reference: np.ndarray) -> float:
    """Mean difference of the curves, over the mean of the reference."""
    return float(np.abs(losses - reference).mean() / reference.mean())


def _equal(first: Any, second: Any) -> bool:
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)
