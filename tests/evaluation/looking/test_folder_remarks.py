"""Remarks of `inspect-data` on a folder, with the settings to type."""

from frcnn_jax.config import Config, replace
from frcnn_jax.evaluation.looking.page import format_survey, remarks
from frcnn_jax.evaluation.looking.survey import survey_folder
from tests.data.voc_files import VocFiles, object_xml
from tests.evaluation.looking.test_survey import settings


def test_remarks_name_what_to_type(tmp_path):
    files = VocFiles(tmp_path)
    files.image("a", *(object_xml("cat", (1 + i, 1, 9 + i, 20)) for i in range(5)))
    files.image("b", object_xml("cat", (1, 1, 40, 30)))
    files.split("train", "a")
    files.split("test", "b")
    config = replace(settings(tmp_path), input={"max_objects": 4}, proposals={"min_side": 16})
    found = remarks(survey_folder(config), config)
    assert "an image has 5 objects" in found[0]
    assert "--input.max-objects 5" in found[0]
    assert "5 objects (83.3%) with a side below proposals.min_side = 16 pixels: no proposal" in found[1]
    assert "--proposals.min-side 9" in found[1]
    assert len(found) == 3
    relaxed = replace(config, input={"max_objects": 5}, proposals={"min_side": 9})
    assert remarks(survey_folder(relaxed), relaxed) == found[2:]  # about the one test object
    tested = replace(settings(tmp_path), data={"train": ("folder/test",), "test": "folder/train"})
    assert survey_folder(tested).splits["test"].used == "trained on"


def test_the_smallest_side_that_is_advised_admits_the_small_objects(tmp_path):
    """Few of many: a side that most objects reach would be larger than the present one."""
    files = VocFiles(tmp_path)
    files.image("a", *(object_xml("cat", (1, 1, 30, 20)) for _ in range(300)), object_xml("cat", (1, 1, 7, 30)))
    files.image("b", object_xml("cat", (1, 1, 30, 5)), object_xml("cat", (1, 1, 30, 16)))
    files.split("train", "a", "b")
    config = replace(settings(tmp_path), input={"max_objects": 400}, proposals={"min_side": 12})
    found = remarks(survey_folder(config), config)
    assert "2 objects (0.7%) with a side below proposals.min_side = 12 pixels: no proposal is that small" in found[0]
    assert "; --proposals.min-side 5 admits proposals of their size" in found[0]


def test_remarks_on_the_objects_that_an_evaluation_counts(tmp_path):
    files = VocFiles(tmp_path)
    difficult = {"difficult": "<difficult>1</difficult>"}
    for number in range(6):
        cats = [object_xml("cat", (1, 1, 30, 30)), object_xml("cat", (1, 1, 30, 30), **difficult)]
        files.image(f"a{number}", *cats, *([object_xml("dog", (5, 5, 30, 25))] if number == 0 else []))
    files.split("train", "a0", "a1")
    files.split("test", "a2", "a3", "a4", "a5")
    config = settings(tmp_path)
    assert remarks(survey_folder(config), config) == [
        "classes with fewer than 5 objects are hardly learned (dog 1): leave them out by --data.classes cat",
        "the test has 4 objects in 4 images: the mAP of so few may be 0.2 higher or lower by chance alone. More test "
        "images make it certain: annotate more",
        "no test object is of dog, so that the mAP says nothing about them",
        "objects marked difficult (6) are learned too, and an evaluation does not count them",
    ]
    config = replace(config, sampling={"use_difficult": False})
    assert "(6) are not learned (sampling.use_difficult)" in remarks(survey_folder(config), config)[3]
    for name in ("train", "test"):
        (tmp_path / f"ImageSets/Main/{name}.txt").unlink()
    config = replace(config, data={"split": 0.5, "train": ("folder/trainval",), "test": "folder/test"})
    assert remarks(survey_folder(config), config)[1].endswith(", or draw a larger part by --data.split, in a new run")


def test_images_without_objects_that_are_trained_on_are_a_remark(tmp_path):
    """Those of the test are not, nor are there any where background may touch no object."""
    files = VocFiles(tmp_path)
    for number in range(10):
        files.image(f"a{number}", *([object_xml("cat")] if number < 7 else []))
    files.split("train", *(f"a{number}" for number in range(5)), "a7", "a8")
    files.split("test", "a5", "a6", "a9")
    config = settings(tmp_path)
    text = "nothing is learned from 2 images without objects"
    assert [text in found for found in remarks(survey_folder(config), config)].count(True) == 1
    config = replace(config, sampling={"background_iou": (0.0, 0.5)})
    assert not any("nothing is learned" in found for found in remarks(survey_folder(config), config))


def test_classes_that_differ_in_case_are_told_with_the_setting_that_makes_them_one(tmp_path):
    files = VocFiles(tmp_path)
    files.image("a", object_xml("car"), object_xml("Car"), object_xml("CAR"), object_xml("dog"))
    files.split("train", "a")
    config = replace(Config(), data={"root": str(tmp_path), "tfds_dir": str(tmp_path / "prepared")})
    told = (
        "classes of their own, but spelt alike: 'CAR', 'Car', 'car'; they become one by --data.rename CAR=car Car=car"
    )
    assert told in format_survey(survey_folder(config), config)
    # Counted as they are after that: of three spellings no class is rare, and none would be left out.
    assert "hardly learned (car 3, dog 1)" in format_survey(survey_folder(config), config)
    one = replace(config, data={"rename": ("CAR=car", "Car=car")})
    assert "spelt alike" not in format_survey(survey_folder(one), one)
