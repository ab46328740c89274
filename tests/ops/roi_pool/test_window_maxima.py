"""The table of window maxima: sizes that cover, and rows against a plain loop."""

import jax.numpy as jnp
import numpy as np

from frcnn_jax.ops.roi_pool.window_maxima import first_maxima, window_maxima, window_sizes


def test_two_windows_cover_every_extent():
    assert [window_sizes(n) for n in (1, 2, 3, 6, 7, 14, 15)] == [
        (1,), (1,), (1, 3), (1, 3), (1, 3, 7), (1, 3, 7), (1, 3, 7, 15)
    ]  # fmt: skip
    for longest in range(1, 200):
        sizes = window_sizes(longest)
        for extent in range(1, longest + 1):
            largest = max(size for size in sizes if size <= extent)
            assert largest <= extent <= 2 * largest


def test_every_window_inside_the_map_has_its_first_maximum():
    generator = np.random.default_rng(0)
    height, width, heights, widths = 8, 9, (1, 3, 7), (1, 3)
    features = generator.integers(0, 3, (height, width, 2)).astype(np.float32)
    values, cells = window_maxima(jnp.array(features), heights, widths, jnp.uint16)
    (alone,) = window_maxima(jnp.array(features), heights, widths, None)
    np.testing.assert_array_equal(alone, values)
    shape = (len(heights), len(widths), height, width, 2)
    values, cells = np.asarray(values).reshape(shape), np.asarray(cells).reshape(shape)
    for i, j, y, x, c in np.ndindex(shape):
        if y + heights[i] <= height and x + widths[j] <= width:
            window = features[y : y + heights[i], x : x + widths[j], c]
            down, across = divmod(int(window.argmax()), widths[j])  # NumPy's argmax is the first too
            assert values[i, j, y, x, c] == window.max()
            assert cells[i, j, y, x, c] == (y + down) * width + x + across


def test_first_of_equal_maxima_in_any_order_and_nan_above_all():
    a = (jnp.array([1.0, 2.0, np.nan, np.nan, np.inf]), jnp.array([7, 7, 7, 7, 7], jnp.uint16))
    b = (jnp.array([1.0, 1.0, 9.0, np.nan, np.nan]), jnp.array([5, 5, 5, 5, 5], jnp.uint16))
    for pair in ([a, b], [b, a]):
        values, cells = first_maxima(pair)
        np.testing.assert_array_equal(values, [1, 2, np.nan, np.nan, np.nan])
        np.testing.assert_array_equal(cells, [5, 7, 7, 5, 5])
