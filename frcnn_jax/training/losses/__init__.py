"""The loss of a run: as a config names it (`named`), and names of functions (`function_names`)."""

from frcnn_jax.training.losses.named import create_loss as create_loss
from frcnn_jax.training.losses.named import name_loss as name_loss
