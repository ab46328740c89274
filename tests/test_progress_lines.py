"""Progress without a terminal: whole lines instead of a bar that is redrawn."""

import io
import re

import pytest

from frcnn_jax import progress
from frcnn_jax.distributed.output import NumberedLines
from frcnn_jax.progress import Progress, paused_clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def written():
    return io.StringIO()


@pytest.fixture(params=[0.0, 1000.0], ids=["each step", "seldom"])
def seconds(request, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", request.param)
    return request.param


def test_a_file_gets_lines_the_first_and_the_last_always(written, seconds):
    list(Progress(range(4), "Reading", unit="image", file=written))
    lines = written.getvalue().split("\n")
    assert lines.pop() == ""
    assert [line.split(" [")[0] for line in lines] == [f"Reading: {n}/4" for n in ((0, 4) if seconds else range(5))]
    assert all(re.fullmatch(r".*\[00:00<\S+, +\S+image/s\]", line) for line in lines)


def test_a_short_bar_that_disappears_has_no_line(written):
    list(Progress(range(4), "Reading", file=written, leave=False, delay=2))
    Progress(total=1, file=written, disable=True).close()
    assert written.getvalue() == ""


def test_an_unknown_total(written):
    list(Progress(iter("ab"), "a.mp4", unit="frame", file=written))
    assert [line.split(" [")[0] for line in written.getvalue().splitlines()] == ["a.mp4: 0/?", "a.mp4: 2/?"]


def test_a_pause_is_said_at_once_and_a_message_repeats_no_line(written):
    bar = Progress(total=2, desc="Training", file=written)
    with paused_clock(bar, "compiling"):
        bar.write("beside it", file=written)
    bar.update(2)
    bar.close()
    bar.close()
    first, pause, beside, last = written.getvalue().splitlines()
    assert (first.split(" [")[0], beside) == ("Training: 0/2", "beside it")
    assert pause.endswith(", compiling]")
    assert last.startswith("Training: 2/2 [")
    assert "compiling" not in last


def test_the_time_of_a_pause_stands_behind_its_text_and_does_not_count(monkeypatch):
    clock, terminal = [1000.0], Terminal()
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    bar = Progress(total=2, desc="Training", file=terminal)
    bar._time, bar.start_t = (lambda: clock[0]), clock[0]
    clock[0] += 25
    with paused_clock(bar, "compiling"):
        clock[0] += 16
        bar.refresh()
    bar.refresh()
    shown = re.findall(r"\[(\d+:\d+)<[^,\]]*, [^,\]]*(, [^\]]*)?\]", terminal.getvalue())
    assert shown == [("00:00", ""), ("00:25", ", compiling"), ("00:25", ", compiling (16 s)"), ("00:25", "")]
    bar.close()


def test_a_terminal_has_a_bar(capsys):
    terminal = Terminal()
    list(Progress(range(4), "Reading", file=terminal))
    assert terminal.getvalue().count("\n") == 1
    assert "\rReading: 100%|" in terminal.getvalue()


def test_other_processes_have_no_progress(written, seconds):
    lines = NumberedLines(written, 1)
    list(Progress(range(4), "Hashing", file=lines, mininterval=0))
    print("message", file=lines)
    assert written.getvalue() == "[1] message\n"


class Closed(io.StringIO):
    """A stream that nothing reads any more."""

    def write(self, _):
        raise BrokenPipeError

    def flush(self):
        raise BrokenPipeError


class ClosedTerminal(Closed, Terminal):
    pass


@pytest.mark.parametrize("stream", [Closed, ClosedTerminal])
def test_a_bar_that_cannot_be_written_ends_no_work(stream, seconds):
    bar = Progress(range(4), "Reading", file=stream(), mininterval=0)
    assert list(bar) == [0, 1, 2, 3]
    with paused_clock(bar, "compiling"):
        bar.refresh()


def test_a_message_to_the_stream_of_a_bar_clears_it(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress(total=2, desc="Training") as bar:
        bar.write("a message", file=terminal)
    assert re.search(r"\r +\ra message\n", terminal.getvalue())


def test_lines_of_quick_work_come_every_ten_seconds(monkeypatch):
    """A line is written a moment after the bar has measured the time, which must not cost the next one."""
    clock = [1000.0]

    class Slow(io.StringIO):
        def write(self, text):
            clock[0] += 0.01
            return super().write(text)

    slow = Slow()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    bar = Progress(total=100_000, desc="Hashing", file=slow)
    bar._time = lambda: clock[0]
    bar.start_t = bar.last_print_t = clock[0]
    while clock[0] < 1065:
        clock[0] += 0.001
        bar.update()
    assert len(slow.getvalue().splitlines()) == 7
