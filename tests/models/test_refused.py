"""Trunks and models of one's own that would go wrong later are refused at once."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.fast_rcnn import FastRCNN, init_params
from tests.training.cases import small_model


def test_a_trunk_that_gets_sizes_returns_sizes():
    class Sizeless(nn.Module):
        dtype: np.dtype = np.dtype("float32")

        def __call__(self, x, sizes):
            return x[:, ::16, ::16], None

    model = small_model().clone(backbone=Sizeless(), spatial_scale=1 / 16)
    images = jnp.zeros((1, 32, 32, 3))
    assert model.apply({}, images, method="features")[1] is None
    with pytest.raises(TypeError, match="Sizeless must return the features and their sizes"):
        model.apply({}, images, jnp.array([[20, 20]]), method="features")


def test_parameters_of_the_pooling_are_refused():
    class Scaled(FastRCNN):
        def setup(self):
            self.gain = self.param("gain", nn.initializers.ones, ())

        def pool(self, *arguments):
            return self.gain * super().pool(*arguments)

    model = small_model()
    scaled = Scaled(**{field: getattr(model, field) for field in model.__dataclass_fields__ if field != "parent"})
    with pytest.raises(ValueError, match="parameters outside of its backbone and head, gain: put them into the head"):
        init_params(scaled, jax.random.key(0))
