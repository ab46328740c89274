"""The metrics of a run: JSON lines, TensorBoard events and a line to print."""

import json
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from frcnn_jax.atomic import write_text

_log = logging.getLogger(__name__)


class MetricsLog:
    """Collects the metrics of every step and writes their means at each `flush`, to a file, TensorBoard and a line."""

    def __init__(
        self,
        workdir: Path | None,
        first_step: int,
        learning_rate: Callable[[int], Any],
        measured: Collection[int] = (),
    ):
        """
        Args:
            workdir: None for a process that writes nothing.
            first_step: lines of later steps are dropped, as those of a run that was killed.
            measured: steps whose `map` is known; lines with that of other steps are dropped.
        """
        from tensorboardX import SummaryWriter

        self._writes = workdir is not None
        self._board = SummaryWriter(
            str(workdir / "tensorboard") if self._writes else None,
            purge_step=first_step + 1,
            write_to_disk=self._writes,
        )
        if self._writes:
            self._path = workdir / "metrics.jsonl"
            _keep(
                self._path, lambda line: line["step"] <= first_step and ("map" not in line or line["step"] in measured)
            )
        self._learning_rate = learning_rate
        self._pending: list[tuple[int, Any, Sequence[str], float]] = []
        self._since = time.perf_counter()
        self._map: float | None = None

    def show_map(self, value: float) -> None:
        """Has lines end in the mAP that was measured last."""
        self._map = value

    def add_evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes `map` and `ap` of a step, whose own metrics are written, as a line of their own.

        Raises:
            OSError: the file cannot be written, as when the disk is full.
        """
        measures = {name: metrics[name] for name in ("map", "ap")}
        self._write({"step": step, **measures})
        self._board.add_scalar("validation/map", measures["map"], step)
        for name, value in measures["ap"].items():
            if value is not None:
                self._board.add_scalar(f"validation/ap/{name}", value, step)
        self.show_map(measures["map"])
        self._since = time.perf_counter()  # the time that it took is none of the steps'

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
        by_device = [np.atleast_1d(metrics.pop("finite", True)) for metrics in values]
        if not all(finite):
            bad = finite.index(False)
            (step, _, images, _), metrics = self._pending[bad], values[bad]
            images = _of_devices(images, ~by_device[bad]) or images
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
        self._write({"step": step, **means})
        for name, value in means.items():
            self._board.add_scalar(f"train/{name}", value, step)
        self._pending, self._since = [], now
        if self._map is None:
            parts = f" (class {means['classification']:.2f}, box {means['localization']:.2f})"
        else:  # there is no room for both in 80 columns
            parts = f", mAP {self._map:.3f}"
        return f"loss {means['loss']:.2f}{parts}, {means['images_per_second']:.1f} images/s"

    def _write(self, line: dict[str, Any]) -> None:
        if not self._writes:
            return
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:  # of a write, it does not name the file
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def close(self) -> None:
        try:
            self._board.close()
        except OSError as error:  # would hide the error that ends the run; all is in the JSON lines as well
            _log.warning("TensorBoard's events are incomplete: %s", error)


def _of_devices(images: Sequence[str], chosen: np.ndarray) -> list[str]:
    """The images of a batch that are on the chosen devices, of all that share it."""
    each = len(images) // len(chosen)
    return [image for place, image in enumerate(images) if chosen[place // each]]


def _keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Removes the other lines, which a killed run wrote past its last checkpoint."""
    if not path.exists():
        return
    lines = []
    for line in path.read_text().splitlines():
        try:
            if wanted(json.loads(line)):
                lines.append(line + "\n")
        except json.JSONDecodeError:
            continue  # the line that was being written when the run was killed
    write_text(path, "".join(lines))
