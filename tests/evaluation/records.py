"""Detections and pictures for the tests of evaluation."""

import numpy as np

from frcnn_jax.types import Detections


def detections(*rows):
    return Detections(
        boxes=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        scores=np.array([row[1] for row in rows], np.float32),
        labels=np.array([row[2] for row in rows], np.int32),
        mask=np.ones(len(rows), bool),
    )


def pixels(image, color):
    return (image == np.array(color)).all(axis=2)
