"""Signals that wait, one by one: held back, passed on, not held twice, left alone."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from frcnn_jax.training.interruption import deferred_signals, report_ignored_ctrl_c

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def arrived():
    """Signals that reach the handlers outside, which are put back after the test."""
    seen = []
    before = {number: signal.signal(number, lambda n, _: seen.append(n)) for number in SIGNALS}
    yield seen
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


def work(*numbers, arrived=(), error=None):
    """Raises signals while they are held back; then what had arrived outside must be all but the first."""
    with deferred_signals() as interrupted:
        assert not interrupted()
        for number in numbers:
            signal.raise_signal(number)
        assert interrupted()
        assert list(arrived) == list(numbers[1:])
        if error:
            raise error


def test_nothing_comes(arrived):
    outside = handlers()
    with deferred_signals() as interrupted:
        assert not interrupted()
        assert not set(outside) & set(handlers())
    assert handlers() == outside
    assert arrived == []


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_takes_effect_on_leaving(arrived, number, capfd):
    outside = handlers()
    with pytest.raises(KeyboardInterrupt):
        work(number, arrived=arrived)
    assert arrived == [number]
    assert handlers() == outside
    assert "Stopping after this step" in capfd.readouterr().err


def test_the_usual_effect_of_ctrl_c(arrived):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background starts without
    outside = handlers()
    with pytest.raises(KeyboardInterrupt):
        work(signal.SIGINT)
    assert handlers() == outside


def test_a_second_signal_takes_effect_at_once(arrived, monkeypatch):
    monkeypatch.setattr("frcnn_jax.training.interruption.REPEATED", 0)
    with pytest.raises(KeyboardInterrupt):
        work(signal.SIGINT, signal.SIGTERM, arrived=arrived)
    assert arrived == [signal.SIGTERM, signal.SIGINT]


def test_a_signal_that_is_sent_twice_is_one(arrived):
    """GNU timeout sends it to the process and to its group."""

    def twice():
        with deferred_signals() as interrupted:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert interrupted()
            assert arrived == []

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert arrived == [signal.SIGTERM]


def test_an_error_is_not_hidden_by_a_signal(arrived):
    with pytest.raises(FloatingPointError):
        work(signal.SIGTERM, arrived=arrived, error=FloatingPointError())
    assert arrived == []


def test_an_ignored_signal_stays_ignored(arrived):
    """The case of a program that a shell started in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with deferred_signals() as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert not interrupted()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
def test_an_ignored_ctrl_c_is_reported_with_the_way_to_stop(arrived, handler, capsys):
    signal.signal(signal.SIGINT, handler)
    report_ignored_ctrl_c()
    expected = f"stop it by SIGTERM: kill {os.getpid()}\n" if handler is signal.SIG_IGN else ""
    printed = capsys.readouterr().err
    assert printed.endswith(expected)
    assert printed.count("\n") == bool(expected)


def test_other_threads_get_no_signals(arrived):
    inside = []

    def other():
        with deferred_signals() as interrupted:
            inside.extend([interrupted(), handlers()])

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert inside == [False, handlers()]


# A step ends after both signals: to this process and, in `2>&1 | tee log`, to the one that reads its output.
PIPED = """
import sys, time
from pathlib import Path
from frcnn_jax.cli.run import run
from frcnn_jax.progress import Progress
from frcnn_jax.training.interruption import deferred_signals, say_stopped

def main():
    with deferred_signals() as interrupted:
        bar = Progress(total=3, desc="Training")
        sys.stderr.write("begun\\n")
        while not interrupted():
            time.sleep(0.05)
        bar._written = -100.0  # as if the last line were some time ago
        bar.update(3)
        bar.refresh()
        Path(sys.argv[1]).write_text("saved")
        bar.close()
        say_stopped(3, 5)

run(main)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_step_is_saved_if_the_signal_has_ended_the_reader_of_the_output(tmp_path, number):
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{PIPED}"
    command = [sys.executable, "-c", code, str(tmp_path / "saved")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert any(line == "begun\n" for line in process.stdout)
        process.stdout.close()
        process.send_signal(number)
        process.wait(timeout=60)
    assert (tmp_path / "saved").exists()
    assert process.returncode == 128 + number


def test_a_step_is_saved_if_stderr_is_full(arrived, monkeypatch):
    def write(*_):
        raise BlockingIOError

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(KeyboardInterrupt):
        work(signal.SIGTERM, arrived=arrived)
    assert arrived == [signal.SIGTERM]
