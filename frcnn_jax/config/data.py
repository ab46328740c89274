"""Settings of the data: images, proposals and batches."""

import dataclasses
import math
from typing import Literal

from frcnn_jax.config.checks import MOST_SECONDS, SettingError, at_least, at_most, in_range, kinds, lengths
from frcnn_jax.config.paths import PathText

Action = Literal["error", "drop"]


@dataclasses.dataclass(frozen=True)
class FaultPolicy:
    """Answers to each kind of fault in a data set: stop with the full list, or drop and count. A fault of an object
    drops the object, a fault of an image the whole image. A few faults do not stop: see `tolerance`.
    """

    missing_image: Action = "error"
    unreadable_image: Action = "error"
    missing_annotation: Literal["error", "drop", "empty"] = "error"
    """`empty` takes the image as one without objects, for test sets whose annotations are not public."""
    unreadable_annotation: Action = "error"
    """Not XML, a DTD in it, or a field of an object that is missing, repeated or not a number."""
    size_mismatch: Literal["error", "drop", "use_image"] = "error"
    """Width or height in the annotation differ from the image's. `use_image` takes the boxes as pixels of the image."""
    duplicate_id: Action = "error"
    """An id twice in a list (`drop` drops the second), or an id of several image files (`drop` drops the image)."""
    unknown_class: Action = "error"
    degenerate_box: Action = "error"
    """Corners reversed or coinciding: xmax <= xmin or ymax <= ymin."""
    box_outside: Literal["error", "drop", "clip"] = "error"
    """A box that crosses the image's border by more than two pixels. `clip` cuts it off at the border, as is always
    done for up to two pixels; a box entirely outside is degenerate.
    """
    tolerance: float = 0.01
    """Share of the images, and of the objects, up to which faults answered by `error` are dropped and counted instead
    of stopping; 0 stops at the first. Ten times as many ids may be listed without image and annotation, as nothing is
    lost with them; of the images that COCO files list, a third must exist.
    """

    def __post_init__(self):
        kinds(self, "data.faults")
        in_range(self, "data.faults", tolerance=(0, 1))


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Images to train and test on."""

    train: tuple[str, ...] = ("voc/2007/trainval",)
    """Data sets to train on, each as voc/2007/SPLIT, voc/2012/SPLIT or folder/SPLIT."""
    test: str = "voc/2007/test"
    """Data set to evaluate on."""
    validation: str | None = None
    """Data set for measurements during training and the choice of the best checkpoint (`train.evaluate_every`);
    `test` if not set. In a folder, its images are not part of `trainval`.
    """
    root: PathText | None = None
    """Folder of annotated images, for the data sets named `folder/SPLIT`."""
    format: str = "auto"
    """Format of that folder: voc, labelimg, coco, yolo, csv, or that of a plug-in; `auto` detects it."""
    split: float = 0.1
    """Share of a folder's images that is held out for testing if the folder has no test images; chosen by a hash of
    their names. 0 holds out none.
    """
    tfds_dir: PathText | None = None
    """Folder for prepared data sets and their proposals; TFDS's own default if not set."""
    classes: tuple[str, ...] | None = None
    """Class names of a folder in order of their labels; objects of other classes are left out and counted. If not set,
    the names in its annotations, sorted."""
    rename: tuple[str, ...] = ()
    """Class names of a folder to rename, each as "old=new"; several with one new name are merged."""
    corners: Literal["auto", "one_based", "zero_based", "zero_based_open"] = "auto"
    """Convention for box corners in a folder's files, for formats with inclusive corners (VOC's XML, CSV): from 1 as in
    VOC, from 0, or from 0 with xmax and ymax exclusive. `auto` takes 0 if at least 0.5 % of the objects, and at least
    three, have a corner of 0, and the exclusive form if as many have xmax = width or ymax = height, or if more than
    half of the objects have corners between pixels.
    """
    orientation: Literal["auto", "apply", "ignore"] = "auto"
    """Turn images of a folder by their EXIF orientation or not. `auto` decides for all images by the sizes that their
    annotations state; without sizes it turns them, as viewers do. A few images that contradict the majority are
    dropped, see `faults.tolerance`.
    """
    max_pixels: int = 150_000_000
    """Most pixels of an image; a larger image is not decoded and counts as `faults.unreadable_image`. A decoded image
    takes 3 bytes per pixel.
    """
    faults: FaultPolicy = dataclasses.field(default_factory=FaultPolicy)
    verify: bool = False
    """Read all images again, those of the folder and the prepared ones. Otherwise a file whose size and times are
    unchanged counts as unchanged.
    """

    def __post_init__(self):
        kinds(self, "data")
        at_least(self, "data", max_pixels=1)
        if not self.train or not all(self.train):
            raise SettingError(f"data.train must name at least one data set, not {self.train}")
        repeated = sorted({name for name in self.train if self.train.count(name) > 1})
        if repeated:
            raise SettingError(f"data.train names {', '.join(repeated)} more than once: give each set once")
        for name in ("test", "format"):
            if not getattr(self, name):
                raise SettingError(f"data.{name} must not be empty")
        if self.validation == "":
            raise SettingError("data.validation must not be empty")
        if not 0 <= self.split < 1:
            raise SettingError(f"data.split must be at least 0 and below 1, not {self.split}")
        for pair in self.rename:
            old, equals, new = pair.partition("=")
            if not (old.strip() and equals and new.strip()):
                raise SettingError(f'data.rename: {pair!r} is not of the form "old=new"')

    @property
    def default_orientation(self) -> Literal["apply", "ignore"]:
        """`orientation`, with `apply` for `auto`: the answer where no annotations decide."""
        return "ignore" if self.orientation == "ignore" else "apply"


