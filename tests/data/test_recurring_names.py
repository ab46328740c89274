"""The share for the test where a few names of images recur in many folders."""

import hashlib

import pytest

from tests.data.formats.written import Picture, write_labelimg
from tests.data.test_splits import NAMES, config_of, held_out, ids


def scenes(count, *stems):
    its = [(f"s{number:02}", stem) for number in range(count) for stem in stems]
    return [Picture(stem, scene, (20, 24), (("cat", (1, 2, 9, 10)),)) for scene, stem in its]


def drawn(names):
    """By the formula, which must not change."""
    places = {name: int(hashlib.sha256(name.encode()).hexdigest()[:14], 16) / 16**14 for name in names}
    return tuple(sorted(name for name, place in places.items() if place < 0.1))


@pytest.mark.parametrize("stems", [("rgb",), ("left", "right")])
@pytest.mark.parametrize("layout", ["labelimg", "voc"])
def test_recurring_names_are_drawn_by_their_paths(tmp_path, stems, layout):
    images, xml = ("{}", "{}") if layout == "labelimg" else ("JPEGImages/{}", "Annotations/{}")
    root = write_labelimg(tmp_path / "set", scenes(40, *stems), images=images, xml=xml)
    prefix = "" if layout == "labelimg" else "JPEGImages/"
    names = [f"{prefix}{p.split}/{p.stem}" for p in scenes(40, *stems)]
    for _ in range(2):
        train, test = ids(config_of(root), "trainval", "test")
        assert test == tuple(name.removeprefix("JPEGImages/") for name in drawn(names))
        assert sorted([*train, *test]) == sorted(name.removeprefix("JPEGImages/") for name in names)
    moved = root.rename(tmp_path / "moved")
    assert ids(config_of(moved), "test") == [test], "wherever the folder lies"


def test_names_of_two_folders_stay_together(tmp_path):
    """Pictures of two cameras, of the same scenes, are not divided between training and test."""
    names = NAMES[:12]
    (test,) = ids(config_of(write_labelimg(tmp_path / "set", scenes(2, *names))), "test")
    assert test
    assert {name.partition("/")[2] for name in test} == {name.partition("/")[2] for name in test if name[:3] == "s00"}
    assert len(test) % 2 == 0


def test_names_that_recur_among_many_are_drawn_as_before(tmp_path):
    its = scenes(2, *NAMES)
    root = write_labelimg(tmp_path / "set", its)
    (test,) = ids(config_of(root), "test")
    assert test == tuple(f"s{n:02}/{name}" for n in range(2) for name in held_out(NAMES, 0.1))
