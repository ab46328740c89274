"""The metrics of a run: JSON lines, TensorBoard events and a line to print."""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from frcnn_jax.atomic import write_text

_log = logging.getLogger(__name__)


class MetricsLog:
    """Collects the metrics of every step and writes their means at each `flush`, to a file, TensorBoard and a line."""

    def __init__(self, workdir: Path, first_step: int, learning_rate: Callable[[int], Any]):
        from tensorboardX import SummaryWriter

        self._path = workdir / "metrics.jsonl"
        _drop_after(self._path, first_step)
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)
        self._learning_rate = learning_rate
        self._pending: list[tuple[int, Any, Sequence[str], float]] = []
        self._since = time.perf_counter()

    def add(self, step: int, metrics: Any, images: Sequence[str], waited: float) -> None:
        """Keeps a step's metrics, still on the device, the images it saw, and the seconds it waited for them."""
        self._pending.append((step, metrics, images, waited))

    def flush(self) -> str:
        """Writes the means since the last flush and returns them as a line.

        Raises:
            FloatingPointError: a step's loss or gradient is not finite; names the first such step and its images.
            OSError: the file cannot be written, as when the disk is full.
        """
        values = jax.device_get([metrics for _, metrics, _, _ in self._pending])
        # A finite loss can have a gradient that is not, and the parameters after it are lost.
        finite = [math.isfinite(metrics["loss"]) and math.isfinite(metrics["gradient_norm"]) for metrics in values]
        if not all(finite):
            bad = finite.index(False)
            (step, _, images, _), metrics = self._pending[bad], values[bad]
            del self._pending[bad:]
            if self._pending:
                self.flush()
            raise FloatingPointError(
                f"the loss is {metrics['loss']} and the norm of its gradient {metrics['gradient_norm']} "
                f"in step {step}, with the images {', '.join(images)}. "
                "Checkpoints of earlier steps are as they were. "
                "A lower optimizer.learning_rate, or optimizer.warmup or optimizer.clip_norm, may help"
            )
        now = time.perf_counter()
        seconds = now - self._since
        step = self._pending[-1][0]
        images = sum(len(images) for _, _, images, _ in self._pending)
        means = {name: float(np.mean([metrics[name] for metrics in values])) for name in values[0]}
        means |= {
            "learning_rate": float(self._learning_rate(step - 1)),
            "images_per_second": images / seconds,
            "waiting_share": sum(waited for _, _, _, waited in self._pending) / seconds,
        }
        try:
            with self._path.open("a") as file:
                file.write(json.dumps({"step": step, **means}) + "\n")
        except OSError as error:  # of a write, it does not name the file
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        for name, value in means.items():
            self._board.add_scalar(f"train/{name}", value, step)
        self._pending, self._since = [], now
        return (
            f"loss {means['loss']:.2f} (class {means['classification']:.2f}, box {means['localization']:.2f}), "
            f"{means['images_per_second']:.1f} images/s"
        )

    def close(self) -> None:
        try:
            self._board.close()
        except OSError as error:  # would hide the error that ends the run; all is in the JSON lines as well
            _log.warning("TensorBoard's events are incomplete: %s", error)


def _drop_after(path: Path, step: int) -> None:
    """Removes the lines of steps after `step`, which a killed run wrote past its last checkpoint."""
    if not path.exists():
        return
    lines = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                lines.append(line + "\n")
        except json.JSONDecodeError:
            continue  # the line that was being written when the run was killed
    write_text(path, "".join(lines))
