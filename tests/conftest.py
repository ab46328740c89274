"""Strict defaults for every test: CPU, checked shapes, no silent broadcasting between ranks."""

import logging
import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The tests compile much and compute little.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# What tests compile, and scripts that they start, is kept for later tests, and not in the user's folder. Each worker
# has a folder of its own, because JAX does not write files at once.
if "PYTEST_XDIST_WORKER" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="frcnn_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
else:
    os.environ["JAX_COMPILATION_CACHE_DIR"] += f"/{os.environ['PYTEST_XDIST_WORKER']}"
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

from jaxtyping import install_import_hook

# Shapes and dtypes in the signatures of the numeric code are checked while the tests run, and only then.
install_import_hook(["frcnn_jax.ops", "frcnn_jax.models"], "beartype.beartype")

import jax
import jaxtyping
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_threefry_partitionable", True)


@pytest.fixture(autouse=True)
def quiet_log():
    """Undoes what a command that runs in this process sets, as the log's level."""
    logger = logging.getLogger("frcnn_jax")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def x64():
    """Double precision for finite differences."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unchecked_types():
    """Without the checks of signatures: what a user meets who passes arguments of wrong types."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
