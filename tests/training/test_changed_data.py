"""A run goes on where its data are the same by content, wherever they lie; what has changed is named."""

import dataclasses
import json
import logging
import re
import shutil

import cv2
import numpy as np
import pytest

from frcnn_jax.checkpoint import Checkpoints, open_checkpoint
from frcnn_jax.config import replace, to_json
from frcnn_jax.data.fingerprints import legacy_fingerprint
from frcnn_jax.training import loop
from frcnn_jax.training.data_record import read_record
from frcnn_jax.training.initial import abstract_state
from frcnn_jax.training.loop import train
from tests.training.runs import run_config, step_in_a_moment, write_data


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Steps in a moment, as their numbers do not matter here."""
    step_in_a_moment(monkeypatch.setattr)


@pytest.fixture(scope="module")
def finished(small, data, tmp_path_factory):
    """Workdir of a run of one step."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        step_in_a_moment(patch.setattr)
        train(run_config(data, steps=1), workdir)
    return workdir


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def moved(data, tmp_path):
    """The data in another place, not prepared."""
    return shutil.copytree(data, tmp_path / "moved", ignore=shutil.ignore_patterns("prepared"))


def go_on(root, workdir, **options):
    return train(run_config(root, steps=1), workdir, **options)


def with_paths(config, write):
    """`config` with the paths of its data as `write` writes them."""
    data = dataclasses.replace(config.data, root=write(config.data.root), tfds_dir=write(config.data.tfds_dir))
    files = tuple(map(write, config.proposals.train_files))
    proposals = dataclasses.replace(config.proposals, train_files=files, test_file=write(config.proposals.test_file))
    return dataclasses.replace(config, data=data, proposals=proposals)


def edit(root, image_id, old, new):
    path = root / f"Annotations/{image_id}.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("spelling", ["slash", "relative", "home"])
def test_another_spelling_of_the_same_place(data, run, monkeypatch, spelling):
    monkeypatch.chdir(data.parent)
    monkeypatch.setenv("HOME", str(data.parent))
    write = {
        "slash": lambda path: path + "/" * (path == str(data)),
        "relative": lambda path: path.replace(f"{data.parent}/", ""),
        "home": lambda path: path.replace(str(data.parent), "~"),
    }[spelling]
    config = with_paths(run_config(data, steps=1), write)
    assert config != run_config(data, steps=1)
    assert int(train(config, run).step) == 1
    assert json.loads((run / "config.json").read_text()) == json.loads(to_json(run_config(data, steps=1)))


def test_data_that_moved(moved, run):
    go_on(moved, run)
    assert json.loads((run / "config.json").read_text())["data"]["root"] == str(moved)


def test_a_run_that_kept_a_relative_path(data, run, monkeypatch):
    """The case of runs of earlier versions."""
    monkeypatch.chdir(data.parent)
    config = with_paths(run_config(data, steps=1), lambda path: path.replace(f"{data.parent}/", ""))
    (run / "config.json").write_text(to_json(config))
    train(config, run)
    assert json.loads((run / "config.json").read_text())["data"]["root"] == str(data)


def test_a_missing_file_of_proposals_is_named(data, tmp_path):
    config = replace(run_config(data), proposals={"train_files": (f"{tmp_path}/none.npz",)})
    with pytest.raises(FileNotFoundError, match=rf"^no proposal file {tmp_path}/none\.npz$"):
        train(config, tmp_path / "run")


def swap_images(root):
    images = root / "JPEGImages"
    (images / "a3.jpg").write_bytes((images / "a4.jpg").read_bytes())


def move_box(root):
    edit(root, "a4", "<xmin>7<", "<xmin>8<")


def swap_label(root):
    edit(root, "a4", "<name>cat<", "<name>dog<")


def mark_difficult(root):
    for image_id in ("a3", "a4", "a5", "a6"):
        edit(root, image_id, "<difficult>0<", "<difficult>1<")


def rename_class(root):
    for path in (root / "Annotations").iterdir():
        path.write_text(path.read_text().replace("<name>cat<", "<name>cab<"))


def other_list(root):
    cv2.imwrite(str(root / "JPEGImages/new.jpg"), cv2.imread(str(root / "JPEGImages/t3.jpg"))[::-1])
    (root / "Annotations/new.xml").write_text((root / "Annotations/t3.xml").read_text().replace("t3.jpg", "new.jpg"))
    names = ["new", "a0", "a1", "a2", "a3", "a4", "a5", "a6"]
    (root / "ImageSets/Main/train.txt").write_text("".join(f"{name}\n" for name in names))
    proposals = dict(np.load(root / "train.npz"))
    del proposals["a7"]
    np.savez(root / "train.npz", **proposals, new=np.array([[0, 0, 20, 20]]))


def other_order(root):
    path = root / "ImageSets/Main/train.txt"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))


def other_proposals(root):
    proposals = dict(np.load(root / "train.npz"))
    np.savez(root / "train.npz", **(proposals | {"a0": np.array([[0, 0, 20, 20]])}))


CHANGES = {
    swap_images: "1 image with other pixels (a3)",
    move_box: "1 image with other boxes (a4)",
    swap_label: "1 image with other labels (a4)",
    mark_difficult: "4 images with other difficult or crowd marks (a3, a4, a5 and 1 more)",
    rename_class: "class 1 is 'cab', not 'cat'",
    other_list: "other proposal files; 1 image added (new); 1 image removed (a7)",
    other_order: "the images are in another order",
    other_proposals: "other proposal files",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_refused_and_named(moved, run, change, monkeypatch):
    change(moved)
    # Their search may take hours.
    monkeypatch.setattr(loop, "open_joined_proposals", lambda *_: pytest.fail("proposals are opened"))
    before = {path: path.read_bytes() for path in (run / "config.json", run / "data.npz")}
    message = f"folder/train has changed since {run} was trained on it: {CHANGES[change]}. "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}.*--accept-changed-data") as refused:
        go_on(moved, run)
    assert "\n" not in str(refused.value)
    assert {path: path.read_bytes() for path in before} == before


def test_a_change_is_taken_where_that_is_said(moved, run, caplog):
    swap_label(moved)
    caplog.set_level(logging.WARNING, "frcnn_jax")
    state = train(run_config(moved, steps=2), run, accept_changed_data=True)
    assert int(state.step) == 2
    assert "1 image with other labels (a4)" in caplog.text
    caplog.clear()
    # The checkpoint is of the changed data now, and so is the record.
    train(run_config(moved, steps=2), run)
    assert not caplog.text
    move_box(moved)
    with pytest.raises(ValueError, match=r"trained on it: 1 image with other boxes \(a4\)\. "):
        train(run_config(moved, steps=2), run)


def test_another_number_of_classes_is_refused_in_any_case(moved, run):
    edit(moved, "a4", "<name>cat<", "<name>cow<")
    message = r"has 3 classes \(cat, cow, dog\) and \S+/run was trained on 2 \(cat, dog\), which its heads do not"
    with pytest.raises(ValueError, match=message):
        go_on(moved, run, accept_changed_data=True)


@pytest.mark.parametrize("damage", ["missing", "cut", "of other data"])
def test_without_a_record_a_change_is_refused_without_names(moved, run, damage):
    path = run / "data.npz"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:500])
    else:
        arrays = dict(np.load(path))
        np.savez(path, **(arrays | {"fingerprint": np.array("0" * 64)}))
    go_on(moved, run)
    swap_label(moved)
    with pytest.raises(ValueError, match=r"which images or objects is not known, as data\.npz does not describe"):
        go_on(moved, run)


def rename(root, **names):
    for path in (root / "Annotations").iterdir():
        text = re.sub("<name>(cat|dog)<", lambda found: f"<name>{names.get(found[1], found[1])}<", path.read_text())
        path.write_text(text)


