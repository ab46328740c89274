"""Settings of the data: which images, whose proposals, and how both are made into batches."""

import dataclasses
import math
from typing import Literal

from frcnn_jax.config.checks import SettingError, at_least, in_range, kinds, lengths
from frcnn_jax.config.paths import PathText

Action = Literal["error", "drop"]


@dataclasses.dataclass(frozen=True)
class FaultPolicy:
    """Answers to each kind of fault in a data set: stop with the full list, or drop and count.

    A fault of an object drops that object, a fault of an image drops the image, with all it contains. A handful of
    faults does not stop: see `tolerance`."""

    missing_image: Action = "error"
    unreadable_image: Action = "error"
    missing_annotation: Literal["error", "drop", "empty"] = "error"
    """`empty` takes the image as one without objects, for test sets whose annotations are not public."""
    unreadable_annotation: Action = "error"
    """Not XML, a DTD in it, or a field of an object that is missing, not a number or there twice."""
    size_mismatch: Literal["error", "drop", "use_image"] = "error"
    """Width or height in the annotation differ from the image's. `use_image` takes the boxes as pixels of the image."""
    duplicate_id: Action = "error"
    """An id twice in a list, of which `drop` drops the second, or of several image files, which drops the image."""
    unknown_class: Action = "error"
    degenerate_box: Action = "error"
    """Corners reversed or coinciding: xmax <= xmin or ymax <= ymin."""
    box_outside: Literal["error", "drop", "clip"] = "error"
    """A box that reaches over the image's border by more than two pixels. `clip` cuts it there, as is always done up
    to two pixels; where nothing is left it is degenerate."""
    tolerance: float = 0.01
    """Share of the images, and of the objects, up to which faults answered by `error` drop what they concern and are
    counted in place of stopping; 0 stops at the first. Ids that are listed without image and annotation may be ten
    times as many, as nothing is lost with them; of the images that COCO files list, a third has to be there."""

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
    """Data set that a run is measured on while it trains, and its best checkpoint chosen by (`train.evaluate_every`);
    `test` if not set. Of a folder, its images are not in `trainval`."""
    root: PathText | None = None
    """Folder of annotated images that `folder` stands for."""
    format: str = "auto"
    """Format of that folder: voc, labelimg, coco, yolo, csv, or one of a plug-in; `auto` recognises it."""
    split: float = 0.1
    """Share of a folder's images that is kept for the test where the folder has no images for it; which ones follows
    from their names. 0 keeps none."""
    tfds_dir: PathText | None = None
    """Folder for prepared data sets and their proposals; TFDS's own default if not set."""
    classes: tuple[str, ...] | None = None
    """Class names of a folder in order of their labels; objects of other classes are left out and counted. If not set,
    the names in its annotations, sorted."""
    rename: tuple[str, ...] = ()
    """Class names of a folder that are read as others, each as "old=new"; several of one new name are merged."""
    corners: Literal["auto", "one_based", "zero_based", "zero_based_open"] = "auto"
    """How a folder's files count the corners of boxes, where their format has inclusive ones (VOC's XML, CSV): VOC's
    own way from 1, from 0, or from 0 with xmax and ymax at the border itself. `auto` takes 0 if at least 0.5 % of
    the objects, and three, have a corner of 0, and the open form if as many have xmax = width or ymax = height."""
    orientation: Literal["auto", "apply", "ignore"] = "auto"
    """Whether images of a folder are turned by their EXIF orientation. `auto` looks at which size the annotations of
    such images state, once for all images; without that they are turned, as viewers do. A few against many more are
    dropped, see `faults.tolerance`."""
    max_pixels: int = 150_000_000
    """Most pixels of an image; one with more is not decoded and counts as `faults.unreadable_image`. Decoded, an image
    takes 3 bytes a pixel."""
    faults: FaultPolicy = dataclasses.field(default_factory=FaultPolicy)
    verify: bool = False
    """Read all images again, those of the folder and the prepared ones. Otherwise a file of the folder whose size and
    times are unchanged is taken to be as it was."""

    def __post_init__(self):
        kinds(self, "data")
        at_least(self, "data", max_pixels=1)
        if not self.train or not all(self.train):
            raise SettingError(f"data.train must name at least one data set, not {self.train}")
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


