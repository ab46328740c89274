"""Layers on pooled features, then class logits and box offsets (section 2.3)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from frcnn_jax.models.layers import flatten
from frcnn_jax.ops.precision import wide_dtype

Ranks = tuple[int | None, int | None]  # of fc6 and fc7; None: one layer


def output_layers(head: nn.Module) -> tuple[str, str]:
    """Names of a head's layers of scores and of offsets: its attribute `output_layers`, or the names in `FastRCNNHead`.

    Raises:
        TypeError: the attribute is not a pair of names.
    """
    names = getattr(head, "output_layers", ("cls_score", "bbox_pred"))
    if not isinstance(names, tuple) or len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"{type(head).__name__}.output_layers must name the layers of scores and of offsets, as in "
            f'("cls_score", "bbox_pred"), not {names!r}'
        )
    return names


def hidden_layers(
    pooled: Float[Array, "B PH PW C"],
    widths: tuple[int, int],
    ranks: Ranks,
    dropout: float,
    *,
    train: bool,
    **types: Any,
) -> Float[Array, "B F"]:
    """fc6 and fc7 with ReLU and dropout, as submodules of the module that calls.

    With a rank t, fc6 is two layers, `fc6_L` of t outputs without bias and `fc6_U` (section 3.1, truncated SVD); fc7
    likewise. The names are those of the published compressed models.
    """
    x = flatten(pooled)
    for name, width, rank in zip(("fc6", "fc7"), widths, ranks, strict=True):
        if rank is not None:
            linear = nn.initializers.lecun_normal()  # keeps the variance, as no ReLU follows
            x = nn.Dense(rank, use_bias=False, kernel_init=linear, name=f"{name}_L", **types)(x)
            name = f"{name}_U"
        x = nn.relu(nn.Dense(width, kernel_init=nn.initializers.he_normal(), name=name, **types)(x))
        x = nn.Dropout(dropout, deterministic=not train)(x)
    return x


class HiddenLayers(nn.Module):
    """fc6 and fc7 alone."""

    widths: tuple[int, int] = (4096, 4096)
    dropout: float = 0.5
    ranks: Ranks = (None, None)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pooled: Float[Array, "B PH PW C"], *, train: bool = False) -> Float[Array, "B F"]:
        """fc7 after its ReLU. With `train`, dropout draws from the "dropout" stream."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return hidden_layers(pooled, self.widths, self.ranks, self.dropout, train=train, **types)


class FastRCNNHead(nn.Module):
    """fc6, fc7 with ReLU and dropout, then `cls_score` and `bbox_pred` side by side; see `hidden_layers`."""

    num_classes: int  # background included
    widths: tuple[int, int] = (4096, 4096)
    dropout: float = 0.5
    ranks: Ranks = (None, None)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, pooled: Float[Array, "B PH PW C"], *, train: bool = False
    ) -> tuple[Float[Array, "B K1"], Float[Array, "B K1 4"]]:
        """Logits and offsets, in float32 at least. With `train`, dropout draws from the "dropout" stream."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = hidden_layers(pooled, self.widths, self.ranks, self.dropout, train=train, **types)
        return class_outputs(x, self.num_classes, **types)


class HiddenStages(nn.Module):
    """The last stages of a convolutional network and the mean over the cells, without output layers."""

    stages: Callable[..., nn.Module]  # as in `StagesHead`
    dropout: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pooled: Float[Array, "B PH PW C"], *, train: bool = False) -> Float[Array, "B F"]:
        """The mean vector. With `train`, dropout draws from the "dropout" stream."""
        x = mean_over_cells(self.stages(name="stages", dtype=self.dtype, param_dtype=self.param_dtype)(pooled))
        return nn.Dropout(self.dropout, deterministic=not train)(x)


class StagesHead(nn.Module):
    """The last stages of a convolutional network on each RoI, their mean over the cells, then `cls_score` and
    `bbox_pred`; dropout is on the mean. Known as C4 if four stages are the trunk (He et al., CVPR 2016)."""

    num_classes: int  # background included
    stages: Callable[..., nn.Module]
    """`stages(dtype=..., param_dtype=...)` maps pooled features [B, PH, PW, C] to [B, h, w, F]."""
    dropout: float = 0.5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, pooled: Float[Array, "B PH PW C"], *, train: bool = False
    ) -> tuple[Float[Array, "B K1"], Float[Array, "B K1 4"]]:
        """Logits and offsets, in float32 at least. With `train`, dropout draws from the "dropout" stream."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = mean_over_cells(self.stages(name="stages", **types)(pooled))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return class_outputs(x, self.num_classes, **types)


def mean_over_cells(features: Float[Array, "B h w F"]) -> Float[Array, "B F"]:
    """The mean of each channel, in float32 at least."""
    return jnp.mean(features.astype(wide_dtype(features.dtype)), axis=(1, 2))


def class_outputs(
    x: Float[Array, "B F"],
    num_classes: int,
    *,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
) -> tuple[Float[Array, "B K1"], Float[Array, "B K1 4"]]:
    """Logits by `cls_score` and offsets by `bbox_pred`, as submodules of the module that calls; in float32 at least.

    Products are of numbers in `dtype`, or in that of `x` if it is wider, and are summed in float32 at least.
    """
    factors = jnp.promote_types(x.dtype, param_dtype if dtype is None else dtype)
    wide = wide_dtype(factors)
    types = {"dtype": wide, "param_dtype": param_dtype, "dot_general": partial(_product, factors, wide)}
    # The spread of the new layers' initial weights is the paper's (section 2.3, SGD hyper-parameters).
    normal = nn.initializers.normal
    logits = nn.Dense(num_classes, kernel_init=normal(0.01), name="cls_score", **types)(x)
    deltas = nn.Dense(4 * num_classes, kernel_init=normal(0.001), name="bbox_pred", **types)(x)
    return logits, deltas.reshape(-1, num_classes, 4)


def _product(factors: Any, result: Any, x: Array, kernel: Array, *dimensions: Any, **options: Any) -> Array:
    """`lax.dot_general` with factors and result in given dtypes: a result in half precision would be rounded."""
    options["preferred_element_type"] = result
    return lax.dot_general(x.astype(factors), kernel.astype(factors), *dimensions, **options)
