"""Runs that are shorter than the config they came from."""

import json

import numpy as np
import pytest

from frcnn_jax.checkpoint import Evaluations, write_evaluations
from frcnn_jax.config import Config, absolute_paths, override, replace
from frcnn_jax.runs.recipe import shortened
from frcnn_jax.training.data_record import DataRecord, write_record

RECIPE = replace(Config(), train={"epochs": 4, "min_steps": 1200}, input={"batch_size": 2})
FIXED = replace(RECIPE, train={"steps": 2000})


@pytest.fixture
def workdir(tmp_path):
    names = tuple(map(str, range(700)))
    write_record(tmp_path, DataRecord("abc", (), ("cat",), names, np.zeros((700, 4, 8), np.uint8)))
    return tmp_path


@pytest.mark.parametrize(
    ("recipe", "settings", "steps"),
    [
        (RECIPE, "--train.steps 1049", (1049, 1400)),  # of 4 x 700 / 2
        (RECIPE, "--train.steps 1050", None),
        (FIXED, "--train.steps 200", (200, 2000)),
        (FIXED, "--train.steps 200 --input.batch-size 20", None),  # as many images
        (FIXED, "--train.steps 100 --input.batch-size 20", (100, 200)),
        (FIXED, "--input.batch-size 1", None),  # the recipe's own length
        (FIXED, "--train.steps 1400 --input.batch-size 1", (1400, 2000)),
        (replace(RECIPE, train={"steps": 7}), "--train.steps 200", None),  # steps and epochs that contradict each other
        (FIXED, "--train.steps 200 --model.weights runs/before", None),  # goes on from another run
        (replace(FIXED, model={"weights": "a.npz"}), "--train.steps 200", (200, 2000)),
    ],
)
def test_steps_are_compared_with_those_of_the_recipe(workdir, recipe, settings, steps):
    run = absolute_paths(override(recipe, settings.split()))
    expected = {} if steps is None else {"run_steps": steps[0], "recipe_steps": steps[1]}
    assert shortened(workdir, run, recipe, run.train.steps or 1) == expected


def test_a_later_evaluation_knows_it_from_the_report(workdir):
    run = replace(RECIPE, train={"steps": 200})
    assert shortened(workdir, run, None, 200) == {}
    (workdir / "eval").mkdir()
    found = shortened(workdir, run, RECIPE, 200)
    (workdir / "eval/metrics.json").write_text(json.dumps({"map": 0.5, **found}))
    assert shortened(workdir, run, None, 200) == found == {"run_steps": 200, "recipe_steps": 1400}
    assert shortened(workdir, replace(RECIPE, train={"steps": 1400}), None, 1400) == {}
    for text in ("{", "[]", '{"recipe_steps": "many"}'):
        (workdir / "eval/metrics.json").write_text(text)
        assert shortened(workdir, run, None, 200) == {}


@pytest.mark.parametrize(
    ("settings", "step", "recipe", "found"),
    [
        ("", 500, FIXED, (2000, 2000)),  # stopped, and evaluated
        ("", 500, None, (2000, 2000)),
        ("", 1499, None, (2000, 2000)),
        ("", 1500, FIXED, None),
        ("--train.steps 1000", 500, FIXED, (1000, 2000)),
        ("--train.steps 1800", 500, FIXED, (1800, 2000)),
        ("--train.steps 4000", 1500, FIXED, None),  # longer than the recipe
        ("--model.weights runs/before", 500, FIXED, (2000, 2000)),  # whose recipe is not known
    ],
)
def test_the_steps_are_those_of_the_checkpoint(workdir, settings, step, recipe, found):
    run = absolute_paths(override(FIXED, settings.split()))
    expected = {} if found is None else {"run_steps": found[0], "recipe_steps": found[1]}
    assert shortened(workdir, run, recipe, step) == expected


def test_the_best_checkpoint_of_a_whole_training_may_be_an_early_one(workdir):
    write_evaluations(workdir, Evaluations({}, ((400, 0.1), (800, 0.3), (1200, 0.2))))
    short = {"run_steps": 2000, "recipe_steps": 2000}
    assert shortened(workdir, FIXED, FIXED, 800) == short
    patient = replace(FIXED, train={"evaluate_every": 400, "patience": 1})
    assert shortened(workdir, patient, FIXED, 800) == {}
    assert shortened(workdir, patient, FIXED, 400) == short
    write_evaluations(workdir, Evaluations({}, ((800, 0.3), (1200, 0.2), (1600, 0.2))))
    assert shortened(workdir, FIXED, FIXED, 800) == {}
    assert shortened(workdir, FIXED, FIXED, 1200) == short


def test_without_a_record_of_the_data_nothing_is_compared(tmp_path):
    assert shortened(tmp_path, replace(RECIPE, train={"steps": 2}), RECIPE, 2) == {}
