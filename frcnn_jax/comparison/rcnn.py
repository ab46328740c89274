"""R-CNN (Girshick et al., CVPR 2014): the whole network on the window of each proposal.

Training is a sequence of stages, each with its result on disk. The network is fine-tuned with a softmax on windows
drawn from all images. Then the vector before the classifier is computed for every window of every image, and the last
pooled features for windows near an object. A linear SVM per class is trained on the vectors, with hard negatives; box
offsets are regressed from the pooled features. At test, each proposal goes through warp, convolutions and layers
separately: overlapping proposals share nothing.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from frcnn_jax.comparison.feature_store import FeatureStore
from frcnn_jax.comparison.settings import ComparisonConfig, RcnnConfig
from frcnn_jax.comparison.stages.batches import batches
from frcnn_jax.comparison.stages.classifiers import load_regressors, load_svms, train_regressors, train_svms
from frcnn_jax.comparison.stages.features import Pairs, Part, regression_pairs, store_features
from frcnn_jax.comparison.stages.fine_tuning import Task
from frcnn_jax.comparison.stages.frames import pad_image, padded_side
from frcnn_jax.comparison.stages.network import classify, fine_tune_once, load_network
from frcnn_jax.comparison.stages.run import Run, open_test, open_training
from frcnn_jax.comparison.stages.testing import score_by_svms, test_system
from frcnn_jax.comparison.windows import candidates, label_windows
from frcnn_jax.config import Config
from frcnn_jax.detection.stages import untimed
from frcnn_jax.models.architectures import create_window_network, find_architecture
from frcnn_jax.models.heads import output_layers
from frcnn_jax.models.pixels import PixelNormalization, normalize_images
from frcnn_jax.models.windows import WindowNetwork
from frcnn_jax.ops.warp import warp_window

SYSTEM = "rcnn"


@dataclasses.dataclass(frozen=True)
class Warp:
    """Conversion of an image to windows for a network."""

    size: int
    context: int
    pixels: PixelNormalization

    def around(
        self, image: UInt8[np.ndarray, "H W 3"], box: Float[np.ndarray, "4"]
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Int[np.ndarray, "2"], Float[np.ndarray, "4"]]:
        """The part of an image inside the window of a box, padded, its size, and the box in its frame."""
        x1, y1, x2, y2 = box
        growth = self.context / (self.size - 2 * self.context)
        x, y = (max(int(low - growth * (high - low)) - 2, 0) for low, high in ((x1, x2), (y1, y2)))
        right, bottom = (int(high + growth * (high - low)) + 3 for low, high in ((x1, x2), (y1, y2)))
        part = image[y : max(bottom, y + 1), x : max(right, x + 1)]
        return *padded(part), np.asarray(box, np.float32) - np.array([x, y, x, y], np.float32)

    def __call__(
        self, image: UInt8[Array, "H W 3"], size: Int[Array, "2"], boxes: Float[Array, "B 4"]
    ) -> Float[Array, "B S S 3"]:
        """Windows of a padded image with `size` valid rows and columns."""
        return _warp(image, size, boxes, warp=self)


def padded(image: UInt8[np.ndarray, "h w 3"]) -> tuple[UInt8[np.ndarray, "H W 3"], Int[np.ndarray, "2"]]:
    """An image padded to one of few sizes, and its original size."""
    height, width = image.shape[:2]
    return pad_image(image, (padded_side(height), padded_side(width))), np.array([height, width], np.int32)


@partial(jax.jit, static_argnames="warp")
def _warp(image: Array, size: Array, boxes: Array, *, warp: Warp) -> Array:
    # Outside the image the value is 0 after normalisation: the mean.
    normalized = normalize_images(image[None], size[None], warp.pixels)[0]
    cut = partial(warp_window, normalized, image_size=size, size=warp.size, context=warp.context)
    return jax.vmap(lambda box: cut(box))(boxes)


def train(config: Config, comparison: ComparisonConfig, folder: str | Path) -> None:
    """Trains all stages in `folder`; stages with existing results are skipped.

    Raises:
        ValueError: the folder holds another system, or one made from other data or with other settings; the
            architecture has no network for whole windows; or the test set has other classes.
        FolderInUseError: another process works there.
        FloatingPointError: the loss of fine-tuning is not finite.
        OSError: the disk has too little space for the features.
        KeyboardInterrupt: interrupted while fine-tuning, which is resumed when called again.
    """
    with open_training(config, comparison, folder, SYSTEM, comparison.rcnn, build) as run:
        network, params, warp = fine_tune(run)
        vectors, pooled, pairs = compute_features(run, network, params, warp)
        run.record.set(disk_bytes=vectors.nbytes + pooled.nbytes)
        train_svms(run, vectors, params)
        train_regressors(run, pooled, np.arange(len(pairs.labels)), pairs, params)


def test(config: Config, comparison: ComparisonConfig, folder: str | Path) -> dict[str, Any]:
    """Tests the system in `folder`, and writes metrics, page and pictures to `eval/` there.

    Returns:
        {"map": ..., "ap": {class: ...}, ...} as in `metrics.json`; nothing where `comparison.share` is below 1.

    Raises:
        FileNotFoundError: it is not trained.
        ValueError, FolderInUseError: as `train`.
    """
    with open_test(config, comparison, folder, SYSTEM, comparison.rcnn) as run:
        (network, warp), params = build(run), load_network(run)
        svms, regressors = load_svms(run, params), load_regressors(run, params)
        features = describe(network, params, warp, comparison.rcnn.windows_at_once)
        return test_system(run, features, score_by_svms(svms, regressors), (params, svms, regressors))


def build(run: Run) -> tuple[WindowNetwork, Warp]:
    """The network and its windows.

    Raises:
        ValueError: the architecture has no network for windows, or their context leaves no pixel for the box.
    """
    model, name = run.model(), run.config.model.name
    network = create_window_network(name, dtype=model.backbone.dtype, pixels=model.pixels)
    if hasattr(network.head, "dropout"):
        network = network.clone(head=network.head.clone(dropout=run.config.model.dropout))
    size, context = find_architecture(name).window.size, run.comparison.rcnn.context
    if 2 * context >= size:
        raise ValueError(
            f"comparison.rcnn.context = {context} on each side leaves nothing of the window of {name}, {size} pixels: "
            f"give at most {(size - 1) // 2}"
        )
    return network, Warp(size, context, network.pixels)


def first_params(run: Run) -> tuple[Any, str]:
    """The network's initial parameters, and the name of its classifier.

    The classifier is the detector's layer of scores. The layer of offsets is left out.
    """
    model = run.model()
    params, (scores, offsets) = run.first_params(model), output_layers(model.head)
    head = {layer: arrays for layer, arrays in params["head"].items() if layer != offsets}
    return {**params, "head": head}, scores


def fine_tune(run: Run) -> tuple[WindowNetwork, Any, Warp]:
    """The network after fine-tuning on warped windows of all images, in batches of 32 objects and 96 of background."""
    network, warp = build(run)
    if run.is_fine_tuned:
        return network, load_network(run), warp
    params, scores = first_params(run)
    windows = label_windows(run.proposals, run.annotations)

    def read(rows: Int[np.ndarray, " B"]) -> list[tuple[np.ndarray, ...]]:
        return [warp.around(run.images[int(windows.images[row])], windows.boxes[row]) for row in rows]

    def load(parts: list[tuple[np.ndarray, ...]]) -> Float[Array, "B S S 3"]:
        return jnp.concatenate([warp(image, size, box[None]) for image, size, box in parts])

    def logits(params: Any, inputs: Array, key: Array | None) -> Float[Array, "B K1"]:
        rngs = None if key is None else {"dropout": key}
        return classify(network.apply({"params": params}, inputs, train=key is not None, rngs=rngs), params, scores)

    settings = run.comparison.rcnn.fine_tuning
    named = {"share": run.comparison.share, "seed": run.seed, "section": f"comparison.{SYSTEM}.fine_tuning"}
    source, held_out = batches(windows, run.num_images, settings, read, **named)
    task = Task(params, f"head/{scores}", load, logits, network.pixels, run.comparison.rcnn.windows_at_once)
    return network, fine_tune_once(run, task, source, held_out, settings, RcnnConfig().fine_tuning), warp


def describe(network: WindowNetwork, params: Any, warp: Warp, at_once: int) -> Callable[..., Iterator[Part]]:
    """A function that computes the features of an image's boxes, `at_once` windows at a time."""

    def features(image: UInt8[np.ndarray, "H W 3"], boxes: Float[np.ndarray, "P 4"], watch: Any) -> Iterator[Part]:
        pixels, size = map(jnp.asarray, padded(image))
        for start in range(0, len(boxes), at_once):
            rows = np.arange(start, min(start + at_once, len(boxes)))
            chunk = np.zeros((at_once, 4), np.float32)
            chunk[: len(rows)] = boxes[rows]
            windows = watch("warp", warp, pixels, size, chunk)
            pooled = watch("convolution", _pooled, params, windows, network=network)
            vectors = watch("fc", _vectors, params, pooled, network=network)
            cells = _regression_features(pooled, network=network)
            yield Part(rows, cells.astype(jnp.float32), vectors.astype(jnp.float32))

    return features


