"""A detector as one file: its parameters, or a StableHLO function that runs without this package.

A `.stablehlo` file is the output of `jax.export`, followed by a zip archive with `metadata.json`. So both
`jax.export.deserialize` and `zipfile` read the same file. The weights, the pixel normalisation, the box statistics and
non-maximum suppression are inside. It runs with jax (and `flatbuffers`, which `jax.export` reads files with):

    import json, zipfile
    import cv2, jax, numpy as np
    from jax import export

    about = json.loads(zipfile.ZipFile("detector.stablehlo").read("metadata.json"))
    detect = jax.jit(export.deserialize(bytearray(open("detector.stablehlo", "rb").read())).call)
    flags = cv2.IMREAD_COLOR | (about["orientation"] == "ignore") * cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imread("image.png", flags)  # turned by its EXIF orientation or not, as `frcnn detect` does
    boxes = np.load("boxes.npy")  # of this image: half-open x1 y1 x2 y2 that may contain objects
    size, (height, width, count) = image.shape[:2], (about["function"][k] for k in ("height", "width", "proposals"))
    boxes = boxes[:count]  # the best come first
    scale = min(about["test"]["scale"] / min(size), about["test"]["max_size"] / max(size))
    resized = cv2.resize(image, None, fx=scale, fy=scale)[..., ::-1]  # RGB
    rows, columns = resized.shape[:2]
    padded = np.pad(resized, ((0, height - rows), (0, width - columns), (0, 0)))
    proposals = np.pad(np.float32(boxes), ((0, count - len(boxes)), (0, 0)))
    found = detect(padded, np.int32([rows, columns]), np.int32(size), np.float32(scale), proposals,
                   np.arange(count) < len(boxes))
    boxes, scores, labels = (np.array(found[k])[found["mask"]] for k in ("boxes", "scores", "labels"))

Detections are sorted, best first; label i is `about["classes"][i - 1]`.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Bool, Float, Int, UInt8

from frcnn_jax.atomic import replacing
from frcnn_jax.config import expand_user
from frcnn_jax.detection.detect import detect_batch
from frcnn_jax.detection.settings import detection_settings
from frcnn_jax.runs.detector import Detector
from frcnn_jax.types import Batch
from frcnn_jax.weights.formats.stablehlo import add_metadata
from frcnn_jax.weights.formats.table import refuse_existing, write_weights
from frcnn_jax.weights.metadata import WeightsMetadata

_log = logging.getLogger(__name__)
PLATFORMS = ("cpu", "cuda", "tpu")


def describe(detector: Detector) -> WeightsMetadata:
    """The metadata of a detector's weights."""
    statistics = jax.tree.map(lambda x: np.asarray(x, np.float32), detector.statistics)
    about = int(detector.step), detector.config, detector.orientation
    return WeightsMetadata(tuple(detector.classes), detector.model.pixels, statistics, *about)


def export_arrays(path: str | Path, detector: Detector, *, overwrite: bool = False) -> None:
    """Writes the detector's trained parameters with their metadata.

    Box statistics are stored separately, in the metadata; `load_weights` folds them in.

    Args:
        path: ends in `.safetensors` or `.npz`, which determines the format.

    Raises:
        ValueError: the path ends in something else.
        FileExistsError: the file exists and `overwrite` is False.
    """
    write_weights(expand_user(path), flatten_dict(detector.params, sep="/"), describe(detector), overwrite=overwrite)


