"""A head that returns half precision."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from frcnn_jax.detection.inputs import make_batch
from frcnn_jax.ops import losses
from frcnn_jax.training.losses import MultiTaskLoss
from frcnn_jax.training.losses.batch_loss import loss_fn
from tests.training.cases import SAMPLING, least_model


class HalfHead(nn.Module):
    """A layer of bfloat16."""

    num_classes: int = 3
    param_dtype: Any = np.dtype("float32")

    @nn.compact
    def __call__(self, pooled, train=False):
        outputs = nn.Dense(15, dtype=jnp.bfloat16)(pooled.mean((1, 2)))
        return outputs[:, :3], outputs[:, 3:].reshape(-1, 3, 4)


def test_a_head_of_half_precision_has_a_loss_in_float32():
    """The loss sees the RoI (601, 503, 811, 699), which bfloat16 would round to (600, 504, 812, 700)."""
    seen = []

    def localization(deltas, rois, *others):
        jax.debug.callback(lambda rows: seen.append(np.asarray(rows)), rois)
        return losses.smooth_l1_localization(deltas, rois, *others)

    model = least_model().clone(head=HalfHead())
    box = np.array([[601, 503, 811, 699]], np.float32)
    batch = make_batch(np.zeros((704, 832, 3), np.uint8), box, box, np.array([1]))
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch.images, batch.proposals)["params"]
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    loss = MultiTaskLoss(localization=localization)
    run = jax.jit(partial(loss_fn, model=model, sampling=SAMPLING, loss=loss))
    total, aux = run(params, batch, jax.random.key(1))
    jax.effects_barrier()
    assert box[0].tolist() in seen[0].tolist()
    assert {x.dtype for x in (total, *aux.values())} == {jnp.dtype("float32")}
