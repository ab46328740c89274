"""Sentences beside the figures: few objects, rare classes, objects that do not count."""

import shlex
import subprocess

import numpy as np
import pytest

from frcnn_jax.evaluation.analysis.remarks import few_objects, larger_share, rare_classes, remarks, uncounted
from frcnn_jax.types import GroundTruth


def test_a_test_set_of_few_objects():
    (text,) = few_objects({"cat": 9}, 4)
    assert text.startswith(
        "the test has 9 objects in 4 images: the mAP of so few may be 0.1 higher or lower by chance "
    )
    assert "the mAP of so few may be 0.5 higher" in few_objects({"cat": 2}, 1)[0]
    assert few_objects({"cat": 1}, 1)[0].startswith(
        "the test has 1 object in 1 image: the mAP says little more than whether this one is found. "
    )
    assert text.endswith("More test images make it certain: annotate more")
    (text,) = few_objects({"cat": 9}, 4, drawn=True)
    assert text.endswith(": annotate more, or draw a larger part by --data.split, in a new run")
    assert few_objects({"cat": 9}, 4, drawn=True, share=0.25)[0].endswith("or draw a larger part by --data.split 0.25")
    chosen = {"chosen": "each drawn by its name with a chance of 0.1 (data.split), as there are no test images"}
    assert remarks({"objects": {"cat": 9}, "images": 4, **chosen}) == [text]
    trained = "the run was trained on 3 of 4 test images, which makes its mAP optimistic"
    assert remarks({"objects": {"cat": 50}, "images": 4, "trained_on": 3}) == [trained]
    assert few_objects({"cat": 50}, 4) == []
    assert few_objects({"cat": 0}, 4) == []


@pytest.mark.parametrize(
    ("objects", "share", "larger"),
    [(1, 0.1, 0.3), (45, 0.1, 0.15), (25, 0.1, 0.2), (26, 0.1, 0.2), (49, 0.29, 0.3), (9, 0.3, None), (9, 0.5, None),
     (50, 0.1, None), (0, 0.1, None)],
)  # fmt: skip
def test_a_larger_share_to_test_on(objects, share, larger):
    assert larger_share(objects, share) == larger


def test_classes_with_few_test_objects():
    classes = "the AP of classes with fewer than 10 test objects says little"
    nothing = "no test object is of hen, owl, so that the mAP says nothing about them"
    assert few_objects({"cat": 50, "dog": 9, "cow": 10, "hen": 0, "owl": 0}, 40) == [f"{classes}: dog 9", nothing]
    assert few_objects({"cat": 9, "hen": 0, "owl": 0}, 4)[1:] == [nothing]
    many = few_objects({"cat": 50, **{f"c{i}": 1 for i in range(9)}}, 40)
    assert many == [f"{classes}: {', '.join(f'c{i} 1' for i in range(8))} and 1 more"]


def test_a_short_run():
    metrics = {"objects": {"cat": 99}, "images": 20, "run_steps": 200, "recipe_steps": 1200}
    (text,) = remarks(metrics)
    assert text.startswith("this run made 200 steps, and its config has 1200 for these images: ")
    assert remarks({**metrics, "step": 200}) == [text]


@pytest.mark.parametrize(
    ("steps", "recipe", "said", "advice"),
    [
        (200, 1200, "of the 200 of this run, and its config has 1200 for these images: ", "leave out the option"),
        (1000, 1200, "of the 1000 of this run, and its config has 1200 for these images: ", "go on with the same"),
        (1200, 1200, "of the 1200 of this run: ", "go on with the same"),
    ],
)
def test_an_early_checkpoint(steps, recipe, said, advice):
    metrics = {"objects": {"cat": 99}, "images": 20, "run_steps": steps, "recipe_steps": recipe, "step": 50}
    (text,) = remarks(metrics)
    assert text.startswith(f"this is step 50 {said}the mAP is that of a first try. For a whole training {advice}")


def test_rare_classes_of_a_folder():
    few = "classes with fewer than 5 objects are hardly learned"
    (text,) = rare_classes({"cat": 5, "big dog": 20, "cow": 1, "hen": 4})
    assert text == f"{few} (cow 1, hen 4): leave them out by --data.classes cat 'big dog'"
    names = ["a$HOME", "b`date`", 'say "no"', "it's", "c\\d", "!x"]
    (text,) = rare_classes({**dict.fromkeys(names, 5), "cow": 1})
    command = text.partition("leave them out by ")[2]
    assert shlex.split(command) == ["--data.classes", *names]
    shell = subprocess.run(["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True)
    assert shell.stdout.splitlines() == ["--data.classes", *names]
    assert rare_classes({"cat": 4}) == [f"{few} (cat 4)"]
    assert rare_classes({"cat": 5}) == []


def test_a_rare_class_may_be_a_slip():
    _, text = rare_classes({"dgo": 1, "dog": 9, "cats": 2, "cat": 8, "tvmonitr": 1, "tvmonitor": 5})
    said = "some of these may be misspelt (dgo for dog, cats for cat, tvmonitr for tvmonitor): then give"
    assert text == f"{said} --data.rename dgo=dog cats=cat tvmonitr=tvmonitor"
    # Words of their own.
    assert len(rare_classes({"car": 1, "cat": 9, "goat": 2, "boat": 8, "sofa": 1, "person": 9})) == 1
    (many,) = rare_classes({"cow": 1, **{f"c{i}": 5 for i in range(9)}})
    assert many.endswith("(cow 1): --data.classes with the names of the others leaves them out")


def test_objects_that_do_not_count():
    flags = {"difficult": np.array([True, False, True]), "crowd": np.array([False, False, True])}
    truth = GroundTruth(boxes=np.zeros((3, 4), np.float32), labels=np.array([1, 1, 1]), **flags)
    numbers = uncounted([truth, truth])
    assert numbers == {"difficult": 2, "crowds": 2}
    metrics = {"objects": {"cat": 99}, "images": 2, "uncounted": numbers}
    beside = "beside the objects counted here: to find them is neither right nor wrong"
    assert remarks(metrics) == [f"2 objects marked difficult and 2 crowds {beside}"]
    assert remarks({**metrics, "uncounted": {"difficult": 1, "crowds": 0}}) == [f"1 object marked difficult {beside}"]
    assert remarks({"objects": {"cat": 99}, "images": 2}) == []
