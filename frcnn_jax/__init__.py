"""Fast R-CNN in JAX: every step from image and proposals to loss, gradient and detections is a pure function.

import frcnn_jax as frcnn

model = frcnn.create_model("tiny", num_classes=4)
params = frcnn.init_params(model, jax.random.key(0))
detections = frcnn.detect(model, params, image, boxes)
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Modules are imported when a name of theirs is first used: `import frcnn_jax` alone takes no time.
_HOMES = {
    "Batch": "types",
    "BoxStatistics": "types",
    "Detections": "types",
    "GroundTruth": "types",
    "RoiSample": "types",
    "Config": "config",
    "load_config": "config",
    "decode_boxes": "ops.boxes",
    "encode_boxes": "ops.boxes",
    "pairwise_iou": "ops.boxes",
    "nms": "ops.nms",
    "project_rois": "ops.roi_pool.pool",
    "roi_max_pool": "ops.roi_pool.pool",
    "sample_rois": "ops.sampling",
    "cross_entropy": "ops.losses",
    "focal": "ops.losses",
    "giou_localization": "ops.losses",
    "multi_task_loss": "ops.losses",
    "smooth_l1_localization": "ops.losses",
    "CAFFE_PIXELS": "models.pixels",
    "TORCHVISION_PIXELS": "models.pixels",
    "FastRCNN": "models.fast_rcnn",
    "PixelNormalization": "models.pixels",
    "create_model": "models.architectures",
    "init_params": "models.fast_rcnn",
    "normalize_images": "models.pixels",
    "open_dataset": "data.dataset",
    "open_proposals": "data.proposals.source",
    "MultiTaskLoss": "training.step",
    "TrainState": "training.state",
    "loss_fn": "training.step",
    "make_train_step": "training.step",
    "map_train_step": "training.step",
    "train": "training.loop",
    "detect": "detection.detect",
    "Detector": "runs.detector",
    "evaluate_run": "runs.evaluate",
    "load_detector": "runs.detector",
    "evaluate_voc": "evaluation.voc_map",
    "load_weights": "weights.load",
    "read_pixels": "weights.formats.table",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
