"""Loss functions called without `multi_task_loss`."""

import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops.losses import cross_entropy, focal, smooth_l1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32])
@pytest.mark.usefixtures("unchecked_types")
def test_losses_called_alone_are_computed_in_float32(dtype):
    logits, labels = jnp.array([[0, 5, 1], [2, -3, 1]], dtype), jnp.array([1, 2])
    for loss in (cross_entropy, focal):
        found = loss(logits, labels)
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, loss(logits.astype(jnp.float32), labels))
    errors = jnp.array([0.001, 0.7, -300], dtype)
    assert smooth_l1(errors).dtype == jnp.float32
    np.testing.assert_array_equal(smooth_l1(errors), smooth_l1(errors.astype(jnp.float32)))
