"""`frcnn launch`: how its processes end, and with which line and exit status."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.distributed.test_processes import losses, steps_in
from tests.test_scripts import config_file

ROOT = Path(__file__).parents[2]
# Launches two processes that run the code in its first argument, with so much patience before SIGTERM and after
# it, and says what is said.
LAUNCHER = """
import signal, sys
from frcnn_jax.distributed import launch
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in all that is started in the background
launch._PATIENCE, launch._MORE_PATIENCE = map(float, sys.argv[2:])
sys.exit(launch.launch([sys.executable, "-S", "-c", sys.argv[1]], 2, lambda line: print("said", line, flush=True)))
"""
# `python -m frcnn_jax`, which Ctrl-C reaches though the tests run in the background.
COMMAND = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "runpy.run_module('frcnn_jax', run_name='__main__', alter_sys=True)"
)
# Processes say their number and id when they are ready, and what a signal does is set before.
CHILD = """
import os, signal, sys, time
index = int(sys.argv[-1])
def say(line):
    os.write(1, f"{line}\\n".encode())  # whole, beside those of the other
def wait(number=None, handler=None):
    if number is not None:
        signal.signal(number, handler)
    say(f"ready {index} {os.getpid()}")
    open("ready", "w").close()
    time.sleep(600)
def end_once_the_other_waits(end, argument):
    while not os.path.exists("ready"):
        time.sleep(0.02)
    end(argument)
"""


def launcher(code, folder, patience=(0.4, 60)):
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, CHILD + code, *map(str, patience)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(ROOT)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def result(code, folder, **settings):
    """Lines of a launcher, and its exit status."""
    with launcher(code, folder, **settings) as process:
        output, _ = process.communicate(timeout=200)
    return [line for line in output.splitlines() if not line.startswith("ready")], process.returncode


def begun(process):
    """Ids of the launcher's processes, once both are ready."""
    lines = [process.stdout.readline() for _ in range(2)]
    assert all(line.startswith("ready") for line in lines), lines
    return {int(index): int(number) for index, number in (line.split()[1:] for line in lines)}


def gone(number, seconds=60):
    """True if a process has ended within so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if re.search(r"^State:\s+Z", Path(f"/proc/{number}/status").read_text(), re.M):
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False


def test_processes_that_succeed_say_nothing(tmp_path):
    code = "assert sys.argv[-4:-1] == ['--distributed.processes', '2', '--distributed.process']"
    assert result(code, tmp_path) == ([], 0)


@pytest.mark.parametrize(
    ("end", "line", "status"),
    [
        ("sys.exit, 3", "ended with exit status 3", 3),
        ("signal.raise_signal, signal.SIGKILL", "was killed by SIGKILL", 137),
        ("sys.exit, 130", "was stopped by a signal", 130),  # which reached it alone
    ],
)
def test_one_that_fails_is_named_and_the_other_is_asked_to_end(end, line, status, tmp_path):
    waits = "wait(signal.SIGTERM, lambda *_: time.sleep(0.5) or sys.exit('asked'))"
    code = f"end_once_the_other_waits({end}) if index == 1 else {waits}"
    assert result(code, tmp_path) == ([f"said process 1 of 2 {line}; the others end", "asked"], status)


def test_the_cause_is_told_and_not_what_followed_from_it(tmp_path):
    """Process 0 ends last, as it holds what the others ask for; its signal makes them end with 1."""
    code = "sys.exit(1) if index == 1 else (time.sleep(1), sys.exit(130))"
    line = "said process 0 of 2 was stopped by a signal; the others end"
    assert result(code, tmp_path, patience=(60, 60)) == ([line], 130)


def test_processes_that_end_with_an_error_are_counted(tmp_path):
    """Each prints whose it is."""
    code = "time.sleep(1 - index), sys.exit(1)"
    assert result(code, tmp_path, patience=(60, 60)) == (["said 2 of 2 processes ended with exit status 1"], 1)


def test_one_that_does_not_end_when_asked_is_killed(tmp_path):
    waits = "wait(signal.SIGTERM, signal.SIG_IGN)"  # for minutes
    lines, status = result(
        f"end_once_the_other_waits(sys.exit, 1) if index == 0 else {waits}", tmp_path, patience=(0.4, 0.4)
    )
    assert lines == ["said process 0 of 2 ended with exit status 1; the others end"]
    assert status == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_reaches_all(number, tmp_path):
    code = f"wait({int(number)}, lambda *_: say(f'got {{index}}') or sys.exit(130))"
    with launcher(code, tmp_path, patience=(60, 60)) as process:
        begun(process)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert sorted(output.splitlines()) == ["got 0", "got 1"]  # and no line of the launcher
    assert process.returncode == 130


def test_a_signal_that_the_processes_do_not_handle_is_no_failure_of_one(tmp_path):
    with launcher("wait()", tmp_path) as process:
        begun(process)
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert (output, process.returncode) == ("", 143)
    # A command does so before it trains.
    with launcher("wait(signal.SIGTERM, lambda *_: sys.exit(143))", tmp_path) as process:
        begun(process)
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert (output, process.returncode) == ("", 143)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_processes_do_not_outlive_a_launcher_that_is_killed(tmp_path):
    with launcher("wait()", tmp_path) as process:
        numbers = begun(process).values()
        process.kill()
        assert all(map(gone, numbers))


def command(data, workdir, **settings):
    arguments = ["launch", "-n", "2", "train", "--config", config_file(data, **settings), "--workdir", workdir]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, arguments), "--input.batch-size", "4"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(errors):
    """The lines printed beside bars and the log."""
    lines = (line.rpartition("\r")[2] for line in errors.splitlines())
    return [line for line in lines if line and not line.startswith(("Training", "Checking", "Detecting", "INFO"))]


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_training_is_launched_stopped_in_every_way_and_ended(data, tmp_path):
    settings = {"log_every": 1, "checkpoint_every": 1000}
    interrupted = [
        "Stopping after this step; again to stop at once",
        "frcnn_jax train: interrupted; finished work is kept, and the same command finishes it",
    ]
    steps = 0
    for number, target, said, status in (
        (signal.SIGTERM, "launcher", interrupted, 130),
        (signal.SIGINT, "launcher", interrupted, 130),
        (signal.SIGTERM, "process 1", [interrupted[1], "of 2 was stopped by a signal; the others end"], 130),
        (signal.SIGKILL, "process 1", ["process 1 of 2 was killed by SIGKILL; the others end"], 137),
    ):
        with command(data, tmp_path, steps=5000, **settings) as process:
            wait_for_step(process, steps + 3)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(process.pid if target == "launcher" else int(children[1]), number)
            _, errors = process.communicate(timeout=120)
        assert process.returncode == status, errors[-2000:]
        assert all(map(gone, map(int, children)))
        found = lines_of(errors)
        for line in said:
            assert sum(line in other for other in found) == 1, (line, found)
        assert "Traceback" not in errors
        if number != signal.SIGKILL:
            assert max(steps_in(tmp_path)) > steps
        steps = max(steps_in(tmp_path))
    with command(data, tmp_path, steps=steps + 2, **settings) as process:
        output, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors[-2000:]
    assert lines_of(errors) == []
    assert f"Going on from step {steps} " in output
    assert "\n  mean  " in output
    assert max(losses(tmp_path)) == max(steps_in(tmp_path)) == steps + 2


def wait_for_step(process, step):
    """Reads a bar until it comes to a step."""
    seen = ""
    while f"Training {step}/" not in seen:
        text = process.stderr.read(1)
        assert text, seen[-2000:]
        seen += text
