"""The page of a look at a folder: pictures inside it, and what the network sees."""

import base64
import re

import cv2
import jax
import numpy as np
import pytest

from frcnn_jax.config import Config, replace
from frcnn_jax.data.pipeline import BatchSource, training_plan
from frcnn_jax.data.proposals.source import open_proposals
from frcnn_jax.evaluation.drawing import PALETTE
from frcnn_jax.evaluation.looking import network
from frcnn_jax.evaluation.looking.network import network_pictures, sampled_recall, stored_proposals
from frcnn_jax.evaluation.looking.page import format_survey, write_page
from frcnn_jax.evaluation.looking.samples import Picture, sample_pictures
from frcnn_jax.evaluation.looking.survey import survey_folder
from frcnn_jax.training import step
from frcnn_jax.training.step import sample_step
from tests.data.voc_files import VocFiles, object_xml
from tests.evaluation.pages.reading import Page


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    files = VocFiles(root)
    for i in range(8):
        objects = [object_xml("&lt;cat>", (2, 3, 10 + i, 22)), object_xml("dog", (18, 4, 35, 25))]
        objects += [object_xml("dog", (1, 1, 39, 29), difficult="<difficult>1</difficult>")] if i == 6 else []
        files.image(f"a{i}", *objects)
    files.image("crowded", *(object_xml("dog", (1 + 4 * i, 1, 4 + 4 * i, 28)) for i in range(8)))
    files.image("empty")
    files.split("train", *(f"a{i}" for i in range(6)), "crowded", "empty")
    files.split("test", "a6", "a7")
    config = replace(
        Config(),
        data={"root": str(root), "tfds_dir": str(root / "prepared")},
        input={"scales": (48,), "max_size": 64},
        proposals={"method": "selective_search_fast", "min_side": 4.0},
    )
    return survey_folder(config), config


def decoded(picture):
    head, _, data = picture.source.partition(",")
    assert head == "data:image/jpeg;base64"
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert image.shape[1] == picture.width
    return image


def near(image, color, tolerance=60):
    return (np.abs(image.astype(int) - color).max(axis=2) < tolerance).any()


def test_samples(case):
    survey, _ = case
    pictures = sample_pictures(survey)
    assert {section: list(its) for section, its in pictures.items()} == {
        "classes": ["<cat>", "dog"],
        "objects": ["largest", "smallest"],
        "images": ["most crowded", "without objects"],
    }
    cats = pictures["classes"]["<cat>"]
    assert len({picture.caption.partition(":")[0] for picture in cats}) == len(cats) == 6
    assert (cats[0].caption, cats[-1].caption) == ("a0: 9 x 20", "a7: 16 x 20")
    assert pictures["images"]["most crowded"][0].caption == "crowded (train): 8 objects"
    assert [picture.caption for picture in pictures["images"]["without objects"]] == ["empty (train): 0 objects"]
    assert pictures["objects"]["largest"][0].caption.startswith("dog, a")
    assert pictures["objects"]["smallest"][0].caption == "dog, crowded: 4 x 28"
    for section in pictures.values():
        for picture in (picture for its in section.values() for picture in its):
            assert max(decoded(picture).shape) <= 280
    assert near(decoded(cats[0]), PALETTE[0])


def test_network_pictures_are_resized_and_padded(case):
    survey, config = case
    config = replace(config, input={"buckets": ((64, 80),)})
    pictures = network_pictures(survey.view, config, 16, search=False, count=3)
    assert len(pictures) == 3
    for picture in pictures:
        assert picture.caption.endswith(": 64 x 48 in 80 x 64")
        image = decoded(picture)
        assert image.shape == (64, 80, 3)
        assert image[:, 70:].max() < 40
        assert image[52:].max() < 40


def test_network_pictures_do_not_care_for_the_size_of_a_batch_or_for_many_objects(case):
    survey, config = case
    config = replace(config, input={"batch_size": 50, "max_objects": 1})
    assert len(network_pictures(survey.view, config, 16, search=False, count=2)) == 2


def test_proposals_are_searched_where_that_is_asked_for_and_kept(case, tmp_path):
    survey, config = case
    view = survey.view
    assert stored_proposals(view, config) is None
    assert "RoIs" not in network_pictures(view, config, 16, search=False, count=1)[0].caption
    recall = sampled_recall(view, config, 3)
    assert (recall.images, set(recall.classes)) == (3, {"<cat>", "dog"})
    assert recall.proposals > 0
    assert 0 <= recall.overall.shares[0.7] <= recall.overall.shares[0.5] <= 1
    objects = sum(len(view.annotations[i].labels) for i in (0, 4, 9))  # spread over the ten images
    assert recall.overall.objects == objects
    for parts in (recall.classes, recall.sizes):
        assert sum(part.objects for part in parts.values()) == objects
        found = sum(part.objects * (part.shares[0.5] or 0) for part in parts.values())
        assert found == pytest.approx(objects * recall.overall.shares[0.5])
    assert (recall.sizes["large"].objects, recall.sizes["large"].shares[0.5]) == (0, None)
    (first,) = network_pictures(view, config, 16, search=True, count=1)
    assert "RoIs of objects" in first.caption
    boxes, plain = decoded(first), decoded(Picture(first.plain, "", first.width))
    assert (np.abs(boxes.astype(int) - plain).max(axis=2) > 60).any(), "with RoIs and without"
    assert network_pictures(view, config, 16, search=False, count=1) == [first]
    everything = open_proposals(view, config.proposals, progress=False)
    stored = stored_proposals(view, config)
    assert all(np.array_equal(a, b) for a, b in zip(stored, everything, strict=True))
    recall = sampled_recall(view, config, 100)
    share = f"{recall.overall.shares[0.5]:.3f}"
    text = format_survey(survey, config, recall)
    assert "10 images  objects  IoU 0.5  IoU 0.7" in text
    assert re.search(rf"\nall objects +24 +{share} .*\n<cat> +8 .*\ndog +16 ", text)
    assert re.search(r"\nsmall +24 .*\nmedium +0 +- +-\n", text)
    page = write_page(survey, config, {}, [], tmp_path / "index.html", recall).read_text("utf-8")
    words = " ".join(Page(page).words)
    assert f" objects IoU 0.5 IoU 0.7 all 24 {share} " in words
    assert " medium 0 – – " in words


def test_proposals_of_a_file_are_not_searched(case):
    survey, config = case
    config = replace(config, proposals={"method": "file", "train_files": ("a.npz",), "test_file": "b.npz"})
    assert stored_proposals(survey.view, config) is None
    with pytest.raises(ValueError, match="there is nothing to compute"):
        sampled_recall(survey.view, config, 3)


def test_page_is_one_file(case, tmp_path):
    survey, config = case
    pictures = sample_pictures(survey)
    network = network_pictures(survey.view, config, 16, search=False, count=1)
    network = [Picture(its.source, its.caption, its.width) for its in network]  # without RoIs, which may be stored
    path = write_page(survey, config, pictures, network, tmp_path / "out" / "index.html")
    assert list(path.parent.iterdir()) == [path]
    text = path.read_text("utf-8")
    page = Page(text)
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    count = sum(len(its) for section in pictures.values() for its in section.values())
    assert len(page.links) == count + 1
    assert "9\u00a0x\u00a020" in text, "sizes do not break"
    assert "show RoIs" not in text
    drawn = [Picture(its.source, its.caption, its.width, its.source) for its in network]
    text = write_page(survey, config, pictures, drawn, path).read_text("utf-8")
    assert len(Page(text).links) == count + 2
    assert "show RoIs" in text
    assert "<cat>" not in text
    assert {"<cat>", "dog", "network", "crowded", "Faults", "None."} <= set(page.words)


def test_long_names_of_files_are_shortened(case, tmp_path):
    """Roboflow's hash has 32 digits; the whole name is in the title."""
    survey, config = case
    name = "cat_jpg.rf.0123456789abcdef0123456789abcdef: 9 x 20"
    path = write_page(survey, config, {"classes": {"dog": [Picture("data:", name, 130)]}}, [], tmp_path / "page.html")
    text = path.read_text("utf-8")
    assert f'<figcaption title="{name}">cat_jpg.rf.0123\u2026: 9\u00a0x\u00a020</figcaption>' in text


def test_page_shows_faults_and_equal_images(tmp_path):
    files = VocFiles(tmp_path)
    files.image("a", object_xml("cat"))
    files.image("b", object_xml("cat"), object_xml("cat", (9, 9, 9, 9)))
    (tmp_path / "JPEGImages/b.jpg").write_bytes((tmp_path / "JPEGImages/a.jpg").read_bytes())
    files.split("train", "a")
    files.split("test", "b")
    config = replace(Config(), data={"root": str(tmp_path), "faults": {"tolerance": 0}})
    survey = survey_folder(config)
    path = write_page(survey, config, sample_pictures(survey), [], tmp_path / "index.html")
    text = " ".join(Page(path.read_text("utf-8")).words)
    assert "Training would stop." in text
    assert "degenerate_box: 1" in text
    assert "train/a = test/b" in text
    assert "--data.faults.degenerate-box drop" in text
    assert "Equal images" in text


def test_the_rois_are_those_of_the_steps_and_compiled_once_per_bucket(case, monkeypatch):
    """Runs last: it stores the proposals of images."""
    survey, config = case
    traced = []

    def counted(batch, *args, **settings):
        traced.append(batch.images.shape)
        return sample_step(batch, *args, **settings)

    monkeypatch.setattr(step, "sample_step", counted)
    config = replace(config, input={"batch_size": 1, "scales": (48, 40)})
    pictures = network_pictures(survey.view, config, 16, search=True, count=4)
    assert ["RoIs of objects" in picture.caption for picture in pictures] == [True] * 4
    assert len(traced) == len(set(traced)) < 4
    plan = training_plan(survey.view, config.input, 2, 0, 16)
    boxes = [np.float32([[0, 0, 20, 20], [5, 5, 30, 25]])] * len(survey.view)
    batch = BatchSource(survey.view, boxes, plan, max_objects=8, augment=config.input.augment, seed=0)[0]
    sampler, key = network._sampler(config), jax.random.key(config.train.seed)
    for number in (0, 1):
        jax.tree.map(
            np.testing.assert_array_equal,
            sampler(batch, number),
            sample_step(batch, key, number, config=config.sampling),
        )