@dataclasses.dataclass(frozen=True)
class ProposalConfig:
    """Source of region proposals."""

    method: Literal["selective_search_fast", "selective_search_quality", "selective_search_mutual", "file"] = (
        "selective_search_quality"
    )
    """Fast and quality are Selective Search as published, by OpenCV. Mutual merges all mutual nearest neighbours among
    the regions at once in place of the most similar pair, on fewer segmentations and with more groupings, and leaves
    out near duplicates: on photographs a quarter of fast's time (at 320 and 400 pixels), with a higher recall at an IoU
    of 0.5. See docs/performance.md."""
    train_files: tuple[PathText, ...] = ()
    """With method `file`: a .mat or .npz file for each entry of `data.train`."""
    test_file: PathText | None = None
    """With method `file`: the file for `data.test`."""
    validation_file: PathText | None = None
    """With method `file`: the file for `data.validation`, where that is not `data.test`."""
    max_side: int = 500
    """Selective Search runs on the image reduced until its longer side is at most this; 0 keeps its size."""
    segment_scale: int = 150
    """The k of the graph segmentation that Selective Search starts from, in steps of itself: fast uses k, 2k and 3k,
    quality k to 5k, mutual k, 2k and 4k. Smaller finds smaller and fainter objects, with more boxes; the time is
    hardly affected."""
    max_count: int = 2000
    """Proposals kept of an image: the first, as the best come first; of a file sorted by position, every n-th."""
    min_side: float = 16.0
    """Proposals with a side below this many pixels of the original image are skipped, those of a file too."""
    invalid: Literal["error", "drop", "clip"] = "error"
    """Answer to boxes of a file that are not finite, reversed, empty or outside the image. `clip` moves
    corners into the image and drops what is empty then."""
    workers: int = 0
    """Images searched at a time; 0 means one for each core."""

    def __post_init__(self):
        kinds(self, "proposals")
        at_least(self, "proposals", max_side=0, segment_scale=1, max_count=1, min_side=0, workers=0)


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training images beside the flips, drawn anew each time an image comes up; none by default."""

    scale_jitter: tuple[float, float] = (1.0, 1.0)
    """Range of a factor on an image's scale, evenly distributed in its logarithm. Below 1 the image gets smaller; above
    1 it is cut to the size that it has without, so that buckets stay as they are."""
    crop: float = 1.0
    """Least share of height and of width that a random part has; it is shown in place of the image, as large as fits
    into the same size. 1 shows the whole."""
    min_visible: float = 0.5
    """Share of its area that an object has in the part shown, to be an object there. With less it is a region where
    nothing is learned."""
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
    """Images in a step, over all devices."""
    scales: tuple[int, ...] = (600,)
    """Length of the shorter side; with several, one is drawn for each image."""
    max_size: int = 1000
    """The longer side stays within this."""
    test_scale: int = 600
    test_max_size: int = 1000
    test_scales: tuple[int, ...] = ()
    """Test on an image pyramid of these in place of `test_scale`, each proposal at the scale where its area is closest
    to 224 x 224; the paper's are 480, 576, 688, 864 and 1200 with `test_max_size` 2000."""
    test_batch_size: int = 1
    buckets: tuple[tuple[int, int], ...] = ()
    """Padded (height, width) of a batch; an image goes to the smallest one that holds it. Compiled once each.
    Where empty, they follow from the scales: landscape and portrait, 4:3, 3:2 and as long as allowed."""
    flip: bool = True
    """Flip images left to right with probability 0.5."""
    flip_vertical: bool = False
    """Also flip top to bottom with probability 0.5, for images that have no up."""
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    max_objects: int = 64
    """Most ground-truth boxes of an image; one with more is an error that says so."""
    workers: int = 4
    """Threads that decode and resize images ahead of the step; 0 does so in the main thread."""
    read_timeout: float = 600.0
    """Seconds for which a step, or a batch of an evaluation, waits for its images before an error that names them, as
    where a network drive no longer answers."""
    cache_decoded: bool = False
    """Keep decoded training images in memory: 3 bytes a pixel of the files, about 2.7 GB for VOC 2007. An error
    where the machine has less memory than that."""

    def __post_init__(self):
        kinds(self, "input")
        at_least(self, "input", batch_size=1, test_batch_size=1, max_size=1, test_scale=1, test_max_size=1)
        at_least(self, "input", max_objects=1, workers=0, read_timeout=0.001)
        lengths(self, "input", "scales")
        lengths(self, "input", "test_scales", allow_empty=True)
        if min(sum(self.buckets, ()), default=1) < 1:
            raise SettingError(f"input.buckets must be heights and widths of at least 1, not {self.buckets}")
