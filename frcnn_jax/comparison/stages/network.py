"""The network of a system after fine-tuning, which R-CNN and SPPnet share."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from frcnn_jax.checkpoint import CheckpointMetadata
from frcnn_jax.comparison.settings import FineTuningConfig
from frcnn_jax.comparison.stages.batches import WindowBatches
from frcnn_jax.comparison.stages.fine_tuning import Task, fine_tune
from frcnn_jax.comparison.stages.folder import NETWORK, load_arrays, save_arrays
from frcnn_jax.comparison.stages.run import Run
from frcnn_jax.comparison.stages.step_clock import StepClock

__all__ = ["classify", "fine_tune_once", "load_network"]


def fine_tune_once(
    run: Run,
    task: Task,
    source: WindowBatches,
    held_out: WindowBatches | None,
    settings: FineTuningConfig,
    paper: FineTuningConfig,
    fixed: Mapping[str, Any] | None = None,
) -> Any:
    """The parameters after fine-tuning, which is skipped if `network.npz` has them.

    Args:
        paper: settings with the number of windows of the full schedule.
        fixed: parameters that are not tuned, to store with the others.
    """
    path, clock = run.folder / NETWORK, StepClock(run.record)
    if not path.exists():
        done = fine_tune(
            run.folder,
            task,
            source,
            held_out,
            config=run.config,
            settings=settings,
            describe=partial(CheckpointMetadata, run.dataset.classes, task.pixels, data=run.dataset.fingerprint),
            clock=clock,
            section=f"comparison.{run.record.content['system']}.fine_tuning",
        )
        clock.finish(done.steps, settings.steps, is_share=run.comparison.share < 1)
        run.record.set(
            steps=done.steps,
            chosen_step=done.chosen,
            windows=done.steps * settings.batch_size,
            paper_share=done.steps * settings.batch_size / (paper.steps * paper.batch_size),
            held_out_losses=[list(pair) for pair in done.losses],
        )
        save_arrays(path, {**done.params, **(fixed or {})})
    return load_network(run)


def load_network(run: Run) -> Any:
    """The parameters after fine-tuning. Errors as `load_arrays`."""
    return load_arrays(run.folder / NETWORK)


def classify(vectors: Float[Array, "B V"], params: Any, layer: str) -> Float[Array, "B K1"]:
    """Logits of the classifier, the head's layer of that name, in float32."""
    classifier = params["head"][layer]
    return vectors.astype(jnp.float32) @ classifier["kernel"] + classifier["bias"][None]
