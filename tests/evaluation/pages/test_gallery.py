"""The pictures of a report: choice, files, and data for the page."""

import urllib.parse

import cv2
import numpy as np
import pytest

from frcnn_jax.atomic import write_bytes
from frcnn_jax.evaluation.analysis.matches import HIT, IGNORED, KINDS, match_dataset
from frcnn_jax.evaluation.pages.earlier import listed_pictures, remove_pictures
from frcnn_jax.evaluation.pages.gallery import choose_images, thumbnail, write_gallery
from frcnn_jax.evaluation.report import write_report
from frcnn_jax.evaluation.voc_map import evaluate_voc, precision_recall
from tests.evaluation.pages.reading import Page
from tests.evaluation.records import A, B, C, detections, truth

CLASSES = ("<b>&</script>", "two")


class Scenes:
    """A data set whose image i is of gray 10 * i, for the first twenty."""

    name, classes = "folder/test", CLASSES

    def __init__(self, ids, annotations, size=(20, 60)):
        self.image_ids, self.annotations, self._size = tuple(ids), tuple(annotations), size
        self.sizes = np.tile(np.int32(size), (len(self.image_ids), 1))

    def __len__(self):
        return len(self.image_ids)

    def read_image(self, index):
        return np.full((*self._size, 3), 10 * (index % 20), np.uint8)


def written(directory, ids, annotations, found, **settings):
    dataset, found = Scenes(ids, annotations), dict(zip(ids, found, strict=True))
    truths = dict(zip(ids, annotations, strict=True))
    matches = match_dataset(found, truths, num_classes=2)
    settings = {"pictures": len(ids), "min_score": 0.5, **settings}
    gallery = write_gallery(directory, dataset, found, matches, **settings)
    measures = evaluate_voc(found, truths, class_names=CLASSES)
    curves = precision_recall(found, truths, class_names=CLASSES)
    return gallery, Page(write_report(directory, measures, curves, gallery=gallery).read_text("utf-8"))


def test_files_of_awkward_ids_are_found_from_the_page(tmp_path):
    ids = ["000004", "a b", "sub/dir", "../up", "ü%2F#?", "sub%2Fdir", "</script><b>"]
    gallery, page = written(tmp_path / "eval", ids, [truth((A,))] * 7, [detections((A, 0.9))] * 7)
    assert page.data["gallery"] == gallery
    assert [image["name"] for image in gallery["images"]] == ids
    files = set()
    for i, image in enumerate(gallery["images"]):
        for kind in ("file", "thumbnail"):
            path = (tmp_path / "eval" / urllib.parse.unquote(image[kind])).resolve()
            files.add(path)
            assert abs(int(cv2.imread(str(path))[-1, -1, 0]) - 10 * i) <= 3
    others = {(tmp_path / "eval" / name).resolve() for name in ("index.html", "precision_recall.png")}
    assert {path.resolve() for path in tmp_path.rglob("*") if path.is_file()} == files | others
    assert len(files) == 14


def test_pictures_of_long_ids(tmp_path):
    """Ids that differ only after the part that is kept, in folders, and of letters with several bytes."""
    ids = ["x" * 250 + "1", "x" * 250 + "2", "/".join(["a folder"] * 40), "日本語の写真" * 20, "x" * 200]
    gallery, _ = written(tmp_path, ids, [truth((A,))] * 5, [detections((A, 0.9))] * 5)
    for i, image in enumerate(gallery["images"]):
        for kind in ("file", "thumbnail"):
            path = tmp_path / urllib.parse.unquote(image[kind])
            assert len(path.stem.encode()) <= 200
            assert abs(int(cv2.imread(str(path))[-1, -1, 0]) - 10 * i) <= 3
    assert path.stem == ids[-1]


def test_page_knows_detections_and_objects(tmp_path):
    found = detections((A, 0.9), (B, 0.8, 2), (C, 0.7), (A, 0.6))
    objects = truth((A,), (B,), (C, 1, True), ([50, 0, 55.25, 9], 2))
    gallery, _ = written(tmp_path, ["a"], [objects], [found])
    assert (gallery["classes"], gallery["kinds"], gallery["score"]) == (list(CLASSES), list(KINDS[:-1]), 0.5)
    assert gallery["scores"] == [0.5, 0.9]
    (image,) = gallery["images"]
    assert image["size"] == [60, 20]
    assert image["detections"] == [
        [1, 0.9, HIT, *A],
        [2, 0.8, KINDS.index("class"), *B],
        [1, 0.7, IGNORED, *C],
        [1, 0.6, KINDS.index("duplicate"), *A],
    ]
    assert image["objects"] == [
        [1, 1, 0.9, *A],
        [1, 1, None, *B],
        [1, 0, None, *C],
        [2, 1, None, 50, 0, 55, 9],
    ]


def test_scores_of_machines_without_probabilities(tmp_path):
    gallery, _ = written(tmp_path, ["a"], [truth((A,))], [detections((A, 1.25), (B, -0.301))], min_score=0.0)
    assert gallery["scores"] == [-0.31, 1.25]


def test_the_best_hundred_detections_are_known(tmp_path):
    found = detections(*((A, i / 200) for i in range(150)))
    gallery, _ = written(tmp_path, ["a"], [truth((A,))], [found])
    assert [row[1] for row in gallery["images"][0]["detections"]] == [i / 200 for i in range(149, 49, -1)]


def test_without_pictures_there_is_no_gallery(tmp_path):
    gallery, page = written(tmp_path, ["a"], [truth((A,))], [detections((A, 0.9))], pictures=0)
    assert gallery is None
    assert page.data == {}
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "precision_recall.png"}


def test_pictures_of_an_earlier_page_are_removed_and_no_others(tmp_path):
    def pictures():
        return {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg")}

    def write(ids, **settings):
        written(tmp_path, ids, [truth((A,))] * len(ids), [detections((A, 0.9))] * len(ids), **settings)

    mine = ("images/mine.jpg", "thumbnails/sub/a.jpg", "other.jpg")
    for name in mine:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    write(["old", "ü%2F#?", "sub/dir", "</script>", "both"])
    write(["new", "both"])
    kept = {f"{folder}/{name}.jpg" for folder in ("images", "thumbnails") for name in ("new", "both")}
    assert pictures() == kept | set(mine)
    write(["new"], pictures=0)
    assert pictures() == set(mine)


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"\xff",
        b"<p>my own page</p>",
        *(
            b'<script type="application/json" id="gallery">' + data + b"</script>"
            for data in (b"{", b"[]", b"3", b'{"images": [3]}', b'{"images": [{"file": 3, "thumbnail": 3}]}')
        ),
        b'<script type="application/json" id="gallery">{"images": [{"file": "../a.jpg", "thumbnail": '
        b'"images/%2E%2E%2Fa.jpg"}, {"file": "/a.jpg", "thumbnail": "images/a.png"}]}</script>',
    ],
)
def test_pages_that_list_no_pictures_of_ours(tmp_path, page):
    (tmp_path / "index.html").write_bytes(page)
    assert listed_pictures(tmp_path / "index.html") == set()


def test_names_that_a_file_system_may_take_for_one_are_kept(tmp_path):
    names = ["images/A\u0308.jpg", "images/b.jpg"]
    for name in names:
        write_bytes(tmp_path / name, b"")
    remove_pictures(tmp_path, names, ["images/\u00e4.jpg"])
    assert [(tmp_path / name).exists() for name in names] == [True, False]


def test_images_are_chosen_by_what_is_right_and_wrong():
    """Image 3 has a false alarm, 5 a missed object, 7 a class of its own; all others are equal and right."""
    annotations = [truth((A,)) for _ in range(10)]
    found = [detections((A, 0.8)) for _ in range(10)]
    found[3] = detections((A, 0.8), (B, 0.7))
    found[5] = detections((A, 0.3))
    annotations[7], found[7] = truth((A, 2)), detections((A, 0.9, 2))
    matches = match_dataset(found, annotations)
    assert {3, 5, 7} <= set(choose_images(matches, 10, 6, 0.5))
    chosen = choose_images(matches, 10, 8, 0.5)
    assert {0, 9, 3, 5, 7} <= set(chosen)  # a quarter from all over
    assert len(chosen) == len(set(chosen)) == 8
    assert chosen == sorted(chosen)
    assert choose_images(matches, 10, 10, 0.5) == choose_images(matches, 10, 99, 0.5) == list(range(10))
    assert choose_images(matches, 10, 0, 0.5) == []
    assert choose_images(match_dataset([], []), 0, 5, 0.5) == []
    none = match_dataset([detections()] * 4, [truth()] * 4)
    assert len(choose_images(none, 4, 3, 0.5)) == 3


def test_each_class_has_its_turn_of_missed_objects():
    """Half of the images are wrong altogether; one is right but for the only object of class two, which is missed."""
    others = [[20 * i, 0, 20 * i + 10, 10] for i in range(5, 15)]
    annotations = [truth((A,)) for _ in range(20)]
    found = [detections((B, 0.9)) if i < 10 else detections((A, 0.8)) for i in range(20)]
    annotations[15] = truth(*((box,) for box in others), (C, 2))
    found[15] = detections(*((box, 0.7) for box in others))
    assert 15 in choose_images(match_dataset(found, annotations), 20, 6, 0.5)


def test_a_class_without_objects_has_its_turn_of_false_alarms():
    """Half of the images are wrong altogether; one is right but for a false alarm of class two."""
    annotations = [truth((A,)) for _ in range(30)]
    found = [detections((B, 0.9)) if i < 15 else detections((A, 0.8)) for i in range(30)]
    found[20] = detections((A, 0.8), (C, 0.99, 2))
    assert 20 in choose_images(match_dataset(found, annotations), 30, 8, 0.5)


@pytest.mark.parametrize(("size", "expected"), [((30, 60), (20, 40)), ((30, 40), (30, 40)), ((1, 600), (1, 40))])
def test_thumbnail(size, expected):
    assert thumbnail(np.zeros((*size, 3), np.uint8), 40).shape == (*expected, 3)
