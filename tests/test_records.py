"""Records of arrays are compared and hashed as objects, as a comparison of their arrays is no bool."""

import dataclasses

import numpy as np
import pytest

from frcnn_jax.comparison.scoring import Candidates
from frcnn_jax.detection.pyramid import Level, Pyramid
from frcnn_jax.training.state import TrainState
from frcnn_jax.types import Batch, BoxStatistics, Detections, GroundTruth, RoiSample

RECORDS = (Batch, BoxStatistics, Candidates, Detections, GroundTruth, Level, Pyramid, RoiSample, TrainState)


@pytest.mark.parametrize("kind", RECORDS)
@pytest.mark.usefixtures("unchecked_types")
def test_records_are_equal_to_themselves_only(kind):
    one, other = (kind(**{field.name: np.zeros((2, 4)) for field in dataclasses.fields(kind)}) for _ in range(2))
    assert one == one
    assert one != other
    assert len({one, other, one}) == 2


def test_ground_truth_is_replaced_as_other_records_are():
    truth = GroundTruth(
        boxes=np.zeros((2, 4), np.float32), labels=np.array([1, 2], np.int32), difficult=np.zeros(2, bool)
    )
    assert truth.replace(labels=np.array([2, 2], np.int32)).labels.tolist() == [2, 2]
