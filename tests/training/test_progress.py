"""The progress bar of a run: the compilation of a step is said, and is none of the time of the steps."""

import json
import time
from dataclasses import replace

import pytest

from frcnn_jax.progress import paused_clock
from frcnn_jax.training import loop
from tests.training.runs import run_config, step_in_a_moment

COMPILING = 1.0  # seconds


@pytest.fixture
def bars(small, monkeypatch):
    """The progress bars of runs whose step takes a second to compile and no time otherwise."""
    step_in_a_moment(monkeypatch.setattr)
    fast, compiled, bars = loop.map_train_step, set(), []

    def map_train_step(step, mesh):
        run = fast(step, mesh)

        def compile_and_run(state, batch, *others):
            if batch.images.shape not in compiled:
                compiled.add(batch.images.shape)
                time.sleep(COMPILING)
            return run(state, batch, *others)

        return compile_and_run

    class Bar(loop.tqdm):
        def __init__(self, **settings):
            super().__init__(**settings)
            bars.append((self, time.monotonic()))

    monkeypatch.setattr(loop, "map_train_step", map_train_step)
    monkeypatch.setattr(loop, "tqdm", Bar)
    return bars


def test_a_compilation_is_said_and_is_none_of_the_time_of_the_steps(bars, data, tmp_path, capfd):
    config = run_config(data, steps=6, log_every=1)
    loop.train(replace(config, input=replace(config.input, scales=(32, 64))), tmp_path)
    before, *said = capfd.readouterr().err.split("compiling a step for ")
    assert "0/6" in before
    assert {part.split(" pixels")[0] for part in said} == {"48 x 32", "96 x 64"}
    assert said[-1].rstrip().endswith("images/s")
    (bar, shown), *others = bars
    assert not others
    steps = time.monotonic() - shown - 2 * COMPILING
    assert bar.format_dict["elapsed"] <= steps
    assert bar.n == 6
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum(config.input.batch_size / line["images_per_second"] for line in lines) < steps + COMPILING / 2


def test_a_step_is_counted_when_it_is_finished(bars, data, tmp_path, monkeypatch):
    counts, waited = [], loop.jax.block_until_ready

    def wait(values):
        counts.append(bars[0][0].n if bars else 0)
        return waited(values)

    monkeypatch.setattr(loop.jax, "block_until_ready", wait)
    loop.train(run_config(data, steps=11, log_every=11, checkpoint_every=11), tmp_path)
    # Before the compilation, then for the first of five steps, and so on; the others are counted at the end.
    assert counts[:8] == [0, 0, 1, 2, 3, 4, 5, 6]
    assert bars[0][0].n == 11


def test_a_bar_that_is_not_shown():
    """A hidden bar, as of every process but the first."""
    bar, done = loop.tqdm(total=1, disable=True), []
    with paused_clock(bar, "compiling"):
        done.append(bar.n)
    assert done == [0]
