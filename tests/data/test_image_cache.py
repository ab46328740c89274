"""Decoded images: read again or kept; refused if they exceed the memory or have changed since they were prepared."""

import numpy as np
import pytest

from frcnn_jax.data import image_cache as decoded
from frcnn_jax.data.image_cache import DecodedImages, decoded_bytes


class Files:
    """The parts of a `Dataset` that are read: two images of 3 x 5 and 4 x 2 pixels (height x width)."""

    name = "files"
    image_ids = ("a", "b")

    def __init__(self):
        self.sizes = np.array([[3, 5], [4, 2]], np.int32)
        random = np.random.default_rng(0)
        self.pixels = [random.integers(0, 256, (*size, 3)).astype(np.uint8) for size in self.sizes]
        self.reads = 0

    def __len__(self):
        return 2

    def read_image(self, index):
        self.reads += 1
        return self.pixels[index].copy()


@pytest.mark.parametrize(("keep", "reads"), [(False, 4), (True, 2)])
def test_images_are_the_same_kept_or_not(keep, reads):
    files = Files()
    images = DecodedImages(files, keep=keep)
    for index in (0, 1, 0, 1):
        np.testing.assert_array_equal(images[index], files.pixels[index])
    assert files.reads == reads


def test_more_than_the_memory_is_refused_before_anything_is_read(monkeypatch):
    files = Files()
    assert decoded_bytes(files) == 3 * (15 + 8)
    monkeypatch.setattr(decoded, "total_memory", lambda: 69)
    DecodedImages(files, keep=True)
    files.sizes = np.array([[60_000, 60_000], [40_000, 10_000]], np.int32)  # 12 GB: more than an int32 can count
    monkeypatch.setattr(decoded, "total_memory", lambda: 8_000_000_000)
    with pytest.raises(ValueError, match=r"input.cache_decoded: the 2 images of files take 12.0 GB .* has 8.0 GB"):
        DecodedImages(files, keep=True)
    DecodedImages(files)
    assert files.reads == 0


def test_an_image_of_another_size_than_prepared_is_named():
    files = Files()
    files.sizes = np.array([[3, 6], [4, 2]], np.int32)
    with pytest.raises(ValueError, match="files: image a is 5 x 3 pixels, but was 6 x 3 when it was prepared"):
        DecodedImages(files)[0]
