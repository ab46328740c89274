"""Training with its measurement for real: the same values as an evaluation, the same state as without, and errors."""

import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import frcnn_jax as frcnn
from frcnn_jax.checkpoint import read_evaluations
from frcnn_jax.commands.train import train_and_evaluate
from frcnn_jax.config import replace
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.locks import FolderInUseError, folder_lock
from frcnn_jax.runs.evaluate import evaluate_run
from frcnn_jax.runs.train import ValidationSet, open_validation
from tests.training.runs import kill_in_measurement, run_config, shrink_tiny, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


def test_values_are_those_of_an_evaluation_and_nothing_is_compiled_twice(data, tmp_path, monkeypatch, capsys):
    shrink_tiny(monkeypatch.setattr)
    compiled, counts = [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )

    def counted(self, *arguments, call=ValidationSet.__call__):
        before = len(compiled)
        found = call(self, *arguments)
        counts.append(len(compiled) - before)
        return found

    monkeypatch.setattr(ValidationSet, "__call__", counted)
    config = replace(run_config(data, steps=3, evaluate_every=1, keep_checkpoints=3), optimizer={"learning_rate": 0.05})
    jax.clear_caches()  # other tests have evaluated the same network
    frcnn.train(config, tmp_path / "run")
    assert counts[0] > 0
    assert counts[1:] == [0, 0]
    said = "The run is measured on folder/test, 4 images, and its best checkpoint is kept; the best value on the test"
    assert said in capsys.readouterr().out
    values = read_evaluations(tmp_path / "run").values
    before = len(compiled)
    for step, value in values:
        metrics = evaluate_run(tmp_path / "run", directory=tmp_path / "eval", checkpoint=step)
        assert (metrics["step"], metrics["map"]) == (step, value)
    assert len(compiled) == before
    assert len({value for _, value in values}) > 1
    best = max(values, key=lambda pair: pair[1])
    metrics = evaluate_run(tmp_path / "run")
    assert (metrics["step"], metrics["map"]) == best
    assert metrics["checkpoint"] == "the best of 3, chosen on these images, which makes its mAP optimistic"
    other = next(step for step, _ in values if step != best[0])
    metrics = evaluate_run(tmp_path / "run", directory=tmp_path / "eval", checkpoint=other)
    assert metrics["checkpoint"] == f"not the best one, which is that of step {best[0]}"
    assert metrics["checkpoint"] in (tmp_path / "eval/index.html").read_text()


def test_the_command_says_where_data_are_kept_and_that_a_report_is_replaced(data, tmp_path, monkeypatch, capsys):
    metrics = {"metric": "voc07", "images": 1, "ap": {"cat": 0.5}, "map": 0.5, "objects": {"cat": 99}}
    monkeypatch.setattr("frcnn_jax.runs.train.train", lambda config, *_, before_data, **__: before_data(config))
    monkeypatch.setattr("frcnn_jax.runs.evaluate.evaluate_run", lambda *_, **__: metrics)
    config, again = run_config(data), f"Evaluating again: {tmp_path}/eval is replaced\n"
    train_and_evaluate(config, tmp_path, config, accept_changed_data=False)
    printed = capsys.readouterr().out
    kept = f"are kept in {data / 'prepared'}, for later runs too; --data.tfds-dir FOLDER puts them elsewhere\n"
    assert printed.startswith(f"Prepared images {kept}Average precision")
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval/index.html").write_text("a page of others")
    with pytest.raises(FileExistsError, match=r"eval/index\.html would be replaced"):
        train_and_evaluate(config, tmp_path, config, accept_changed_data=False)
    (tmp_path / "eval/metrics.json").write_text("{}")
    searched = replace(config, proposals={"method": "selective_search_fast"})
    train_and_evaluate(searched, tmp_path, config, accept_changed_data=False)
    lines = f"Prepared images and proposals {kept}{again}Average precision (voc07, 1 image)\n"
    assert capsys.readouterr().out.startswith(lines)


def test_the_command_prepares_nothing_for_a_workdir_that_it_cannot_use(data, tmp_path):
    config = replace(run_config(data), data={"tfds_dir": str(tmp_path / "prepared")})
    with (
        folder_lock(tmp_path / "run", purpose="training"),
        pytest.raises(FolderInUseError, match=rf"^{tmp_path}/run is in use by process"),
    ):
        train_and_evaluate(config, tmp_path / "run", config, accept_changed_data=False)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_missing_test_set_is_named_by_its_setting(data, tmp_path):
    config = replace(run_config(data), data={"test": "folder/none"})
    with pytest.raises(FileNotFoundError, match=r"^data\.test = folder/none: "):
        train_and_evaluate(config, tmp_path, config, accept_changed_data=False)


