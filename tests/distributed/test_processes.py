"""Real processes: the same training by any division of the devices, checkpoints for any number of them, evaluation."""

import json
import re
import shutil

import numpy as np
import pytest

from frcnn_jax.checkpoint import Checkpoints
from tests.distributed.cases import run

# Of devices in all: so many processes with so many devices each.
DIVISIONS = {2: ((2, 1), (1, 2)), 4: ((4, 1), (2, 2), (1, 4))}


def train(data, workdir, processes, devices=1, *, before="None", **settings):
    """Hashes of the state in each process, and what they printed; `before` is a function of `cases`."""
    options = "".join(f", {name}={value!r}" for name, value in settings.items())
    results = run(f"train_here({str(data)!r}, {str(workdir)!r}, before={before}{options})", processes, devices)
    return [re.search(r"state (\w+)", result.stderr)[1] for result in results], results


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "loss" in line}


def images(results):
    """The images of each step, those of all processes side by side, as `show_images` has them printed."""
    shares = [re.findall(r"images (.*)", result.stderr) for result in results]
    return [" ".join(step).split() for step in zip(*shares, strict=True)]


def steps_in(workdir):
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.steps
    finally:
        checkpoints.close()


def test_two_processes_train_as_one(data, tmp_path):
    states, results = train(data, tmp_path, 2, steps=3, checkpoint_every=2, pictures_every=2, heartbeat=60)
    assert states[0] == states[1]
    assert steps_in(tmp_path) == [2, 3]
    assert sorted(losses(tmp_path)) == [2, 3]
    assert "2 processes with 2 devices" in results[0].stdout
    assert not results[1].stdout
    assert all(line.startswith("[1] ") for line in results[1].stderr.splitlines())
    assert "no more pictures" not in results[0].stderr


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_a_number_of_devices_gives_the_same_bits_however_it_is_divided(data, tmp_path):
    found = {}
    for devices, divisions in DIVISIONS.items():
        for processes, each in divisions:
            workdir = tmp_path / f"{processes}x{each}"
            settings = {"steps": 50, "log_every": 1, "checkpoint_every": 50, "fixed_order": devices > 2}
            states, _ = train(data, workdir, processes, each, **settings)
            found[devices, processes] = {*states}
            assert len(found[devices, processes]) == 1
    for devices, divisions in DIVISIONS.items():
        assert len(set.union(*(found[devices, processes] for processes, _ in divisions))) == 1
    train(data, tmp_path / "1x1", 1, steps=50, log_every=1, checkpoint_every=50)
    one = losses(tmp_path / "1x1")
    for other in (losses(tmp_path / "2x1"), losses(tmp_path / "4x1")):
        np.testing.assert_allclose(other[1]["loss"], one[1]["loss"], rtol=1e-5)
        np.testing.assert_allclose(other[50]["loss"], one[50]["loss"], rtol=1e-3)
        for step in range(1, 6):  # numbers of RoIs of each kind
            assert [other[step][kind] for kind in ("foreground", "background")] == [
                one[step][kind] for kind in ("foreground", "background")
            ]


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_a_checkpoint_of_four_processes_is_gone_on_with_by_any_number(data, tmp_path):
    settings = {"batch_size": 8, "log_every": 1, "checkpoint_every": 4}
    _, whole = train(data, tmp_path / "whole", 1, before="show_images", steps=6, **settings)
    train(data, tmp_path / "begun", 4, steps=4, **settings)
    found = {}
    for processes in (1, 2, 4, 8):
        workdir = tmp_path / str(processes)
        shutil.copytree(tmp_path / "begun", workdir)
        _, results = train(data, workdir, processes, before="show_images", steps=6, **settings)
        assert "Going on from step 4" in results[0].stdout
        assert images(results) == images(whole)[4:]  # in the same order
        found[processes] = losses(workdir)
    for other in found.values():
        assert sorted(other) == [1, 2, 3, 4, 5, 6]
        for step in (5, 6):
            np.testing.assert_allclose(other[step]["loss"], found[1][step]["loss"], rtol=1e-4)
            assert other[step]["foreground"] == found[1][step]["foreground"]


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_an_evaluation_that_is_shared_out_has_the_same_digits(data, tmp_path):
    train(data, tmp_path / "1", 1, steps=6, evaluate=True)
    shutil.copytree(tmp_path / "1", tmp_path / "3")
    shutil.rmtree(tmp_path / "3/eval")
    run(f"evaluate_here({str(tmp_path / '3')!r})", 3)
    one, three = ((tmp_path / name / "eval/metrics.json").read_text() for name in "13")
    assert one == three


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_run_that_is_measured_by_several_processes_has_the_same_values(data, tmp_path):
    for processes, devices in DIVISIONS[2]:
        train(data, tmp_path / str(processes), processes, devices, steps=4, evaluate_every=2)
    one, two = ((tmp_path / name / "evaluations.json").read_text() for name in "12")
    assert one == two
    assert len(json.loads(two)["values"]) == 2
