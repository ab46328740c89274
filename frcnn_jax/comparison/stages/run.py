"""A system in use: its data, its folder, and fine-tuning, which both systems share."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from frcnn_jax.checkpoint import CheckpointMetadata
from frcnn_jax.comparison.feature_store import fingerprint
from frcnn_jax.comparison.record import Record
from frcnn_jax.comparison.settings import ComparisonConfig, FineTuningConfig
from frcnn_jax.comparison.stages.batches import WindowBatches
from frcnn_jax.comparison.stages.fine_tuning import Task, fine_tune
from frcnn_jax.comparison.stages.folder import (
    check_folder,
    claim_folder,
    describe_features,
    describe_settings,
    is_claimed,
    load_arrays,
    save_arrays,
)
from frcnn_jax.config import Config, ParameterRule, absolute_paths, expand_user, replace
from frcnn_jax.data.batch_plan import choose_bucket, default_buckets, resize_scale, resized_size
from frcnn_jax.data.dataset import Dataset, open_dataset
from frcnn_jax.data.image_cache import DecodedImages
from frcnn_jax.data.joined import join_datasets
from frcnn_jax.data.proposals.source import open_joined_proposals, open_proposals, proposal_files
from frcnn_jax.locks import folder_lock
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.plugins import load_plugins
from frcnn_jax.training.initial import build_model, initial_params
from frcnn_jax.training.statistics import identity_statistics
from frcnn_jax.types import GroundTruth

__all__ = [
    "Run",
    "classify",
    "fine_tune_once",
    "load_network",
    "open_test",
    "open_training",
    "pad_image",
    "padded_side",
    "part_of",
    "resized_frame",
]

_NETWORK = "network.npz"


@dataclasses.dataclass(frozen=True)
class Run:
    """A system in use on a data set."""

    config: Config
    comparison: ComparisonConfig
    folder: Path
    dataset: Dataset
    proposals: Sequence[Float[np.ndarray, "P 4"]]  # proposals of each image
    num_images: int  # number of images used, the first ones of the data set
    images: DecodedImages
    record: Record
    made_from: Mapping[str, Any]  # everything the features depend on

    @property
    def annotations(self) -> Sequence[GroundTruth]:
        """Objects of the used images."""
        return self.dataset.annotations[: self.num_images]

    @property
    def seed(self) -> int:
        """Seed of all random numbers."""
        return self.config.train.seed

    @property
    def share(self) -> float:
        """Share of the images to use."""
        return self.num_images / max(len(self.dataset), 1)

    def detector(self) -> tuple[FastRCNN, Any]:
        """Fast R-CNN's model, and initial parameters: those of `model.weights`, or random ones."""
        num_classes = len(self.dataset.classes) + 1
        model, key = build_model(self.config, num_classes), jax.random.key(self.seed)
        # The detector's rules, which freeze some layers, do not apply to these systems.
        learning = replace(self.config, optimizer={"rules": (ParameterRule(""),)})
        return model, initial_params(learning, model, identity_statistics(num_classes), key)


@contextlib.contextmanager
def open_training(
    config: Config, comparison: ComparisonConfig, folder: str | Path, system: str, settings: Any
) -> Iterator[Run]:
    """The training set, its proposals, and the folder, which is locked while the block runs.

    Args:
        settings: settings of the system.

    Raises:
        ValueError: the folder holds another system, or one made from other data or with other settings.
        FolderInUseError: another process works there.
    """
    folder = expand_user(folder)
    load_plugins(config.plugins, folder)
    config = absolute_paths(config)
    with folder_lock(folder, purpose=f"training {system}"):
        description = describe_settings(config, comparison, system, settings)
        check_folder(folder, description)
        datasets = [open_dataset(name, config.data) for name in config.data.train]
        dataset = join_datasets(datasets)
        description["data"] = dataset.fingerprint
        check_folder(folder, description)  # before proposals are computed, which may take hours
        files, _ = proposal_files(config.proposals, config.data.train)
        proposals = open_joined_proposals(datasets, config.proposals, files)
        description["proposals"] = fingerprint([np.asarray(proposals[i]) for i in range(len(dataset))])
        claim_folder(folder, description)
        record = Record(folder / "record.json", system=system, model=config.model.name)
        record.set(images=[len(dataset), *record.content.get("images", ())[1:]])
        yield Run(
            config,
            comparison,
            folder,
            dataset,
            proposals,
            part_of(len(dataset), comparison.share),
            DecodedImages(dataset, keep=config.input.cache_decoded),
            record,
            describe_features(description),
        )


@contextlib.contextmanager
def open_test(
    config: Config, comparison: ComparisonConfig, folder: str | Path, system: str, settings: Any
) -> Iterator[Run]:
    """The test set, its proposals, and the folder of the trained system; arguments and errors as above."""
    folder = expand_user(folder)
    load_plugins(config.plugins, folder)
    config = absolute_paths(config)
    if not is_claimed(folder):
        raise FileNotFoundError(f"{folder} holds no trained {system}: train it first")
    with folder_lock(folder, purpose=f"testing {system}"):
        check_folder(folder, describe_settings(config, comparison, system, settings))
        dataset = open_dataset(config.data.test, config.data)
        proposals = open_proposals(dataset, config.proposals, config.proposals.test_file)
        record = Record(folder / "record.json", system=system, model=config.model.name)
        count = part_of(len(dataset), comparison.share)
        yield Run(config, comparison, folder, dataset, proposals, count, DecodedImages(dataset), record, {})


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
    path = run.folder / _NETWORK
    if not path.exists():
        # The first step of a share is not timed, as it compiles.
        timed = max(len(source) - (run.comparison.share < 1), 1)
        done = fine_tune(
            run.folder,
            task,
            source,
            held_out,
            config=run.config,
            settings=settings,
            describe=partial(CheckpointMetadata, run.dataset.classes, task.pixels, data=run.dataset.fingerprint),
            timed=partial(run.record.train, "fine_tuning", share=timed / max(settings.steps, 1)),
            skip_first=run.comparison.share < 1,
        )
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
    return load_arrays(run.folder / _NETWORK)


def classify(vectors: Float[Array, "B V"], params: Any, layer: str) -> Float[Array, "B K1"]:
    """Logits of the classifier, the head's layer of that name, in float32."""
    classifier = params["head"][layer]
    return vectors.astype(jnp.float32) @ classifier["kernel"] + classifier["bias"][None]


def part_of(count: int, share: float) -> int:
    """The number of items in a share of `count`, at least one unless `count` is 0."""
    return min(count, max(math.ceil(count * share), 1))


def padded_side(length: int) -> int:
    """The padded side of an image, one of few so that few programs are compiled: 128, 192, 256, 384, 512 ..."""
    side = 128
    while side < length:
        side = side * 4 // 3 if side % 3 == 0 else side * 3 // 2
    return side


def resized_frame(
    image: UInt8[np.ndarray, "H W 3"], shorter: int, max_size: int, stride: int
) -> tuple[float, tuple[int, int]]:
    """Factor that scales the shorter side of an image to `shorter`, the longer one to at most `max_size`, and the
    padded size, one of few.
    """
    scale = resize_scale(image.shape[:2], shorter, max_size)
    buckets = default_buckets((shorter,), max_size, stride)
    return scale, buckets[choose_bucket(resized_size(image.shape[:2], scale), buckets)]


def pad_image(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """`image` with zeros at the bottom and right."""
    padded = np.zeros((*size, 3), np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded
