"""A run measured while it trains: the best checkpoint, the end by patience, and the same decisions after a kill."""

import json
import shutil
import signal

import pytest

from frcnn_jax.checkpoint import Checkpoints, Evaluations, read_evaluations, write_evaluations
from frcnn_jax.config import replace
from frcnn_jax.training import validation
from frcnn_jax.training.loop import train
from frcnn_jax.training.metrics import MetricsLog
from frcnn_jax.training.validation import compare_measured
from tests.training.runs import run_config, step_in_a_moment

VALUES = {2: 0.3, 4: 0.5, 6: 0.5, 8: 0.4, 10: 0.6, 12: 0.2}


class Killed(BaseException):
    """Leaves what is on disk as a kill would."""


class Scripted:
    """A value for each step, which is read off the parameters; `step_in_a_moment` moves them by 1 in a step."""

    def __init__(self, values=VALUES, **measured):
        self.values, self.steps = values, []
        self.measured = {"data": "folder/test", "fingerprint": "abc"} | measured

    def __call__(self, model, params, statistics, interrupted):
        self.steps.append(int(params["head"]["cls_score"]["bias"][0]))
        value = self.values[self.steps[-1]]
        if isinstance(value, signal.Signals):
            signal.raise_signal(value)
            assert interrupted()
            return None
        return {"map": value, "ap": {"cat": value, "dog": None}, "images": 4}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    step_in_a_moment(monkeypatch.setattr)


def go(data, workdir, evaluation=None, **settings):
    """Trains 12 steps, measured at every second one, two values without a better one allowed; one checkpoint kept."""
    settings = {"evaluate_every": 2, "patience": 2, "keep_checkpoints": 1, "checkpoint_every": 3, **settings}
    evaluation = evaluation or Scripted()

    def open_evaluation(config, dataset, check):
        check(evaluation.measured)
        return evaluation

    state = train(run_config(data, **settings), workdir, open_evaluation=open_evaluation)
    return int(state.step), evaluation.steps


def checkpoints_in(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def lines(workdir):
    """All lines of the metrics but their times."""
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "waiting_share")} for line in found]


