"""The stride of a trunk is that of `spatial_scale`, to the cell, when its parameters are made."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.fast_rcnn import FastRCNN, init_params
from frcnn_jax.models.heads import FastRCNNHead


class Strided(nn.Module):
    """A layer whose stride is the size of its windows; without padding, a second one loses cells at the borders."""

    stride: tuple[int, int]
    padding: str = "SAME"
    dtype: np.dtype = np.dtype("float32")

    @nn.compact
    def __call__(self, x, sizes):
        x = nn.Conv(2, self.stride, self.stride, padding=self.padding)(x)
        return nn.Conv(2, (2, 2), padding=self.padding)(x), None if sizes is None else -(-sizes // self.stride[0])


def parameters(rows, columns, spatial_scale, padding="SAME", model=FastRCNN):
    model = model(Strided((rows, columns), padding), FastRCNNHead(3, (4, 4)), spatial_scale=spatial_scale)
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


@pytest.mark.parametrize(("stride", "padding"), [(4, "SAME"), (8, "VALID"), (16, "SAME"), (32, "SAME")])
def test_neighbouring_strides_are_told_apart(stride, padding):
    parameters(stride, stride, 1 / stride, padding)
    for wrong in (stride - 1, stride + 1):
        with pytest.raises(ValueError, match=rf"^Strided gives .* cells for .*spatial_scale=1 / {wrong}\)"):
            parameters(wrong, wrong, 1 / stride, padding)


def test_both_axes_count():
    more = r"^Strided gives 64 x 73 more cells for 1024 x 1024 more pixels, but spatial_scale 0\.0625 means 64 x 64"
    with pytest.raises(ValueError, match=more):
        parameters(16, 14, 1 / 16)


def test_features_of_ones_own_are_not_measured():
    class Own(FastRCNN):
        def features(self, images, image_sizes=None):
            return jnp.repeat(self.backbone(images, image_sizes)[0], 2, axis=1), image_sizes

    assert parameters(12, 12, 1 / 16, model=Own)["backbone"]


def test_a_model_that_cannot_be_hashed_is_measured_too():
    class Listed(FastRCNN):
        notes: list[str] = dataclasses.field(default_factory=list)

    assert parameters(16, 16, 1 / 16, model=Listed)["backbone"]
    with pytest.raises(ValueError, match=r"^Strided gives 73 x 73 more cells"):
        parameters(14, 14, 1 / 16, model=Listed)
