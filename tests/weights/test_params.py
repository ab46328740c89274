"""Flat names, strict matching and the lists that allow exceptions."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from frcnn_jax.weights.params import match_arrays
from tests.weights.detectors import random_params, small_model

SCORE, NEW = "head/cls_score/bias", "head/(cls_score|bbox_pred)/.*"


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def params(model):
    return random_params(model)


@pytest.fixture
def arrays(params):
    return {name: np.asarray(array) for name, array in flatten_dict(params, sep="/").items()}


def assert_equal_trees(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_match_gives_the_tree_back_exactly(model, params, arrays):
    matched = match_arrays(arrays, model)
    assert_equal_trees(matched, params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(matched))


def test_all_faults_are_named_at_once(model, arrays):
    del arrays["backbone/stem/kernel"], arrays["head/fc6/bias"]
    arrays["head/fc8/kernel"] = np.zeros((2, 5), np.float32)
    arrays["head/fc7/bias"] = np.zeros(9, np.float32)
    arrays[SCORE] = np.zeros(4, np.int32)
    with pytest.raises(ValueError, match=r"^f\.npz does not fit the model: ") as caught:
        match_arrays(arrays, model, source="f.npz")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "missing: backbone/stem/kernel float32 [3, 3, 48, 16], head/fc6/bias float32 [12];",
        "not in the model: head/fc8/kernel float32 [2, 5];",
        "head/fc7/bias is float32 [9] where the model has float32 [8]",
        f"{SCORE} is int32 [4] where the model has float32 [4]",
    ):
        assert part in message


def test_many_faults_are_counted(model, arrays):
    others = {f"other/{i:02}": np.zeros(3, np.float32) for i in range(30)}
    with pytest.raises(ValueError, match=r"not in the model: other/00 .*other/09 float32 \[3\] and 20 more$"):
        match_arrays(arrays | others, model)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(model, arrays, value):
    arrays["head/fc7/bias"] = np.array(arrays["head/fc7/bias"])
    arrays["head/fc7/bias"][3] = value
    with pytest.raises(
        ValueError, match=r"^f\.pth does not fit the model: with values that are not finite: head/fc7/bias$"
    ):
        match_arrays(arrays, model, source="f.pth")


def test_shape_of_equal_size_is_no_match(model, arrays):
    arrays["head/fc7/kernel"] = arrays["head/fc7/kernel"].T
    with pytest.raises(ValueError, match=r"head/fc7/kernel is float32 \[8, 12\] where the model has float32 \[12, 8\]"):
        match_arrays(arrays, model, allow_missing="head/fc7/kernel", key=jax.random.key(0))


def test_allowed_missing_is_drawn_with_the_key(model, params, arrays):
    del arrays[SCORE], arrays["head/cls_score/kernel"]
    lists = {"allow_missing": ["head/cls_score/.*"]}
    matched = match_arrays(arrays, model, key=jax.random.key(5), **lists)
    drawn = matched["head"]["cls_score"]
    assert 0.005 < np.std(drawn["kernel"]) < 0.015  # the initial spread of this layer
    np.testing.assert_array_equal(drawn["bias"], np.zeros(4))
    other = match_arrays(arrays, model, key=jax.random.key(6), **lists)["head"]["cls_score"]
    assert not np.allclose(other["kernel"], drawn["kernel"], atol=1e-4)
    del matched["head"]["cls_score"]
    rest = {"backbone": params["backbone"], "head": {k: v for k, v in params["head"].items() if k != "cls_score"}}
    assert_equal_trees(matched, rest)


def test_missing_without_key(model, arrays):
    del arrays[SCORE]
    with pytest.raises(ValueError, match=f"a key is needed .*{SCORE}"):
        match_arrays(arrays, model, allow_missing=[SCORE])


def test_names_match_as_a_whole(model, arrays):
    del arrays[SCORE]
    with pytest.raises(ValueError, match=SCORE):
        match_arrays(arrays, model, allow_missing=["cls_score", "head/cls_score", "bias"], key=jax.random.key(0))


def test_allowed_extra_is_left_out(model, params, arrays):
    arrays["other/kernel"] = np.zeros(3, np.float32)
    assert_equal_trees(match_arrays(arrays, model, allow_extra="other/.*"), params)
    with pytest.raises(ValueError, match="not in the model: other/kernel"):
        match_arrays(arrays, model, allow_missing="other/.*", key=jax.random.key(0))


def test_other_shape_is_replaced_where_both_lists_name_it(arrays):
    wider = small_model(num_classes=6)
    matched = match_arrays(arrays, wider, allow_missing=NEW, allow_extra=NEW, key=jax.random.key(1))
    kernel = matched["head"]["bbox_pred"]["kernel"]
    assert kernel.shape == (8, 24)
    assert 0.0005 < np.std(kernel) < 0.0015  # the initial spread of this layer
    np.testing.assert_array_equal(matched["head"]["fc7"]["kernel"], arrays["head/fc7/kernel"])
    for lists in ({"allow_missing": NEW}, {"allow_extra": NEW}):
        with pytest.raises(ValueError, match=r"head/bbox_pred/bias is float32 \[16\] .* float32 \[24\]"):
            match_arrays(arrays, wider, key=jax.random.key(1), **lists)


def test_dtype_is_the_models(arrays):
    model = small_model(param_dtype=jax.numpy.bfloat16)
    matched = match_arrays({name: array.astype(np.float64) for name, array in arrays.items()}, model)
    assert {leaf.dtype for leaf in jax.tree.leaves(matched)} == {jax.numpy.dtype("bfloat16")}


def test_faulty_expression(model, arrays):
    with pytest.raises(ValueError, match=r"allow_extra: '\(' is not a regular expression"):
        match_arrays(arrays, model, allow_extra=["("])
