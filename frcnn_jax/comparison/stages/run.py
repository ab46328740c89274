"""A system in use: its data and its folder."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from frcnn_jax.atomic import remove_unfinished
from frcnn_jax.checkpoint import open_checkpoint
from frcnn_jax.comparison.feature_store import fingerprint
from frcnn_jax.comparison.record import Record
from frcnn_jax.comparison.settings import ComparisonConfig
from frcnn_jax.comparison.stages.folder import (
    NETWORK,
    SVMS,
    check_folder,
    claim_folder,
    describe_features,
    describe_settings,
    is_claimed,
    trained_classes,
)
from frcnn_jax.comparison.stages.liblinear import check_scikit_learn
from frcnn_jax.comparison.stages.share import Chosen, spread
from frcnn_jax.config import Config, ParameterRule, absolute_paths, expand_user, replace
from frcnn_jax.data.dataset import Dataset, open_dataset
from frcnn_jax.data.image_cache import DecodedImages
from frcnn_jax.data.joined import join_datasets
from frcnn_jax.data.proposals.source import open_joined_proposals, open_proposals, proposal_files
from frcnn_jax.evaluation.coco import check_pycocotools
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
    "open_test",
    "open_training",
]


@dataclasses.dataclass(frozen=True)
class Run:
    """A system in use on a data set."""

    config: Config
    comparison: ComparisonConfig
    folder: Path
    dataset: Dataset
    positions: Int[np.ndarray, " n"]  # of the images to use in the data set; what follows is of these images
    proposals: Sequence[Float[np.ndarray, "P 4"]]
    images: Sequence[UInt8[np.ndarray, "H W 3"]]
    record: Record
    made_from: Mapping[str, Any]  # everything the features depend on

    @property
    def annotations(self) -> Sequence[GroundTruth]:
        """Objects of the images."""
        return Chosen(self.dataset.annotations, self.positions)

    @property
    def image_ids(self) -> Sequence[str]:
        """Ids of the images."""
        return Chosen(self.dataset.image_ids, self.positions)

    @property
    def sizes(self) -> Sequence[Int[np.ndarray, "2"]]:
        """Heights and widths of the images."""
        return Chosen(self.dataset.sizes, self.positions)

    @property
    def num_images(self) -> int:
        """Number of images to use."""
        return len(self.positions)

    @property
    def seed(self) -> int:
        """Seed of all random numbers."""
        return self.config.train.seed

    @property
    def share(self) -> float:
        """Share of these images in the data set."""
        return self.num_images / max(len(self.dataset), 1)

    @property
    def is_fine_tuned(self) -> bool:
        """True if the folder has the parameters after fine-tuning."""
        return (self.folder / NETWORK).exists()

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
        ImportError: a package that the settings need is not installed.
    """
    folder = expand_user(folder)
    load_plugins(config.plugins, folder)
    config = absolute_paths(config)
    if config.evaluate.coco and comparison.share == 1:  # of a share nothing is evaluated
        check_pycocotools()
    if comparison.svm.solver == "liblinear" and not (folder / SVMS).exists():
        check_scikit_learn()
    with folder_lock(folder, purpose=f"training {system}"):
        remove_unfinished(folder)
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
        positions = spread(len(dataset), comparison.share)
        images = Chosen(DecodedImages(dataset, keep=config.input.cache_decoded), positions)
        run = Run(config, comparison, folder, dataset, positions, (), images, record, {})
        if build is not None:
            build(run)
            if config.model.weights is not None and not run.is_fine_tuned:
                run.first_params(run.model())
        proposals = open_joined_proposals(datasets, config.proposals, files)
        description["proposals"] = fingerprint([np.asarray(proposals[i]) for i in range(len(dataset))])
        claim_folder(folder, description | {"classes": list(dataset.classes)})
        record.set_train_images(len(dataset))
        chosen, made_from = Chosen(proposals, positions), describe_features(description)
        yield dataclasses.replace(run, proposals=chosen, made_from=made_from)


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
        positions = spread(len(dataset), comparison.share)
        images, proposals = Chosen(DecodedImages(dataset), positions), Chosen(proposals, positions)
        yield Run(config, comparison, folder, dataset, positions, proposals, images, record, {})


def check_classes(test_set: Dataset, classes: Sequence[str] | None) -> None:
    """Raises ValueError if a test set has other classes than those trained on; None if these are not known."""
    if classes is not None and tuple(test_set.classes) != tuple(classes):
        raise ValueError(
            f"{test_set.name} has the classes {tuple(test_set.classes)}, the training set {tuple(classes)}: give "
            "data.test a set of the same classes, their order by data.classes, or train on the new ones"
        )
