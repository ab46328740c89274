"""Strict defaults for every test: CPU, checked shapes, no silent broadcasting between ranks."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The tests compile much and compute little.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Scripts that the tests start would fill the user's folder of compiled functions.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

from jaxtyping import install_import_hook

# Shapes and dtypes in the signatures of the numeric code are checked while the tests run, and only then.
install_import_hook(["frcnn_jax.ops", "frcnn_jax.models"], "beartype.beartype")

import jax
import jaxtyping
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_threefry_partitionable", True)


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