@pytest.mark.long
def test_training_is_as_without_and_a_kill_changes_nothing(data, tmp_path, monkeypatch):
    """Parameters to the bit, and values, of a run that is measured and killed with signal 9 in a measurement."""
    shrink_tiny(monkeypatch.setattr)
    without = frcnn.train(run_config(data), tmp_path / "without")
    assert "checkpoint" not in evaluate_run(tmp_path / "without")
    config = run_config(data, evaluate_every=3, keep_checkpoints=1)
    jax.tree.map(np.testing.assert_array_equal, frcnn.train(config, tmp_path / "whole"), without)
    assert kill_in_measurement(data, tmp_path / "killed", 6) == -signal.SIGKILL
    assert [step for step, _ in read_evaluations(tmp_path / "killed").values] == [3]
    jax.tree.map(np.testing.assert_array_equal, frcnn.train(config, tmp_path / "killed"), without)
    whole, killed = (tmp_path / name / "evaluations.json" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
    kept = [{path.name for path in (tmp_path / name / "checkpoints").iterdir()} for name in ("whole", "killed")]
    assert kept[0] == kept[1]


def training_set(config):
    return open_dataset(config.data.train[0], config.data)


def test_a_set_of_its_own_and_its_proposals(data, capsys):
    """The four images of the test as a list of another name."""
    (data / "ImageSets/Main/measure.txt").write_text((data / "ImageSets/Main/test.txt").read_text())
    config = replace(run_config(data, evaluate_every=2), data={"validation": "folder/measure"})
    with pytest.raises(ValueError, match=r"^proposals\.validation_file: not set, and proposals\.method is 'file'$"):
        open_validation(config, training_set(config))
    config = replace(config, proposals={"validation_file": str(data / "test.npz")})
    opened = open_validation(config, training_set(config))
    assert capsys.readouterr().out == (
        "The run is measured on folder/measure, 4 images, and its best checkpoint is kept\n"
    )
    assert (opened.dataset.name, len(opened.proposals)) == ("folder/measure", 4)
    assert opened.measured["evaluate.nms_iou"] == 0.3
    assert not {"evaluate.pictures", "evaluate.picture_score"} & set(opened.measured)
    same = open_validation(replace(config, evaluate={"pictures": 0}), training_set(config))
    assert same.measured == opened.measured
    for change in ({"evaluate": {"per_class": 5}}, {"input": {"test_scale": 48}}):
        assert open_validation(replace(config, **change), training_set(config)).measured != opened.measured


def test_values_are_compared_before_proposals_are_opened(data, monkeypatch):
    def search(*_):
        raise AssertionError("proposals are opened")

    def check(measured):
        assert measured["data"] == "folder/test"
        raise ValueError("another set")

    monkeypatch.setattr("frcnn_jax.runs.train.open_proposals", search)
    config = run_config(data, evaluate_every=2)
    with pytest.raises(ValueError, match=r"^another set$"):
        open_validation(config, training_set(config), check)


def test_images_that_are_trained_on_are_counted(data, capsys):
    config = replace(run_config(data), data={"validation": "folder/train"})
    config = replace(config, proposals={"validation_file": str(data / "train.npz")})
    open_validation(config, training_set(config))
    assert "8 images, and its best checkpoint is kept; 8 of them are trained on too, so that" in capsys.readouterr().out


def test_what_cannot_be_measured_on_is_refused(data, monkeypatch):
    config = run_config(data, evaluate_every=2)
    dataset = training_set(config)
    message = r"^data\.test: folder/test has the classes .*'cow'.*: give a set of the same classes"
    with pytest.raises(ValueError, match=message):
        open_validation(config, SimpleNamespace(classes=("cat", "dog", "cow")))
    test = open_dataset("folder/test", config.data)
    for truth in test.annotations:
        truth.difficult[:] = True
    monkeypatch.setattr("frcnn_jax.runs.train.open_dataset", lambda *_: test)
    with pytest.raises(ValueError, match=r"^data\.test: folder/test of .* has no objects .*--data\.test"):
        open_validation(config, dataset)
