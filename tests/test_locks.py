"""Locks of folders: one holder, named to the next; the dead hold nothing, other hosts are believed."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from frcnn_jax.locks import FolderInUseError, brief_lock, folder_lock

HOLD = """
import sys, time
from frcnn_jax.locks import folder_lock
with folder_lock(sys.argv[1], purpose="training"):
    print("holding", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holding\n"
    yield process
    process.kill()
    process.communicate()


def content(folder):
    return (folder / ".lock").read_text()


def test_it_is_released_and_can_be_taken_again(tmp_path):
    for _ in range(2):
        with folder_lock(tmp_path / "made", purpose="training"):
            assert json.loads(content(tmp_path / "made"))["process"] == os.getpid()
        assert content(tmp_path / "made") == ""


def test_a_second_holder_is_refused_and_told_who_the_first_is(tmp_path, holder):
    with pytest.raises(FolderInUseError) as error, folder_lock(tmp_path, purpose="training"):
        pytest.fail("the block must not run")
    message = str(error.value)
    assert f"{tmp_path} is in use by process {holder.pid} on {socket.gethostname()} since 2" in message
    assert "(training)" in message
    assert "\n" not in message


def test_in_one_process_too(tmp_path):
    with folder_lock(tmp_path, purpose="a"), pytest.raises(FolderInUseError), folder_lock(tmp_path, purpose="b"):
        pytest.fail("the block must not run")
    with folder_lock(tmp_path, purpose="a"), folder_lock(tmp_path, "other", purpose="b"):
        pass


def test_a_killed_holder_holds_nothing(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads(content(tmp_path))["process"] == holder.pid
    with folder_lock(tmp_path, purpose="training"):
        assert json.loads(content(tmp_path))["process"] == os.getpid()


def test_a_lock_of_another_host_is_reported_and_stays(tmp_path):
    left = {"process": 12, "host": "elsewhere", "since": "2026-01-01 00:00:00 UTC", "purpose": "training"}
    (tmp_path / ".lock").write_text(json.dumps(left))
    for wait in (False, True):
        lock = folder_lock(tmp_path, purpose="training", wait=wait)
        told = r"process 12 on elsewhere since 2026.*delete .*\.lock"
        with pytest.raises(FolderInUseError, match=told) as error, lock:
            pytest.fail("the block must not run")
        assert "\n" not in str(error.value)
    assert json.loads(content(tmp_path)) == left


def test_waiting_for_the_holder(tmp_path, monkeypatch, capsys):
    order, waits, flock = [], threading.Event(), fcntl.flock

    def wait_for_lock(descriptor, operation):
        if operation == fcntl.LOCK_EX:
            waits.set()
        flock(descriptor, operation)

    def second():
        with folder_lock(tmp_path, purpose="preparing", wait=True):
            order.append("second")

    monkeypatch.setattr(fcntl, "flock", wait_for_lock)
    thread = threading.Thread(target=second)
    with folder_lock(tmp_path, purpose="preparing"):
        thread.start()
        assert waits.wait(timeout=60)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]
    assert f"waiting for process {os.getpid()}" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_as_a_holder(tmp_path):
    (tmp_path / ".lock").write_bytes(b"\xff\x00[")
    with folder_lock(tmp_path, purpose="training"):
        pass


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("kept")
    for folder in (tmp_path / "file", tmp_path / "file/deep/run"):
        message = f"^{tmp_path}/file is a file, not a folder: give another folder for training$"
        with pytest.raises(NotADirectoryError, match=message), folder_lock(folder, purpose="training"):
            pass
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("module", "function", "number", "advice"),
    [
        (fcntl, "flock", errno.ENOLCK, "(its disk supports no locks: give a folder on another one)"),
        (fcntl, "flock", errno.EIO, ""),
        (os, "pwrite", errno.ENOSPC, ""),
    ],
)
def test_an_error_of_the_system_names_the_file(tmp_path, monkeypatch, module, function, number, advice):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, function, fail)
    message = f"{os.strerror(number)} {advice}".strip() + f": '{tmp_path}/.lock'"
    with pytest.raises(OSError, match=re.escape(message)) as error, folder_lock(tmp_path, purpose="training"):
        pass
    assert error.value.errno == number


def test_a_training_goes_on_in_a_container_with_another_host_name(tmp_path, monkeypatch):
    killed = (
        "import os, sys; from frcnn_jax.locks import folder_lock; "
        "lock = folder_lock(sys.argv[1], purpose='training'); lock.__enter__(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)], env=os.environ | {"FRCNN_HOST": "train-0"})
    assert json.loads(content(tmp_path))["host"] == "train-0"
    told = "delete .*; in containers, whose host names change, set FRCNN_HOST to a fixed name"
    with pytest.raises(FolderInUseError, match=told), folder_lock(tmp_path, purpose="training"):
        pytest.fail("the block must not run")
    monkeypatch.setenv("FRCNN_HOST", "train-0")
    with folder_lock(tmp_path, purpose="training"):
        assert json.loads(content(tmp_path))["host"] == "train-0"


def test_a_change_that_takes_a_moment_is_made_by_one_at_a_time(tmp_path, monkeypatch):
    inside, most = [], []

    def change():
        with brief_lock(tmp_path / "made/.lock"):
            inside.append(1)
            time.sleep(0.05)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=change) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 4

    def fail(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", fail)
    with brief_lock(tmp_path / ".lock"):
        pass
