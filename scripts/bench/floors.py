"""The least time a device needs: each operation at the peak rate of the device or of its memory, whichever is slower.

Parts that can be fused into an operation (bias, ReLU, 2 x 2 pooling, normalisation) do not count, so no implementation
can be faster with these operations. Convolutions and matrix products are read off the traced model.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from frcnn_jax.models.fast_rcnn import FastRCNN, init_params


@dataclasses.dataclass(frozen=True)
class Operation:
    """Floating-point operations, and bytes that have to be read or written."""

    name: str
    flops: float
    bytes: float


@dataclasses.dataclass(frozen=True)
class Rates:
    """Peak rates of a device: operations a second in the type that is measured, bytes a second of its memory."""

    flops: float
    bandwidth: float


def seconds(operations: Sequence[Operation], rates: Rates) -> float:
    """Time of the operations one after the other."""
    return sum(max(op.flops / rates.flops, op.bytes / rates.bandwidth) for op in operations)


def layer_operations(model: FastRCNN, images: int, size: tuple[int, int], rois: int) -> list[Operation]:
    """The convolutions and matrix products of the forward pass, in order; `rois` are those of one image."""
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    pixels = jax.ShapeDtypeStruct((images, *size, 3), model.backbone.dtype)
    boxes = jax.ShapeDtypeStruct((images, rois, 4), jnp.float32)
    traced = jax.make_jaxpr(lambda p, x, r: model.apply({"params": p}, x, r))(params, pixels, boxes)
    return list(_layers(traced.jaxpr))


def pooling_operation(model: FastRCNN, images: int, size: tuple[int, int], rois: int) -> Operation:
    """RoI pooling forward: the features read once, the pooled ones written once. Its backward moves the same bytes."""
    shapes = jax.eval_shape(
        lambda p, x, r: _features_and_pooled(model, p, x, r),
        jax.eval_shape(lambda: init_params(model, jax.random.key(0))),
        jax.ShapeDtypeStruct((images, *size, 3), model.backbone.dtype),
        jax.ShapeDtypeStruct((images, rois, 4), jnp.float32),
    )
    return Operation("roi_pool", 0, sum(_bytes(shape) for shape in shapes))


def backward_operations(forward: Sequence[Operation], frozen: int) -> list[Operation]:
    """Gradients of the layers after the first `frozen` ones: of weights, and of all inputs but the first.

    Each has the bytes and the work of the forward pass: two of input, weights and output are read, one is written.
    """
    weights = [dataclasses.replace(op, name=f"{op.name} weight gradient") for op in forward[frozen:]]
    inputs = [dataclasses.replace(op, name=f"{op.name} input gradient") for op in forward[frozen + 1 :]]
    return weights + inputs


def update_operation(trainable: Any) -> Operation:
    """SGD with momentum: parameter, momentum and gradient read, parameter and momentum written."""
    return Operation("update", 0, 5 * sum(_bytes(leaf) for leaf in jax.tree.leaves(trainable)))


def _features_and_pooled(model: FastRCNN, params: Any, images: Any, rois: Any) -> tuple[Any, Any]:
    features, _ = model.apply({"params": params}, images, method="features")
    return features, model.apply({"params": params}, features, rois, method="pool")


def _layers(jaxpr: Any) -> Iterator[Operation]:
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ("conv_general_dilated", "dot_general"):
            values = [v.aval for v in (*equation.invars, *equation.outvars)]
            if name == "dot_general":
                (contracted, _), _ = equation.params["dimension_numbers"]
                products = math.prod(values[0].shape[i] for i in contracted)
            else:
                numbers = equation.params["dimension_numbers"]
                products = math.prod(values[1].shape) // values[1].shape[numbers.rhs_spec[0]]
            flops = 2 * products * math.prod(values[2].shape)
            yield Operation(name, flops, sum(map(_bytes, values)))
        if name == "cond":  # lax.platform_dependent: the last branch is the default
            yield from _layers(equation.params["branches"][-1].jaxpr)
        for parameter in equation.params.values():
            if isinstance(parameter, core.ClosedJaxpr):
                yield from _layers(parameter.jaxpr)
            elif isinstance(parameter, core.Jaxpr):
                yield from _layers(parameter)


def _bytes(array: Any) -> int:
    return math.prod(array.shape) * jnp.dtype(array.dtype).itemsize
