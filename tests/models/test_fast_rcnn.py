"""The detector as a whole: names and shapes, pixels, types, dropout, and equality with its parts."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.architectures import create_model
from frcnn_jax.models.fast_rcnn import init_params
from frcnn_jax.models.heads import FastRCNNHead
from frcnn_jax.models.layers import mask_outside
from frcnn_jax.models.pixels import CAFFE_PIXELS, TORCHVISION_PIXELS, PixelNormalization, normalize_images
from tests.training.cases import small_model, small_params

PIXELS = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3)), jnp.uint8)
ROIS = jnp.tile(jnp.array([[2.0, 3, 30, 40], [0, 0, 48, 40], [10, 20, 20, 28]])[None], (2, 1, 1))


@functools.cache
def lively_params(dropout=0.0):
    """Heads that start near zero would hide differences."""
    params = dict(small_params(dropout))
    params["head"] = jax.tree.map(
        lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params["head"]
    )
    return {"params": params}


@functools.cache
def compiled(model):
    return jax.jit(model.apply, static_argnames=("train", "method"))


def flat_shapes(tree):
    return {"/".join(k.key for k in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_new_layers_start_as_published():
    head = FastRCNNHead(21, (64, 512))
    params = head.init(jax.random.key(0), jnp.zeros((1, 2, 2, 3)))["params"]
    assert np.std(params["cls_score"]["kernel"]) == pytest.approx(0.01, rel=0.03)
    assert np.std(params["bbox_pred"]["kernel"]) == pytest.approx(0.001, rel=0.03)
    for name in ("cls_score", "bbox_pred"):
        assert abs(np.mean(params[name]["kernel"])) < 1e-3
        np.testing.assert_array_equal(params[name]["bias"], 0)


def test_deltas_are_by_class_then_coordinate():
    head = FastRCNNHead(3, (4, 4))
    params = head.init(jax.random.key(0), jnp.zeros((1, 1, 1, 4)))["params"]
    params["bbox_pred"]["bias"] = jnp.arange(12.0)
    params["bbox_pred"]["kernel"] = jnp.zeros((4, 12))
    _, deltas = head.apply({"params": params}, jnp.ones((2, 1, 1, 4)))
    np.testing.assert_array_equal(deltas[1], [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]])


def test_pixels_by_hand():
    image = jnp.array([[[[10, 20, 30], [1, 2, 3]]]], jnp.uint8)
    caffe = normalize_images(image, jnp.array([[1, 1]]), CAFFE_PIXELS)
    np.testing.assert_allclose(caffe[0, 0], [[30 - 102.9801, 20 - 115.9465, 10 - 122.7717], [0, 0, 0]], rtol=1e-6)
    ours = normalize_images(image, None, TORCHVISION_PIXELS)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(ours, (np.asarray(image) / 255.0 - mean) / std, rtol=1e-5)
    assert normalize_images(image, None, TORCHVISION_PIXELS, jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_uint8_and_normalised_input_are_the_same(order):
    pixels = PixelNormalization((90.0, 100.0, 120.0), (50.0, 60.0, 70.0), order)
    model = small_model().clone(pixels=pixels)
    sizes = jnp.array([[40, 60], [48, 33]])
    ours = compiled(model)(lively_params(), PIXELS, ROIS, image_sizes=sizes)
    floats = compiled(model)(lively_params(), normalize_images(PIXELS, sizes, pixels), ROIS, image_sizes=sizes)
    for a, b in zip(ours, floats, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    flipped = compiled(model)(lively_params(), PIXELS[..., ::-1], ROIS, image_sizes=sizes)
    assert np.abs(ours[0] - flipped[0]).max() > 1e-3


def test_an_unknown_order_of_pixels_is_refused():
    with pytest.raises(ValueError, match="'rgb' or 'bgr', not 'BGR'"):
        PixelNormalization((1.0, 2.0, 3.0), (1.0, 1.0, 1.0), "BGR")


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("mean", [127.5, None, "123", (1.0, 2.0)])
def test_a_mean_is_of_three_channels(mean):
    with pytest.raises(ValueError, match="mean of pixels must be three numbers"):
        PixelNormalization(mean, (1.0, 1.0, 1.0))


@pytest.mark.usefixtures("unchecked_types")
def test_pixels_of_lists_and_arrays_can_be_hashed_as_models_are():
    plain = PixelNormalization((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    for kind in (list, np.float32):
        pixels = PixelNormalization(kind((1, 2, 3)), kind((4, 5, 6)))
        assert hash(pixels) == hash(plain)
        assert pixels == plain
    for mean, std in (((1, 2), (1, 1, 1)), ((1, 2, 3), (1, 0, 1)), ((1, 2, np.nan), (1, 1, 1)), ((1, 2, 3), (1,))):
        with pytest.raises(ValueError, match=r"^(mean|std) of pixels must be three numbers, std above 0, not \("):
            PixelNormalization(mean, std)


def test_what_lies_outside_the_image_is_not_seen():
    """An 8-bit image and a floating one, each with noise in its padding."""
    sizes = jnp.array([[40, 60], [48, 33]])
    clean = mask_outside(PIXELS.astype(jnp.float32), sizes).astype(jnp.uint8)
    assert (clean != PIXELS).any()
    for convert in (lambda x: x, lambda x: x.astype(jnp.float32) / 64 - 2):
        apply = compiled(small_model())
        a, b = (apply(lively_params(), convert(x), ROIS, image_sizes=sizes) for x in (clean, PIXELS))
        np.testing.assert_array_equal(a[0], b[0])


def test_each_roi_and_image_stands_alone():
    model = small_model()
    logits, deltas = compiled(model)(lively_params(), PIXELS, ROIS, image_sizes=jnp.array([[48, 64], [40, 50]]))
    assert logits.shape == (2, 3, 3)
    assert deltas.shape == (2, 3, 3, 4)
    alone = compiled(model)(lively_params(), PIXELS[1:, :40, :50], ROIS[1:, ::-1])
    np.testing.assert_allclose(logits[1], alone[0][0, ::-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(deltas[1], alone[1][0, ::-1], rtol=1e-4, atol=1e-5)
    assert np.ptp(np.asarray(logits), axis=1).min() > 1e-4


def test_an_image_of_no_size_that_fills_the_batch_changes_no_gradient():
    @jax.jit
    def gradient(params, sizes):
        return jax.grad(lambda p: small_model().apply(p, PIXELS, ROIS, image_sizes=sizes)[0][0].sum())(params)

    sizes = jnp.array([[48, 64], [40, 50]])
    found, wanted = (gradient(lively_params(), x) for x in (sizes.at[1].set(0), sizes))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, wanted)


@pytest.mark.parametrize("name", ["tiny", "vgg16", "resnet18"])
def test_without_rois_or_images(name):
    model = create_model(name, 5)
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    for n, r in ((2, 0), (0, 3)):
        images, rois = jnp.zeros((n, 64, 64, 3), jnp.uint8), jnp.zeros((n, r, 4))
        logits, deltas = jax.eval_shape(model.apply, {"params": params}, images, rois)
        assert (logits.shape, deltas.shape) == ((n, r, 5), (n, r, 5, 4))


@pytest.mark.usefixtures("unchecked_types")
def test_arrays_that_do_not_fit_are_named():
    model, (image, rois) = small_model(), (PIXELS[0], ROIS[0])
    for arrays, options, message in (
        ((image, rois), {}, r"images \[N, H, W, 3\], not \[48, 64, 3\]"),
        ((PIXELS, rois), {}, r"rois \[N, R, 4\] = \[2, R, 4\], not \[3, 4\]"),
        ((PIXELS, ROIS[:1]), {}, r"rois \[N, R, 4\] = \[2, R, 4\], not \[1, 3, 4\]"),
        ((PIXELS, ROIS), {"scales": jnp.ones(1)}, r"scales \[N\] = \[2\], not \[1\]"),
        ((PIXELS, ROIS), {"image_sizes": jnp.ones(2, int)}, r"image_sizes \[N, 2\] = \[2, 2\], not \[2\]"),
    ):
        with pytest.raises(ValueError, match=f"^the model takes {message}"):
            model.apply(lively_params(), *arrays, **options)


def test_rois_are_scaled_with_the_image():
    """Boxes stay in the frame of the image before resizing."""
    model = small_model()
    plain = compiled(model)(lively_params(), PIXELS, ROIS)
    scaled = compiled(model)(lively_params(), PIXELS, ROIS * 4, scales=jnp.full(2, 0.25))
    np.testing.assert_allclose(plain[0], scaled[0], rtol=1e-5)
    wrong = compiled(model)(lively_params(), PIXELS, ROIS * 4)
    assert np.abs(plain[0] - wrong[0]).max() > 1e-3


def test_the_parts_make_the_whole():
    model, params, sizes = small_model(), lively_params(), jnp.array([[40, 60], [48, 33]])
    features, feature_sizes = compiled(model)(params, PIXELS, sizes, method="features")
    np.testing.assert_array_equal(feature_sizes, [[3, 4], [3, 3]])
    pooled = compiled(model)(params, features, ROIS, None, feature_sizes, method="pool")
    assert pooled.shape == (2, 3, 3, 3, 16)
    logits, deltas = model.head.apply({"params": params["params"]["head"]}, pooled.reshape(6, 3, 3, 16))
    whole = compiled(model)(params, PIXELS, ROIS, image_sizes=sizes)
    np.testing.assert_allclose(whole[0], logits.reshape(2, 3, 3), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole[1], deltas.reshape(2, 3, 3, 4), rtol=1e-5, atol=1e-6)


def test_dropout_only_in_training():
    model, params = small_model(dropout=0.5), lively_params()
    calm = compiled(model)(params, PIXELS, ROIS)[0]
    np.testing.assert_array_equal(calm, compiled(small_model(dropout=0.0))(params, PIXELS, ROIS)[0])
    one, two = (
        compiled(model)(params, PIXELS, ROIS, train=True, rngs={"dropout": jax.random.key(seed)})[0] for seed in (0, 1)
    )
    assert np.abs(one - two).max() > 1e-3
    assert np.abs(one - calm).max() > 1e-3
    np.testing.assert_array_equal(
        one, compiled(model)(params, PIXELS, ROIS, train=True, rngs={"dropout": jax.random.key(0)})[0]
    )


def test_bfloat16_gives_float32_near_the_exact():
    model = small_model()
    half = model.clone(
        backbone=model.backbone.clone(dtype=jnp.dtype(jnp.bfloat16)), head=model.head.clone(dtype=jnp.dtype("bfloat16"))
    )
    exact, ours = (compiled(m)(lively_params(), PIXELS, ROIS) for m in (model, half))
    features, _ = compiled(half)(lively_params(), PIXELS, method="features")
    assert features.dtype == jnp.bfloat16
    for a, b in zip(exact, ours, strict=True):
        assert b.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=0.1, atol=0.1)
        assert np.abs(a - b).max() > 0


@pytest.mark.parametrize("name", ["vgg16", "tiny"])
def test_models_by_name(name):
    model = create_model(name, 5, dtype=jnp.bfloat16, dropout=0.25)
    assert model == create_model(name, 5, dtype="bfloat16", dropout=0.25)
    assert hash(model) == hash(create_model(name, 5, dtype="bfloat16", dropout=0.25))
    assert model != create_model(name, 5)
    assert (model.backbone.dtype, model.head.dtype, model.head.dropout) == (jnp.bfloat16, jnp.bfloat16, 0.25)
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert params["head"]["cls_score"]["kernel"].shape[1] == 5
    assert create_model(name, 5, pixels=TORCHVISION_PIXELS).pixels == TORCHVISION_PIXELS


def test_pixels_of_each_model():
    assert create_model("vgg16", 21).pixels == CAFFE_PIXELS
    assert create_model("tiny", 21).pixels == PixelNormalization((127.5,) * 3, (64.0,) * 3, "rgb")


@pytest.mark.usefixtures("unchecked_types")
def test_a_model_that_cannot_be_made_says_why():
    with pytest.raises(ValueError, match=r"no model 'vgg17'; there are .*tiny, vgg16"):
        create_model("vgg17", 21)
    with pytest.raises(ValueError, match=r"num_classes counts background and must be at least 2, not 1"):
        create_model("tiny", 1)
    with pytest.raises(ValueError, match=r"num_classes .* not 3\.0"):
        create_model("tiny", 3.0)
    for dropout in (-0.1, 1, 1.5):
        with pytest.raises(ValueError, match=f"dropout must be in 0 ... 1, below 1, not {dropout}"):
            create_model("tiny", 3, dropout=dropout)
    with pytest.raises(ValueError, match="roi_pooling must be one of auto, xla, pallas, not 'cuda'"):
        create_model("tiny", 3, roi_pooling="cuda")
    for rank in (2.5, 2.0, True):
        with pytest.raises(ValueError, match=f"fc6_rank must be a whole number, not {rank}"):
            create_model("tiny", 3, fc6_rank=rank)


class Patches(nn.Module):
    """A trunk of one layer, whose output can be made wrong."""

    stride: int = 16
    normalized: bool = False
    pair: bool = True
    dtype: np.dtype = np.dtype("float32")

    @nn.compact
    def __call__(self, x, sizes):
        x = nn.Conv(4, (self.stride,) * 2, self.stride, padding="SAME")(x)
        if self.normalized:
            x = nn.BatchNorm(use_running_average=True)(x)
        return (x, None if sizes is None else -(-sizes // self.stride)) if self.pair else x


def test_a_trunk_of_another_stride_is_refused():
    """RoIs would be pooled from other places, without an error."""
    model = small_model()

    def run(model):
        images = jnp.zeros((2, 320, 480, 3), jnp.uint8)
        return jax.eval_shape(lambda key: model.init_with_output(key, images, ROIS)[0], jax.random.key(0))

    for stride in (4, 8, 32):
        trunk = model.clone(backbone=Patches(stride))
        with pytest.raises(ValueError, match=rf"^Patches gives .* a stride of 16: .*spatial_scale=1 / {stride}\)"):
            run(trunk)
        run(trunk.clone(spatial_scale=1 / stride))
    run(model.clone(backbone=Patches()))
    with pytest.raises(TypeError, match=r"^Patches must return the features and their sizes"):
        run(model.clone(backbone=Patches(pair=False)))


def test_variables_that_are_not_parameters_are_refused():
    with pytest.raises(ValueError, match=r"besides parameters, batch_stats, .*GroupNorm"):
        init_params(small_model().clone(backbone=Patches(normalized=True)), jax.random.key(0))


def test_parameters_need_no_kernels():
    """Pallas cannot trace one inside `jax.ensure_compile_time_eval`, where a GPU would get it."""
    made = jax.make_jaxpr(lambda: init_params(small_model().clone(roi_pooling="pallas"), jax.random.key(0)))()
    assert "pallas_call" not in str(made)
