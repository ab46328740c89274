"""Signals that come while the main thread is in compiled code, where Python's handlers wait."""

import os
import signal
import subprocess
import sys
import threading
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
from frcnn_jax.cli.run import run
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


def end(
    *numbers: int, main: str = "main", unsaved: bool = False, grace: float = 0.5, read: bool = True
) -> tuple[int, str, float]:
    """Exit status, standard error, if it is read, and seconds until the end of a program that gets these signals."""
    program = PROGRAM.format(main=main, unsaved=unsaved, grace=grace, repeated=signals.REPEATED)
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "begun\n"
        if not read:
            process.stderr.close()
        for index, number in enumerate(numbers):
            time.sleep(2 * index)  # sooner after the first it would be the same signal
            process.send_signal(number)
        since = time.monotonic()
        if read:
            _, errors = process.communicate(timeout=200)
        else:
            process.wait(timeout=200)
            process.stdout.close()
            errors = ""
        return process.returncode, errors, time.monotonic() - since
    finally:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_to_lose(number):
    assert end(number)[:2] == (128 + number, LAST_WORDS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_outside_of_a_training(number):
    assert end(number, main="compiled")[:2] == (128 + number, LAST_WORDS)


def test_a_process_ends_in_time_also_if_nothing_reads_its_last_words():
    assert end(signal.SIGINT, main="compiled", read=False)[:2] == (130, "")


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


def test_work_that_begins_after_the_signal_is_not_ended_by_it():
    ended = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with signals.watched_signals(lambda _: ended.set(), 0.3):
            signal.raise_signal(signal.SIGINT)
            signals.set_unsaved(True)
            assert not ended.wait(1)
    finally:
        signals.set_unsaved(False)
        signal.signal(signal.SIGINT, before)


UNFINISHED = """
import sys, time
from frcnn_jax.atomic import new_folder, replacing
from frcnn_jax.cli.run import run

def main():
    with replacing(sys.argv[1] + "/file") as file, new_folder(sys.argv[1] + "/folder") as folder:
        file.write_text("half")
        (folder / "a").write_text("half")
        print("begun", flush=True)
        time.sleep(600)

run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_unfinished_files_are_removed(tmp_path, number):
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{UNFINISHED}"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "begun\n"
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "interrupted; finished work is kept" in errors
    assert list(tmp_path.iterdir()) == []


def test_a_handler_that_a_program_has_set_for_sigterm_stays():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with signals.ended_by_signals("not these"):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


# A command that waits for a process which takes longer than the grace to save its work.
PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from frcnn_jax import signals
from frcnn_jax.cli.run import run
from frcnn_jax.commands.compare import in_a_process_of_its_own
from frcnn_jax.distributed.launch import launch
signals.GRACE = 0.3
command = [sys.executable, "-c", sys.argv[2], sys.argv[1]]
run(lambda: {call})
"""
CHILD = """
import os, signal, sys, threading, time
from pathlib import Path
def save(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second signal would end it
    time.sleep(1.5)
    Path(sys.argv[1]).write_text("saved")
    os._exit(143)
signal.signal(signal.SIGTERM, save)
if {watches}:
    threading.Thread(target=lambda: os.read(0, 1) or os.kill(os.getpid(), signal.SIGTERM), daemon=True).start()
print("begun", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("call", ["in_a_process_of_its_own(command)", "sys.exit(launch(command, 1))"])
def test_a_command_waits_until_its_processes_have_saved(tmp_path, call):
    child = CHILD.format(watches="own" in call)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.format(call=call), str(tmp_path / "file"), child],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    assert (tmp_path / "file").exists()
    assert process.returncode == 143
