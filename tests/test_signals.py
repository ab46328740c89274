"""Signals that come while the main thread is in compiled code, where Python's handlers wait."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from frcnn_jax import signals
from frcnn_jax.training.interruption import deferred_signals

ROOT = Path(__file__).parents[1]
# It hashes for minutes without the interpreter's lock, and no handler runs. Nobody else takes that lock before, so that
# the other thread says when it begins.
PROGRAM = """
import hashlib, signal, sys, threading
from frcnn_jax import signals
from frcnn_jax.cli import run
from frcnn_jax.training.interruption import deferred_signals
signal.signal(signal.SIGINT, signal.default_int_handler)
signals.GRACE, signals.AGAIN, signals.REPEATED = {grace}, 0.5, {repeated}
sys.setswitchinterval(1000)
begins = threading.Event()
threading.Thread(target=lambda: begins.wait() and print("begun", flush=True), daemon=True).start()

def compiled():
    begins.set()
    hashlib.pbkdf2_hmac("sha512", b"a", b"b", 2**31 - 1)

def main():
    with deferred_signals():
        signals.set_unsaved({unsaved})
        compiled()

sys.argv = ["frcnn train"]
run({main})
"""
LAST_WORDS = "\nfrcnn train: interrupted; finished work is kept, and the same command finishes it\n"


def end(*numbers: int, main: str = "main", unsaved: bool = False, grace: float = 0.5) -> tuple[int, str, float]:
    """Exit status, standard error and seconds until the end of a program that gets these signals."""
    program = PROGRAM.format(main=main, unsaved=unsaved, grace=grace, repeated=signals.REPEATED)
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "begun\n"
        for index, number in enumerate(numbers):
            time.sleep(2 * index)  # sooner after the first it would be the same signal
            process.send_signal(number)
        since = time.monotonic()
        _, errors = process.communicate(timeout=200)
        return process.returncode, errors, time.monotonic() - since
    finally:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_to_lose(number):
    assert end(number)[:2] == (128 + number, LAST_WORDS)


def test_outside_of_a_training():
    assert end(signal.SIGINT, main="compiled")[:2] == (130, LAST_WORDS)
    assert end(signal.SIGTERM, main="compiled")[0] == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(number):
    code, words, seconds = end(signal.SIGINT, number, unsaved=True, grace=100)
    assert (code, words) == (128 + number, LAST_WORDS)
    assert seconds < 90


@pytest.mark.parametrize("count", [1, 3])
def test_work_that_is_not_saved_is_not_ended_by_one_signal_however_often_it_comes_at_once(count):
    with pytest.raises(subprocess.TimeoutExpired):
        wait_after_one_signal(count)


def wait_after_one_signal(count):
    program = PROGRAM.format(main="main", unsaved=True, grace=0.1, repeated=60)
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "begun\n"
        for _ in range(count):
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        process.wait(timeout=2)
    finally:
        process.kill()
        process.communicate()


def test_handlers_in_python_come_first(capfd):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), signals.ended_by_signals("not these"):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.set_wakeup_fd(-1) == -1
    assert capfd.readouterr().err == ""


def test_a_block_of_deferred_signals_says_what_is_unsaved():
    assert not signals._unsaved.is_set()
    with deferred_signals():
        assert signals._unsaved.is_set()
        signals.set_unsaved(False)
        assert not signals._unsaved.is_set()
    assert not signals._unsaved.is_set()