@pytest.fixture(scope="module")
def whole(small, data, tmp_path_factory):
    """Workdir of a run that nothing interrupted: 8 steps of 12, the best after 4."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        step_in_a_moment(patch.setattr)
        assert go(data, workdir) == (8, [2, 4, 6, 8])
    return workdir


def test_the_best_checkpoint_is_kept_and_patience_ends_the_training(whole, data, tmp_path, capsys):
    assert checkpoints_in(whole) == [4, 8]
    evaluations = read_evaluations(whole)
    assert evaluations.values == ((2, 0.3), (4, 0.5), (6, 0.5), (8, 0.4))
    assert (evaluations.best, evaluations.since_best) == ((4, 0.5), 2)
    measured = [line for line in lines(whole) if "map" in line]
    assert measured == [{"step": s, "map": VALUES[s], "ap": {"cat": VALUES[s], "dog": None}} for s in (2, 4, 6, 8)]

    run = shutil.copytree(whole, tmp_path / "run")
    before = {path: path.read_bytes() for path in (run / "metrics.jsonl", run / "evaluations.json")}
    capsys.readouterr()
    assert go(data, run) == (8, [])
    printed = capsys.readouterr().out
    assert "Going on" not in printed
    assert printed.endswith(
        "The training ends at step 8 of 12: 2 values since step 4 are not better than its mAP of 0.5000 "
        "(train.patience = 2; a larger one goes on)\n"
    )
    assert {path: path.read_bytes() for path in before} == before
    # With more patience it goes on, and the best one may be another then.
    assert go(data, run, patience=3) == (12, [10, 12])
    assert "Step 10: mAP 0.6000 on folder/test, the best so far\n" in (out := capsys.readouterr().out)
    assert "Step 12: mAP 0.2000 on folder/test; the best: 0.6000 at step 10\n" in out
    assert "The training ends" not in out
    assert checkpoints_in(run) == [10, 12]


def test_patience_that_runs_out_at_the_last_step_is_no_early_end(whole, data, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    capsys.readouterr()
    assert go(data, run, steps=8) == (8, [])
    printed = capsys.readouterr().out
    assert "The training ends" not in printed
    assert "to train further, give more --train.steps" in printed


def test_a_cosine_that_is_cut_off_is_said(data, tmp_path, capsys):
    config = replace(run_config(data, evaluate_every=4, patience=1), optimizer={"schedule": "cosine"})
    train(config, tmp_path, open_evaluation=lambda *_: Scripted({4: 0.5, 8: 0.4}))
    # 0.01 (1 + cos(8/12 pi)) / 2
    assert (
        "1 value since step 4 is not better than its mAP of 0.5000 (train.patience = 1; a larger one goes on); its "
        "cosine is cut off at a learning rate of 0.0025\n" in capsys.readouterr().out
    )


def kill_in_evaluation(patch, step):
    call = Scripted.__call__

    def killed(self, *arguments):
        found = call(self, *arguments)
        if self.steps[-1] == step:
            raise Killed
        return found

    patch.setattr(Scripted, "__call__", killed)


def kill_at(owner, name, *, after, of):
    def set_up(patch, step):
        function = getattr(owner, name)

        def killed(*arguments, **options):
            if after:
                function(*arguments, **options)
            if of(*arguments) == step:
                raise Killed
            return None if after else function(*arguments, **options)

        patch.setattr(owner, name, killed)

    return set_up


def last_value(workdir, evaluations):
    return evaluations.values[-1][0]


KILLS = {
    "during the step": kill_at(MetricsLog, "add", after=True, of=lambda log, step, *_: step),
    "before the checkpoint": kill_at(Checkpoints, "save", after=False, of=lambda _, state, *more: int(state.step)),
    "after the checkpoint": kill_at(Checkpoints, "save", after=True, of=lambda _, state, *more: int(state.step)),
    "in the evaluation": kill_in_evaluation,
    "before its line": kill_at(MetricsLog, "add_evaluation", after=False, of=lambda log, step, _: step),
    "after its line": kill_at(MetricsLog, "add_evaluation", after=True, of=lambda log, step, _: step),
    "before the value is kept": kill_at(validation, "write_evaluations", after=False, of=last_value),
    "after it": kill_at(validation, "write_evaluations", after=True, of=last_value),
}


@pytest.fixture(scope="module")
def begun(request, whole, data, tmp_path_factory):
    """Workdir of a run that was killed before the checkpoint of a step, and that step."""
    workdir = tmp_path_factory.mktemp("runs") / "begun"
    with pytest.MonkeyPatch.context() as patch:
        step_in_a_moment(patch.setattr)
        KILLS["before the checkpoint"](patch, request.param)
        with pytest.raises(Killed):
            go(data, workdir)
    return workdir, request.param


# Where a best value is found, and where the training ends.
@pytest.mark.parametrize(
    ("begun", "kill"),
    [
        *((4, kill) for kill in ("in the evaluation", "before the value is kept", "after it")),
        *((8, kill) for kill in KILLS),
    ],
    indirect=["begun"],
)
def test_a_killed_run_decides_as_one_that_was_not(whole, begun, data, tmp_path, monkeypatch, kill):
    workdir, step = shutil.copytree(begun[0], tmp_path / "run"), begun[1]
    with monkeypatch.context() as patch:
        KILLS[kill](patch, step)
        with pytest.raises(Killed):
            go(data, workdir)
    assert go(data, workdir)[0] == 8
    assert (workdir / "evaluations.json").read_bytes() == (whole / "evaluations.json").read_bytes()
    assert lines(workdir) == lines(whole)
    assert checkpoints_in(workdir) == checkpoints_in(whole)


def test_values_after_the_checkpoint_that_a_run_goes_on_from_do_not_count(whole, data, tmp_path):
    """The newest checkpoint was damaged, and deleted."""
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(run / "checkpoints/8")
    assert go(data, run) == (8, [6, 8])
    assert lines(run) == lines(whole)


def test_ctrl_c_during_an_evaluation_keeps_the_checkpoint(whole, data, tmp_path, monkeypatch):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background starts without
    with pytest.raises(KeyboardInterrupt):
        go(data, tmp_path, Scripted(VALUES | {6: signal.SIGINT}))
    assert checkpoints_in(tmp_path) == [4, 6]
    assert [step for step, _ in read_evaluations(tmp_path).values] == [2, 4]
    with pytest.raises(KeyboardInterrupt):
        go(data, tmp_path, Scripted(VALUES | {6: signal.SIGINT}))

    def interrupt(self, step, *arguments, add=MetricsLog.add):
        add(self, step, *arguments)
        if step == 8:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "add", interrupt)
        with pytest.raises(KeyboardInterrupt):
            go(data, tmp_path)
    assert checkpoints_in(tmp_path) == [4, 8]
    assert go(data, tmp_path) == (8, [8])
    assert lines(tmp_path) == lines(whole)
    assert read_evaluations(tmp_path) == read_evaluations(whole)


def test_the_last_step_is_measured_and_a_share_is_of_the_steps(data, tmp_path):
    settings = {"steps": 5, "evaluate_every": 0.4, "patience": None}
    assert go(data, tmp_path, Scripted({2: 0.1, 4: 0.3, 5: 0.2}), **settings) == (5, [2, 4, 5])
    assert checkpoints_in(tmp_path) == [4, 5]
    # A run that was not measured so far begins with the step that it is at; one that no longer is keeps its best.
    (tmp_path / "evaluations.json").unlink()
    assert go(data, tmp_path, Scripted({5: 0.2}), **settings) == (5, [5])
    assert go(data, tmp_path, **settings | {"evaluate_every": None, "steps": 8}) == (8, [])
    assert checkpoints_in(tmp_path) == [5, 8]


def test_values_that_would_not_compare_are_refused(tmp_path):
    before = Scripted(**{"evaluate.nms_iou": 0.3}).measured
    write_evaluations(tmp_path, Evaluations(before, ((2, 0.3),)))
    compare_measured(tmp_path, before, False)
    for accept in (False, True):
        with pytest.raises(
            ValueError, match=r"measured otherwise .*: evaluate\.nms_iou is 0\.3 there and 0\.5 here\. "
        ):
            compare_measured(tmp_path, before | {"evaluate.nms_iou": 0.5, "fingerprint": "def"}, accept)
    other = before | {"fingerprint": "def"}
    with pytest.raises(ValueError, match=r"other images or proposals .* folder/test, .*--accept-changed-data") as error:
        compare_measured(tmp_path, other, False)
    assert "\n" not in str(error.value)
    compare_measured(tmp_path, other, True)
    write_evaluations(tmp_path, Evaluations(before))
    compare_measured(tmp_path, other, False)


def test_a_run_that_was_measured_on_other_data_is_refused(data, tmp_path):
    settings = {"steps": 2, "patience": None}
    go(data, tmp_path, Scripted({2: 0.1}), **settings)
    with pytest.raises(ValueError, match="other images or proposals"):
        go(data, tmp_path, Scripted({4: 0.2}, fingerprint="def"), **settings | {"steps": 4})


def test_a_setting_that_a_run_does_not_know_has_its_default(tmp_path):
    before = Scripted(**{"evaluate.nms_iou": 0.3}).measured
    write_evaluations(tmp_path, Evaluations(before, ((2, 0.5),)))
    compare_measured(tmp_path, before | {"evaluate.second_pass": 0}, False)
    with pytest.raises(ValueError, match=r"measured otherwise .*: evaluate\.second_pass is 0 there and 128 here\. "):
        compare_measured(tmp_path, before | {"evaluate.second_pass": 128}, False)


def test_a_damaged_file_of_values_is_one_line(tmp_path):
    assert read_evaluations(tmp_path) == Evaluations()
    for text in ("{", "[]", '{"values": [[1]], "measured": {}}'):
        (tmp_path / "evaluations.json").write_text(text)
        with pytest.raises(ValueError, match=rf"^{tmp_path}/evaluations\.json is damaged .*: delete it to go on"):
            read_evaluations(tmp_path)
    for entry in ("[10, null]", "[10.5, 0.5]", '[10, "0.5"]', "[true, 0.5]", "[10]", "null"):
        (tmp_path / "evaluations.json").write_text(f'{{"values": [[1, 0.5], {entry}], "measured": {{}}}}')
        with pytest.raises(ValueError, match="is damaged") as error:
            read_evaluations(tmp_path)
        assert f"(values has {entry}, not a step and a number): delete it" in str(error.value)
    (tmp_path / "evaluations.json").write_text('{"measured": {}}')
    with pytest.raises(ValueError, match=r"is damaged \(it has no 'values'\): delete it"):
        read_evaluations(tmp_path)


def test_without_a_measurement_the_setting_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"train\.evaluate_every is set, but open_evaluation is not given"):
        train(run_config(data, evaluate_every=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()
