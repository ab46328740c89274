"""JPEG files with about the size and detail of VOC's, generated or read from a folder, as a data set."""

import dataclasses
import hashlib
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from bench.sizes import Sizes
from frcnn_jax.data.images import decode_image
from frcnn_jax.types import GroundTruth


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Encoded images without objects that read like any `Dataset`."""

    files: tuple[bytes, ...]
    directory: Path = Path()
    name: str = "folder/pictures"
    classes: tuple[str, ...] = ("object",)
    fingerprint: str = "0" * 64

    @cached_property
    def sizes(self) -> np.ndarray:
        return np.array([_decode(data).shape[:2] for data in self.files], np.int32)

    @property
    def image_ids(self) -> tuple[str, ...]:
        return tuple(f"{i:06d}" for i in range(len(self.files)))

    @property
    def annotations(self) -> tuple[GroundTruth, ...]:
        no_objects = GroundTruth(
            boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int32), difficult=np.zeros(0, bool)
        )
        return (no_objects,) * len(self.files)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shared_directory(self) -> Path:
        return self.directory

    def read_image(self, index: int) -> np.ndarray:
        return decode_image(self.files[index])

    def image_fingerprint(self, index: int) -> str:
        return hashlib.sha256(self.files[index]).hexdigest()


def load_pictures(folder: str | None, count: int, sizes: Sizes) -> Pictures:
    """The first `count` JPEG files of a folder, or generated ones.

    Raises:
        ValueError: the folder has fewer.
    """
    if folder is None:
        return Pictures(tuple(make_jpeg(sizes.file_size, seed) for seed in range(count)))
    paths = _paths(folder)[:count]
    if len(paths) < count:
        raise ValueError(f"--images {folder} has {len(paths)} JPEG files; {count} are needed")
    return Pictures(tuple(path.read_bytes() for path in paths))


def picture_sizes(folder: str) -> list[tuple[int, int]]:
    """Height and width of all JPEG files of a folder.

    Raises:
        ValueError: there are none.
    """
    paths = _paths(folder)
    if not paths:
        raise ValueError(f"--images {folder} has no JPEG files")
    return [_decode(path.read_bytes()).shape[:2] for path in paths]


def make_jpeg(size: tuple[int, int], seed: int) -> bytes:
    """A generated picture: soft colours with ellipses and bars in front, and some grain."""
    random = np.random.default_rng(seed)
    height, width = size
    image = cv2.resize(random.integers(40, 216, (7, 9, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(30):
        colour = tuple(int(c) for c in random.integers(0, 256, 3))
        centre = tuple(int(c) for c in random.integers(0, (width, height)))
        axes = tuple(int(a) for a in random.integers(2, max(height // 4, 3), 2))
        thickness = -1 if random.random() < 0.6 else 3  # -1: filled
        cv2.ellipse(image, centre, axes, float(random.integers(0, 180)), 0, 360, colour, thickness)
    grain = cv2.GaussianBlur(random.normal(0, 16, image.shape).astype(np.float32), (0, 0), 0.8)
    done, data = cv2.imencode(".jpg", np.clip(image + grain, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])
    if not done:
        raise RuntimeError("OpenCV could not write a JPEG")
    return data.tobytes()


def _paths(folder: str) -> list[Path]:
    return sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in (".jpg", ".jpeg"))


def _decode(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
