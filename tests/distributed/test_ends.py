"""Ends of one process among several: by a signal, by kill -9, by an error; all end, and the same command goes on."""

import signal
import time

import pytest

from frcnn_jax.distributed.watch import GRACE
from tests.distributed.cases import HEARTBEAT, begun, finish, run
from tests.distributed.test_processes import steps_in, train

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def call(data, workdir, before="None", **settings):
    """The call of a training, which `before` comes before."""
    options = "".join(f", {name}={value!r}" for name, value in settings.items())
    return f"train_here({str(data)!r}, {str(workdir)!r}, before={before}{options})"


def ends(before, data, workdir, processes=2, **settings):
    """Results of processes of which one ends as `before` has it."""
    with begun(call(data, workdir, f"lambda: {before}", **settings), processes) as started:
        return finish(started)


def wait_for(text, process):
    """Reads what a process prints to stderr until the text comes."""
    assert any(text in line for line in process.stderr)


def assert_codes(results, expected):
    """The processes ended with these exit statuses."""
    said = "\n".join(f"process {index}: {result.stderr[-1500:]}" for index, result in enumerate(results))
    assert [result.returncode for result in results] == expected, said


def assert_stopped(results, process):
    """One process of two was stopped by a signal, and the other one says so."""
    expected = [1, 1]
    expected[process] = 130
    assert_codes(results, expected)
    assert f"process {process} was stopped by a signal" in results[1 - process].stderr


def test_a_signal_to_one_stops_all_after_the_same_step(data, tmp_path):
    settings = {"steps": 2000, "log_every": 1, "checkpoint_every": 1000, "batch_size": 6}
    results = ends("end_in_step(3, signal.SIGTERM)", data, tmp_path, processes=3, **settings)
    assert_codes(results, [130] * 3)
    (stopped,) = steps_in(tmp_path)
    assert 3 < stopped < 2000
    said = ["interrupted; finished work is kept" in result.stderr for result in results]
    assert said == [True, False, False]
    train(data, tmp_path, 2, **settings | {"steps": stopped + 2})
    assert steps_in(tmp_path) == [stopped, stopped + 2]


@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize(
    ("module", "function", "evaluate"),
    [
        ("training.loop", "open_data", False),
        ("data.proposals.source", "iterate_proposal_file", False),
        ("evaluation.evaluate", "_collect", True),
    ],
)
def test_a_signal_before_the_first_step_or_in_evaluation_ends_all(module, function, evaluate, process, data, tmp_path):
    before = f"lambda: end_in('frcnn_jax.{module}', '{function}', process={process})"
    with begun(call(data, tmp_path, before, evaluate=evaluate, steps=2), 2) as started:
        wait_for("signal", started[process])
        since = time.monotonic()
        results = finish(started)
    assert time.monotonic() - since < 30
    assert_stopped(results, process)
    train(data, tmp_path, 2, steps=2, evaluate=evaluate)


@pytest.mark.parametrize("process", [0, 1])
def test_a_signal_while_one_searches_proposals_ends_all(process, data, tmp_path):
    settings = {"search": str(tmp_path / "prepared"), "steps": 2}
    with begun(call(data, tmp_path, "lambda: search_slowly(8)", **settings), 2) as started:
        wait_for("searching", started[0])
        started[process].send_signal(signal.SIGTERM)
        since = time.monotonic()
        results = finish(started)
    assert time.monotonic() - since < 30
    assert "searching" not in results[1].stderr  # as process 0 does it for both
    assert_stopped(results, process)
    train(data, tmp_path, 2, **settings)


def test_a_process_that_is_killed_is_named_within_the_heartbeat(data, tmp_path):
    settings = {"steps": 2000, "log_every": 1, "checkpoint_every": 2, "batch_size": 6}
    with begun(call(data, tmp_path, "lambda: end_in_step(5, signal.SIGKILL)", **settings), 3) as started:
        started[1].wait(timeout=800)
        since = time.monotonic()
        results = finish(started)
    assert time.monotonic() - since < HEARTBEAT + 2 * GRACE
    assert_codes(results, [1, -signal.SIGKILL, 1])
    for result in (results[0], results[2]):
        assert f"process 1 was lost: no sign of life for {HEARTBEAT} s" in result.stderr
    assert max(steps_in(tmp_path)) == 4


def test_settings_that_differ_are_told_by_all(data, tmp_path):
    with begun(f"train_here({str(data)!r}, {str(tmp_path)!r}, steps=2 + PLACE[2])", 2) as started:
        results = finish(started)
    assert_codes(results, [1, 1])
    for result in results:
        assert "process 1 has other settings than process 0" in result.stderr


def test_data_that_differ_are_told_by_all(data, tmp_path):
    results = ends("other_data()", data, tmp_path, steps=2)
    assert_codes(results, [1, 1])
    for result in results:
        assert "process 1 has other training data than process 0" in result.stderr


def test_a_loss_that_is_not_finite_names_the_images_of_its_process(data, tmp_path):
    results = ends("not_a_number_in_step(3)", data, tmp_path, steps=5, log_every=1, checkpoint_every=2)
    assert_codes(results, [1, 1])
    message = results[0].stderr.partition("in step 3, with the images ")[2].partition(". ")[0]
    assert len(message.split(", ")) == 2  # of four
    assert steps_in(tmp_path) == [2]


def test_launch_names_the_process_that_died(data, tmp_path):
    results = run(f"launch_here({str(data)!r}, {str(tmp_path)!r})", 1)
    assert "said process 1 of 2 was killed by SIGKILL; the others end" in results[0].stdout
    assert "status 137" in results[0].stdout
