"""A small VOC-format data set with real content: scenes of handwritten digits, for the demo.

The digits are the 1,797 images of 8 x 8 pixels that scikit-learn ships. Each scene has 2 to 8 of them, enlarged
smoothly to various sizes, in various colours, on a textured background. Training and test scenes are made of
different digits. The folder is then read like any other in VOC format.
"""

from __future__ import annotations

import colorsys
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from frcnn_jax.atomic import new_folder
from frcnn_jax.config import expand_user

__all__ = ["DIGIT_NAMES", "make_demo"]

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_HEIGHT, _WIDTH = 160, 224
_SIZES = (32.0, 72.0)  # height of a digit's ink, in pixels
_OVERLAP = 0.05  # most of a digit's box that another digit may cover
_DONE = "demo.txt"


def make_demo(root: str | Path, *, train_images: int = 600, test_images: int = 150, seed: int = 0) -> None:
    """Writes the folder `root` with the splits `train` and `test`; the same arguments give the same files.

    A complete folder made with the same arguments is left unchanged. The folder appears under its name only when it
    is complete.

    Raises:
        ValueError: a number of images is below 1.
        ImportError: scikit-learn is missing.
        FileExistsError: `root` exists and is something else, and not an empty folder.
    """
    if min(train_images, test_images) < 1:
        raise ValueError(f"train_images = {train_images} and test_images = {test_images} must be at least 1")
    root = expand_user(root)
    description = f"frcnn_jax demo, version 1: train {train_images}, test {test_images}, seed {seed}\n"
    if _is_complete(root, description):
        return
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise FileExistsError(
            f"{root} already exists and is not this demo data set ({description.strip()}); move or delete it"
        )
    pools = _digits(seed)
    try:
        with new_folder(root) as building:
            _write_folder(building, pools, {"train": train_images, "test": test_images}, seed)
            (building / _DONE).write_text(description)
    except OSError:
        if not _is_complete(root, description):  # else another process was faster
            raise


def _is_complete(root: Path, description: str) -> bool:
    marker = root / _DONE
    return marker.is_file() and marker.read_text() == description


def _write_folder(root: Path, pools: tuple[list, list], counts: dict[str, int], seed: int) -> None:
    """Images, annotations and lists; split number i is drawn from pool i."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, (name, count) in enumerate(counts.items()):
        ids = [f"{name}_{i:05d}" for i in range(count)]
        for index, image_id in enumerate(ids):
            image, objects = _scene(pools[split], np.random.default_rng([seed, split, index]))
            _write_image(root, image_id, image, objects)
        (root / f"ImageSets/Main/{name}.txt").write_text("".join(f"{i}\n" for i in ids))


def _digits(seed: int) -> tuple[list[tuple[int, np.ndarray]], list[tuple[int, np.ndarray]]]:
    """Labels and images [8, 8] (0 ... 1) of the training digits and of the test digits, a quarter of all."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the demo's digits need scikit-learn: pip install -e '.[demo]'") from error
    data = load_digits()
    order = np.random.default_rng([seed, 99]).permutation(len(data.target))
    pairs = [(int(data.target[i]), data.images[i].astype(np.float32) / 16) for i in order]
    quarter = len(pairs) // 4
    return pairs[quarter:], pairs[:quarter]


def _scene(
    pool: list[tuple[int, np.ndarray]], rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "H W 3"], list[tuple[str, tuple[int, int, int, int]]]]:
    """An image (RGB) and its objects: name and half-open box."""
    canvas, base = _background(rng)
    objects: list[tuple[str, tuple[int, int, int, int]]] = []
    wanted = int(rng.integers(2, 9))
    for _ in range(200):
        if len(objects) == wanted:
            break
        label, digit = pool[int(rng.integers(len(pool)))]
        ink = _enlarge(digit, rng.uniform(*_SIZES), rng.uniform(0.8, 1.25))
        height, width = ink.shape
        if height > _HEIGHT or width > _WIDTH:
            continue
        x, y = int(rng.integers(_WIDTH - width + 1)), int(rng.integers(_HEIGHT - height + 1))
        box = (x, y, x + width, y + height)
        if any(_covered(box, other) > _OVERLAP for _, other in objects):
            continue
        patch = canvas[y : y + height, x : x + width]
        patch += ink[:, :, None] * (_ink_colour(base, rng) - patch)
        objects.append((DIGIT_NAMES[label], box))
    noise = rng.normal(0, 3, canvas.shape)
    return np.clip(np.round(canvas + noise), 0, 255).astype(np.uint8), objects


