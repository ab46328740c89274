"""Processor cores and memory that this process may use: in a container, less than the machine has."""

import math
import os
from pathlib import Path

__all__ = ["cores", "total_memory"]

# Files of Linux's control groups that state a container's limits: version 2, then version 1.
_CPU_LIMIT, _OLD_CPU_LIMIT = "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"
_OLD_CPU_PERIOD = "/sys/fs/cgroup/cpu/cpu.cfs_period_us"
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def cores() -> int:
    """Number of cores this process may use: its CPU affinity, or the container's limit if lower; at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(math.ceil(min(count, _cpu_share())), 1)


def total_memory() -> int:
    """Bytes of memory of this machine, or the container's limit if lower."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    limits += [int(text) for text in map(_read, _MEMORY_LIMITS) if text not in ("", "max")]
    return min(limits)


def _cpu_share() -> float:
    """The container's limit of processor time in cores; infinity without a limit."""
    quota, _, period = _read(_CPU_LIMIT).partition(" ")
    if not period:
        quota, period = _read(_OLD_CPU_LIMIT), _read(_OLD_CPU_PERIOD)
    limited = quota.isdigit() and period.isdigit() and int(period) > 0
    return int(quota) / int(period) if limited else math.inf


def _read(path: str) -> str:
    return Path(path).read_text().strip() if Path(path).is_file() else ""
