"""The progress bar of a run: the compilation of a step is said, and is none of the time of the steps."""

import json
import signal
import time
from dataclasses import replace

import pytest

from frcnn_jax.progress import paused_clock
from frcnn_jax.training import loop, steps
from tests.training.runs import run_config, step_in_a_moment

COMPILING = 0.5  # seconds


@pytest.fixture
def bars(small, monkeypatch):
    """The progress bars of runs whose step takes half a second to compile and no time otherwise, and their begins."""
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

    class Bar(steps.Progress):
        def __init__(self, **settings):
            begin = time.perf_counter()
            super().__init__(**settings)
            bars.append((self, begin))

    monkeypatch.setattr(loop, "map_train_step", map_train_step)
    monkeypatch.setattr(steps, "Progress", Bar)
    return bars


def test_a_compilation_is_said_and_is_none_of_the_time_of_the_steps(bars, data, tmp_path, monkeypatch, capfd):
    logs, open_log = [], loop.MetricsLog
    monkeypatch.setattr(loop, "MetricsLog", lambda *settings: logs.append(time.perf_counter()) or open_log(*settings))
    config = run_config(data, steps=6, log_every=1)
    loop.train(replace(config, input=replace(config.input, scales=(32, 64))), tmp_path)
    before, *said = capfd.readouterr().err.split("compiling a step for ")
    assert "0/6" in before
    assert {part.split(" pixels")[0] for part in said} == {"48 x 32", "96 x 64"}
    assert said[-1].rstrip().endswith("images/s")
    (bar, shown), *others = bars
    assert not others
    elapsed, end = bar.format_dict["elapsed"], time.perf_counter()
    assert elapsed <= end - shown - 1.9 * COMPILING
    assert bar.n == 6
    (begin,) = logs
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum(config.input.batch_size / line["images_per_second"] for line in lines) <= end - begin - 1.9 * COMPILING


def _give_steps(monkeypatch, ahead):
    """Lets any device have that many steps before they are waited for."""
    monkeypatch.setattr(steps, "_AHEAD", ahead)
    monkeypatch.setattr(steps, "_AHEAD_ON_CPU", ahead)


@pytest.mark.parametrize("ahead", [0, 4])
def test_a_step_is_counted_when_it_is_finished(ahead, bars, data, tmp_path, monkeypatch):
    """0 steps ahead is the case of a CPU, 4 that of a GPU."""
    counts, waited = [], steps.jax.block_until_ready
    _give_steps(monkeypatch, ahead)

    def wait(values):
        counts.append(bars[0][0].n if bars else 0)
        return waited(values)

    monkeypatch.setattr(steps.jax, "block_until_ready", wait)
    loop.train(run_config(data, steps=11, log_every=11, checkpoint_every=11), tmp_path)
    # Before the compilation, then for the first step under way, and so on; the others are counted at the end.
    assert counts == [0, *range(11 - ahead)]
    assert bars[0][0].n == 11


def test_steps_under_way_are_counted_before_a_compilation(bars, data, tmp_path, monkeypatch):
    """Else their time counts without them, and the remaining time is some times too long."""
    _give_steps(monkeypatch, 99)
    begun, counts, add, pause = [], [], loop.MetricsLog.add, steps.paused_clock

    def count(bar, text):
        counts.append((bar.n, len(begun)))
        return pause(bar, text)

    monkeypatch.setattr(steps, "paused_clock", count)
    monkeypatch.setattr(
        loop.MetricsLog, "add", lambda self, step, *others: begun.append(step) or add(self, step, *others)
    )
    config = run_config(data, steps=8, log_every=8, checkpoint_every=8)
    loop.train(replace(config, input=replace(config.input, scales=(32, 64))), tmp_path)
    first, second = counts
    assert first == (0, 0)
    assert second[0] == second[1] > 0


def test_a_run_on_a_cpu_stops_after_the_step_that_runs(bars, data, tmp_path, monkeypatch, capsys):
    _give_steps(monkeypatch, steps._AHEAD_ON_CPU)
    waited = steps.jax.block_until_ready

    def wait(values):
        if bars and bars[0][0].n == 2 and values:
            signal.raise_signal(signal.SIGINT)
        return waited(values)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background starts without
    monkeypatch.setattr(steps.jax, "block_until_ready", wait)
    with pytest.raises(KeyboardInterrupt):
        loop.train(run_config(data, steps=11, log_every=11, checkpoint_every=11), tmp_path)
    signal.signal(signal.SIGINT, before)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()] == ["3"]
    assert capsys.readouterr().err.endswith(
        "\nStopped after step 3 of 11; its checkpoint is written, and the same command resumes from it\n"
    )


def test_a_bar_that_is_not_shown():
    """A hidden bar, as of every process but the first."""
    bar, done = steps.Progress(total=1, disable=True), []
    with paused_clock(bar, "compiling"):
        done.append(bar.n)
    assert done == [0]
