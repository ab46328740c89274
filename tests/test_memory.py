"""Freed memory stays with a process that computes on a CPU."""

import os
import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_stays_unless_the_environment_has_settings():
    program = (
        "import resource, numpy as np; from frcnn_jax.memory import keep_freed_memory; print(keep_freed_memory())\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "np.ones(1 << 24); before = faults(); np.ones(1 << 24); print(faults() - before)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    for extra, kept in (({}, "True"), ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, "False")):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment | extra,
            capture_output=True,
            text=True,
        )
        said, faults = done.stdout.split()
        assert said == kept, done.stderr
        if kept == "True":
            assert int(faults) < 100  # mapped anew, 128 MB are 32768 pages of 4 kB