@partial(jax.jit, static_argnames="network")
def _pooled(params: Any, windows: Array, *, network: WindowNetwork) -> Array:
    return network.apply({"params": params}, windows, method="pool5")


@partial(jax.jit, static_argnames="network")
def _vectors(params: Any, pooled: Array, *, network: WindowNetwork) -> Array:
    return network.apply({"params": params}, pooled, method=lambda module, x: module.head(x))


@partial(jax.jit, static_argnames="network")
def _regression_features(pooled: Array, *, network: WindowNetwork) -> Array:
    return network.apply({}, pooled, method="regression_features")


def compute_features(
    run: Run, network: WindowNetwork, params: Any, warp: Warp
) -> tuple[FeatureStore, FeatureStore, Pairs]:
    """Vectors of every window, pooled features of the windows for box regression, and its targets.

    The published code stores the pooled features of every window, tens of times as many.
    """
    boxes = [candidates(run.proposals[i], truth) for i, truth in enumerate(run.annotations)]
    pairs = regression_pairs(run)
    features = describe(network, params, warp, run.comparison.rcnn.windows_at_once)
    window = jax.ShapeDtypeStruct((1, warp.size, warp.size, 3), jnp.float32)
    maps, vector = (
        jax.eval_shape(partial(network.apply, method=method), {"params": params}, window)
        for method in ("pool5", "__call__")
    )
    cells = jax.eval_shape(partial(_regression_features, network=network), maps)

    def compute(index: int) -> dict[str, Float[np.ndarray, "B F"]]:
        vectors = np.zeros((len(boxes[index]), vector.size), np.float32)
        pooled = np.zeros((len(pairs.rows[index]), cells.size), np.float32)
        for part in features(run.images[index], boxes[index], untimed):
            vectors[part.rows] = np.asarray(part.vectors)[: len(part.rows)]
            kept, places, found = np.intersect1d(pairs.rows[index], part.rows, return_indices=True)
            if len(kept):
                pooled[places] = np.asarray(part.pooled)[found]
        return {"vectors": vectors, "pooled": pooled}

    def compile_for(index: int) -> None:
        jax.block_until_ready(next(features(run.images[index], boxes[index], untimed), None))

    plans = {
        "vectors": ([len(b) for b in boxes], vector.size),
        "pooled": ([len(rows) for rows in pairs.rows], cells.size),
    }
    stores = store_features(run, plans, compute, params, compile_for)
    return stores["vectors"], stores["pooled"], pairs
