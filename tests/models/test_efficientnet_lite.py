"""EfficientNet-Lite against PyTorch, with batch normalisation as it stands there: same file, same numbers.

`make_efficientnet_fixture.py` recorded them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.architectures import ARCHITECTURES, create_model
from frcnn_jax.models.efficientnet_lite import (
    LITE0,
    LITE1,
    LITE2,
    EfficientNetLiteStages,
    EfficientNetLiteTrunk,
    scaled_stages,
)
from frcnn_jax.models.heads import HiddenStages
from frcnn_jax.models.pixels import EFFICIENTNET_LITE_PIXELS
from frcnn_jax.models.windows import WindowNetwork
from frcnn_jax.weights.load import load_weights
from tests.models.efficientnet import LAST_STAGES, NARROW, STAGES, STORED, TRUNK, narrow_state_dict
from tests.weights.torch_files import write_legacy


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    path = write_legacy(tmp_path_factory.mktemp("weights") / "narrow.pth", narrow_state_dict())
    return load_weights(path, NARROW)


def assert_close(actual, expected):
    """Equal up to 1e-4 of the spread."""
    assert np.shape(actual) == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * expected.std())


def test_features_are_pytorchs_whatever_the_padding(params):
    images = [jnp.asarray(STORED[f"image{i}"], jnp.float32) for i in range(2)]
    batch = np.random.default_rng(0).normal(0, 5, (2, 80, 79, 3)).astype(np.float32)
    for row, image in zip(batch, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    sizes = jnp.array([image.shape[:2] for image in images])
    apply = jax.jit(lambda params, x, sizes: NARROW.apply({"params": params}, x, sizes, method="features"))
    features, cells = apply(params, batch, sizes)
    alone, _ = apply(params, images[0][None], None)
    assert_close(alone[0], STORED["features0"])
    for i in range(2):
        expected = STORED[f"features{i}"]
        rows, columns = cells[i].tolist()
        assert_close(features[i, :rows, :columns], expected)
        np.testing.assert_array_equal(features[i].at[:rows, :columns].set(0), 0)


def test_windows_have_tensorflows_padding(params, x64):
    """In double precision: rounding in float32 depends on the processor, and is up to 4e-4 after all layers."""
    params = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), params)
    trunk = EfficientNetLiteTrunk(STAGES[:5], stem=4, same_padding=True, dtype=jnp.float64)
    network = WindowNetwork(trunk, HiddenStages(LAST_STAGES), None, EFFICIENTNET_LITE_PIXELS)
    window = jnp.asarray(STORED["window"], jnp.float64)[None]
    assert_close(network.apply({"params": params}, window, method="pool5")[0], STORED["map"])
    assert_close(network.apply({"params": params}, window)[0], STORED["vector"])


def test_pooled_after_the_first_layer_of_the_last_stages(params):
    """Trunk and stages divided there are the same network; features are ReLU6's."""
    images = jnp.asarray(np.random.default_rng(0).integers(-2, 3, (2, 7 * 16, 7 * 16, 3)), jnp.float32)
    sizes = jnp.array([[112, 112], [64, 80]])
    first = params["head"]["stages"]
    expand = {"stage6_1": {"expand": first["stage6_1"]["expand"]}}
    others = first | {"stage6_1": {name: part for name, part in first["stage6_1"].items() if name != "expand"}}
    trunk = TRUNK.clone(expansion=STAGES[5].expansion)
    features, cells = jax.jit(trunk.apply)({"params": params["backbone"] | expand}, images, sizes)
    before, _ = jax.jit(TRUNK.apply)({"params": params["backbone"]}, images, sizes)
    assert features.shape == (2, 7, 7, 12)
    assert 0 <= float(features.min()) < float(features.max()) <= 6
    np.testing.assert_array_equal(features[1].at[: cells[1, 0], : cells[1, 1]].set(0), 0)
    stages = jax.jit(LAST_STAGES(expanded=True).apply)({"params": others}, features[:1])
    assert_close(stages, np.asarray(LAST_STAGES().apply({"params": first}, before[:1])))


def test_the_mean_of_the_last_stages_is_scored(params):
    """On a pooled map: `cls_score` and `bbox_pred` of the vector that the window network has."""
    pooled = jnp.asarray(np.random.default_rng(0).normal(0, 3, (2, 7, 7, 6)), jnp.float32)
    vector = np.asarray(HiddenStages(LAST_STAGES).apply({"params": params["head"]}, pooled))
    logits, deltas = NARROW.head.apply({"params": params["head"]}, pooled)
    layers = params["head"]["cls_score"], params["head"]["bbox_pred"]
    scores, offsets = (vector @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]) for layer in layers)
    assert_close(logits, scores)
    assert_close(deltas, offsets.reshape(2, 3, 4))
    assert np.ptp(vector) > 0.1


def test_the_family():
    """Width and depth of each member; the first and the last stage keep their depth."""
    assert [stage.channels for stage in LITE0] == [stage.channels for stage in LITE1] == [16, 24, 40, 80, 112, 192, 320]
    assert [stage.channels for stage in LITE2] == [16, 24, 48, 88, 120, 208, 352]
    assert [stage.repeats for stage in LITE0] == [1, 2, 2, 3, 3, 4, 1]
    assert [stage.repeats for stage in LITE1] == [stage.repeats for stage in LITE2] == [1, 3, 3, 4, 4, 5, 1]
    assert scaled_stages(0.35)[0].channels == 8


def test_random_parameters_keep_the_scale():
    """Features and what the head takes the mean of have about the deviation of the input, without normalisation."""
    narrow = tuple(stage._replace(channels=stage.channels // 4, repeats=min(stage.repeats, 2)) for stage in LITE0)
    random = np.random.default_rng(0)
    images, pooled = (
        jnp.asarray(random.standard_normal(shape), jnp.float32)
        for shape in ((1, 64, 64, 3), (2, 7, 7, narrow[4].channels))
    )
    trunk, last = EfficientNetLiteTrunk(narrow[:5], stem=8), EfficientNetLiteStages(narrow[5:], top=80)
    features = jax.jit(lambda key: trunk.init_with_output(key, images, None)[0][0])(jax.random.key(0))
    top = jax.jit(lambda key: last.init_with_output(key, pooled)[0])(jax.random.key(1))
    assert features.shape == (1, 4, 4, narrow[4].channels)
    assert top.shape == (2, 4, 4, 80)
    assert 0.5 < float(jnp.std(features)) < 2
    assert 0.25 < float(jnp.std(top)) < 2


def test_which_is_which():
    """The plain names have the last stages in their heads, but for the first layer, which is the trunk's; those with
    _fc have fc6 and fc7."""
    for name in ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"):
        plain, other = create_model(name, 4), create_model(f"{name}_fc", 4)
        assert plain.backbone == other.backbone.clone(expansion=6)
        assert plain.head.stages().expanded
        assert plain.pixels == other.pixels == EFFICIENTNET_LITE_PIXELS
        assert plain.head.stages().stages == {"0": LITE0, "1": LITE1, "2": LITE2}[name[-1]][5:]
        assert other.head.widths == (512, 256)
        assert ARCHITECTURES[name].rules == ARCHITECTURES[f"{name}_fc"].rules
