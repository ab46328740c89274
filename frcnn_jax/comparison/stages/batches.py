"""The batches of fine-tuning: windows drawn from all images, and windows of held-out images."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from frcnn_jax.comparison.settings import FineTuningConfig
from frcnn_jax.comparison.windows import Windows, draw_batch, split_images

__all__ = ["WindowBatches", "batches"]

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
