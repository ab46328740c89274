"""Input pipeline: images decoded, resized, mirrored, padded and stacked, from JPEG files in memory."""

import tempfile
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from bench.peer import open_peer
from bench.pictures import Pictures, load_pictures
from bench.result import Row, Target
from bench.sizes import STRIDE, Sizes
from bench.timing import measure
from bench.topics import Setup
from frcnn_jax.config import AugmentConfig, InputConfig
from frcnn_jax.data.pipeline import BatchSource, iterate, training_source
from frcnn_jax.machine import cores

TARGET = Target("rate", 250)  # images a second on one core
ALL = AugmentConfig((0.7, 1.4), crop=0.6, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.02)


def measure_input(setup: Setup) -> list[Row]:
    """A pass over the files on one core, on all cores in threads that read ahead, and from images kept decoded. The
    last row has every augmentation: the difference to the previous row is its cost.
    """
    sizes = setup.sizes
    pictures = load_pictures(setup.images, sizes.files, sizes)
    source = _training_source(pictures, sizes)
    workers = {"1 core": 0} | ({f"{cores()} cores": cores()} if cores() > 1 else {})
    kilobytes = np.mean([len(data) for data in pictures.files]) / 1e3
    (height, width), (rows, columns) = np.max(pictures.sizes, axis=0), source[0].images.shape[1:3]
    measured = {}
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as files:
        for name, data in zip(pictures.image_ids, pictures.files, strict=True):
            (Path(files) / f"{name}.jpg").write_bytes(data)
        with open_peer(setup.peer, "input", list(workers), folder=files) as other:
            for name, count in workers.items():
                run = partial(_read, source, count)
                measured[name] = other.measure(name, run, lambda result: None, sizes)
    kept = partial(_read, _training_source(pictures, sizes, cache=True), 0)
    measured["1 core, images kept decoded"] = measure(kept, effort=sizes.effort), None
    augmented = partial(_read, _training_source(pictures, sizes, cache=True, augment=ALL), 0)
    measured["1 core, images kept decoded, augmented"] = measure(augmented, effort=sizes.effort), None
    cv2.setNumThreads(threads)
    return [
        Row(
            topic="input",
            what=f"JPEG {height}x{width} of {kilobytes:.0f} kB to {rows}x{columns}, {name}",
            ours=ours,
            peer=theirs,
            target=TARGET if name == "1 core" else None,
            items=len(source) * sizes.images,
            unit="images",
        )
        for name, (ours, theirs) in measured.items()
    ]


def _training_source(
    pictures: Pictures, sizes: Sizes, cache: bool = False, augment: AugmentConfig | None = None
) -> BatchSource:
    config = InputConfig(
        batch_size=sizes.images,
        scales=(sizes.shorter,),
        max_size=sizes.longest,
        cache_decoded=cache,
        augment=augment or AugmentConfig(),
    )
    boxes = np.tile(np.array([[0, 0, 20, 20]], np.float32), (sizes.proposals, 1))
    steps = max(len(pictures) // sizes.images, 1)
    return training_source(pictures, [boxes] * len(pictures), config, steps, seed=0, stride=STRIDE)


def _read(source: BatchSource, workers: int) -> None:
    batches = (source[step] for step in range(len(source))) if workers == 0 else iterate(source, workers)
    for _ in batches:
        pass