def _enlarge(digit: Float[np.ndarray, "8 8"], height: float, stretch: float) -> Float[np.ndarray, "h w"]:
    """The opacity (0 ... 1) of a digit with ink about `height` pixels high, cropped to the ink."""
    padded = np.pad(digit, 1)
    rows = np.flatnonzero(digit.max(axis=1) > 0.5)
    scale = height / (rows[-1] - rows[0] + 1)
    size = (round(padded.shape[1] * scale * stretch), round(padded.shape[0] * scale))
    smooth = cv2.resize(padded, size, interpolation=cv2.INTER_CUBIC)
    # A steep ramp around half opacity gives strokes with an edge instead of a blurred spot.
    ink = np.clip((smooth - 0.45) * max(scale, 4.0) / 4 + 0.5, 0, 1).astype(np.float32)
    seen = ink > 0.5
    y, x = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return ink[y[0] : y[-1] + 1, x[0] : x[-1] + 1]


def _background(rng: np.random.Generator) -> tuple[Float[np.ndarray, "H W 3"], Float[np.ndarray, " 3"]]:
    """A mild texture (noise at two scales and a gradient) and its mean colour."""
    base = _colour(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.2, 0.9))
    canvas = np.tile(base, (_HEIGHT, _WIDTH, 1))
    for cells, strength in ((4, 14.0), (24, 7.0)):
        coarse = rng.normal(0, strength, (cells, round(cells * _WIDTH / _HEIGHT), 3)).astype(np.float32)
        canvas += cv2.resize(coarse, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_CUBIC)
    slope = np.linspace(-1, 1, _WIDTH, dtype=np.float32) * rng.uniform(-15, 15)
    return canvas + slope[None, :, None], base


def _ink_colour(base: Float[np.ndarray, " 3"], rng: np.random.Generator) -> Float[np.ndarray, " 3"]:
    """A colour that clearly differs from the background in brightness."""
    while True:
        colour = _colour(rng.random(), rng.uniform(0.2, 1.0), rng.uniform(0.1, 1.0))
        if abs(float((colour - base) @ np.array([0.3, 0.6, 0.1], np.float32))) > 60:
            return colour


def _colour(hue: float, saturation: float, value: float) -> Float[np.ndarray, " 3"]:
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32) * 255


def _covered(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """The intersection of two boxes, as a share of the smaller one."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return max(width, 0) * max(height, 0) / min(areas)


def _write_image(
    root: Path,
    image_id: str,
    image: UInt8[np.ndarray, "H W 3"],
    objects: list[tuple[str, tuple[int, int, int, int]]],
) -> None:
    ok, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    if not ok:
        raise RuntimeError(f"OpenCV could not encode {image_id}.jpg")
    (root / "JPEGImages" / f"{image_id}.jpg").write_bytes(data.tobytes())
    height, width = image.shape[:2]
    tree = ElementTree.Element("annotation")
    _add(tree, {"folder": "demo", "filename": f"{image_id}.jpg"})
    _add(ElementTree.SubElement(tree, "size"), {"width": width, "height": height, "depth": 3})
    for name, (x1, y1, x2, y2) in objects:
        item = ElementTree.SubElement(tree, "object")
        _add(item, {"name": name, "pose": "Unspecified", "truncated": 0, "difficult": 0})
        corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}  # VOC: 1-based and inclusive
        _add(ElementTree.SubElement(item, "bndbox"), corners)
    ElementTree.indent(tree)
    (root / "Annotations" / f"{image_id}.xml").write_text(ElementTree.tostring(tree, encoding="unicode") + "\n")


def _add(parent: ElementTree.Element, values: dict) -> None:
    for name, value in values.items():
        ElementTree.SubElement(parent, name).text = str(value)
