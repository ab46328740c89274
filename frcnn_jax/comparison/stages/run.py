"""A system in use: its data, its folder, and fine-tuning, which both systems share."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from frcnn_jax.checkpoint import CheckpointMetadata, open_checkpoint
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
    trained_classes,
)
from frcnn_jax.comparison.stages.step_clock import StepClock
from frcnn_jax.config import Config, ParameterRule, absolute_paths, expand_user, replace
from frcnn_jax.data.dataset import Dataset, open_dataset
from frcnn_jax.data.image_cache import DecodedImages
from frcnn_jax.data.joined import join_datasets
from frcnn_jax.data.proposals.source import open_joined_proposals, open_proposals, proposal_files
from frcnn_jax.locks import folder_lock
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.pixels import PixelNormalization
from frcnn_jax.plugins import load_plugins
from frcnn_jax.training.initial import build_model, initial_params, read_start_pixels
from frcnn_jax.training.statistics import identity_statistics
from frcnn_jax.types import GroundTruth

__all__ = [
    "Run",
    "check_classes",
    "classify",
    "fine_tune_once",
    "load_network",
    "open_test",
    "open_training",
    "part_of",
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

    @property
    def is_fine_tuned(self) -> bool:
        """True if the folder has the parameters after fine-tuning."""
        return (self.folder / _NETWORK).exists()

    def model(self) -> FastRCNN:
        """Fast R-CNN's model."""
        return build_model(self.config, len(self.dataset.classes) + 1, self._pixels())

    def first_params(self, model: FastRCNN) -> Any:
        """Its initial parameters: those of `model.weights`, or random ones."""
        # The detector's rules, which freeze some layers, do not apply to these systems.
        learning = replace(self.config, optimizer={"rules": (ParameterRule(""),)})
        statistics = identity_statistics(len(self.dataset.classes) + 1)
        return initial_params(learning, model, statistics, jax.random.key(self.seed))

    def _pixels(self) -> PixelNormalization | None:
        """The normalization that `model.weights` expects; of a checkpoint if the file, not needed then, is missing."""
        try:
            return read_start_pixels(self.config)
        except FileNotFoundError:
            if self.is_fine_tuned:
                with contextlib.suppress(FileNotFoundError), open_checkpoint(self.folder, "latest") as checkpoints:
                    return checkpoints.metadata().pixels
            raise


@contextlib.contextmanager
def open_training(
    config: Config,
    comparison: ComparisonConfig,
    folder: str | Path,
    system: str,
    settings: Any,
    build: Callable[[Run], Any] | None = None,
) -> Iterator[Run]:
    """The training set, its proposals, and the folder, which is locked while the block runs.

    All that can be wrong is found before proposals are computed, which may take hours: the test set is opened, too.

    Args:
        settings: settings of the system.
        build: builds its network; None if it has none that begins with `model.weights`.

    Raises:
        ValueError: the folder holds another system, or one made from other data or with other settings; the test set
            has other classes; the network cannot be built, or the weights do not fit it.
        FileNotFoundError: a data set or the file of weights does not exist.
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
        check_folder(folder, description)
        test_set = open_dataset(config.data.test, config.data)
        check_classes(test_set, dataset.classes)
        files, _ = proposal_files(config.proposals, config.data.train)
        record = Record(folder / "record.json", system=system, model=config.model.name)
        images, count = DecodedImages(dataset, keep=config.input.cache_decoded), part_of(len(dataset), comparison.share)
        run = Run(config, comparison, folder, dataset, (), count, images, record, {})
        if build is not None:
            build(run)
            if config.model.weights is not None and not run.is_fine_tuned:
                run.first_params(run.model())
        proposals = open_joined_proposals(datasets, config.proposals, files)
        description["proposals"] = fingerprint([np.asarray(proposals[i]) for i in range(len(dataset))])
        claim_folder(folder, description | {"classes": list(dataset.classes)})
        record.set(images=[len(dataset), *record.content.get("images", ())[1:]])
        yield dataclasses.replace(run, proposals=proposals, made_from=describe_features(description))


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
        check_classes(dataset, trained_classes(folder))
        proposals = open_proposals(dataset, config.proposals, config.proposals.test_file)
        record = Record(folder / "record.json", system=system, model=config.model.name)
        count = part_of(len(dataset), comparison.share)
        yield Run(config, comparison, folder, dataset, proposals, count, DecodedImages(dataset), record, {})


def check_classes(test_set: Dataset, classes: Sequence[str] | None) -> None:
    """Raises ValueError if a test set has other classes than those trained on; None if these are not known."""
    if classes is not None and tuple(test_set.classes) != tuple(classes):
        raise ValueError(
            f"{test_set.name} has the classes {tuple(test_set.classes)}, the training set {tuple(classes)}: give "
            "data.test a set of the same classes, their order by data.classes, or train on the new ones"
        )


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
    path, clock = run.folder / _NETWORK, StepClock(run.record)
    if not path.exists():
        done = fine_tune(
            run.folder,
            task,
            source,
            held_out,
            config=run.config,
            settings=settings,
            describe=partial(CheckpointMetadata, run.dataset.classes, task.pixels, data=run.dataset.fingerprint),
            clock=clock,
        )
        clock.finish(done.steps, settings.steps, is_share=run.comparison.share < 1)
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
