"""Folders that hold the same images."""

from pathlib import Path

import pytest

from frcnn_jax.data.records import ImageRecord, SplitRecords
from frcnn_jax.evaluation.looking.equal import equal_files, equal_images, twin_folders


def splits_of(root, files, annotations="{0}"):
    """One split of images with the given contents, whose annotations lie beside them or elsewhere."""
    records = []
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        file = annotations.format(Path(name).with_suffix(".xml"))
        records.append(ImageRecord(name.removesuffix(".jpg"), path, file))
    return {"all": SplitRecords(tuple(records))}


def twins(root, *files, **how):
    splits = splits_of(root, {name: f"{number:03}" for names in files for number, name in enumerate(names)}, **how)
    return twin_folders(splits, equal_files(splits), root)


def names(folder, count=4, start=0):
    return [f"{folder}/{start + number}.jpg" for number in range(count)]


def test_an_archive_that_was_unpacked_twice(tmp_path):
    root = tmp_path / "my set"
    assert twins(root, names("b/a/images"), names("a/images")) == [
        "4 of the 4 images of b/a are in a too, with the same bytes, so that they count twice: give one of them, as by "
        f"--data.root '{root}/a', or move b/a out of {root}"
    ]


def test_most_images_and_annotations_elsewhere(tmp_path):
    """The larger folder is kept; it has no annotations to be given by itself."""
    moved = names("extra/images", 3)
    assert twins(tmp_path, names("images", 4), [*moved, "extra/images/x.jpg"], annotations="xml/{0}") == [
        "4 of the 4 images of extra/images are in images too, with the same bytes, so that they count twice: move "
        f"extra/images out of {tmp_path}"
    ]
    (tmp_path / "extra/images/x.jpg").write_text("another")
    splits = splits_of(tmp_path, {"a/0.jpg": "0", "a/1.jpg": "1", "a/2.jpg": "2", "b/0.jpg": "0", "b/1.jpg": "other"})
    assert twin_folders(splits, equal_files(splits), tmp_path) == []  # half of them


def test_a_copy_inside_the_folder(tmp_path):
    (text,) = twins(tmp_path, [f"{number}.jpg" for number in range(4)], names("copy", 3))
    assert text == (
        "3 of the 3 images of copy are in the folder itself too, with the same bytes, so that they count twice: move "
        f"copy out of {tmp_path}"
    )
    (text,) = twins(tmp_path / "set", names("a/img"), names("a/b/img"))
    assert text.endswith(f"count twice: move a/b out of {tmp_path / 'set'}")


@pytest.mark.parametrize(
    "files",
    [
        [names("train"), names("test")],  # a leak, which has lines of its own
        [names("a", 1), names("b", 1)],
        [[f"scene{number}/0.jpg" for _ in range(2)] for number in range(3)],
        [names("a", 4)],
    ],
)
def test_other_equal_images_are_no_twin_folders(tmp_path, files):
    assert twins(tmp_path, *files) == []


def test_one_empty_frame_in_many_folders_is_quick(tmp_path):
    splits = splits_of(tmp_path, {f"scene{number}/0.jpg": "same" for number in range(300)})
    files = equal_files(splits)
    assert [len(group) for group in files] == [300]
    assert twin_folders(splits, files, tmp_path) == []
    assert equal_images(splits, files) == equal_images(splits)
