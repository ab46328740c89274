"""Stage-wise training (section 5.1) with the settings that configs/README.md gives: the classifier, then the boxes."""

import jax
import numpy as np

from frcnn_jax.config import override
from frcnn_jax.training.initial import build_model, initial_params
from frcnn_jax.training.loop import train
from frcnn_jax.training.optimizer import parameter_paths
from tests.training.runs import run_config

FIRST = ["--loss.localization-weight", "0"]
SECOND = ["--optimizer.rules.0.pattern", "^(?!head/bbox_pred/)"]
BOXES = {"head/bbox_pred/kernel", "head/bbox_pred/bias"}


def arrays(params):
    """Arrays by their paths."""
    leaves = jax.tree.map(np.asarray, jax.tree.leaves(params))
    return dict(zip(jax.tree.leaves(parameter_paths(params)), leaves, strict=True))


def test_the_second_stage_trains_the_boxes_alone(small, data, tmp_path):
    config = run_config(data, steps=4)
    first = train(override(config, FIRST), tmp_path / "first")
    classifier = arrays(first.params)
    # No loss reaches the boxes; what is drawn at random only decays.
    np.testing.assert_array_equal(classifier["head/bbox_pred/bias"], 0)
    assert 0.0005 < classifier["head/bbox_pred/kernel"].std() < 0.002

    config = override(config, ["--model.weights", str(tmp_path / "first"), *SECOND])
    start = initial_params(config, build_model(config, 3), first.statistics, jax.random.key(9))
    for path, array in arrays(start).items():
        if path in BOXES:  # taken out of the units of the statistics and put into them again
            np.testing.assert_allclose(array, classifier[path], rtol=1e-5, atol=1e-7, err_msg=path)
        else:
            assert array.tobytes() == classifier[path].tobytes(), path

    second = train(config, tmp_path / "second")
    assert set(arrays(second.trainable)) == BOXES
    jax.tree.map(np.testing.assert_array_equal, second.statistics, first.statistics)
    assert np.abs(first.statistics.mean).max() > 0.01
    for path, array in arrays(second.params).items():
        if path in BOXES:
            assert np.abs(array - classifier[path]).max() > 1e-5, path
        else:
            assert array.tobytes() == classifier[path].tobytes(), path
