"""From the start of a process to the end of its first training step, with and without cached compiled programs."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.result import Row
from bench.sizes import Sizes
from bench.timing import Timing
from bench.topics import Setup

_SCRIPTS = Path(__file__).resolve().parents[2]


def measure_start(setup: Setup) -> list[Row]:
    """Two rows for each model: with an empty cache of compiled programs, and with the cache of the first start."""
    rows = []
    for name in setup.models:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as cache:
            for what in ("cold", "warm"):
                seconds, compiled = _start(name, setup.quick, cache)
                rows.append(
                    Row(
                        topic="start",
                        what=f"{name}: first step after a {what} start",
                        ours=Timing((seconds,)),
                        unit="starts",
                        note=f"of which the first step and its compilation {compiled:.1f} s",
                    )
                )
    return rows


def _start(name: str, quick: bool, cache: str) -> tuple[float, float]:
    paths = [str(_SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "bench.topics.start", name, *(["quick"] if quick else [])],
        cwd=_SCRIPTS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "JAX_COMPILATION_CACHE_DIR": cache},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise ValueError(f"start of {name}: {done.stderr.strip().splitlines()[-1]}")
    return seconds, json.loads(done.stdout.splitlines()[-1])


def _first_step(name: str, quick: bool) -> None:
    """The work of the started process: weights, optimizer and one step."""
    import jax

    from bench.programs import training_run
    from bench.scene import build_model, make_batch, training_config
    from bench.sizes import QUICK
    from frcnn_jax.models.fast_rcnn import init_params
    from frcnn_jax.training.state import create_state
    from frcnn_jax.training.statistics import identity_statistics

    sizes = QUICK if quick else Sizes()
    model, config = build_model(name, sizes), training_config(name, sizes)
    state = create_state(config, init_params(model, jax.random.key(0)), identity_statistics(sizes.num_classes))
    started = time.perf_counter()
    run, _ = training_run(model, config, state, make_batch(sizes, sizes.images))
    jax.block_until_ready(run())
    print(json.dumps(time.perf_counter() - started))


if __name__ == "__main__":
    _first_step(sys.argv[1], len(sys.argv) > 2)
