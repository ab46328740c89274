"""Every public function of operations, models, training step and detection where JAX refuses implicit promotion.

Promotion is decided while a function is traced, so most are not computed.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.detection.detect import detect, detect_batch
from frcnn_jax.detection.inputs import make_batch
from frcnn_jax.models.architectures import create_model
from frcnn_jax.models.fast_rcnn import init_params
from frcnn_jax.models.pixels import TORCHVISION_PIXELS, normalize_images
from frcnn_jax.ops import boxes, losses
from frcnn_jax.ops.layers.conv import conv2d
from frcnn_jax.ops.layers.lrn import local_response_norm
from frcnn_jax.ops.layers.max_pool import max_pool
from frcnn_jax.ops.nms import nms, nms_by_class
from frcnn_jax.ops.roi_pool.pool import project_rois, roi_max_pool
from frcnn_jax.ops.sampling import sample_rois
from frcnn_jax.training.losses import MultiTaskLoss
from frcnn_jax.training.losses.batch_loss import loss_fn
from frcnn_jax.training.optimizer import create_optimizer
from frcnn_jax.training.state import create_state
from frcnn_jax.training.statistics import box_statistics, identity_statistics
from frcnn_jax.training.step import make_train_step
from frcnn_jax.types import GroundTruth
from tests.training.cases import CONFIG, SAMPLING, least_model, random_params, small_batch, small_model, small_params


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def both(function, *arrays, wrt=0):
    """Traces the value and the gradient of a sum over it."""
    jax.eval_shape(function, *arrays)
    jax.eval_shape(jax.grad(lambda *x: jnp.sum(function(*x)), argnums=wrt), *arrays)


A = np.array([[0, 0, 30, 20], [4, 2, 28, 20], [9, 9, 40, 30]])
B = A[::-1] + np.array([[1, 2, 3, 4]])
PAIRS = [("uint16", "float32"), ("bfloat16", "uint16"), ("float32", "bfloat16"), ("float32", "float32")]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_boxes(first, second):
    a, b = jnp.asarray(A, first), jnp.asarray(B, second)
    for function in (
        boxes.pairwise_iou, boxes.paired_giou, boxes.encode_boxes, boxes.decode_boxes, boxes.paired_intersection,
    ):  # fmt: skip
        assert jax.eval_shape(function, a, b).dtype == jnp.float32
    real, scores, labels = jnp.ones(3, bool), jnp.array([0.5, 0.75, 0.25]), jnp.array([1, 2, 1])
    for function, *arrays in (
        (boxes.box_area, a),
        (boxes.clip_boxes, a, jnp.array([20, 30])),
        (lambda a: project_rois(a, 1.5), a),
        (project_rois, a, jnp.asarray(2, second)),
        (nms, a, scores, real),
        (nms_by_class, a[None], scores[None], real[None]),
        (partial(sample_rois, rois_per_image=4), jax.random.key(0), a, real, b, labels, real),
        (partial(sample_rois, foreground_balance="class"), jax.random.key(0), a, real, b, labels, real),
        (roi_max_pool, jnp.ones((6, 7, 2)), a),
    ):
        jax.eval_shape(function, *arrays)


def test_gradients_of_boxes():
    a, b = jnp.asarray(A, jnp.float32), jnp.asarray(B, jnp.float32)
    for function in (boxes.pairwise_iou, boxes.paired_giou, boxes.encode_boxes, boxes.decode_boxes):
        both(function, a / 8, b / 8)


def test_nms_by_tiles():
    jax.eval_shape(nms, jnp.ones((300, 4)), jnp.ones(300), jnp.ones(300, bool))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers(dtype):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.standard_normal((1, 9, 8, 128)), dtype)
    kernel = jnp.asarray(random.standard_normal((3, 3, 128, 128)), dtype)
    both(lambda x, k: conv2d(x, k, padding=1), x, kernel, wrt=(0, 1))  # by way of Winograd on a CPU
    both(lambda x, k: conv2d(x[..., :4], k[..., :4, :4], stride=2, padding=1), x, kernel, wrt=(0, 1))
    both(lambda x: max_pool(x, 3, 2, 1), x)
    both(local_response_norm, x)
    both(lambda x: local_response_norm(x, beta=0.5), x)
    both(lambda x: roi_max_pool(x[0], jnp.asarray(A, jnp.float32) * 4), x)
    both(lambda x: roi_max_pool(x[0], jnp.asarray(A, jnp.float32), implementation="pallas"), x)
    assert normalize_images(jnp.ones((1, 4, 4, 3), jnp.uint8), None, TORCHVISION_PIXELS, x.dtype).dtype == x.dtype


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_losses(dtype):
    logits, deltas = jnp.ones((3, 3), dtype), jnp.ones((3, 3, 4), dtype)
    labels, real = jnp.array([0, 1, 2]), jnp.ones(3, bool)
    statistics = identity_statistics(3)
    for classification in losses.CLASSIFICATION_LOSSES.values():
        both(lambda x, f=classification: f(x, labels), logits)
        for localization in losses.LOCALIZATION_LOSSES.values():

            def run(x, t, classes=classification, offsets=localization):
                arrays = (jnp.asarray(A, jnp.uint16), labels, jnp.asarray(B, dtype), real)
                return losses.multi_task_loss(
                    x, t, *arrays, statistics.mean, statistics.std, classification=classes, localization=offsets
                )[0]

            both(run, logits, deltas, wrt=(0, 1))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "bfloat16") for name in ("tiny", "caffenet", "vgg_cnn_m_1024", "vgg16")), ("caffenet", "float32")],
)
def test_every_network(name, dtype):
    """Traced alone: promotion is decided while tracing."""
    model = create_model(name, 3, dtype=dtype)
    params = jax.eval_shape(partial(init_params, model), jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 96, 112, 3), jnp.uint8)
    rois = jax.ShapeDtypeStruct((2, 5, 4), jnp.float32)

    def run(params, images, rois, sizes, scales, train):
        outputs = model.apply({"params": params}, images, rois, image_sizes=sizes, scales=scales, train=train,
                              rngs={"dropout": jax.random.key(0)})  # fmt: skip
        return sum(jnp.sum(x) for x in outputs)

    sizes, scales = jax.ShapeDtypeStruct((2, 2), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.float32)
    jax.eval_shape(jax.grad(partial(run, train=True)), params, images, rois, sizes, scales)
    jax.eval_shape(partial(run, sizes=None, scales=None, train=False), params, images, rois)


def test_loss_and_gradient_of_the_whole():
    model, loss = small_model(dropout=0.5), MultiTaskLoss(losses.focal, losses.giou_localization, 0.5)
    run = partial(loss_fn, model=model, loss=loss, sampling=SAMPLING)
    jax.eval_shape(jax.grad(run, has_aux=True), small_params(0.5), small_batch(), jax.random.key(0))


@pytest.mark.parametrize("options", [{}, {"schedule": "cosine", "warmup": 3, "clip_norm": 1.0}])
def test_the_training_step(options):
    model, params = small_model(), small_params()
    annotation = GroundTruth(boxes=A.astype(np.float32), labels=np.array([1, 2, 1]), difficult=np.zeros(3, bool))
    statistics = box_statistics([B.astype(np.float32)], [annotation], 3, foreground_iou=0.25)
    config = dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, **options))
    state = create_state(config, params, statistics)
    optimizer = create_optimizer(config.optimizer, params, 9)
    step = make_train_step(model, optimizer, sampling=SAMPLING, axis_name=None)
    after, metrics = jax.eval_shape(step, state, small_batch(), jax.random.key(0))
    assert jax.tree.all(jax.tree.map(lambda new, old: new.dtype == old.dtype, after, state))
    assert {x.dtype for x in metrics.values()} == {jnp.dtype("float32")}


def test_detection():
    model = least_model()
    params = random_params(model)
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    detect(model, params, image, A, scale=48, max_size=96)
    detect(model, params, image, A, scales=(48, 96), max_size=160, box_regression=False)
    jax.eval_shape(partial(detect_batch, model=model), params, None, make_batch(image, A))
