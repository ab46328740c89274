"""Strict defaults for every test: CPU, checked shapes, no silent broadcasting between ranks."""

import logging
import os
import tempfile

import jaxlib.version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The tests compile much and compute little, on every core. Programs of separate operations compile in half the time of
# those that XLA's newer emitters fuse; later versions have no such choice, and end at a flag that they do not know.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if jaxlib.version.__version_info__ < (0, 11):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
# What tests compile, and scripts that they start, is kept for later tests, and not in the user's folder. Each worker
# has a folder of its own, because JAX does not write files at once.
if "PYTEST_XDIST_WORKER" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="frcnn_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
else:
    os.environ["JAX_COMPILATION_CACHE_DIR"] += f"/{os.environ['PYTEST_XDIST_WORKER']}"
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# Which plug-ins were given is noted in the user's folder of state.
STATE = tempfile.TemporaryDirectory(prefix="frcnn_jax_tests_")
os.environ["XDG_STATE_HOME"] = STATE.name

from jaxtyping import install_import_hook

# Shapes and dtypes in the signatures of the numeric code are checked while the tests run, and only then.
install_import_hook(["frcnn_jax.ops", "frcnn_jax.models"], "beartype.beartype")

import hypothesis
import jax
import jaxtyping
import pytest

# The same examples on every machine, however slow it is.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("tests")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_threefry_partitionable", True)


# Times of compilations since compiled programs were last dropped.
COMPILATIONS = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: COMPILATIONS.append(seconds) if event.endswith("/backend_compile_duration") else None
)


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Drops compiled programs once there are 500: each takes about 2 MB, and kept to the end they come to 5 GB."""
    yield
    if len(COMPILATIONS) >= 500:
        jax.clear_caches()
        COMPILATIONS.clear()


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
