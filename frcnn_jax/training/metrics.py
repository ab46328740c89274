"""Metrics of a run: JSON lines, TensorBoard events and a line to print."""

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from frcnn_jax.atomic import write_bytes

_log = logging.getLogger(__name__)
_PICTURE_SIDE = 800  # pixels of the longer side in TensorBoard


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
            workdir: None for a process that writes no files.
            first_step: lines of later steps, written by a killed run, are dropped.
            measured: steps with a known `map`; lines with the `map` of other steps are dropped.
        """
        self._writes = workdir is not None
        self._board = None
        if self._writes:
            self._path = workdir / "metrics.jsonl"
            _keep(
                self._path, lambda line: line["step"] <= first_step and ("map" not in line or line["step"] in measured)
            )
            self._board = _Board(workdir / "tensorboard", first_step + 1)
        self._learning_rate = learning_rate
        self._pending: list[tuple[int, Any, Sequence[str], float]] = []
        self._since = time.perf_counter()
        self._map: float | None = None
        self._pictures = True

    def show_map(self, value: float) -> None:
        """Makes lines end with the latest measured mAP."""
        self._map = value

    def add_evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes `map` and `ap` of a step as a separate line, after the step's own metrics.

        Raises:
            OSError: the file cannot be written, for example because the disk is full.
        """
        measures = {name: metrics[name] for name in ("map", "ap")}
        self._write({"step": step, **measures})
        self._show("validation/map", measures["map"], step)
        for name, value in measures["ap"].items():
            if value is not None:
                self._show(f"validation/ap/{name}", value, step)
        self.show_map(measures["map"])
        self._since = time.perf_counter()  # measurement time does not count for the steps

    def add_pictures(self, step: int, make: Callable[[], Mapping[str, UInt8[np.ndarray, "H W 3"]]]) -> None:
        """Writes RGB pictures to TensorBoard by name; the time to make them does not count for the steps.

        An error, for example because the device has too little memory, ends the pictures but not the training.
        """
        from tensorboardX.proto.summary_pb2 import Summary

        if not self._pictures:
            return
        jax.block_until_ready([metrics for _, metrics, _, _ in self._pending[-1:]])
        started = time.perf_counter()
        try:
            values = [_picture(name, picture) for name, picture in make().items()]
            self._board.add_summary(Summary(value=values), step)
        except Exception as error:
            self._pictures = False
            _log.warning("no more pictures in TensorBoard (train.pictures_every): %s", str(error).partition("\n")[0])
        self.leave_out(time.perf_counter() - started)

    def leave_out(self, seconds: float) -> None:
        """Subtracts seconds that were spent on something else from the time of the steps since the last flush."""
        self._since += seconds

    def add(self, step: int, metrics: Any, images: Sequence[str], waited: float) -> None:
        """Adds a step's metrics, still on the device, its images, and the seconds it waited for them."""
        self._pending.append((step, metrics, images, waited))

    def flush(self) -> str:
        """Writes the means since the last flush and returns them as a line.

        Raises:
            FloatingPointError: a step's loss or gradient is not finite; names the first such step and its images.
            OSError: the file cannot be written, for example because the disk is full.
        """
        values = jax.device_get([metrics for _, metrics, _, _ in self._pending])
        # A finite loss can have an infinite or NaN gradient, which destroys the parameters.
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
                "Checkpoints of earlier steps are unchanged. "
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
            self._show(f"train/{name}", value, step)
        self._pending, self._since = [], now
        if self._map is None:
            parts = f" (class {means['classification']:.2f}, box {means['localization']:.2f})"
        else:  # both do not fit in 80 columns
            parts = f", mAP {self._map:.3f}"
        return f"loss {means['loss']:.2f}{parts}, {means['images_per_second']:.1f} images/s"

    def _write(self, line: dict[str, Any]) -> None:
        if not self._writes:
            return
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:  # an error of a write does not name the file
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def _show(self, name: str, value: float, step: int) -> None:
        if self._board is not None:
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


class _Board:
    """TensorBoard's events; errors do not stop the run, as the JSON lines hold everything too.

    After an error in its thread, such as a full disk, tensorboardX's own writer would wait for that thread forever.
    """

    def __init__(self, folder: Path, purge_step: int):
        from tensorboardX import SummaryWriter

        self._failed = False
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)
        events = self._writer.file_writer.event_writer._ev_writer
        for name in ("write_event", "flush", "close"):
            setattr(events, name, self._guarded(getattr(events, name)))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)

    def add_summary(self, summary: Any, step: int) -> None:
        self._writer.file_writer.add_summary(summary, step)

    def close(self) -> None:
        self._guarded(self._writer.close)()

    def _guarded(self, function: Callable) -> Callable:
        def call(*arguments: Any) -> None:
            try:
                function(*arguments)
            except OSError as error:
                if not self._failed:
                    _log.warning("TensorBoard's events are incomplete: %s", error)
                self._failed = True

        return call


def _picture(name: str, picture: UInt8[np.ndarray, "H W 3"]) -> Any:
    """A value of TensorBoard's events, as JPEG: PNG would make photographs ten times as large."""
    import cv2
    from tensorboardX.proto.summary_pb2 import Summary

    scale = min(_PICTURE_SIDE / max(picture.shape[:2]), 1)
    size = [max(round(side * scale), 1) for side in picture.shape[1::-1]]
    reduced = picture if scale == 1 else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", cv2.cvtColor(reduced, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, 90))[1].tobytes()
    image = Summary.Image(height=size[1], width=size[0], colorspace=3, encoded_image_string=data)
    return Summary.Value(tag=name, image=image)


def _of_devices(images: Sequence[str], chosen: np.ndarray) -> list[str]:
    """The images of a batch on the chosen devices, of all devices that share it."""
    each = len(images) // len(chosen)
    return [image for place, image in enumerate(images) if chosen[place // each]]


def _keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Removes the other lines, which a killed run wrote after its last checkpoint."""
    if not path.exists():
        return
    lines = []
    for line in path.read_bytes().splitlines():
        # Cut off when the run was killed, or damaged on the disk.
        with contextlib.suppress(ValueError, TypeError, KeyError):
            if wanted(json.loads(line)):
                lines.append(line + b"\n")
    write_bytes(path, b"".join(lines))
