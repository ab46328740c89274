"""One small data set, written as the tools that people use write it."""

from __future__ import annotations

import csv
import dataclasses
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from tests.data.voc_files import annotation_xml, object_xml

Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image and its objects: class and box, 0-based and half-open."""

    stem: str
    split: str
    size: tuple[int, int]  # height, width
    objects: tuple[tuple[str, Box], ...] = ()
    suffix: str = ".jpg"

    @property
    def name(self) -> str:
        return self.stem + self.suffix

    def encoded(self) -> bytes:
        seed = zlib.crc32(f"{self.split}/{self.stem}".encode())
        coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
        return cv2.imencode(self.suffix.lower(), cv2.resize(coarse, self.size[::-1]))[1].tobytes()

    def save(self, folder: Path, name: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / (name or self.name)).write_bytes(self.encoded())

    def xml(self, filename: str | None = None) -> str:
        objects = (object_xml(name, (x1 + 1, y1 + 1, x2, y2)) for name, (x1, y1, x2, y2) in self.objects)
        filename = self.name if filename is None else filename
        return annotation_xml(*objects, filename=filename, width=self.size[1], height=self.size[0])


PICTURES = (
    Picture("a_1", "train", (30, 40), (("cat", (0, 0, 40, 30)), ("ant", (4, 5, 20, 21)))),
    Picture("a_2", "train", (333, 517), (("bee", (1, 2, 516, 332)), ("bee", (7, 300, 9, 333)), ("cat", (3, 3, 9, 9)))),
    Picture("b_1", "validation", (41, 29), (("bee", (1.3, 2.7, 28.9, 40.123)), ("ant", (0, 0, 7.75, 1.5)))),
    Picture("t_1", "test", (97, 61), (("ant", (6, 7, 9, 97)),)),
    Picture("t_2", "test", (31, 37), (("cat", (0, 1, 37, 30)),)),
)  # fmt: skip
NAMES = ("zebra", "cat", "ant", "bee")  # of no order, and one without objects


def by_split(pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    splits: dict[str, list[Picture]] = {}
    for picture in pictures:
        splits.setdefault(picture.split, []).append(picture)
    return splits


def short(split: str) -> str:
    return "val" if split == "validation" else split


def write_voc(root: Path, pictures: Sequence[Picture] = PICTURES) -> Path:
    for split, its in by_split(pictures).items():
        lists = root / "ImageSets/Main"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{short(split)}.txt").write_text("".join(f"{picture.stem}\n" for picture in its))
        for picture in its:
            picture.save(root / "JPEGImages")
            write_text(root / f"Annotations/{picture.stem}.xml", picture.xml())
    return root


def coco_json(pictures: Sequence[Picture], *, first: int = 1, gap: int = 1, folder: str = "") -> dict:
    """Content of a file; ids of categories from `first` in steps of `gap`."""
    ids = {name: first + gap * number for number, name in enumerate(NAMES)}
    content = {
        "info": {"year": 2026}, "licenses": [],
        "categories": [{"id": ids[name], "name": name, "supercategory": "animals"} for name in NAMES],
        "images": [], "annotations": [],
    }  # fmt: skip
    for picture in pictures:
        height, width = picture.size
        image = {
            "id": 10 + len(content["images"]),
            "file_name": folder + picture.name,
            "height": height,
            "width": width,
        }
        content["images"].append(image)
        for name, (x1, y1, x2, y2) in picture.objects:
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0, "segmentation": []}
            number = 100 + len(content["annotations"])
            content["annotations"].append({"id": number, "image_id": image["id"], "category_id": ids[name], **box})
    return content


def write_coco(root: Path, pictures: Sequence[Picture] = PICTURES, **how) -> Path:
    """annotations/instances_train2017.json beside train2017, as COCO itself has it."""
    for split, its in by_split(pictures).items():
        for picture in its:
            picture.save(root / f"{short(split)}2017")
        write_text(root / f"annotations/instances_{short(split)}2017.json", json.dumps(coco_json(its, **how)))
    return root


def yolo_rows(picture: Picture) -> str:
    """Rows in 17 digits."""
    height, width = picture.size
    rows = []
    for name, (x1, y1, x2, y2) in picture.objects:
        numbers = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
        rows.append(" ".join([str(NAMES.index(name)), *(f"{number:.17g}" for number in numbers)]))
    return "".join(f"{row}\n" for row in rows)


def write_yolo(root: Path, pictures: Sequence[Picture] = PICTURES, *, split_first: bool = False) -> Path:
    """images/train and labels/train, or train/images and train/labels."""
    places = {}
    for split, its in by_split(pictures).items():
        places[short(split)], labels = [
            f"{short(split)}/{kind}" if split_first else f"{kind}/{short(split)}" for kind in ("images", "labels")
        ]
        for picture in its:
            picture.save(root / places[short(split)])
            write_text(root / labels / f"{picture.stem}.txt", yolo_rows(picture))
    lines = [f"{split}: ../{place}\n" for split, place in places.items()]
    write_text(root / "data.yaml", "".join([*lines, f"nc: {len(NAMES)}\nnames: {list(NAMES)}\n"]))
    return root


def write_csv(root: Path, pictures: Sequence[Picture] = PICTURES) -> Path:
    """train_labels.csv beside images/train, as TensorFlow's tutorial has it."""
    for split, its in by_split(pictures).items():
        for picture in its:
            picture.save(root / f"images/{short(split)}")
        with (root / f"{short(split)}_labels.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"])
            for picture in its:
                for name, (x1, y1, x2, y2) in picture.objects:
                    rows.writerow([picture.name, *picture.size[::-1], name, x1 + 1, y1 + 1, x2, y2])
    return root


def write_rows(root: Path, pictures: Sequence[Picture], header: str, row: Callable[..., str]) -> Path:
    """One labels.csv with the rows that `row` makes of a picture, a name and xmin, ymin, xmax, ymax."""
    lines = [header]
    for picture in pictures:
        picture.save(root / "images" / picture.split)
        lines += [row(picture, name, x1 + 1, y1 + 1, x2, y2) for name, (x1, y1, x2, y2) in picture.objects]
    write_text(root / "labels.csv", "\n".join(lines) + "\n")
    return root


def write_labelimg(root: Path, pictures: Sequence[Picture] = PICTURES, images: str = "{}", xml: str = "{}") -> Path:
    """Images and XML in folders with the split in their names."""
    for picture in pictures:
        picture.save(root / images.format(short(picture.split)))
        write_text(root / xml.format(short(picture.split)) / f"{picture.stem}.xml", picture.xml())
    return root


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
