"""Models whose fc6 and fc7 are two layers each, as truncated SVD makes them (section 3.1)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.config import ParameterRule
from frcnn_jax.models.architectures import create_model
from frcnn_jax.models.fast_rcnn import init_params
from frcnn_jax.models.heads import FastRCNNHead
from frcnn_jax.training.optimizer import split_frozen
from tests.training.cases import small_model


def flat(tree):
    return {"/".join(k.key for k in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_compressed_model_has_the_published_parameters():
    """t (u + v) weights in place of u v, and one bias (section 3.1)."""
    model = create_model("vgg16", 21, fc6_rank=1024, fc7_rank=256)
    head = flat(jax.eval_shape(lambda: init_params(model, jax.random.key(0)))["head"])
    assert {name: leaf.shape for name, leaf in head.items()} == {
        "fc6_L/kernel": (25088, 1024),
        "fc6_U/kernel": (1024, 4096),
        "fc6_U/bias": (4096,),
        "fc7_L/kernel": (4096, 256),
        "fc7_U/kernel": (256, 4096),
        "fc7_U/bias": (4096,),
        "cls_score/kernel": (4096, 21),
        "cls_score/bias": (21,),
        "bbox_pred/kernel": (4096, 84),
        "bbox_pred/bias": (84,),
    }
    assert model != create_model("vgg16", 21, fc6_rank=1024)
    assert hash(model) == hash(create_model("vgg16", 21, fc6_rank=1024, fc7_rank=256))
    one = jax.eval_shape(lambda: init_params(create_model("caffenet", 4, fc7_rank=256), jax.random.key(0)))["head"]
    assert sorted(one) == ["bbox_pred", "cls_score", "fc6", "fc7_L", "fc7_U"]


def test_compressed_layer_is_two_products_and_one_bias():
    """x = (1, -2) in a single cell: L makes 1 - 2 * 2 = -3 of it, which passes; U makes -3 and 6, and the bias 7."""
    head = FastRCNNHead(2, (2, 2), ranks=(1, None))
    params = {
        "fc6_L": {"kernel": jnp.array([[1.0], [2.0]])},
        "fc6_U": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.0, 1.0])},
        "fc7": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)},
        "cls_score": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)},
        "bbox_pred": {"kernel": jnp.zeros((2, 8)), "bias": jnp.zeros(8)},
    }
    logits, _ = head.apply({"params": params}, jnp.array([1.0, -2.0]).reshape(1, 1, 1, 2))
    np.testing.assert_array_equal(logits, [[0, 7]])


def test_compressed_layers_start_with_the_variance_of_whole_ones():
    x = jax.random.normal(jax.random.key(1), (50, 4, 4, 32))
    spread = []
    for ranks in ((None, None), (128, 64)):
        head = FastRCNNHead(3, (256, 256), ranks=ranks)
        params = head.init(jax.random.key(0), x)
        _, state = head.apply(params, x, capture_intermediates=True)
        last = state["intermediates"]["fc7" if ranks[0] is None else "fc7_U"]["__call__"][0]
        spread.append(float(np.std(last)))
    assert spread[1] == pytest.approx(spread[0], rel=0.2)


def test_gradient_in_bfloat16():
    """Every parameter is learned, and is float32 whatever the activations are."""
    half = jnp.dtype("bfloat16")
    whole = small_model()
    model = whole.clone(
        backbone=whole.backbone.clone(dtype=half, param_dtype=jnp.dtype("float32")),
        head=FastRCNNHead(3, (16, 8), 0.5, (6, 4), dtype=half),
    )
    params = init_params(model, jax.random.key(0))
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3)), jnp.uint8)
    rois = jnp.array([[[2.0, 3, 30, 40], [0, 0, 48, 40], [10, 20, 20, 28]]])

    def loss(params):
        outputs = model.apply({"params": params}, images, rois, train=True, rngs={"dropout": jax.random.key(1)})
        return sum(jnp.sum(jnp.square(x)) for x in outputs)

    for name, gradient in flat(jax.jit(jax.grad(loss))(params)).items():
        assert gradient.dtype == jnp.float32
        assert np.isfinite(gradient).all()
        assert np.any(gradient), name


@pytest.mark.parametrize(
    ("name", "ranks", "message"),
    [
        ("vgg16", {"fc6_rank": 4097}, r"fc6_rank 4097 is not in 1 \.\.\. 4096: the layer is 25088 x 4096"),
        ("vgg_cnn_m_1024", {"fc7_rank": 1025}, r"fc7_rank 1025 is not in 1 \.\.\. 1024: the layer is 4096 x 1024"),
        ("tiny", {"fc6_rank": 0}, r"fc6_rank 0 is not in 1 \.\.\. 512: the layer is 9408 x 512"),
        ("caffenet", {"fc7_rank": -1}, r"fc7_rank -1 is not in 1 \.\.\. 4096"),
    ],
)
def test_a_rank_that_does_not_fit(name, ranks, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, 21, **ranks)


def test_rules_freeze_a_factor():
    params = jax.eval_shape(lambda: init_params(create_model("tiny", 3, fc6_rank=8), jax.random.key(0)))
    trainable, frozen = split_frozen(params, (ParameterRule("^head/fc6_L/", None), ParameterRule(".")))
    assert list(flat(frozen)) == ["head/fc6_L/kernel"]
    assert {"head/fc6_U/bias", "head/fc6_U/kernel", "head/fc7/kernel"} <= set(flat(trainable))
