"""The valid part of a map, and other small arguments, in the operations that take them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops.roi_pool import project_rois, roi_max_pool
from frcnn_jax.ops.spatial_pyramid import spatial_pyramid_pool
from frcnn_jax.ops.warp import warp_window

MAP, BOX = jax.random.normal(jax.random.key(0), (8, 8, 2)), jnp.array([0, 0, 7, 7.0])
CALLS = {
    "roi_max_pool takes valid_size": lambda size: roi_max_pool(MAP, BOX[None], (2, 2), 1.0, size),
    "spatial_pyramid_pool takes valid_size": lambda size: spatial_pyramid_pool(MAP, BOX[None], (2, 1), size),
    "warp_window takes image_size": lambda size: warp_window(MAP, BOX, size, size=40),
}
pytestmark = pytest.mark.usefixtures("unchecked_types")


@pytest.mark.parametrize("call", CALLS)
def test_a_valid_size_is_two_whole_numbers(call):
    for size in (np.array([3]), np.array(3), np.array([3.5, 3.5]), [[3, 3]]):
        with pytest.raises(ValueError, match=f"^{call} as two whole numbers, not "):
            CALLS[call](size)
    whole = CALLS[call](None)
    for size in ([8, 8], np.array([8, 8], np.uint8), np.array([200, 200], np.int16), np.array([2**31, 9], np.uint32)):
        np.testing.assert_array_equal(CALLS[call](size), whole)
    for size in (np.array([2**31, 9]), np.array([2**40, 2**33]), np.array([2**63, 9], np.uint64)):
        np.testing.assert_array_equal(CALLS[call](size), whole)


@pytest.mark.parametrize("levels", [(2, 0), (), (2.0, 1), (True,)])
def test_levels_of_a_pyramid_are_at_least_one(levels):
    with pytest.raises(ValueError, match=r"^spatial_pyramid_pool takes levels as whole numbers of at least 1, not "):
        spatial_pyramid_pool(MAP, BOX[None], levels)


def test_a_scale_of_numpy_widens_no_boxes():
    boxes = jnp.ones((1, 4), jnp.float32)
    with jax.enable_x64(True):
        for scale in (0.3, np.float64(0.3), np.float32(0.3)):
            assert project_rois(boxes, scale).dtype == jnp.float32
        assert project_rois(boxes.astype(jnp.float64), np.float64(0.3)).dtype == jnp.float64
