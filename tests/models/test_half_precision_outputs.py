"""Heads in bfloat16 sum logits and offsets in float32 and do not round them; in float32 they are as layers of Flax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from frcnn_jax.models.heads import FastRCNNHead, HiddenLayers, StagesHead, class_outputs, mean_over_cells

POOLED = jax.random.normal(jax.random.key(0), (50, 2, 2, 8))


class Stages(nn.Module):
    """The pooled features themselves."""

    dtype: object = jnp.float32
    param_dtype: object = jnp.float32

    def __call__(self, pooled):
        return pooled.astype(self.dtype)


def with_spread(head, pooled):
    """Parameters whose outputs are far from 0."""
    params = jax.jit(head.init)(jax.random.key(1), pooled)["params"]
    for name in ("cls_score", "bbox_pred"):
        params[name] = {key: 100 * value + 0.123456 for key, value in params[name].items()}
    return params


def expected(x, params):
    """The two output layers in float32."""
    return [x @ params[name]["kernel"] + params[name]["bias"][None] for name in ("cls_score", "bbox_pred")]


def rounded(x):
    return x.astype(jnp.bfloat16).astype(jnp.float32)


def test_outputs_of_fc7_are_not_rounded():
    head, hidden = (module(widths=(32, 32), dtype=jnp.bfloat16, **options)
                    for module, options in ((FastRCNNHead, {"num_classes": 5}), (HiddenLayers, {})))  # fmt: skip
    params = with_spread(head, POOLED)
    x = jax.jit(hidden.apply)({"params": {name: params[name] for name in ("fc6", "fc7")}}, POOLED)
    assert x.dtype == jnp.bfloat16
    inputs = {name: {"kernel": rounded(params[name]["kernel"]), "bias": params[name]["bias"]} for name in params}
    logits, deltas = jax.jit(head.apply)({"params": params}, POOLED)
    assert (logits.dtype, deltas.dtype, deltas.shape) == (jnp.float32, jnp.float32, (50, 5, 4))
    for found, want in zip((logits, deltas.reshape(50, 20)), expected(x.astype(jnp.float32), inputs), strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(head.apply({"params": p}, POOLED)[0] ** 2)))(params)
    want = 2 * x.astype(jnp.float32).T @ logits
    np.testing.assert_allclose(gradient["cls_score"]["kernel"], want, rtol=0.02, atol=0.02 * np.abs(want).max())


def test_the_mean_over_cells_is_not_rounded():
    assert mean_over_cells(POOLED.astype(jnp.bfloat16)).dtype == jnp.float32
    head = StagesHead(5, Stages, dtype=jnp.bfloat16)
    params = with_spread(head, POOLED)
    want = expected(rounded(POOLED).mean(axis=(1, 2)), params)
    logits, deltas = jax.jit(head.apply)({"params": params}, POOLED)
    np.testing.assert_allclose(logits, want[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(deltas.reshape(50, 20), want[1], rtol=1e-5, atol=1e-5)


class Outputs(nn.Module):
    """The output layers alone, as `class_outputs` makes them or as layers of Flax."""

    plain: bool

    @nn.compact
    def __call__(self, x):
        if not self.plain:
            return class_outputs(x, 5, dtype=jnp.float32)
        return nn.Dense(5, name="cls_score")(x), nn.Dense(20, name="bbox_pred")(x).reshape(-1, 5, 4)


def test_float32_is_that_of_plain_layers():
    x = POOLED.reshape(50, 32)
    params = with_spread(Outputs(plain=False), x)
    found, want = (jax.jit(Outputs(plain=plain).apply)({"params": params}, x) for plain in (False, True))
    jax.tree.map(np.testing.assert_array_equal, found, want)
