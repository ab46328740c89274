"""Truncated SVD: the best approximation of each rank, in the paper's two factors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from frcnn_jax.weights import svd
from frcnn_jax.weights.params import expected_shapes
from frcnn_jax.weights.svd import compress_head, low_rank_factors, stored_ranks
from tests.weights.detectors import random_params
from tests.weights.networks import small_m

SHAPES = [(50, 30), (30, 50), (40, 40), (1, 7), (7, 1), (1, 1)]


def draw(kind, shape, seed=0):
    random = np.random.default_rng(seed)
    if kind == "deficient":
        rank = max(min(shape) // 3, 1)
        return np.float32(random.standard_normal((shape[0], rank)) @ random.standard_normal((rank, shape[1])))
    if kind == "steep":  # singular values over eight decades
        left, _, right = np.linalg.svd(random.standard_normal(shape), full_matrices=False)
        return np.float32(left * np.logspace(0, -8, min(shape)) @ right)
    return {
        "random": np.float32(random.standard_normal(shape)),
        "repeated": np.float32(3 * np.eye(*shape)),
        "zero": np.zeros(shape, np.float32),
        "constant": np.full(shape, 0.7, np.float32),
    }[kind]


def truncated(kernel, rank):
    """The best approximation, by NumPy's whole SVD in double precision, and the singular values."""
    left, values, right = np.linalg.svd(kernel.astype(np.float64), full_matrices=False)
    return left[:, :rank] * values[:rank] @ right[:rank], values


def test_by_hand():
    """[[4, 0], [3, -5]] has singular values sqrt 40, along (1, -1), and sqrt 10."""
    kernel = np.float32([[4, 0], [3, -5]])
    first, second = low_rank_factors(kernel, 1)
    np.testing.assert_allclose(first @ second, [[2, -2], [4, -4]], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(first), np.sqrt(40), rtol=1e-6)
    np.testing.assert_allclose(np.abs(second), [[np.sqrt(0.5), np.sqrt(0.5)]], rtol=1e-6)
    diagonal = np.float32(np.diag([1, 5, 2, 4]))
    np.testing.assert_allclose(np.matmul(*low_rank_factors(diagonal, 2)), np.diag([0, 5, 0, 4]), atol=1e-6)


@pytest.mark.parametrize("kind", ["random", "deficient", "steep", "repeated", "zero", "constant"])
@pytest.mark.parametrize("shape", SHAPES)
def test_best_approximation_of_each_rank(kind, shape):
    kernel = draw(kind, shape)
    for rank in sorted({1, (min(shape) + 1) // 2, min(shape)}):
        first, second = low_rank_factors(kernel, rank)
        assert (first.shape, second.shape) == ((shape[0], rank), (rank, shape[1]))
        assert first.dtype == second.dtype == np.float32
        best, values = truncated(kernel, rank)
        product = first.astype(np.float64) @ second
        error, least = np.linalg.norm(product - kernel), np.linalg.norm(best - kernel)
        assert error <= (1 + 1e-5) * least + 1e-6 * values[0]
        # The best approximation is one alone only where the next singular value is smaller.
        if rank == len(values) or values[rank] < 0.9 * values[rank - 1] or values[rank - 1] < 1e-6 * values[0]:
            np.testing.assert_allclose(product, best, rtol=0, atol=1e-5 * values[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_factors_are_the_papers(shape):
    """V S with columns of the singular values' lengths, and U with orthonormal outputs, in descending order."""
    kernel = draw("random", shape)
    rank = (min(shape) + 1) // 2
    first, second = low_rank_factors(kernel, rank)
    np.testing.assert_allclose(second @ second.T, np.eye(rank), atol=1e-6)
    values = truncated(kernel, rank)[1][:rank]
    np.testing.assert_allclose(first.T @ first, np.diag(values**2), atol=1e-5 * values[0] ** 2)


@pytest.mark.parametrize("shape", [(23, 5), (5, 23)])
def test_in_blocks(shape, monkeypatch):
    kernel = draw("random", shape)
    expected = np.matmul(*low_rank_factors(kernel, 3))
    for size in (1, 4 * min(shape), 10**6):
        monkeypatch.setattr(svd, "_BLOCK", size)
        np.testing.assert_allclose(np.matmul(*low_rank_factors(kernel, 3)), expected, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (jnp.bfloat16, 0.05)])
def test_other_precisions(dtype, tolerance):
    kernel = draw("random", (20, 12)).astype(dtype)
    first, second = low_rank_factors(kernel, 12)
    assert first.dtype == second.dtype == dtype
    difference = first.astype(np.float64) @ second.astype(np.float64) - kernel.astype(np.float64)
    assert np.abs(difference).max() < tolerance


@pytest.mark.parametrize("rank", [-1, 0, 8, 100])
def test_rank_that_does_not_fit(rank):
    with pytest.raises(ValueError, match=rf"^rank {rank} is not in 1 \.\.\. 7: the layer is 9 x 7$"):
        low_rank_factors(np.ones((9, 7), np.float32), rank)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(value):
    kernel = np.ones((9, 7), np.float32)
    kernel[3, 2] = value
    with pytest.raises(ValueError, match="a value is not finite"):
        low_rank_factors(kernel, 2)


@pytest.fixture(scope="module")
def params():
    """Of `small_m`, whose fc6 is 36 x 10 and fc7 10 x 8."""
    return random_params(small_m())


def outputs(model, params):
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, 64, 80, 3)), jnp.uint8)
    rois = jnp.array([[[0.0, 0, 60, 50], [20, 10, 70, 64], [30, 30, 40, 40]]])
    return jax.jit(model.apply)({"params": params}, images, rois)


