"""Operations outside `jit`: a second call of the same shapes compiles nothing."""

import jax
import jax.numpy as jnp
import pytest

from frcnn_jax.ops.nms import nms
from frcnn_jax.ops.roi_pool import roi_max_pool
from frcnn_jax.ops.voting import vote_boxes_by_class


@pytest.fixture(scope="module")
def compilations():
    """The events of compilation so far."""
    events = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: events.append(event) if "backend_compile" in event else None
    )
    return events


def pooled(features):
    return roi_max_pool(features, jnp.zeros((3, 4)), (2, 2)).sum()


CALLS = {
    "roi_max_pool": (pooled, jnp.ones((6, 6, 4))),
    "its gradient": (jax.grad(pooled), jnp.ones((6, 6, 4))),
    "of images": (jax.vmap(pooled), jnp.ones((2, 6, 6, 4))),
    "nms": (lambda boxes: nms(boxes, boxes[:, 0], boxes[:, 0] > 0), jnp.ones((10, 4))),
    "nms by tiles": (lambda boxes: nms(boxes, boxes[:, 0], boxes[:, 0] > 0), jnp.ones((300, 4))),
    "votes": (lambda boxes: vote_boxes_by_class(boxes, boxes[..., 0], boxes[..., 0] > 0), jnp.ones((2, 10, 4))),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_second_call_compiles_nothing(name, compilations):
    function, argument = CALLS[name]
    start = len(compilations)
    function(argument)
    function(argument + 1)
    assert len(compilations) > start  # the count counts
    before = len(compilations)
    function(argument)
    assert len(compilations) == before
