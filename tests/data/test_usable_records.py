"""Records of a reader that takes no care: missing images, and objects that count from 0 in each image."""

from pathlib import Path

from frcnn_jax.data.faults import Fault
from frcnn_jax.data.prepared.checks.records import usable_records
from frcnn_jax.data.records import ImageRecord, ObjectRecord, SplitRecords

BOX = (1.0, 2.0, 9.0, 8.0)


def record(name, path, *indexes, faults=()):
    objects = tuple(ObjectRecord(index, "cat", BOX) for index in indexes)
    return ImageRecord(name, path, "labels.csv", objects=objects, faults=tuple(faults))


def usable(*records):
    return usable_records([SplitRecords(records[:1]), SplitRecords(records[1:])])


def test_a_path_that_is_none_is_a_missing_image():
    here, known = Path(__file__), Fault("missing_image", "labels.csv", None, "image", "c.png", "there is no such file")
    found = usable(record("a", here, 0), record("b", None, 1), record("c", None, 2, faults=[known]))
    assert found[0].records[0].faults == ()
    missing, told = (item.faults for item in found[1].records)
    assert [(fault.kind, fault.value) for fault in missing] == [("missing_image", "b")]
    assert told == (known,)


def test_objects_of_one_index_are_told_apart_by_their_images():
    """Also those of two splits; objects that count through the file stay as they are."""
    here, odd = Path(__file__), Fault("box_outside", "labels.csv", 0, "box", "-9", "outside the image")
    found = usable(record("a", here, 0), record("b", here, faults=[odd]))
    assert [item.file for split in found for item in split.records] == ["labels.csv (a)", "labels.csv (b)"]
    assert found[1].records[0].faults[0].file == "labels.csv (b)"
    through = record("a", here, 0, 1), record("b", here, 2)
    assert usable(*through)[1].records == through[1:]
