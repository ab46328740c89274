"""The multi-task loss of records, and the losses that settings can name."""

import jax
import numpy as np
import pytest

from frcnn_jax.ops.losses import (
    CLASSIFICATION_LOSSES,
    LOCALIZATION_LOSSES,
    cross_entropy,
    focal,
    giou_localization,
    multi_task_loss,
    smooth_l1_localization,
)
from frcnn_jax.types import BoxStatistics, RoiSample
from tests.ops.test_losses import ROIS, sample


def test_records_are_taken_in_place_of_their_fields():
    logits, deltas, rois, labels, gt_boxes, mask, mean, std = sample(9)
    records = RoiSample(rois=rois, labels=labels, gt_boxes=gt_boxes, mask=mask), BoxStatistics(mean=mean, std=std)
    expected = multi_task_loss(logits, deltas, rois, labels, gt_boxes, mask, mean, std)
    by_name = {"rois": rois, "labels": labels, "gt_boxes": gt_boxes, "mask": mask, "mean": mean, "std": std}
    for found in (
        multi_task_loss(logits, deltas, *records),
        multi_task_loss(logits, deltas, sample=records[0], statistics=records[1]),
        multi_task_loss(logits, deltas, records[0], statistics=records[1]),
        multi_task_loss(logits, deltas, **by_name),
    ):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    jitted, _ = jax.jit(multi_task_loss)(logits, deltas, *records)
    np.testing.assert_allclose(jitted, expected[0], rtol=1e-6)
    for wrong in (
        {"rois": records[0]},
        {"rois": records[0], "labels": labels},
        {"rois": rois, "labels": records[1]},
        {"sample": records[0], "statistics": records[1], "mask": mask},
        {"sample": records[0], "statistics": records[1], "rois": rois},
        by_name | {"std": None},
    ):
        with pytest.raises(TypeError, match=r"multi_task_loss (takes|needs)"):
            multi_task_loss(logits, deltas, **wrong)


def test_every_named_loss_gives_one_value_for_each_roi():
    logits, deltas, rois, labels, gt_boxes, _, mean, std = sample(10)
    assert {"cross_entropy": cross_entropy, "focal": focal} == CLASSIFICATION_LOSSES
    assert {"smooth_l1": smooth_l1_localization, "giou": giou_localization} == LOCALIZATION_LOSSES
    for loss in CLASSIFICATION_LOSSES.values():
        assert loss(logits, labels).shape == (ROIS,)
    for loss in LOCALIZATION_LOSSES.values():
        assert loss(deltas[:, 1], rois, gt_boxes, mean[labels], std[labels]).shape == (ROIS,)
