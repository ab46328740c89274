"""Detections, ground truth and colors for the tests of evaluation."""

import numpy as np

from frcnn_jax.types import Detections, GroundTruth

A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]


def detections(*rows, mask=None):
    """From rows (box, score) or (box, score, label)."""
    return Detections(
        boxes=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        scores=np.array([row[1] for row in rows], np.float32),
        labels=np.array([row[2] if len(row) > 2 else 1 for row in rows], np.int32),
        mask=np.ones(len(rows), bool) if mask is None else np.array(mask, bool),
    )


def truth(*rows):
    """From rows (box,), (box, label) or (box, label, difficult)."""
    return GroundTruth(
        boxes=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        labels=np.array([row[1] if len(row) > 1 else 1 for row in rows], np.int32),
        difficult=np.array([len(row) > 2 and row[2] for row in rows], bool),
    )


def pixels(image, color):
    return (image == np.array(color)).all(axis=2)
