"""Trains a network of one layer for many steps on many images, and records memory, open files, threads and compiled
programs.

python scripts/load_trial.py --out FOLDER [--images 50000] [--steps 100000] [--picture FILE.png]

Sides of images are drawn from 20 to 4000 pixels, those above 200 for one image in 250. The run is measured four times
while it trains, on 100 images of all sizes. `samples.csv` in FOLDER has a line per second, which the picture plots. The
exit status is 1 if a median has grown from the third quarter of the steps to the last: that of memory by more than 5 %,
any other at all.
"""

import argparse
import csv
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path

import cv2
import flax.linen as nn
import jax
import numpy as np

import frcnn_jax as frcnn
from frcnn_jax.config import (
    Config,
    DataConfig,
    EvalConfig,
    InputConfig,
    ModelConfig,
    OptimizerConfig,
    ProposalConfig,
    SamplingConfig,
    TrainConfig,
    expand_user,
)
from frcnn_jax.training.metrics import MetricsLog

NAMES = ("memory in MB", "open files", "threads", "compiled programs")
_COMPILED = "/jax/core/compile/backend_compile_duration"
_SIDES = (20, 200, 4000)
_LARGE = 250  # one image in so many has sides above 200


class Trunk(nn.Module):
    """One convolution of stride 16."""

    dtype: np.dtype = np.dtype("float32")
    param_dtype: np.dtype = np.dtype("float32")

    @nn.compact
    def __call__(self, x, sizes):
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.Conv(4, (16, 16), strides=16, padding=((0, 15), (0, 15)), **types)(x)
        return nn.relu(x), None if sizes is None else -(-sizes // 16)


class Samples:
    """A thread that looks at this process every second."""

    def __init__(self, path: Path):
        self.path, self.step, self.programs = path, 0, 0
        self.rows: list[tuple[float, ...]] = []
        jax.monitoring.register_event_duration_secs_listener(self._count)
        add = MetricsLog.add

        def count_step(log, step, *arguments):
            self.step = step
            add(log, step, *arguments)

        MetricsLog.add = count_step
        self._begun, self._over = time.monotonic(), threading.Event()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _count(self, event: str, _: float, **__: object) -> None:
        self.programs += event == _COMPILED

    def _sample(self) -> None:
        with self.path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("seconds", "step", *NAMES))
            while not self._over.wait(1):
                self.rows.append(self._look())
                writer.writerow(self.rows[-1])
                file.flush()

    def _look(self) -> tuple[float, ...]:
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        files, threads = (len(os.listdir(f"/proc/self/{name}")) for name in ("fd", "task"))
        return time.monotonic() - self._begun, self.step, memory, files, threads, self.programs


def write_data(root: Path, images: int) -> None:
    """A CSV folder with the splits `train` and `test`, and a file of eight proposals an image for each."""
    random = np.random.default_rng(0)
    rows = [("split", "filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")]
    for split, count in (("train", images), ("test", 100)):
        proposals = {}
        (root / split).mkdir(parents=True)
        for number in range(count):
            large = split == "test" or number % _LARGE == 0
            low, high = (_SIDES[0], _SIDES[2]) if split == "test" else _SIDES[1:] if large else _SIDES[:2]
            width, height = np.exp(random.uniform(np.log(low), np.log(high), 2)).astype(int)
            name = f"{split}/{split}{number:06}"
            picture = cv2.resize(random.integers(0, 256, (4, 4, 3), np.uint8), (int(width), int(height)))
            cv2.imwrite(str(root / f"{name}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 80])
            corners = np.sort(random.uniform(0, 1, (9, 2, 2)), 1)
            corners[:, 1] = np.minimum(corners[:, 1] + 0.2, 1)
            corners[:, 0] = np.minimum(corners[:, 0], 0.8)
            boxes = (corners * [width, height]).reshape(-1, 4)
            box = np.ceil(boxes[0]).astype(int)
            rows.append((split, f"{name}.jpg", width, height, "ab"[number % 2], *np.maximum(box, 1)))
            proposals[Path(name).name] = boxes.astype(np.float32)
        np.savez(root / f"{split}.npz", **proposals)
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def load_config(root: Path, steps: int) -> Config:
    """Images of at most 64 x 96 pixels in batches of two."""
    return Config(
        data=DataConfig(
            train=("folder/train",), test="folder/test", validation="folder/test", root=str(root),
            tfds_dir=str(root / "prepared"),
        ),
        proposals=ProposalConfig(
            method="file", train_files=(str(root / "train.npz"),), test_file=str(root / "test.npz"),
            validation_file=str(root / "test.npz"), min_side=1, invalid="clip",
        ),
        input=InputConfig(scales=(48,), max_size=96, test_scale=48, test_max_size=96),
        model=ModelConfig("one_layer"),
        sampling=SamplingConfig(rois_per_image=8, background_iou=(0.0, 0.5)),
        optimizer=OptimizerConfig(learning_rate=1e-3, drops=(), rules=()),
        train=TrainConfig(steps=steps, log_every=100, checkpoint_every=max(steps // 20, 1), evaluate_every=steps // 4),
        evaluate=EvalConfig(pictures=0),
    )  # fmt: skip


def draw(rows: list[tuple[float, ...]], path: Path, title: str) -> None:
    """Curves over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    for axes, name, values in zip(figure.subplots(2, 2).flat, NAMES, list(zip(*rows, strict=True))[2:], strict=True):
        axes.plot([row[1] for row in rows], values, linewidth=1)
        axes.set(title=name, xlabel="step", ylim=(0, 1.2 * max(values)))
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=80)


def growth(rows: list[tuple[float, ...]]) -> list[str]:
    """Growth from the third quarter of the steps to the last one."""
    last = rows[-1][1]
    quarters = [[row[2:] for row in rows if low < row[1] / last <= low + 0.25] for low in (0.5, 0.75)]
    third, fourth = (np.median(rows, axis=0) for rows in quarters)
    allowed = np.array([1.05, 1, 1, 1])
    return [
        f"{name}: {before:g} to {after:g}"
        for name, before, after, grown in zip(NAMES, third, fourth, fourth > third * allowed, strict=True)
        if grown
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=expand_user, required=True, help="folder; data in it are used again")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--picture", type=expand_user, help="file of the curves; OUT/load.png if not given")
    arguments = parser.parse_args()
    root = arguments.out.resolve() / f"data-{arguments.images}"
    if not (root / "labels.csv").exists():
        write_data(root, arguments.images)
    frcnn.register_architecture(
        "one_layer",
        frcnn.Architecture(
            trunk=Trunk,
            stride=16,
            channels=4,
            pixels=frcnn.TORCHVISION_PIXELS,
            rules=(frcnn.ParameterRule("."),),
            output_size=(2, 2),
            head=partial(frcnn.FastRCNNHead, widths=(8, 8)),
        ),
    )
    samples = Samples(arguments.out / "samples.csv")
    try:
        frcnn.train(load_config(root, arguments.steps), arguments.out / "run")
    finally:
        samples.close()
    title = f"{arguments.steps} steps of {arguments.images} images, {samples.rows[-1][0] / 60:.0f} min"
    draw(samples.rows, arguments.picture or arguments.out / "load.png", title)
    grown = growth(samples.rows)
    last = dict(zip(NAMES, samples.rows[-1][2:], strict=True))
    print(f"{title}; at the end: " + ", ".join(f"{value:.0f} {name}" for name, value in last.items()))
    print("; ".join(grown) or "nothing has grown in the last half")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
