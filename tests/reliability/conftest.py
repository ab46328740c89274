"""Checkpoints that tests damage."""

import gc
import sys

import pytest

from tests.test_checkpoint import save


@pytest.fixture
def unfinished_reads(monkeypatch):
    """Reads that Orbax leaves unfinished after an error are collected here, not in a later test."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    yield
    gc.collect()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A workdir with checkpoints of the steps 1 and 2."""
    run = tmp_path_factory.mktemp("two") / "run"
    save(run, 1)
    save(run, 2)
    return run
