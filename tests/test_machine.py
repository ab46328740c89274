"""Cores and memory where a container allows fewer than the machine has."""

import os

import pytest

from frcnn_jax import machine


@pytest.fixture
def limits(tmp_path, monkeypatch):
    """Writes the files that state limits; without them there is none. The machine has 8 cores."""
    names = {"_CPU_LIMIT": "cpu.max", "_OLD_CPU_LIMIT": "quota", "_OLD_CPU_PERIOD": "period"}
    for constant, name in names.items():
        monkeypatch.setattr(machine, constant, str(tmp_path / name))
    monkeypatch.setattr(machine, "_MEMORY_LIMITS", (str(tmp_path / "memory.max"), str(tmp_path / "memory.limit")))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return lambda **texts: [(tmp_path / name.replace("_", ".")).write_text(text) for name, text in texts.items()]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({}, 8),
        ({"cpu_max": "max 100000\n"}, 8),
        ({"cpu_max": "200000 100000\n"}, 2),
        ({"cpu_max": "250000 100000\n"}, 3),
        ({"cpu_max": "50000 100000\n"}, 1),
        ({"cpu_max": "1600000 100000\n"}, 8),
        ({"quota": "-1\n", "period": "100000\n"}, 8),
        ({"quota": "400000\n", "period": "100000\n"}, 4),
    ],
)
def test_cores(limits, texts, expected):
    limits(**texts)
    assert machine.cores() == expected


def test_memory(limits):
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine.total_memory() == whole
    limits(memory_max="max\n", memory_limit="1000000\n")
    assert machine.total_memory() == 1_000_000
