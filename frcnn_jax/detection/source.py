"""The batches of one pass over a test set: every image once, grouped by shape."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from frcnn_jax.config import InputConfig
from frcnn_jax.data.batch_plan import assign_buckets, default_buckets, resize_scale
from frcnn_jax.data.dataset import Dataset
from frcnn_jax.data.image_cache import DecodedImages
from frcnn_jax.data.pipeline import PROPOSAL_MULTIPLE, padded_count
from frcnn_jax.detection.pyramid import Pyramid, PyramidShape, image_pyramid, join, pyramid_shape
from frcnn_jax.detection.roi_plan import RoiPlan, plan_rois
from frcnn_jax.words import counted


class PyramidSource:
    """Random access to the batches; `source[step]` reads, decodes, resizes and pads N images.

    Images with the same buckets at every scale share one batch shape, padded to the number of RoIs of the image with
    the most distinct ones. So each such shape is compiled once.
    """

    def __init__(
        self,
        dataset: Dataset,
        proposals: Sequence[Float[np.ndarray, "P 4"]],
        config: InputConfig,
        spatial_scale: float,
        *,
        flip: bool = False,
        shared: bool = True,
    ):
        """
        Args:
            spatial_scale: the model's feature cells per pixel.
            flip: images are tested mirrored too.
            shared: the model's `shares_rois`.

        Raises:
            ValueError: images and proposals differ in number, or an image fits in no bucket.
        """
        if len(proposals) != len(dataset):
            raise ValueError(
                f"{dataset.name} has {counted(len(dataset), 'image')} but there are proposals for {len(proposals)}"
            )
        self._images, self._proposals = DecodedImages(dataset), proposals
        self._widths = dataset.sizes[:, 1].tolist() if flip else [None] * len(dataset)
        self._batch_size = config.test_batch_size
        lengths = config.test_scales or (config.test_scale,)
        self._scales = np.array(
            [[resize_scale(size, length, config.test_max_size) for length in lengths] for size in dataset.sizes]
        ).reshape(-1, len(lengths))
        self._spatial_scale, self._shared = spatial_scale, shared
        # Plans are as large as the proposals, which may be on disk: they are recomputed when needed.
        counts = [self._plan(index).counts for index in range(len(dataset))]
        buckets = config.buckets or default_buckets(lengths, config.test_max_size, round(1 / spatial_scale))
        levels = [assign_buckets(dataset.sizes, scales, buckets, dataset.image_ids) for scales in self._scales.T]
        bucket_of = np.stack(levels, axis=1)
        count = padded_count(proposals)
        self._steps: list[tuple[PyramidShape, list[int]]] = []
        for chosen in np.unique(bucket_of, axis=0):
            members = np.flatnonzero((bucket_of == chosen).all(axis=1)).tolist()
            of_members = [counts[index] for index in members]
            shape = pyramid_shape([buckets[i] for i in chosen], of_members, count, PROPOSAL_MULTIPLE)
            for start in range(0, len(members), self._batch_size):
                self._steps.append((shape, members[start : start + self._batch_size]))

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, step: int) -> Pyramid:
        shape, members = self._steps[int(step)]
        return join([self._image(index, shape) for index in members], self._batch_size)

    def image_count(self, step: int) -> int:
        """Number of images in a batch."""
        return len(self._steps[step][1])

    def being_read(self) -> list[str]:
        """Names of the images that threads are reading at this moment."""
        return self._images.being_read()

    def _image(self, index: int, shape: PyramidShape) -> Pyramid:
        image = self._images[index]
        boxes, scales = self._proposals[index], self._scales[index]
        return image_pyramid(image, boxes, self._plan(index), scales, shape, index)

    def _plan(self, index: int) -> RoiPlan:
        boxes, scales = self._proposals[index], self._scales[index]
        width = self._widths[index]
        return plan_rois(boxes, scales, self._spatial_scale, shared=self._shared, mirrored_width=width)
