"""The EfficientNet-Lite of few channels that `make_efficientnet_fixture.py` recorded."""

import json
from functools import partial
from pathlib import Path

import numpy as np

from frcnn_jax.models.efficientnet_lite import EfficientNetLiteStages, EfficientNetLiteTrunk, Stage
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.heads import StagesHead
from frcnn_jax.models.pixels import EFFICIENTNET_LITE_PIXELS
from tests.weights.torch_files import Tensor

STORED = np.load(Path(__file__).parent / "fixtures/efficientnet_lite.npz")
STAGES = tuple(
    Stage(*numbers)
    for numbers in (
        (3, 1, 1, 4, 1), (3, 2, 2, 3, 2), (5, 2, 2, 4, 2), (3, 2, 2, 5, 1), (5, 1, 2, 6, 2),
        (5, 2, 2, 5, 2), (3, 1, 2, 7, 1),
    )
)  # fmt: skip
TRUNK = EfficientNetLiteTrunk(STAGES[:5], stem=4)
LAST_STAGES = partial(EfficientNetLiteStages, STAGES[5:], top=9)
NARROW = FastRCNN(TRUNK, StagesHead(3, LAST_STAGES), EFFICIENTNET_LITE_PIXELS)


def narrow_state_dict():
    """The recorded state dict."""
    tensors, start = {}, 0
    for name, shape in json.loads(str(STORED["shapes"])).items():
        end = start + int(np.prod(shape))
        array = STORED["state"][start:end].reshape(shape)
        tensors[name] = Tensor(array.astype(np.float32 if shape else np.int64))
        start = end
    assert start == len(STORED["state"])
    return tensors