def export_stablehlo(
    path: str | Path,
    detector: Detector,
    *,
    bucket: tuple[int, int] | None = None,
    proposals: int | None = None,
    platforms: Sequence[str] = PLATFORMS,
    overwrite: bool = False,
) -> None:
    """Writes the detector as one function of fixed shapes; the module's docstring shows how to run it.

    The function takes image uint8 [height, width, 3] (RGB, resized, padded with zeros), image_size int32 [2] (rows and
    columns before padding), original_size int32 [2] (rows and columns before resizing), scale float32 [], proposals
    float32 [P, 4] (half-open, pixels of the original image) and proposal_mask bool [P]. It returns a dict of boxes
    float32 [D, 4], scores float32 [D], labels int32 [D] and mask bool [D]; those in the mask are the detections; they
    come first, sorted best first. For a detector tested on an image pyramid the function computes one level only, that
    nearest to `input.test_scale`; its scale is in the metadata and in a line that is logged.

    Args:
        bucket: height and width of the padded image; a square that holds any image at the test scale if None. A smaller
            bucket, for images of one orientation, saves time.
        proposals: P, the number of boxes the function takes; the config's `proposals.max_count` if None.
        platforms: platforms the function is lowered for.

    Raises:
        ValueError: a size is not positive.
        FileExistsError: the file exists and `overwrite` is False.
        ModuleNotFoundError: `flatbuffers` is not installed.
    """
    path = expand_user(path)
    refuse_existing(path, overwrite)
    stride = detector.model.stride
    longest = -(-detector.config.input.test_max_size // stride) * stride
    height, width = (longest, longest) if bucket is None else bucket
    count = detector.config.proposals.max_count if proposals is None else proposals
    if min(height, width, count) < 1:
        raise ValueError(f"sizes must be positive: bucket {height} x {width}, {count} proposals")
    settings = detector.config.input
    if len(set(settings.test_scales)) > 1:
        one = settings.single_test_scale
        _log.warning("%s computes one scale, %d, but the run is tested on several (input.test_scales)", path, one)
    about = {
        "function": {
            "height": height,
            "width": width,
            "proposals": count,
            "platforms": list(platforms),
            "jax": jax.__version__,
        }
    }

    with replacing(path, follow=True) as temporary:
        temporary.write_bytes(_serialize(detector, (height, width), count, platforms))
        add_metadata(temporary, describe(detector), **about)


def _serialize(detector: Detector, bucket: tuple[int, int], count: int, platforms: Sequence[str]) -> bytearray:
    """The detector as `jax.export` serializes it."""
    try:
        import flatbuffers  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError("jax.export needs flatbuffers: pip install flatbuffers") from None
    from jax import export

    inputs = (
        jax.ShapeDtypeStruct((*bucket, 3), jnp.uint8),
        jax.ShapeDtypeStruct((2,), jnp.int32),
        jax.ShapeDtypeStruct((2,), jnp.int32),
        jax.ShapeDtypeStruct((), jnp.float32),
        jax.ShapeDtypeStruct((count, 4), jnp.float32),
        jax.ShapeDtypeStruct((count,), jnp.bool_),
    )
    return export.export(jax.jit(_detection_function(detector)), platforms=tuple(platforms))(*inputs).serialize()


def _detection_function(detector: Detector):
    """`Detector.detect` on prepared arrays, without a class of this package in its signature."""
    settings = dataclasses.asdict(detection_settings(detector.config.evaluate))
    # The kernels would tie the file to GPUs like the one it is written on.
    model = detector.model.clone(roi_pooling="xla")

    def detect(
        image: UInt8[Array, "H W 3"],
        image_size: Int[Array, "2"],
        original_size: Int[Array, "2"],
        scale: Float[Array, ""],
        proposals: Float[Array, "P 4"],
        proposal_mask: Bool[Array, " P"],
    ) -> dict[str, Array]:
        batch = Batch(
            images=image[None],
            image_sizes=image_size[None],
            original_sizes=original_size[None],
            scales=scale[None],
            image_mask=jnp.ones(1, bool),
            image_index=jnp.zeros(1, jnp.int32),
            proposals=proposals[None],
            proposal_mask=proposal_mask[None],
            gt_boxes=jnp.zeros((1, 1, 4)),
            gt_labels=jnp.zeros((1, 1), jnp.int32),
            gt_difficult=jnp.zeros((1, 1), bool),
            gt_mask=jnp.zeros((1, 1), bool),
        )
        found = detect_batch(
            detector.params,
            detector.statistics,
            batch,
            model=model,
            **settings,
        )
        boxes, scores, labels, mask = (x[0] for x in (found.boxes, found.scores, found.labels, found.mask))
        order = jnp.argsort(jnp.where(mask, -scores, jnp.inf), stable=True)
        return {"boxes": boxes[order], "scores": scores[order], "labels": labels[order], "mask": mask[order]}

    return detect
