"""Commands start anew with large pages, once, and only where the machine offers them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from frcnn_jax import machine

SETTING = "glibc.malloc.hugetlb=1"
# Says how it was started. Its arguments: the kernel's file, glibc's version, and what follows.
PROGRAM = """
import json, os, sys
from frcnn_jax import machine
from frcnn_jax.cli.run import run

machine._LARGE_PAGES_FILE = sys.argv[1]
os.confstr = {"CS_GNU_LIBC_VERSION": sys.argv[2]}.get
if "jax" in sys.argv:
    import jax
with open(sys.argv[0] + ".starts", "a") as file:
    file.write(json.dumps([os.environ.get("GLIBC_TUNABLES"), sys.argv[3:], sys.flags.dont_write_bytecode]) + "\\n")

def main():
    print(os.getpid())

run(main)
"""


@pytest.fixture
def starts(tmp_path):
    """Runs the program, and returns how often it started and with what; its process stays the same."""
    program, kernel = tmp_path / "program.py", tmp_path / "enabled"
    program.write_text(PROGRAM)

    def run(enabled="always [madvise] never", version="glibc 2.36", *arguments, **environment):
        kernel.write_text(enabled)
        environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | environment
        command = [sys.executable, "-B", program, kernel, version, *arguments]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert int(process.communicate(timeout=60)[0]) == process.pid
        return list(map(json.loads, Path(f"{program}.starts").read_text().splitlines()))

    return run


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is glibc's")
def test_a_command_starts_anew_once_with_the_same_arguments(starts):
    arguments = ["--a", "b c", ""]
    assert starts("always [madvise] never", "glibc 2.36", *arguments) == [[None, arguments, 1], [SETTING, arguments, 1]]


@pytest.mark.parametrize(
    ("given", "environment"),
    [
        (("[always] madvise never",), {}),
        (("always madvise [never]",), {}),
        (("always [madvise] never", "glibc 2.34"), {}),
        (("always [madvise] never", "musl 1.2"), {}),
        (("always [madvise] never", "glibc 2.36"), {"GLIBC_TUNABLES": ""}),
        (("always [madvise] never", "glibc 2.36", "jax"), {}),
    ],
)
def test_a_command_starts_once_where_that_changes_nothing(starts, given, environment):
    assert [found[0] for found in starts(*given, **environment)] == [environment.get("GLIBC_TUNABLES")]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("glibc 2.35", True),
        ("glibc 2.40.9000", True),
        ("glibc 3.0", True),
        ("glibc 2.9", False),
        ("", False),
        (None, False),
    ],
)
def test_versions_of_glibc(monkeypatch, tmp_path, version, expected):
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    monkeypatch.setattr(machine, "_LARGE_PAGES_FILE", str(tmp_path / "enabled"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "confstr_names", {"CS_GNU_LIBC_VERSION": 2})
    monkeypatch.setattr(os, "confstr", lambda name: version)
    assert machine.would_use_large_pages({}) is expected


def test_other_systems_and_kernels_without_large_pages(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_LARGE_PAGES_FILE", str(tmp_path / "missing"))
    assert not machine.would_use_large_pages({})
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not machine.would_use_large_pages({})


def test_a_program_that_cannot_be_started_goes_on(monkeypatch):
    def refuse(*_):
        raise PermissionError("no")

    monkeypatch.setattr(os, "execve", refuse)
    monkeypatch.setattr(machine, "would_use_large_pages", lambda _: True)
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "program.py", raising=False)
    machine.restart_with_large_pages()
