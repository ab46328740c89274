"""Fingerprints of data sets: what they are of, and those of earlier versions."""

import dataclasses
import hashlib
import json

import pytest

from frcnn_jax.data.dataset import legacy_fingerprint, open_dataset
from tests.data.voc_files import annotation_xml, object_xml


@pytest.mark.parametrize(
    "objects",
    [
        (object_xml("cat", (1, 1, 40, 29)), object_xml("ant", (5, 6, 20, 21))),
        (object_xml("ant", (1, 1, 40, 30)), object_xml("cat", (5, 6, 20, 21))),
        (object_xml("ant", (5, 6, 20, 21)), object_xml("cat", (1, 1, 40, 30))),
        (object_xml("cat", (1, 1, 40, 30)), object_xml("ant", (5, 6, 20, 21), difficult="<difficult>1</difficult>")),
        (object_xml("cat", (1, 1, 40, 30)),),
    ],
    ids=["box", "labels", "order", "difficult", "fewer"],
)
def test_fingerprint_is_of_the_objects_too_and_the_earlier_one_is_not(config, files, objects):
    before = open_dataset("folder/train", config)
    config = dataclasses.replace(config, classes=before.classes)
    annotation = files.root / "Annotations/a1.xml"
    annotation.write_text(annotation_xml(*objects, filename="a1.jpg"))
    after = open_dataset("folder/train", config)
    assert after.fingerprint != before.fingerprint
    assert legacy_fingerprint(after) == legacy_fingerprint(before)
    assert [after.image_fingerprint(i) for i in (0, 1)] == [before.image_fingerprint(i) for i in (0, 1)]


def test_folder_name_and_earlier_fingerprint_are_those_of_earlier_versions(config, files):
    """By the formulas of earlier versions, so that what it prepared and trained is found."""
    data = open_dataset("folder/train", config)

    def sha(path):
        return hashlib.sha256((files.root / path).read_bytes()).hexdigest()

    lists = {"train": (("a2", "a1"), ()), "validation": (("b1",), ()), "test": (("t1",), ()),
             "trainval": (("a2", "a1", "b1"), ())}  # fmt: skip
    digests = [
        [sha(f"Annotations/{name}.xml"), f"{name}.jpg", sha(f"JPEGImages/{name}.jpg")]
        for name in ("a1", "a2", "b1", "t1")
    ]
    kinds = ("missing_image", "unreadable_image", "missing_annotation", "unreadable_annotation", "size_mismatch",
             "duplicate_id", "unknown_class", "degenerate_box", "box_outside")  # fmt: skip
    content = [1, lists, digests, None, dict.fromkeys(kinds, "error")]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert data.directory.relative_to(config.tfds_dir).parts == ("voc_folder", f"set-{digest[:16]}", "1.0.0")
    rows = b"".join(
        hashlib.sha256(name.encode()).digest() + bytes.fromhex(sha(f"JPEGImages/{name}.jpg")) for name in ("a2", "a1")
    )
    assert legacy_fingerprint(data) == hashlib.sha256(rows).hexdigest()


def test_fingerprint_is_of_ids_and_images_in_order(config, files):
    first = open_dataset("folder/train", config).fingerprint
    assert len(first) == 64
    int(first, 16)
    for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        (files.root / folder / f"a2.{suffix}").rename(files.root / folder / f"a3.{suffix}")
    files.split("train", "a3", "a1")
    renamed = open_dataset("folder/train", config).fingerprint
    files.split("train", "a1", "a3")
    turned = open_dataset("folder/train", config).fingerprint
    assert len({first, renamed, turned}) == 3
