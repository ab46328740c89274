"""Small sizes and models for scripts/benchmark.py, and the scripts on the path."""

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The scripts are no package: they import what lies beside them. The tests' own process keeps its allocator."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr("bench.memory.keep_freed_memory", lambda: False)


@pytest.fixture
def tiny_sizes(monkeypatch):
    """Smaller still than --quick, for loops in Python."""
    from bench import sizes

    monkeypatch.setattr(
        sizes,
        "QUICK",
        dataclasses.replace(sizes.QUICK, feature_map=(6, 7, 3), pooled_rois=(4, 6), image=(32, 48), num_classes=3),
    )


def one_layer_model(num_classes: int):
    """Compiles in a fraction of the time of a real one."""
    from frcnn_jax.models.fast_rcnn import FastRCNN
    from frcnn_jax.models.heads import FastRCNNHead

    class OneLayer(nn.Module):
        dtype: type = jnp.float32

        @nn.compact
        def __call__(self, x, sizes):
            features = nn.Conv(8, (16, 16), strides=(16, 16), name="conv")(x)
            return features, None if sizes is None else -(-sizes // 16)

    return FastRCNN(backbone=OneLayer(), head=FastRCNNHead(num_classes, (8, 8)), output_size=(2, 2))


def constant_params(model, key):
    """Needs no compiling, as random ones do."""
    from frcnn_jax.models.fast_rcnn import init_params

    shapes = jax.eval_shape(lambda: init_params(model, key))
    return jax.tree.map(lambda leaf: jnp.asarray(np.full(leaf.shape, 0.01, leaf.dtype)), shapes)


@pytest.fixture
def small_models(monkeypatch):
    """One layer in place of each model, with weights that need no compiling."""
    import importlib

    from bench.topics import TOPICS

    modules = [importlib.import_module(f"bench.topics.{name}") for name in TOPICS]
    for module in (*modules, importlib.import_module("bench.scene"), importlib.import_module("bench.programs")):
        if hasattr(module, "build_model"):
            monkeypatch.setattr(
                module, "build_model", lambda name, sizes, dtype=None: one_layer_model(sizes.num_classes)
            )
        if hasattr(module, "init_params"):
            monkeypatch.setattr(module, "init_params", constant_params)
