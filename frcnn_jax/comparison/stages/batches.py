"""The batches of fine-tuning: windows drawn from all images, and of held-out images; means over parts of a batch."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from frcnn_jax.comparison.settings import FineTuningConfig
from frcnn_jax.comparison.windows import Windows, draw_batch, split_images

__all__ = ["WindowBatches", "batches", "mean_over_parts"]

_HELD_OUT_BATCHES = 4


class WindowBatches:
    """Random access to the batches of fine-tuning: `batches[step]` is (inputs, labels, flips), from 0 on.

    A batch depends only on the seed and the step.

    Raises:
        ValueError: the windows are neither foreground nor background.
    """

    def __init__(
        self,
        windows: Windows,
        images: Int[np.ndarray, " n"],
        settings: FineTuningConfig,
        read: Callable[[Int[np.ndarray, " B"]], Any],
        *,
        steps: int,
        seed: tuple[int, ...],
        section: str = "fine_tuning",
    ):
        """
        Args:
            images: images to draw windows from.
            read: returns the inputs of rows of `windows`, on the host.
            section: name of the settings, for messages.
        """
        allowed, (low, high) = np.isin(windows.images, images), settings.background_iou
        in_range = (windows.overlaps >= low) & (windows.overlaps < high) & ~windows.on_crowd
        self._kinds = (
            np.flatnonzero(allowed & (windows.overlaps >= settings.foreground_iou)),
            np.flatnonzero(allowed & in_range),
        )
        if not any(map(len, self._kinds)):
            raise ValueError(
                f"no window of {len(images)} images has an IoU of {settings.foreground_iou} or more with an object, or "
                f"one in {settings.background_iou}: {section}.background_iou (0, ...) admits those without objects"
            )
        self._counts = settings.foreground, settings.background
        self._windows, self._read, self._steps, self._seed = windows, read, steps, seed

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> tuple[Any, Int[np.ndarray, " B"], Bool[np.ndarray, " B"]]:
        random = np.random.default_rng([*self._seed, int(step)])
        rows, labels, flips = draw_batch(self._windows, *self._kinds, self._counts, random)
        return self._read(rows), labels, flips


def batches(
    windows: Windows,
    num_images: int,
    settings: FineTuningConfig,
    read: Callable,
    *,
    share: float,
    seed: int,
    section: str = "fine_tuning",
) -> tuple[WindowBatches, WindowBatches | None]:
    """Training batches, and batches of held-out images; None without `settings.held_out`.

    Args:
        read, section: as in `WindowBatches`.
        share: share of the steps to make; below 1, one more step, which is not timed.

    Raises:
        ValueError: as `WindowBatches`, or the only image cannot be held out.
    """
    if settings.held_out and num_images < 2:
        raise ValueError(f"{section}.held_out = {settings.held_out}: the only image cannot be held out, set it to 0")
    learned, held_out = split_images(num_images, settings.held_out, seed)
    steps = settings.steps if share == 1 or not settings.steps else math.ceil(share * settings.steps) + 1
    source = WindowBatches(windows, learned, settings, read, steps=steps, seed=(seed, 2), section=section)
    if not len(held_out):
        return source, None
    steps = _HELD_OUT_BATCHES
    return source, WindowBatches(windows, held_out, settings, read, steps=steps, seed=(seed, 3), section=section)


def mean_over_parts(
    function: Callable[[Array, Array, PRNGKeyArray], Any],
    inputs: Float[Array, " B *F"],
    labels: Int[Array, " B"],
    key: PRNGKeyArray,
    *,
    at_once: int | None,
) -> Any:
    """Mean of `function(inputs, labels, key)` over equal parts of a batch, of at most `at_once` inputs each.

    The parts are calls that follow one another, so that the memory is that of one: in a loop inside of a program, those
    of `tiny` took three times as long on a CPU. Each part has a key of its own; a whole batch has `key`.
    """
    size = next(size for size in range(min(len(labels), at_once or len(labels)), 0, -1) if len(labels) % size == 0)
    count = len(labels) // size
    if count == 1:
        return function(inputs, labels, key)
    total = None
    for start, part_key in zip(range(0, len(labels), size), jax.random.split(key, count), strict=True):
        found = function(inputs[start : start + size], labels[start : start + size], part_key)
        # Waited for, as a CPU may compute several calls at the same time.
        total = jax.block_until_ready(found if total is None else _add(total, found))
    return _divide(total, count)


@partial(jax.jit, donate_argnums=0)
def _add(total: Any, found: Any) -> Any:
    return jax.tree.map(jnp.add, total, found)


@partial(jax.jit, donate_argnums=0)
def _divide(total: Any, count: int) -> Any:
    return jax.tree.map(lambda x: x / count, total)