@pytest.mark.parametrize("ranks", [(10, 8), (10, None), (None, 8)])
def test_full_rank_computes_the_same(params, ranks):
    compressed = compress_head(params, fc6_rank=ranks[0], fc7_rank=ranks[1])
    for ours, whole in zip(outputs(small_m(ranks=ranks), compressed), outputs(small_m(), params), strict=True):
        np.testing.assert_allclose(ours, whole, rtol=1e-5, atol=1e-5 * np.abs(whole).max())


def test_lower_rank_computes_what_the_best_approximation_does(params):
    ours = outputs(small_m(ranks=(3, 2)), compress_head(params, fc6_rank=3, fc7_rank=2))
    near = jax.tree.map(np.array, params)
    for layer, rank in (("fc6", 3), ("fc7", 2)):
        near["head"][layer]["kernel"] = np.float32(truncated(near["head"][layer]["kernel"], rank)[0])
    for a, b, whole in zip(ours, outputs(small_m(), near), outputs(small_m(), params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())
        assert np.abs(a - whole).max() > 0.05 * np.abs(whole).max()


@pytest.mark.parametrize("ranks", [(3, 2), (3, None), (None, 2), (None, None)])
def test_parameters_of_the_compressed_model(params, ranks):
    compressed = flatten_dict(compress_head(params, fc6_rank=ranks[0], fc7_rank=ranks[1]), sep="/")
    expected = expected_shapes(small_m(ranks=ranks))
    assert {name: array.shape for name, array in compressed.items()} == {n: s.shape for n, s in expected.items()}
    for name, array in flatten_dict(params, sep="/").items():
        if name in compressed:
            np.testing.assert_array_equal(compressed[name], array)
    assert stored_ranks(compressed) == {"fc6": ranks[0], "fc7": ranks[1]}


def test_what_was_given_is_not_changed(params):
    before = jax.tree.map(np.array, params)
    compress_head(params, fc6_rank=3, fc7_rank=2)
    jax.tree.map(np.testing.assert_array_equal, params, before)


def test_faults_name_the_layer(params):
    with pytest.raises(ValueError, match=r"^fc7: rank 9 is not in 1 \.\.\. 8: the layer is 10 x 8$"):
        compress_head(params, fc6_rank=3, fc7_rank=9)
    with pytest.raises(ValueError, match="fc6 is compressed already"):
        compress_head(compress_head(params, fc6_rank=3), fc6_rank=2)


def test_ranks_of_arrays_in_neither_form():
    assert stored_ranks({"head/fc6_L/kernel": np.zeros(3), "head/fc7_U/kernel": np.zeros((2, 3))}) == {}
