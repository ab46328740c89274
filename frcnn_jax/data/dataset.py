"""The contract of a data set, and `open_dataset` by name."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from frcnn_jax.config import DataConfig
from frcnn_jax.data.faults import DatasetFaultError, Fault
from frcnn_jax.data.fingerprints import legacy_fingerprint
from frcnn_jax.data.prepared.dataset import PreparedDataset
from frcnn_jax.data.records import canonical_split
from frcnn_jax.types import GroundTruth

__all__ = ["Dataset", "DatasetFaultError", "Fault", "file_name", "legacy_fingerprint", "open_dataset"]

_YEARS = ("2007", "2012")
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


@runtime_checkable
class Dataset(Protocol):
    """Images with their objects, in a fixed order. Several threads may read it at once.

    Boxes and sizes are in the frame of `read_image`. An index out of range is an IndexError. A data set may also have
    `image_file(index)`, the name of the image's file without folders (see `file_name`), and `orientation`, "apply" or
    "ignore": whether images are turned by their EXIF orientation, so that a detector turns others alike.

    Attributes:
        name: as in `voc/2007/trainval` or `folder/test`.
        directory: folder of the data set's files; may change when the data are edited.
        shared_directory: folder for data computed from single images, such as proposals; shared by all data sets that
            may have images in common, and unchanged by edits of the data.
        classes: names of the labels 1 ... K.
        image_ids: name of each image, each once.
        sizes: [len, 2] int32, height and width of each image.
        annotations: the objects of each image.
        fingerprint: hash of images, ids, boxes, labels, difficult and crowd marks and class names, in order.
    """

    name: str
    classes: tuple[str, ...]
    image_ids: tuple[str, ...]
    sizes: Int[np.ndarray, "len 2"]
    annotations: Sequence[GroundTruth]

    @property
    def directory(self) -> Path: ...

    @property
    def shared_directory(self) -> Path: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def read_image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """The pixels of an image, RGB.

        Raises:
            ValueError: the image cannot be decoded.
        """
        ...

    def image_fingerprint(self, index: int) -> str:
        """Hex SHA-256 of the encoded image, followed by its orientation if the image is turned on reading."""
        ...


def file_name(dataset: Dataset, index: int) -> str:
    """Name of an image's file, without folders: that of `dataset.image_file`, or ID.jpg if the data set has none."""
    known = getattr(dataset, "image_file", None)
    return f"{dataset.image_ids[index].rpartition('/')[2]}.jpg" if known is None else known(index)


def open_dataset(name: str, config: DataConfig) -> Dataset:
    """The data set of that name: `voc/2007/SPLIT`, `voc/2012/SPLIT`, or `folder/SPLIT` for the folder `config.root`.

    SPLIT is train, validation (or val, valid), trainval or test; a folder may have others (in VOC format, NAME for
    ImageSets/Main/NAME.txt). If a folder has no test images, its validation images are the test, or a share of all
    images (`config.split`); test images are never trained on. The folder's format is detected by its layout, or given
    as `config.format`. Data that are not prepared yet are downloaded, checked and prepared first. With `config.verify`
    all images are read again, those of the folder and the prepared ones.

    Raises:
        ValueError: an unknown name, a setting that the name needs is missing, a setting of folders where `config` names
            none, several formats fit the folder, or `config.verify` finds prepared images damaged.
        FileNotFoundError: the folder or list does not exist, or no format fits.
        DatasetFaultError: the data have faults that `config.faults` does not allow; lists all of them.
    """
    from frcnn_jax.data.prepared.prepare import data_dir, prepare_folder, prepare_voc

    official = re.fullmatch(r"voc/([^/]+)/(train|val|valid|validation|trainval|test)", name)
    folder = re.fullmatch(r"folder/([^/]+)", name)
    if official and official[1] in _YEARS:
        _check_of_folder(name, config)
        split = canonical_split(official[2])
        with _place_named(config.tfds_dir, data_dir(config)):
            dataset = PreparedDataset(f"voc/{official[1]}/{split}", prepare_voc(official[1], config), split)
    elif folder:
        name = canonical_split(folder[1])
        with _place_named(config.tfds_dir, data_dir(config)):
            dataset = PreparedDataset(f"folder/{name}", *prepare_folder(name, config))
    else:
        raise ValueError(
            f"unknown data set {name!r}: known are voc/YEAR/SPLIT with year {' or '.join(_YEARS)} and split train, "
            "validation, trainval or test, and folder/SPLIT"
        )
    if config.verify:
        dataset.check_images()
    return dataset


@contextlib.contextmanager
def _place_named(given: str | None, place: str) -> Iterator[None]:
    """Adds the setting to an error of the place of prepared data, if the user has given none."""
    try:
        yield
    except OSError as error:
        file, place = Path(error.filename or ""), Path(place)
        if given or error.errno not in _UNWRITABLE or not (file.is_relative_to(place) or place.is_relative_to(file)):
            raise
        way = "give --data.tfds-dir FOLDER, a place for prepared images and proposals"
        raise OSError(error.errno, f"{error.strerror}: {way}", error.filename) from error


def _check_of_folder(name: str, config: DataConfig) -> None:
    """Raises ValueError if a setting changes nothing, as it is for folders and none is named."""
    if any(str(used).startswith("folder/") for used in (*config.train, config.test, config.validation)):
        return
    for setting in ("format", "classes", "rename", "corners"):
        value = getattr(config, setting)
        if value != getattr(DataConfig, setting):
            raise ValueError(
                f"data.{setting} = {value!r} is for a folder of your own, and changes nothing in {name}: leave it out, "
                "or name the folder's splits, as --data.train folder/trainval --data.test folder/test"
            )
