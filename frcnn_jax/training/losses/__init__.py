"""The loss of a run: its parts (`multi_task`), as a config names it (`named`), and names of functions."""

from frcnn_jax.training.losses.multi_task import MultiTaskLoss as MultiTaskLoss
from frcnn_jax.training.losses.multi_task import check_loss as check_loss
from frcnn_jax.training.losses.named import create_loss as create_loss
from frcnn_jax.training.losses.named import name_loss as name_loss
