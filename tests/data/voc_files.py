"""Small data sets in VOC format for tests."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from frcnn_jax.data.prepared.voc_archive import ARCHIVES

WIDTH, HEIGHT = 40, 30


def pixels(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return cv2.resize(coarse, (width, height))


def object_xml(
    name: str = "cat", box: Sequence = (2, 3, 10, 12), *, extra: str = "", difficult: str = "<difficult>0</difficult>"
) -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return (
        f"<object><name>{name}</name><pose>Left</pose><truncated>1</truncated>{difficult}"
        f"<bndbox>{corners}</bndbox>{extra}</object>"
    )


def annotation_xml(*objects: str, filename: str = "", width: object = WIDTH, height: object = HEIGHT) -> str:
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{size}{''.join(objects)}</annotation>\n"


def with_exif_orientation(jpeg: bytes, orientation: int, order: str = "big") -> bytes:
    """The JPEG with an EXIF segment of two entries, of which the second says how to turn it."""

    def numbers(*pairs: tuple[int, int]) -> bytes:
        return b"".join(value.to_bytes(length, order) for value, length in pairs)

    first = numbers((0x0100, 2), (3, 2), (1, 4), (WIDTH, 2), (0, 2))
    second = numbers((0x0112, 2), (3, 2), (1, 4), (orientation, 2), (0, 2))
    mark = {"big": b"MM", "little": b"II"}[order]
    body = b"Exif\x00\x00" + mark + numbers((42, 2), (8, 4), (2, 2)) + first + second + bytes(4)
    return jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


class VocFiles:
    """Writes a folder in VOC format bit by bit."""

    def __init__(self, root: Path):
        self.root = root
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self.count = 0

    def image(self, image_id: str, *objects: str, suffix: str = ".jpg", xml: str | None = None) -> None:
        """An image with an annotation (the objects', or the given text)."""
        self.count += 1
        encoded = cv2.imencode(suffix, pixels(self.count))[1]
        (self.root / "JPEGImages" / f"{image_id}{suffix}").write_bytes(encoded.tobytes())
        text = annotation_xml(*objects, filename=f"{image_id}{suffix}") if xml is None else xml
        (self.root / "Annotations" / f"{image_id}.xml").write_text(text)

    def split(self, name: str, *lines: str) -> None:
        (self.root / "ImageSets/Main" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))


def standard_folder(root: Path) -> VocFiles:
    """Two images to train, one to validate, one to test; classes ant, bee and cat."""
    files = VocFiles(root)
    files.image("a1", object_xml("cat", (1, 1, 40, 30)), object_xml("ant", (5, 6, 20, 21)))
    files.image("a2")
    files.image("b1", object_xml("bee", (2, 3, 4, 5), difficult="<difficult>1</difficult>"))
    files.image("t1", object_xml("ant", (7, 8, 9, 30)))
    files.split("train", "a2", "a1")
    files.split("val", "b1")
    files.split("test", "t1")
    return files


def archive(tmp_path, year: str, part: str, box=(1, 1, 20, 30)) -> None:
    """A tiny archive of a year in its official layout; the test part of 2012 without annotations."""
    files = VocFiles(tmp_path / year / part / "VOCdevkit" / f"VOC{year}")
    if part == "trainval":
        files.image("000012", object_xml("car", box), object_xml("person", (11, 12, 40, 30)))
        files.image("000005", object_xml("chair", (3.5, 4, 10.25, 12)))
        files.image("000007", object_xml("tvmonitor", (3, 4, 10, 12), difficult="<difficult>1</difficult>"))
        for name, ids in (
            ("train", ("000012",)),
            ("val", ("000005", "000007")),
            ("trainval", ("000005", "000007", "000012")),
        ):
            files.split(name, *ids)
            files.split(f"car_{name}", *(f"{i} {1 if i == '000012' else -1:2d}" for i in ids))
    else:
        files.image("000001", object_xml("dog", (8, 9, 39, 29)))
        files.split("test", "000001")
        if year == "2012":
            (files.root / "Annotations/000001.xml").unlink()
            (files.root / "Annotations").rmdir()
    with tarfile.open(tmp_path / "www" / ARCHIVES[year][part].file, "w") as tar:
        tar.add(tmp_path / year / part / "VOCdevkit", "VOCdevkit")
