"""Processor cores and memory that this process may use: in a container, less than the machine has; large pages."""

import contextlib
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["cores", "restart_with_large_pages", "total_memory", "would_use_large_pages"]

# Files of Linux's control groups that state a container's limits: version 2, then version 1.
_CPU_LIMIT, _OLD_CPU_LIMIT = "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"
_OLD_CPU_PERIOD = "/sys/fs/cgroup/cpu/cpu.cfs_period_us"
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

_LARGE_PAGES_FILE = "/sys/kernel/mm/transparent_hugepage/enabled"
_TUNABLES, _LARGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
_LEAST_GLIBC = (2, 35)  # the first one with that setting


def cores() -> int:
    """Number of cores this process may use: its CPU affinity, or the container's limit if lower; at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(math.ceil(min(count, _cpu_share())), 1)


def total_memory() -> int:
    """Bytes of memory of this machine, or the container's limit if lower."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    limits += [int(text) for text in map(_read, _MEMORY_LIMITS) if text not in ("", "max")]
    return min(limits)


def restart_with_large_pages() -> None:
    """Starts the command of this process anew, in its place, with glibc's setting for large pages.

    XLA on a CPU allocates all temporary arrays anew in each step, and the kernel clears their pages: with large ones a
    step of `efficientnet_lite0` takes three quarters of the time. glibc reads its setting only when a process starts.

    Only where that changes anything (`would_use_large_pages`), for a program in a file, and only at its start: not
    once JAX has been imported. `GLIBC_TUNABLES=` before a command turns it off.
    """
    in_file = hasattr(sys.modules["__main__"], "__file__")
    if "jax" in sys.modules or not in_file or not would_use_large_pages(os.environ):
        return
    with contextlib.suppress(OSError):  # the command works without
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {_TUNABLES: _LARGE_PAGES})


def would_use_large_pages(environment: Mapping[str, str]) -> bool:
    """True if the kernel gives large pages to programs that ask for them, glibc can ask, and nobody has set it up."""
    if _TUNABLES in environment or sys.platform != "linux" or "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        return False
    name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    numbers = tuple(int(number) for number in version.split(".")[:2] if number.isdigit())
    return name == "glibc" and numbers >= _LEAST_GLIBC and "[madvise]" in _read(_LARGE_PAGES_FILE)


def _cpu_share() -> float:
    """The container's limit of processor time in cores; infinity without a limit."""
    quota, _, period = _read(_CPU_LIMIT).partition(" ")
    if not period:
        quota, period = _read(_OLD_CPU_LIMIT), _read(_OLD_CPU_PERIOD)
    limited = quota.isdigit() and period.isdigit() and int(period) > 0
    return int(quota) / int(period) if limited else math.inf


def _read(path: str) -> str:
    return Path(path).read_text().strip() if Path(path).is_file() else ""
