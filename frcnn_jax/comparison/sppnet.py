"""SPPnet (He et al., ECCV 2014): convolution once per image, then a spatial pyramid per proposal.

Training is a sequence of stages, each with its result on disk. Features are pooled and stored for the windows that
fine-tuning can draw, and fc6, fc7 and a classifier are trained on them. The convolutions are not trained, as that would
invalidate the stored features. Then the vector before the classifier is computed for every window of every image. A
linear SVM per class is trained on the vectors, with hard negatives; box offsets are regressed from the pooled features.
At test all proposals of an image share its convolutions.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from frcnn_jax.comparison.feature_store import FeatureStore
from frcnn_jax.comparison.settings import ComparisonConfig, SppnetConfig
from frcnn_jax.comparison.stages.batches import batches
from frcnn_jax.comparison.stages.classifiers import load_regressors, load_svms, train_regressors, train_svms
from frcnn_jax.comparison.stages.features import Pairs, Part, regression_pairs, store_features
from frcnn_jax.comparison.stages.fine_tuning import Task
from frcnn_jax.comparison.stages.frames import pad_image, resized_frame
from frcnn_jax.comparison.stages.network import classify, fine_tune_once, load_network
from frcnn_jax.comparison.stages.run import Run, open_test, open_training
from frcnn_jax.comparison.stages.testing import score_by_svms, test_system
from frcnn_jax.comparison.windows import Kept, candidates, keep_windows, label_windows
from frcnn_jax.config import Config
from frcnn_jax.data.batch_plan import round_up
from frcnn_jax.data.pipeline import PROPOSAL_MULTIPLE, resize_image
from frcnn_jax.detection.roi_plan import choose_levels
from frcnn_jax.detection.stages import untimed
from frcnn_jax.models.architectures import find_architecture
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.heads import HiddenLayers
from frcnn_jax.ops.spatial_pyramid import pyramid_cells, spatial_pyramid_pool

SYSTEM = "sppnet"
CLASSIFIER = "cls_score"


def train(config: Config, comparison: ComparisonConfig, folder: str | Path) -> None:
    """Trains all stages in `folder`; stages with existing results are skipped.

    Raises:
        ValueError: the folder holds another system, or one made from other data or with other settings; or the test set
            has other classes.
        FolderInUseError: another process works there.
        FloatingPointError: the loss of fine-tuning is not finite.
        OSError: the disk has too little space for the features.
        KeyboardInterrupt: interrupted while fine-tuning, which goes on from there when called again.
    """
    with open_training(config, comparison, folder, SYSTEM, comparison.sppnet, build) as run:
        network = build(run)
        params = load_network(run) if run.is_fine_tuned else first_params(run, network)
        pooled, kept, pairs = pool_windows(run, network, params)
        params = fine_tune(run, network, params, pooled, kept)
        vectors = compute_vectors(run, network, params)
        run.record.set(disk_bytes=vectors.nbytes + pooled.nbytes)
        train_svms(run, vectors, params)
        train_regressors(run, pooled, kept.rows_of(pairs.rows), pairs, params)


def test(config: Config, comparison: ComparisonConfig, folder: str | Path) -> dict[str, Any]:
    """Tests the system in `folder`, and writes metrics, page and pictures to `eval/` there.

    Returns:
        {"map": ..., "ap": {class: ...}, ...} as in `metrics.json`; nothing where `comparison.share` is below 1.

    Raises:
        FileNotFoundError: it is not trained.
        ValueError, FolderInUseError: as `train`.
    """
    with open_test(config, comparison, folder, SYSTEM, comparison.sppnet) as run:
        network, params = build(run), load_network(run)
        svms, regressors = load_svms(run, params), load_regressors(run, params)
        features = partial(describe, network, params)
        return test_system(run, features, score_by_svms(svms, regressors), (params, svms, regressors))


@dataclasses.dataclass(frozen=True)
class Network:
    """Convolutions of a detector, pyramid pooling, fc6 and fc7."""

    model: FastRCNN
    head: nn.Module
    channels: int  # of the feature map
    settings: SppnetConfig

    @property
    def num_features(self) -> int:
        """Pooled features of a box."""
        return sum(n * n for n in self.settings.levels) * self.channels

    def level(self, image: UInt8[np.ndarray, "H W 3"], shorter: int) -> tuple[float, tuple[int, int]]:
        """Factor that scales the shorter side of an image to `shorter`, and the padded size."""
        return resized_frame(image, shorter, self.settings.max_size, self.model.stride)


def build(run: Run) -> Network:
    """The network: the detector's convolutions, and new fc6 and fc7."""
    settings, model = run.comparison.sppnet, run.model()
    widths = settings.widths or getattr(model.head, "widths", (512, 256))
    head = HiddenLayers(widths, run.config.model.dropout, dtype=model.backbone.dtype)
    return Network(model, head, find_architecture(run.config.model.name).channels, settings)