@pytest.mark.parametrize(
    ("names", "moved_class", "order"),
    [
        ({"cat": "zebra"}, r"'dog' at label 1, which .* has at label 2", "zebra dog"),
        ({"dog": "ant"}, r"'cat' at label 2, which .* has at label 1", "cat ant"),
        ({"cat": "my zebra"}, r"'dog' at label 1, which .* has at label 2", "'my zebra' dog"),
    ],
)
@pytest.mark.parametrize("accept", [False, True])
def test_a_class_at_another_label_is_refused_in_any_case(moved, run, names, moved_class, order, accept):
    rename(moved, **names)
    message = rf"^folder/train has the class {moved_class}: .* --data\.classes {order}, or another --workdir$"
    with pytest.raises(ValueError, match=message) as error:
        train(run_config(moved, steps=2), run, accept_changed_data=accept)
    assert "\n" not in str(error.value)


def test_an_order_of_classes_that_is_given_keeps_the_labels(moved, run, caplog):
    rename(moved, cat="zebra")
    config = run_config(moved, steps=2)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, classes=("zebra", "dog")))
    caplog.set_level(logging.WARNING, "frcnn_jax")
    train(config, run, accept_changed_data=True)
    assert "class 1 is 'zebra', not 'cat'" in caplog.text
    assert "with other labels" not in caplog.text
    with open_checkpoint(run) as checkpoints:
        assert checkpoints.metadata().classes == ("zebra", "dog")


def test_the_same_classes_in_another_order_are_refused(moved, run):
    config = run_config(moved, steps=2)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, classes=("dog", "cat")))
    with pytest.raises(ValueError, match=r"has the class 'dog' at label 1, .* --data\.classes cat dog, or another"):
        train(config, run, accept_changed_data=True)


def test_a_run_at_its_last_step_has_no_use_for_changed_data(moved, run):
    swap_label(moved)
    before = {path: path.read_bytes() for path in (run / "config.json", run / "data.npz")}
    with pytest.raises(
        ValueError, match=r"is at its last step, 1, so that nothing .*: give more --train\.steps"
    ) as error:
        go_on(moved, run, accept_changed_data=True)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in before} == before
    for _ in range(2):  # the data of the checkpoint the second time
        train(run_config(moved, steps=2), run, accept_changed_data=True)


def as_before(workdir, config):
    """Makes the checkpoint one of format 1, and the workdir one of its time."""
    with open_checkpoint(workdir) as checkpoints:
        state, key, position = checkpoints.restore(abstract_state(config, 3))
        metadata = checkpoints.metadata()
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "data.npz").unlink()
    dataset, _, _ = loop.open_data(config, [loop.open_dataset(name, config.data) for name in config.data.train])
    checkpoints = Checkpoints(workdir)
    old = dataclasses.replace(metadata, data=legacy_fingerprint(dataset), proposal_files=(), format=1)
    checkpoints.save(state, key, position, old)
    checkpoints.close()


def test_a_checkpoint_of_the_format_before(moved, run, caplog):
    as_before(run, run_config(moved, steps=1))
    swap_label(moved)  # which its hash does not cover
    caplog.set_level(logging.WARNING, "frcnn_jax")
    go_on(moved, run)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"{run} is of an earlier version, which kept no hash of boxes and labels: whether those of folder/train have "
        "changed is not known"
    ]
    swap_images(moved)
    with pytest.raises(ValueError, match=r"folder/train has changed since .* which images or objects is not known"):
        go_on(moved, run)
    write_data(moved)
    train(run_config(moved, steps=2), run)
    with open_checkpoint(run) as checkpoints:
        metadata = checkpoints.metadata()
    assert (metadata.format, len(metadata.proposal_files)) == (2, 1)
    assert metadata.data == read_record(run).fingerprint
    swap_label(moved)
    with pytest.raises(ValueError, match=r"1 image with other labels \(a4\)"):
        train(run_config(moved, steps=2), run)


@pytest.mark.parametrize("label", [0, 3])
def test_a_label_beyond_the_classes(moved, tmp_path, monkeypatch, label):
    def opened(name, config):
        dataset = open_dataset(name, config)
        dataset.annotations[4].labels[0] = label
        return dataset

    open_dataset = loop.open_dataset
    monkeypatch.setattr(loop, "open_dataset", opened)
    message = rf"folder/train: image a4 has the label {label}, but labels go from 1 to 2, .* \(cat, dog\)"
    with pytest.raises(ValueError, match=message):
        go_on(moved, tmp_path / "new")
    assert not (tmp_path / "new/config.json").exists()
