"""A custom format: labels.csv beside the images, a row `split,image,class,x,y,w,h,kind` for each object.

Corners are 1-based and exclusive: x and y of the first pixel, counted from 1. A row without class is an image without
objects; `kind` may be crowd. No sizes are stated.
"""

import csv

from frcnn_jax.data.faults import Fault
from frcnn_jax.data.formats.table import register_format
from frcnn_jax.data.records import ImageRecord, ObjectRecord, SplitRecords


class CsvReader:
    layout = "file labels.csv"

    def __init__(self, root, config):
        self.root = root
        with open(root / "labels.csv", newline="") as file:
            self.rows = list(csv.DictReader(file))

    @staticmethod
    def fits(root):
        return (root / "labels.csv").is_file()

    @property
    def splits(self):
        return tuple(dict.fromkeys(row["split"] for row in self.rows))

    def read(self, split):
        rows = [row for row in self.rows if row["split"] == split]
        if not rows:
            raise FileNotFoundError(f"{self.root}/labels.csv has no split {split!r} (it has: {', '.join(self.splits)})")
        images = {}
        for row in rows:
            images.setdefault(row["image"], []).append(row)
        return SplitRecords(tuple(self.record(name, its) for name, its in images.items()))

    def record(self, name, rows):
        path, objects, faults = self.root / name, [], []
        if not path.is_file():
            faults.append(Fault("missing_image", "labels.csv", None, "image", name, "there is no such file"))
        for index, row in enumerate(row for row in rows if row["class"]):
            try:
                x, y, w, h = (float(row[side]) for side in "xywh")
            except ValueError as error:
                faults.append(Fault("unreadable_annotation", "labels.csv", index, "x,y,w,h", name, str(error)))
                continue
            box = x - 1, y - 1, x - 1 + w, y - 1 + h
            objects.append(ObjectRecord(index, row["class"], box, crowd=row["kind"] == "crowd"))
        return ImageRecord(name, path if path.is_file() else None, "labels.csv", None, tuple(objects), tuple(faults))


register_format("my_csv", CsvReader)
