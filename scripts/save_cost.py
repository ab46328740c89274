"""Measures the time that a checkpoint costs the steps of a training, if they wait for it and if a thread writes it.

python scripts/save_cost.py [--megabytes 500] [--steps 20]

The state has this many megabytes in 30 arrays; a step multiplies matrices on the device for about 0.1 s. The output has
medians of five saves: the time of the call of `save`, the additional time of all steps after it, compared with steps
without a save, and the time until the checkpoint is written.
"""

import argparse
import contextlib
import statistics
import tempfile
import threading
import time

import jax
import jax.numpy as jnp

from frcnn_jax.checkpoint import CheckpointMetadata, Checkpoints
from frcnn_jax.config import Config
from frcnn_jax.models.pixels import CENTERED_PIXELS
from frcnn_jax.training.state import TrainState
from frcnn_jax.training.statistics import identity_statistics

_SAVES = 5
_STEP_SECONDS = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--steps", type=int, default=20, help="after each save")
    arguments = parser.parse_args()
    side = 1024
    matrix = jax.random.normal(jax.random.key(0), (side, side)) / side**0.5
    numbers = arguments.megabytes * 250_000 // 30
    params = {f"kernel{i}": jax.random.normal(jax.random.key(i), (numbers,)) for i in range(30)}
    repeat = jax.jit(lambda x, count: jax.lax.fori_loop(0, count, lambda _, x: x @ matrix, x))
    repeat(matrix, 1).block_until_ready()
    started = time.perf_counter()
    repeat(matrix, 20).block_until_ready()
    count = max(round(20 * _STEP_SECONDS / (time.perf_counter() - started)), 1)

    def steps() -> float:
        started = time.perf_counter()
        for _ in range(arguments.steps):
            repeat(matrix, count).block_until_ready()
        return time.perf_counter() - started

    alone = statistics.median(steps() for _ in range(_SAVES))
    print(
        f"{jax.devices()[0].device_kind}: state of {arguments.megabytes} MB, steps of {alone / arguments.steps:.3f} s"
    )
    metadata = CheckpointMetadata(("a", "b"), CENTERED_PIXELS, Config(), "data")
    for wait in (True, False):
        rows = []
        with tempfile.TemporaryDirectory() as folder, contextlib.closing(Checkpoints(folder)) as checkpoints:
            for number in range(1, _SAVES + 1):
                state = TrainState(jnp.int32(number), params, {}, {}, identity_statistics(3))
                started, written = time.perf_counter(), threading.Event()
                times: list[float] = []

                def note(times=times, started=started, written=written) -> None:
                    times.append(time.perf_counter() - started)
                    written.set()

                checkpoints.save(state, jax.random.key(0), {}, metadata, wait=wait, then=note)
                held = time.perf_counter() - started
                longer = steps() - alone
                checkpoints.wait()
                written.wait()
                rows.append((held, longer, times[0]))
        held, longer, until = (statistics.median(column) for column in zip(*rows, strict=True))
        name = "waited for" if wait else "beside the steps"
        print(
            f"{name}: the call {held:.2f} s, the next {arguments.steps} steps {longer:+.2f} s, written in {until:.2f} s"
        )


if __name__ == "__main__":
    main()