def first_params(run: Run, network: Network) -> Any:
    """Its initial parameters: the detector's convolutions, random fc6 and fc7, and a classifier drawn with a deviation
    of 0.01.
    """
    params, head = run.first_params(network.model), network.head
    hidden_key, classifier_key = jax.random.split(jax.random.fold_in(jax.random.key(run.seed), 1))
    layers = head.init(hidden_key, jnp.zeros((1, 1, 1, network.num_features), head.dtype))["params"]
    kernel = 0.01 * jax.random.normal(classifier_key, (head.widths[1], len(run.dataset.classes) + 1))
    layers[CLASSIFIER] = {"kernel": kernel, "bias": jnp.zeros(kernel.shape[1])}
    return {"backbone": params["backbone"], "head": layers}


def pool(
    network: Network, params: Any, image: UInt8[np.ndarray, "H W 3"], boxes: Float[np.ndarray, "P 4"], watch: Any
) -> Iterator[tuple[Int[np.ndarray, " n"], Float[Array, "B F"]]]:
    """Pooled features of an image's boxes, scale by scale, with their rows.

    Each box is pooled at the scale at which its area is closest to that of the network's training windows.
    """
    settings = network.settings
    levels = [network.level(image, shorter) for shorter in settings.scales]
    level_of = choose_levels(boxes, np.array([scale for scale, _ in levels]), settings.area**2)
    for number in np.unique(level_of):
        scale, bucket = levels[number]
        rows = np.flatnonzero(level_of == number)
        # Few padded counts, 64, 256, 1024 ..., as pooling compiles slowly; most of the padding is cut off before fc6.
        count = next(64 << 2 * i for i in itertools.count() if 64 << 2 * i >= len(rows))
        chosen = np.zeros((count, 4), np.float32)
        chosen[: len(rows)] = boxes[rows]
        pixels, size = watch("resize", resize, image, scale, bucket)
        features, valid = watch("convolution", convolve, params, pixels, size, model=network.model)
        pooled = watch("pooling", _pool, features, valid, chosen, np.float32(scale), network=network)
        yield rows, pooled[: round_up(len(rows), PROPOSAL_MULTIPLE)]


def describe(
    network: Network, params: Any, image: UInt8[np.ndarray, "H W 3"], boxes: Float[np.ndarray, "P 4"], watch: Any
) -> Iterator[Part]:
    """Features of an image's boxes, scale by scale."""
    for rows, pooled in pool(network, params, image, boxes, watch):
        vectors = watch("fc", _vectors, params["head"], pooled, head=network.head)
        yield Part(rows, pooled, vectors.astype(jnp.float32))


def resize(
    image: UInt8[np.ndarray, "H W 3"], scale: float, bucket: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "1 h w 3"], Int[np.ndarray, "1 2"]]:
    """A batch of one image, resized and padded, and its valid rows and columns."""
    resized = resize_image(image, scale)
    return pad_image(resized, bucket)[None], np.array([resized.shape[:2]], np.int32)


@partial(jax.jit, static_argnames="model")
def convolve(params: Any, pixels: Array, size: Array, *, model: FastRCNN) -> tuple[Array, Array]:
    """The feature map of a batch of one image, padded to multiples of 32 cells, and its valid rows and columns."""
    features, sizes = model.apply({"params": params}, pixels, size, method="features")
    # Pooling takes seconds to compile for each size of a map.
    rows, columns = (-length % 32 for length in features.shape[1:3])
    return jnp.pad(features[0], ((0, rows), (0, columns), (0, 0))), sizes[0]