@dataclasses.dataclass(frozen=True)
class ProposalConfig:
    """Source of region proposals."""

    method: Literal["selective_search_fast", "selective_search_quality", "selective_search_mutual", "file"] = (
        "selective_search_quality"
    )
    """Fast and quality are OpenCV's Selective Search, as published. Mutual merges all mutual nearest neighbours among
    the regions at once instead of only the most similar pair. It uses fewer segmentations and more groupings and leaves
    out near duplicates. On photographs it takes a quarter of fast's time (at 320 and 400 pixels), with a higher recall
    at an IoU of 0.5. See docs/proposals.md.
    """
    train_files: tuple[PathText, ...] = ()
    """With method `file`: a .mat or .npz file for each entry of `data.train`."""
    test_file: PathText | None = None
    """With method `file`: the file for `data.test`."""
    validation_file: PathText | None = None
    """With method `file`: the file for `data.validation`, if that is not `data.test`."""
    max_side: int = 500
    """Longer side, at most, of the reduced image that Selective Search runs on; 0 keeps the image's size."""
    segment_scale: int = 150
    """The k of the graph segmentation that Selective Search starts from: fast uses k, 2k and 3k, quality k to 5k,
    mutual k, 2k and 4k. A smaller k finds smaller and fainter objects, with more boxes; it hardly affects the time.
    """
    max_count: int = 2000
    """Proposals kept per image: the first ones, which are the best; every n-th one of a file sorted by position."""
    min_side: float = 16.0
    """Proposals with a side below this many pixels of the original image are skipped, also those from a file."""
    invalid: Literal["error", "drop", "clip"] = "error"
    """Answer to boxes of a file that are not finite, reversed, empty or outside the image. `clip` moves corners into
    the image and drops boxes that become empty.
    """
    workers: int = 0
    """Images searched in parallel; 0 means one per core."""

    def __post_init__(self):
        kinds(self, "proposals")
        at_least(self, "proposals", max_side=0, segment_scale=1, max_count=1, min_side=0, workers=0)


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training images besides the flips, drawn anew each time an image is used; none by default."""

    scale_jitter: tuple[float, float] = (1.0, 1.0)
    """Range of a random factor on an image's scale, log-uniform. A factor below 1 makes the image smaller; above 1 it
    is cropped to its normal size, so that buckets stay unchanged.
    """
    crop: float = 1.0
    """Least share of height and of width of a random crop, which is resized to fit into the image's size. 1 shows the
    whole image.
    """
    min_visible: float = 0.5
    """Least share of an object's area inside the crop for it to stay an object. With less, nothing is learned from that
    region.
    """
    brightness: float = 0.0
    """Brightness is multiplied by a factor of 1 - this to 1 + this."""
    contrast: float = 0.0
    """Distances from the image's mean gray are multiplied by a factor of 1 - this to 1 + this."""
    saturation: float = 0.0
    """Distances from each pixel's own gray are multiplied by a factor of 1 - this to 1 + this."""
    hue: float = 0.0
    """Hues are turned by up to this share of the circle, in either direction: 0.5 is any hue."""

    def __post_init__(self):
        kinds(self, "input.augment")
        low, high = self.scale_jitter
        if not 0 < low <= high < math.inf:
            raise SettingError(f"input.augment.scale_jitter must be a range above 0, not {self.scale_jitter}")
        if not 0 < self.crop <= 1:
            raise SettingError(f"input.augment.crop must be above 0 and at most 1, not {self.crop}")
        in_range(self, "input.augment", min_visible=(0, 1), brightness=(0, 1), contrast=(0, 1), saturation=(0, 1))
        in_range(self, "input.augment", hue=(0, 0.5))


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """Scaling, padding and batching of images."""

    batch_size: int = 2
    """Images per step, over all devices."""
    scales: tuple[int, ...] = (600,)
    """Length of the shorter side; if several, one is drawn per image."""
    max_size: int = 1000
    """Limit of the longer side."""
    test_scale: int = 600
    test_max_size: int = 1000
    test_scales: tuple[int, ...] = ()
    """Test on an image pyramid of these scales instead of `test_scale`, each proposal at the scale where its area is
    closest to 224 x 224; the paper's are 480, 576, 688, 864 and 1200 with `test_max_size` 2000.
    """
    test_batch_size: int = 1
    buckets: tuple[tuple[int, int], ...] = ()
    """Padded (height, width) of a batch; an image goes into the smallest bucket that holds it. The step is compiled
    once per bucket. If empty, they follow from the scales: landscape and portrait, 4:3, 3:2 and the longest allowed.
    """
    flip: bool = True
    """Flip images left to right with probability 0.5."""
    flip_vertical: bool = False
    """Also flip top to bottom with probability 0.5, for images without an upright direction."""
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    max_objects: int = 64
    """Most ground-truth boxes per image; more are an error."""
    workers: int = 4
    """Threads that decode and resize images ahead of the step; 0 uses the main thread."""
    read_timeout: float = 600.0
    """Seconds for which a step, or a batch of an evaluation, waits for its images before an error that names them, as
    where a network drive no longer answers."""
    cache_decoded: bool = False
    """Keep decoded training images in memory: 3 bytes per pixel, about 2.7 GB for VOC 2007. An error if the machine has
    less memory than that.
    """

    def __post_init__(self):
        kinds(self, "input")
        at_least(self, "input", batch_size=1, test_batch_size=1, max_size=1, test_scale=1, test_max_size=1)
        at_least(self, "input", max_objects=1, workers=0, read_timeout=0.001)
        at_most(self, "input", read_timeout=MOST_SECONDS)
        lengths(self, "input", "scales")
        lengths(self, "input", "test_scales", allow_empty=True)
        if min(sum(self.buckets, ()), default=1) < 1:
            raise SettingError(f"input.buckets must be heights and widths of at least 1, not {self.buckets}")

    @property
    def single_test_scale(self) -> int:
        """The scale for a test at one scale: of several `test_scales` the one nearest to `test_scale`."""
        return min(self.test_scales or (self.test_scale,), key=lambda scale: (abs(scale - self.test_scale), scale))
