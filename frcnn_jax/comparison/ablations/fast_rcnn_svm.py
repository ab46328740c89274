"""Fast R-CNN with SVMs instead of its softmax (Fast R-CNN's section 5.4 and table 8).

The SVMs are trained as in R-CNN, on the vectors before the classifier of a trained Fast R-CNN. Boxes are moved by its
offsets. The paper finds the softmax slightly better.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from frcnn_jax.comparison.record import Record
from frcnn_jax.comparison.settings import ComparisonConfig
from frcnn_jax.comparison.sppnet import convolve, resize
from frcnn_jax.comparison.stages.classifiers import load_svms, train_svms
from frcnn_jax.comparison.stages.features import Part, store_features
from frcnn_jax.comparison.stages.frames import resized_frame
from frcnn_jax.comparison.stages.run import open_test, open_training
from frcnn_jax.comparison.stages.testing import Score, test_system
from frcnn_jax.comparison.svm import LinearSvms
from frcnn_jax.comparison.windows import candidates
from frcnn_jax.config import Config, expand_user
from frcnn_jax.data.batch_plan import pad_rows, round_up
from frcnn_jax.data.pipeline import PROPOSAL_MULTIPLE
from frcnn_jax.detection.stages import untimed
from frcnn_jax.models.architectures import find_architecture
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.heads import FastRCNNHead, HiddenLayers, HiddenStages, StagesHead, output_layers
from frcnn_jax.runs.detector import Detector, load_detector

SYSTEM = "fast_rcnn_svm"


@dataclasses.dataclass(frozen=True)
class Source:
    """The Fast R-CNN to train SVMs on, and the size at which it sees an image."""

    step: int
    test_scale: int
    test_max_size: int


def train(
    config: Config, comparison: ComparisonConfig, folder: str | Path, fast_rcnn: str | Path | None = None
) -> None:
    """Computes features and trains SVMs in `folder`; stages with existing results are skipped.

    Args:
        fast_rcnn: workdir of a Fast R-CNN trained with this config; if None, `fast_rcnn-MODEL/run` beside `folder`,
            which the comparison writes.

    Raises:
        FileNotFoundError: the run does not exist.
        ValueError: the folder holds another system, or one made from other data or with other settings; or the
            detector has other classes than the training set, or is tested at several scales.
        FolderInUseError: another process works in `folder`.
        OSError: the disk has too little space for the features.
    """
    workdir, detector = _load(config, folder, fast_rcnn)
    with open_training(config, comparison, folder, SYSTEM, _source(detector)) as run:
        if run.dataset.classes != detector.classes:
            raise ValueError(
                f"{run.dataset.name} has the classes {run.dataset.classes}, the detector in {workdir} "
                f"{detector.classes}: give the config that it was trained with"
            )
        network = hidden_network(detector.model)
        boxes = [candidates(run.proposals[i], truth) for i, truth in enumerate(run.annotations)]
        cells = jax.ShapeDtypeStruct((1, *detector.model.output_size, _channels(detector)), jnp.float32)
        length = jax.eval_shape(network.apply, {"params": detector.params["head"]}, cells).shape[1]

        def compute(index: int) -> dict[str, Float[np.ndarray, "B V"]]:
            found = np.zeros((len(boxes[index]), length), np.float32)
            for part in describe(detector, network, run.images[index], boxes[index], untimed):
                found[part.rows] = np.asarray(part.vectors)[: len(part.rows)]
            return {"vectors": found}

        _record_fine_tuning(run.record, workdir)
        vectors = store_features(run, {"vectors": ([len(b) for b in boxes], length)}, compute, detector.params)
        run.record.set(disk_bytes=vectors["vectors"].nbytes)
        train_svms(run, vectors["vectors"], detector.params)


def test(
    config: Config,
    comparison: ComparisonConfig,
    folder: str | Path,
    fast_rcnn: str | Path | None = None,  # noqa: PT028 (not a pytest test)
) -> dict[str, Any]:
    """Tests the SVMs in `folder`, and writes metrics, page and pictures to `eval/` there.

    Returns:
        {"map": ..., "ap": {class: ...}, ...} as in `metrics.json`; empty if `comparison.share` is below 1.

    Raises:
        FileNotFoundError: they are not trained, or the Fast R-CNN does not exist.
        ValueError, FolderInUseError: as `train`.
    """
    _, detector = _load(config, folder, fast_rcnn)
    with open_test(config, comparison, folder, SYSTEM, _source(detector)) as run:
        svms = load_svms(run, detector.params)
        features = partial(describe, detector, hidden_network(detector.model))
        score = score_by_svms_and_offsets(detector, svms)
        return test_system(run, features, score, (detector.params, detector.statistics, svms))


def _source(detector: Detector) -> Source:
    return Source(detector.step, detector.config.input.test_scale, detector.config.input.test_max_size)


def _load(config: Config, folder: str | Path, fast_rcnn: str | Path | None) -> tuple[Path, Detector]:
    beside = expand_user(folder).absolute().parent / f"fast_rcnn-{config.model.name}" / "run"
    workdir = expand_user(fast_rcnn or beside).absolute()
    detector = load_detector(workdir)
    if detector.config.input.test_scales:
        raise ValueError(
            f"input.test_scales = {detector.config.input.test_scales} of the Fast R-CNN in {workdir}: its SVMs see one "
            "scale, input.test_scale: leave input.test_scales out for both, in another --workdir"
        )
    return workdir, detector


def _record_fine_tuning(record: Record, workdir: Path) -> None:
    """Adds the training time of the Fast R-CNN if it is part of the comparison."""
    path = workdir.parent / "record.json"
    found = Record.read(path).content if path.exists() else {"train": {}}
    if "fine_tuning" in found["train"]:  # not where the record was deleted after the training
        record.set_train("fine_tuning", **found["train"]["fine_tuning"])
        record.set(**{name: found[name] for name in ("steps", "windows", "paper_share")})


def _channels(detector: Detector) -> int:
    return find_architecture(detector.config.model.name).channels


def hidden_network(model: FastRCNN) -> nn.Module:
    """The head without its layers of scores and offsets, with the head's parameters.

    Raises:
        ValueError: it is neither a `FastRCNNHead` nor a `StagesHead`.
    """
    head, dtype = model.head, model.backbone.dtype
    if isinstance(head, StagesHead):
        return HiddenStages(head.stages, dtype=dtype)
    if isinstance(head, FastRCNNHead):
        return HiddenLayers(head.widths, dtype=dtype)
    raise ValueError(f"fast_rcnn_svm takes the vector of a FastRCNNHead or a StagesHead, not of {type(head).__name__}")


def describe(
    detector: Detector,
    network: nn.Module,
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Float[np.ndarray, "P 4"],
    watch: Any,
) -> Iterator[Part]:
    """RoI-pooled features and vectors of all boxes of an image, at the detector's test scale."""
    settings, model = detector.config.input, detector.model
    scale, bucket = resized_frame(image, settings.test_scale, settings.test_max_size, model.stride)
    rois = pad_rows(boxes.astype(np.float32), round_up(len(boxes), PROPOSAL_MULTIPLE))
    pixels, size = watch("resize", resize, image, scale, bucket)
    features, valid = watch("convolution", convolve, detector.params, pixels, size, model=model)
    pooled = watch("pooling", _pool, features, valid, rois, np.float32(scale), model=model)
    vectors = watch("fc", _vectors, detector.params["head"], pooled, network=network)
    yield Part(np.arange(len(boxes)), pooled, vectors.astype(jnp.float32))


def score_by_svms_and_offsets(detector: Detector, svms: LinearSvms) -> Score:
    """Scores by SVMs, offsets by the detector's own layer, in units of pixels over the box's size."""
    layer = detector.params["head"][output_layers(detector.model.head)[1]]
    classes = len(detector.classes) + 1

    @jax.jit
    def score(pooled: Array, vectors: Array) -> tuple[Array, Array]:
        kernel, bias = layer["kernel"].reshape(-1, 4 * classes), layer["bias"].reshape(1, 4 * classes)
        deltas = (vectors @ kernel + bias).reshape(-1, classes, 4)
        mean, std = detector.statistics.mean[None], detector.statistics.std[None]
        return svms.score(vectors), (deltas * std + mean)[:, 1:]

    return score


@partial(jax.jit, static_argnames="model")
def _pool(features: Array, valid: Array, rois: Array, scale: Array, *, model: FastRCNN) -> Array:
    return model.apply({}, features[None], rois[None], scale[None], valid[None], method="pool")[0]


@partial(jax.jit, static_argnames="network")
def _vectors(layers: Any, pooled: Array, *, network: nn.Module) -> Array:
    return network.apply({"params": layers}, pooled)
