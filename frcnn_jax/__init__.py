"""Fast R-CNN in JAX: every step from image and proposals to loss, gradient and detections is a pure function.

import frcnn_jax as frcnn

model = frcnn.create_model("tiny", num_classes=4)
params = frcnn.init_params(model, jax.random.key(0))
detections = frcnn.detect(model, params, image, boxes)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers, which do not look into `_NAMES`
    from frcnn_jax.config.experiment import Config as Config
    from frcnn_jax.config.files import derive as derive
    from frcnn_jax.config.files import load_config as load_config
    from frcnn_jax.config.files import replace as replace
    from frcnn_jax.config.learning import ParameterRule as ParameterRule
    from frcnn_jax.config.learning import SamplingConfig as SamplingConfig
    from frcnn_jax.data.dataset import Dataset as Dataset
    from frcnn_jax.data.dataset import open_dataset as open_dataset
    from frcnn_jax.data.faults import Fault as Fault
    from frcnn_jax.data.formats.contract import AnnotationReader as AnnotationReader
    from frcnn_jax.data.formats.table import register_format as register_format
    from frcnn_jax.data.proposals.selective_search import selective_search as selective_search
    from frcnn_jax.data.proposals.source import open_proposals as open_proposals
    from frcnn_jax.data.records import ImageRecord as ImageRecord
    from frcnn_jax.data.records import ObjectRecord as ObjectRecord
    from frcnn_jax.data.records import SplitRecords as SplitRecords
    from frcnn_jax.detection.detect import detect as detect
    from frcnn_jax.detection.detect import detect_batch as detect_batch
    from frcnn_jax.detection.detect import trim as trim
    from frcnn_jax.detection.inputs import make_batch as make_batch
    from frcnn_jax.detection.selection import select_detections as select_detections
    from frcnn_jax.evaluation.coco import evaluate_coco as evaluate_coco
    from frcnn_jax.evaluation.outputs.libraries import detections_table as detections_table
    from frcnn_jax.evaluation.outputs.libraries import to_supervision as to_supervision
    from frcnn_jax.evaluation.voc_map import evaluate_voc as evaluate_voc
    from frcnn_jax.models.architectures import ARCHITECTURES as ARCHITECTURES
    from frcnn_jax.models.architectures import create_model as create_model
    from frcnn_jax.models.architectures import register_architecture as register_architecture
    from frcnn_jax.models.architectures import resolve_rules as resolve_rules
    from frcnn_jax.models.contract import Architecture as Architecture
    from frcnn_jax.models.contract import PublishedWeights as PublishedWeights
    from frcnn_jax.models.fast_rcnn import FastRCNN as FastRCNN
    from frcnn_jax.models.fast_rcnn import init_params as init_params
    from frcnn_jax.models.heads import FastRCNNHead as FastRCNNHead
    from frcnn_jax.models.pixels import CAFFE_PIXELS as CAFFE_PIXELS
    from frcnn_jax.models.pixels import TORCHVISION_PIXELS as TORCHVISION_PIXELS
    from frcnn_jax.models.pixels import PixelNormalization as PixelNormalization
    from frcnn_jax.models.pixels import normalize_images as normalize_images
    from frcnn_jax.ops.boxes import decode_boxes as decode_boxes
    from frcnn_jax.ops.boxes import encode_boxes as encode_boxes
    from frcnn_jax.ops.boxes import pairwise_iou as pairwise_iou
    from frcnn_jax.ops.losses import CLASSIFICATION_LOSSES as CLASSIFICATION_LOSSES
    from frcnn_jax.ops.losses import LOCALIZATION_LOSSES as LOCALIZATION_LOSSES
    from frcnn_jax.ops.losses import cross_entropy as cross_entropy
    from frcnn_jax.ops.losses import focal as focal
    from frcnn_jax.ops.losses import giou_localization as giou_localization
    from frcnn_jax.ops.losses import multi_task_loss as multi_task_loss
    from frcnn_jax.ops.losses import smooth_l1_localization as smooth_l1_localization
    from frcnn_jax.ops.nms import nms as nms
    from frcnn_jax.ops.roi_pool.pool import project_rois as project_rois
    from frcnn_jax.ops.roi_pool.pool import roi_max_pool as roi_max_pool
    from frcnn_jax.ops.sampling import sample_rois as sample_rois
    from frcnn_jax.runs.detector import Detector as Detector
    from frcnn_jax.runs.detector import load_detector as load_detector
    from frcnn_jax.runs.evaluate import evaluate_run as evaluate_run
    from frcnn_jax.runs.train import train as train
    from frcnn_jax.training.losses.batch_loss import loss_fn as loss_fn
    from frcnn_jax.training.losses.batch_loss import sample_batch as sample_batch
    from frcnn_jax.training.losses.multi_task import MultiTaskLoss as MultiTaskLoss
    from frcnn_jax.training.optimizer import create_optimizer as create_optimizer
    from frcnn_jax.training.state import TrainState as TrainState
    from frcnn_jax.training.state import create_state as create_state
    from frcnn_jax.training.step import make_train_step as make_train_step
    from frcnn_jax.training.step import map_train_step as map_train_step
    from frcnn_jax.types import Batch as Batch
    from frcnn_jax.types import BoxStatistics as BoxStatistics
    from frcnn_jax.types import Detections as Detections
    from frcnn_jax.types import GroundTruth as GroundTruth
    from frcnn_jax.types import RoiSample as RoiSample
    from frcnn_jax.weights.formats.table import read_pixels as read_pixels
    from frcnn_jax.weights.load import load_weights as load_weights

__version__ = "0.1.0"

# Public names by module. A module is imported when one of its names is first used, so `import frcnn_jax` alone is fast.
_NAMES = {
    "types": (
        "Batch",
        "BoxStatistics",
        "Detections",
        "GroundTruth",
        "RoiSample",
    ),
    "config.experiment": ("Config",),
    "config.files": (
        "derive",
        "load_config",
        "replace",
    ),
    "config.learning": (
        "ParameterRule",
        "SamplingConfig",
    ),
    "ops.boxes": (
        "decode_boxes",
        "encode_boxes",
        "pairwise_iou",
    ),
    "ops.nms": ("nms",),
    "ops.roi_pool.pool": (
        "project_rois",
        "roi_max_pool",
    ),
    "ops.sampling": ("sample_rois",),
    "ops.losses": (
        "CLASSIFICATION_LOSSES",
        "LOCALIZATION_LOSSES",
        "cross_entropy",
        "focal",
        "giou_localization",
        "multi_task_loss",
        "smooth_l1_localization",
    ),
    "models.pixels": (
        "CAFFE_PIXELS",
        "TORCHVISION_PIXELS",
        "PixelNormalization",
        "normalize_images",
    ),
    "models.fast_rcnn": (
        "FastRCNN",
        "init_params",
    ),
    "models.heads": ("FastRCNNHead",),
    "models.contract": (
        "Architecture",
        "PublishedWeights",
    ),
    "models.architectures": (
        "ARCHITECTURES",
        "create_model",
        "register_architecture",
        "resolve_rules",
    ),
    "data.dataset": (
        "Dataset",
        "open_dataset",
    ),
    "data.faults": ("Fault",),
    "data.records": (
        "ImageRecord",
        "ObjectRecord",
        "SplitRecords",
    ),
    "data.formats.contract": ("AnnotationReader",),
    "data.formats.table": ("register_format",),
    "data.proposals.selective_search": ("selective_search",),
    "data.proposals.source": ("open_proposals",),
    "weights.load": ("load_weights",),
    "weights.formats.table": ("read_pixels",),
    "training.losses.batch_loss": (
        "loss_fn",
        "sample_batch",
    ),
    "training.losses.multi_task": ("MultiTaskLoss",),
    "training.optimizer": ("create_optimizer",),
    "training.state": (
        "TrainState",
        "create_state",
    ),
    "training.step": (
        "make_train_step",
        "map_train_step",
    ),
    "detection.detect": (
        "detect",
        "detect_batch",
        "trim",
    ),
    "detection.inputs": ("make_batch",),
    "detection.selection": ("select_detections",),
    "evaluation.coco": ("evaluate_coco",),
    "evaluation.outputs.libraries": (
        "detections_table",
        "to_supervision",
    ),
    "evaluation.voc_map": ("evaluate_voc",),
    "runs.detector": (
        "Detector",
        "load_detector",
    ),
    "runs.evaluate": ("evaluate_run",),
    "runs.train": ("train",),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
