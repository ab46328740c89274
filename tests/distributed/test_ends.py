"""Ends of one process among several: by a signal, by kill -9, by an error; all end, and the same command goes on."""

import signal
import time

import pytest

from tests.distributed.cases import HEARTBEAT, begin, finish, run
from tests.distributed.test_processes import steps_in, train

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def ends(before: str, data, workdir, processes=2, **settings):
    """Results of processes of which one ends as `before` has it."""
    options = "".join(f", {name}={value!r}" for name, value in settings.items())
    call = f"train_here({str(data)!r}, {str(workdir)!r}, before=lambda: {before}{options})"
    return finish(begin(call, processes))


def test_a_signal_to_one_stops_all_after_the_same_step(data, tmp_path):
    settings = {"steps": 2000, "log_every": 1, "checkpoint_every": 1000}
    results = ends("end_in_step(3, signal.SIGTERM)", data, tmp_path, processes=3, **settings)
    assert [result.returncode for result in results] == [130] * 3
    (stopped,) = steps_in(tmp_path)
    assert 3 < stopped < 2000
    assert all("interrupted; finished work is kept" in result.stderr for result in results)
    train(data, tmp_path, 2, batch_size=4, **settings | {"steps": stopped + 2})
    assert steps_in(tmp_path) == [stopped, stopped + 2]


@pytest.mark.parametrize(
    ("before", "evaluate"),
    [
        ("end_in('frcnn_jax.training.loop', 'open_data')", False),
        ("end_in('frcnn_jax.data.proposals.source', 'iterate_proposal_file')", False),
        ("end_in('frcnn_jax.evaluation.evaluate', '_collect')", True),
    ],
)
def test_a_signal_before_the_first_step_or_in_evaluation_ends_all(before, evaluate, data, tmp_path):
    call = f"train_here({str(data)!r}, {str(tmp_path)!r}, before=lambda: {before}, evaluate={evaluate}, steps=2)"
    started = begin(call, 2)
    for line in started[1].stderr:
        if "signal" in line:
            break
    since = time.monotonic()
    results = finish(started)
    assert time.monotonic() - since < 30
    assert [result.returncode for result in results] == [1, 130]
    assert "process 1 was stopped by a signal" in results[0].stderr
    train(data, tmp_path, 2, steps=2, evaluate=evaluate)


def test_a_process_that_is_killed_is_named_within_the_heartbeat(data, tmp_path):
    settings = {"steps": 2000, "log_every": 1, "checkpoint_every": 2}
    started = begin(
        f"train_here({str(data)!r}, {str(tmp_path)!r}, before=lambda: end_in_step(5, signal.SIGKILL), **{settings})", 3
    )
    assert started[1].wait(timeout=240) == -signal.SIGKILL
    since = time.monotonic()
    results = finish(started)
    assert time.monotonic() - since < HEARTBEAT + 12
    assert [result.returncode for result in results] == [1, -signal.SIGKILL, 1]
    for result in (results[0], results[2]):
        assert f"process 1 was lost: no sign of life for {HEARTBEAT} s" in result.stderr
    assert max(steps_in(tmp_path)) == 4


def test_an_error_in_one_is_told_by_all(data, tmp_path):
    """Its data are others than those of process 0."""
    call = f"train_here({str(data)!r}, {str(tmp_path)!r}, steps=2 + (PLACE[2] == 1))"
    results = finish(begin(call, 2))
    assert [result.returncode for result in results] == [1, 1]
    for result in results:
        assert "process 1 has other settings than process 0" in result.stderr


def test_a_loss_that_is_not_finite_names_the_images_of_its_process(data, tmp_path):
    results = ends("not_a_number_in_step(3)", data, tmp_path, steps=5, log_every=1, checkpoint_every=2)
    assert [result.returncode for result in results] == [1, 1]
    message = results[0].stderr.partition("in step 3, with the images ")[2].partition(". ")[0]
    assert len(message.split(", ")) == 2  # of four
    assert steps_in(tmp_path) == [2]


def test_launch_names_the_process_that_died(data, tmp_path):
    results = run(f"launch_here({str(data)!r}, {str(tmp_path)!r})", 1)
    assert "said process 1 of 2 was killed by SIGKILL; the others end" in results[0].stdout
    assert "status 137" in results[0].stdout
