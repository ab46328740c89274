"""Times, sizes and results of a system of the comparison, in a JSON file that is rewritten with each entry."""

from __future__ import annotations

import contextlib
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from frcnn_jax.atomic import write_text

__all__ = ["TEST_STAGES", "TRAIN_STAGES", "Record", "peak_memory"]

TRAIN_STAGES = ("fine_tuning", "features", "svms", "regressors")
TEST_STAGES = ("warp", "resize", "convolution", "pooling", "fc", "suppression")
_SECONDS_BETWEEN_WRITES = 5.0


class Record:
    """Times by stage, memory, disk and mAP of a system with a model.

    Attributes:
        content: {"system", "model", "train": {stage: {"seconds", "share"}}, "test": {variant: {stage: {"seconds",
            "images", "share"}}}, ...}; `seconds` are measured, and `share` is the measured part of the whole.
    """

    def __init__(self, path: str | Path, *, system: str, model: str):
        """Opens or begins the record at `path`.

        Raises:
            ValueError: the file is of another system or model, or damaged.
        """
        self.path = Path(path)
        self.content: dict[str, Any] = {"system": system, "model": model, "train": {}, "test": {}}
        if self.path.exists():
            found = _content(self.path)
            if (found["system"], found["model"]) != (system, model):
                raise ValueError(f"{path}: the record of {found['system']} {found['model']}, not of {system} {model}")
            self.content = found

    @classmethod
    def read(cls, path: str | Path) -> Record:
        """The record at `path`.

        Raises:
            FileNotFoundError: it does not exist.
            ValueError: the file is damaged.
        """
        found = _content(Path(path))
        return cls(path, system=found["system"], model=found["model"])

    @contextlib.contextmanager
    def train(self, stage: str, *, share: float = 1.0, anew: bool = False) -> Iterator[Callable[[], None]]:
        """Adds the time of the block to a stage of training, even if an exception ends the block.

        Yields a function to call regularly in a long block, so that a kill loses little of the time.

        Args:
            share: part of the stage's work that its blocks do together; below 1 the time is extrapolated.
            anew: the block does all of the stage's work, so that the time of earlier blocks does not count.
        """
        entry = self.content["train"].setdefault(_known(stage, TRAIN_STAGES), {"seconds": 0.0})
        if anew:
            entry["seconds"] = 0.0
        entry["share"] = share
        started = written = time.perf_counter()

        def tick(least: float = _SECONDS_BETWEEN_WRITES) -> None:
            nonlocal started, written
            now = time.perf_counter()
            entry["seconds"] += now - started
            started = now
            if now - written >= least:
                self._write()
                written = now

        try:
            yield tick
        finally:
            tick(0)

    def set_train(self, stage: str, seconds: float, *, share: float = 1.0) -> None:
        """Sets the time of a stage of training that was measured elsewhere."""
        self.content["train"][_known(stage, TRAIN_STAGES)] = {"seconds": float(seconds), "share": share}
        self._write()

    def add_test(self, stage: str, seconds: float, *, images: int, share: float = 1.0, variant: str = "") -> None:
        """Records the time of a stage of the test over `images` images.

        Args:
            share: share of these images in the test set; below 1 the time per image is marked as extrapolated.
            variant: "svd" for compressed layers.
        """
        entry = {"seconds": float(seconds), "images": int(images), "share": share}
        self.content["test"].setdefault(variant, {})[_known(stage, TEST_STAGES)] = entry
        self._write()

    def set(self, **entries: Any) -> None:
        """Sets further entries, such as map, disk_bytes, steps, windows, paper_share and settings."""
        self.content |= entries
        self._write()

    def set_train_images(self, count: int) -> None:
        """Sets the number of training images; that of test images stays."""
        self.set(images=[count, *self.content.get("images", ())[1:]])

    def set_test_images(self, count: int) -> None:
        """Sets the number of test images; that of training images stays, None in a record that was deleted."""
        self.set(images=[(self.content.get("images") or [None])[0], count])

    def train_seconds(self) -> tuple[float, bool]:
        """Time of all stages of training, and True if part of it is extrapolated."""
        entries = self.content["train"].values()
        return sum(entry["seconds"] / entry["share"] for entry in entries), any(e["share"] < 1 for e in entries)

    def test_seconds(self, variant: str = "") -> tuple[float, bool]:
        """Time per image, NaN if not measured, and True if part of it is extrapolated."""
        stages = self.content["test"].get(variant, {})
        if not stages:
            return math.nan, False
        entries = stages.values()
        return sum(entry["seconds"] / entry["images"] for entry in entries), any(e["share"] < 1 for e in entries)

    def _write(self) -> None:
        for name, peak in (("memory_bytes", peak_memory()), ("device_memory_bytes", _peak_device_memory())):
            if peak:
                self.content[name] = max(self.content.get(name, 0), peak)
        write_text(self.path, json.dumps(self.content, indent=1, allow_nan=False) + "\n")


def peak_memory() -> int:
    """Peak memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_device_memory() -> int:
    """Peak memory of JAX on the first device, in bytes; 0 on a CPU, which uses this process's memory."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        if not {"system", "model", "train", "test"} <= content.keys():
            raise ValueError("entries are missing")
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{path}: damaged ({error}): delete it: results stay, times of finished training are lost"
        ) from error
    return content


def _known(stage: str, stages: tuple[str, ...]) -> str:
    if stage not in stages:
        raise ValueError(f"record: no stage {stage!r}; there are {', '.join(stages)}")
    return stage
