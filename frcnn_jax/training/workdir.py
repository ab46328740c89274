"""What a run leaves in its workdir beside checkpoints: its config, its metrics as JSON lines and TensorBoard events."""

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from frcnn_jax.config import Config, from_json, to_json

# Settings that may change between one start of a run and the next: they do not touch what was learned so far.
_FREE = ("train.steps", "train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "evaluate.",
         "input.workers", "input.cache_decoded", "input.test_", "data.tfds_dir", "data.test", "proposals.test_file",
         "proposals.workers")  # fmt: skip


def claim_workdir(workdir: Path, config: Config) -> None:
    """Makes `workdir` the place of this run and writes `config.json`.

    Without a checkpoint there is nothing to lose, so that a slip in a setting can be put right in the same workdir.

    Raises:
        ValueError: it holds checkpoints of a run with other settings, which are named, or another program's config.
    """
    path = workdir / "config.json"
    there = _read(path) if path.exists() else None
    if there is not None and any(entry.name.isdigit() for entry in (workdir / "checkpoints").glob("*")):
        before, now = _flat(dataclasses.asdict(there)), _flat(dataclasses.asdict(config))
        changed = [k for k in now if before.get(k) != now[k] and not k.startswith(_FREE)]
        if config.optimizer.schedule == "cosine" and before["train.steps"] != now["train.steps"]:
            changed.append("train.steps")  # the cosine ends at the last step
        if changed:
            listed = "; ".join(f"{k} is {before.get(k)!r} there and {now[k]!r} here" for k in changed)
            raise ValueError(f"{workdir} holds a run with other settings: {listed}. Give another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_json(config))


def read_config(workdir: str | Path) -> Config:
    """The config of the run in `workdir`.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the file is not what `to_json` writes, or has a setting that this version does not know.
    """
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} holds no run: there is no {path}")
    return _read(path)


def _read(path: Path) -> Config:
    try:
        return from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


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
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **means}) + "\n")
        for name, value in means.items():
            self._board.add_scalar(f"train/{name}", value, step)
        self._pending, self._since = [], now
        return (
            f"loss {means['loss']:.3f} (class {means['classification']:.3f}, box {means['localization']:.3f}), "
            f"RoIs {means['foreground']:.0f}+{means['background']:.0f}, {means['images_per_second']:.1f} images/s"
        )

    def close(self) -> None:
        self._board.close()


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that it is whole or as it was before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)


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
    write_atomically(path, "".join(lines))


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