@partial(jax.jit, static_argnames="network")
def _pool(features: Array, valid: Array, boxes: Array, scale: Array, *, network: Network) -> Array:
    settings = network.settings
    cells = pyramid_cells(
        boxes,
        scale,
        valid,
        stride=network.model.stride,
        rule=settings.cells,
        origin=settings.origin,
        margin=settings.margin,
    )
    pooled = spatial_pyramid_pool(features, cells, settings.levels, valid)
    return pooled.reshape(len(boxes), -1).astype(jnp.float32)


@partial(jax.jit, static_argnames=("head", "train"))
def _vectors(layers: Any, pooled: Array, rngs: Any = None, *, head: nn.Module, train: bool = False) -> Array:
    return head.apply({"params": layers}, pooled[:, None, None].astype(head.dtype), train=train, rngs=rngs)


def pool_windows(run: Run, network: Network, params: Any) -> tuple[FeatureStore, Kept, Pairs]:
    """Pooled features on disk, and their windows.

    The published code stores the features of every window, even of those that are never used.
    """
    settings, regression = run.comparison.sppnet.fine_tuning, run.comparison.regression
    least = min(settings.background_iou[0], regression.min_iou if regression.enabled else 1.0)
    kept = keep_windows(label_windows(run.proposals, run.annotations), run.num_images, least)

    def compute(index: int) -> dict[str, Float[np.ndarray, "B F"]]:
        boxes = candidates(run.proposals[index], run.annotations[index])[kept.places[index] >= 0]
        found = np.zeros((len(boxes), network.num_features), np.float32)
        for rows, pooled in pool(network, params, run.images[index], boxes, untimed):
            found[rows] = np.asarray(pooled)[: len(rows)]
        return {"pooled": found}

    plans = {"pooled": ([int((places >= 0).sum()) for places in kept.places], network.num_features)}
    return store_features(run, plans, compute, params["backbone"])["pooled"], kept, regression_pairs(run)


def fine_tune(run: Run, network: Network, params: Any, pooled: FeatureStore, kept: Kept) -> Any:
    """The parameters after fine-tuning fc6, fc7 and the classifier on stored features."""
    if run.is_fine_tuned:
        return params
    settings = run.comparison.sppnet.fine_tuning

    def logits(params: Any, inputs: Array, key: Array | None) -> Float[Array, "B K1"]:
        rngs = None if key is None else {"dropout": key}
        vectors = _vectors(params["head"], inputs, rngs, head=network.head, train=key is not None)
        return classify(vectors, params, CLASSIFIER)

    def read(rows: Int[np.ndarray, " B"]) -> Float[np.ndarray, "B F"]:
        return pooled.select(rows)[:]

    named = {"share": run.comparison.share, "seed": run.seed, "section": f"comparison.{SYSTEM}.fine_tuning"}
    source, held_out = batches(kept.windows, run.num_images, settings, read, **named)
    task = Task({"head": params["head"]}, f"head/{CLASSIFIER}", jnp.asarray, logits, network.model.pixels)
    paper, fixed = SppnetConfig().fine_tuning, {"backbone": params["backbone"]}
    return fine_tune_once(run, task, source, held_out, settings, paper, fixed)


def compute_vectors(run: Run, network: Network, params: Any) -> FeatureStore:
    """Vectors before the classifier of every window, on disk."""
    boxes = [candidates(run.proposals[i], truth) for i, truth in enumerate(run.annotations)]

    def compute(index: int) -> dict[str, Float[np.ndarray, "B V"]]:
        found = np.zeros((len(boxes[index]), network.head.widths[1]), np.float32)
        for part in describe(network, params, run.images[index], boxes[index], untimed):
            found[part.rows] = np.asarray(part.vectors)[: len(part.rows)]
        return {"vectors": found}

    plans = {"vectors": ([len(b) for b in boxes], network.head.widths[1])}
    return store_features(run, plans, compute, params)["vectors"]
