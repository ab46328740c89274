"""A run evaluated from its workdir: what may be changed, results for the VOC server, test sets without annotations."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from frcnn_jax.config import Config, DataConfig, FaultPolicy, ProposalConfig, override, replace
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.formats.voc.annotation import read_annotation
from frcnn_jax.evaluation.report import format_metrics
from frcnn_jax.models import architectures
from frcnn_jax.runs.detector import load_detector
from frcnn_jax.runs.evaluate import check_changes, evaluate_run
from frcnn_jax.runs.train import train
from frcnn_jax.training.data_record import record_data, write_record
from tests.data.voc_files import VocFiles, object_xml
from tests.weights.detectors import CLASSES, SMALL_TINY, save_run, small_detector

FILES = [f"comp4_det_test_{name}.txt" for name in sorted(CLASSES)]


@pytest.fixture(scope="module", autouse=True)
def small_tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "ARCHITECTURES", {"tiny": SMALL_TINY})
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, folder of its data)"""
    root = tmp_path_factory.mktemp("run")
    files, random, proposals = VocFiles(root / "data"), np.random.default_rng(0), {}
    for image in ("a", "b"):
        files.image(image, *(object_xml(name, (5, 5, 30, 25)) for name in CLASSES))
        low = random.uniform(0, 14, (12, 2))
        proposals[image] = np.concatenate([low, low + random.uniform(6, 16, (12, 2))], axis=1)
    files.split("test", "a", "b")
    np.savez(root / "data/test.npz", **proposals)
    detector = small_detector()
    config = dataclasses.replace(
        detector.config,
        data=DataConfig(test="folder/test", root=str(root / "data"), tfds_dir=str(root / "tfds")),
        proposals=ProposalConfig("file", test_file=str(root / "data/test.npz"), min_side=1),
        input=dataclasses.replace(detector.config.input, workers=0),
    )
    save_run(dataclasses.replace(detector, config=config, classes=tuple(sorted(CLASSES))), root / "work")
    return root / "work", root / "data"


def changed(run, *arguments):
    return override(load_detector(run[0]).config, arguments)


def test_what_bears_on_an_evaluation_can_be_changed(run, tmp_path):
    test = "--input.test-scales 48 96 --input.test-batch-size 2 --input.workers 1 --input.buckets 128 128"
    test += " --input.read-timeout 900"
    config = changed(run, *test.split(), "--evaluate.metric", "voc10", "--evaluate.pictures", "0")
    metrics = evaluate_run(run[0], config, directory=tmp_path)
    assert metrics["metric"] == "voc10"
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "<title>Fast R-CNN on data, test</title>" in page
    assert "evaluate.pictures is 0" in page
    assert metrics["settings"]["scales"] == [48, 96]
    assert metrics["settings"]["max_size"] == 96
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert not (run[0] / "eval").exists()


def test_the_report_says_how_a_test_was_drawn(run, tmp_path):
    data = tmp_path / "photos"
    shutil.copytree(run[1], data)
    (data / "ImageSets/Main/test.txt").rename(data / "ImageSets/Main/train.txt")
    config = changed(run, "--data.root", str(data), "--data.split", "0.3")
    (image,) = open_dataset("folder/test", config.data).image_ids
    proposals = np.load(run[1] / "test.npz")[image]
    np.savez(data / "test.npz", **{image: proposals})
    config = dataclasses.replace(
        config, proposals=dataclasses.replace(config.proposals, test_file=str(data / "test.npz"))
    )
    metrics = evaluate_run(run[0], config, directory=tmp_path / "eval")
    drawn = "each drawn by its name with a chance of 0.3 (data.split), as there are no test images"
    assert metrics["chosen"] == drawn
    page = (tmp_path / "eval/index.html").read_text("utf-8")
    assert f"1 image of folder/test, {drawn}; VOC 2007" in page
    assert "evaluate.pictures is 0" not in page
    assert "chosen" not in evaluate_run(run[0], directory=tmp_path / "own")


def test_a_run_that_is_shorter_than_its_recipe_is_called_so(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "work")
    detector = load_detector(run[0])
    write_record(tmp_path / "work", record_data(open_dataset("folder/test", detector.config.data), ()))
    steps = detector.config.train.steps
    recipe = changed(run, "--train.steps", str(2 * steps))
    metrics = evaluate_run(tmp_path / "work", recipe=recipe)
    assert (metrics["run_steps"], metrics["recipe_steps"]) == (steps, 2 * steps)
    said = f"this is step {detector.step} of the {steps} of this run, and its config has {2 * steps} for these images"
    page = (tmp_path / "work/eval/index.html").read_text("utf-8")
    assert said in page
    assert metrics["trained_on"] == 2
    assert "the run was trained on 2 of 2 test images" in page
    assert "trained_on" not in evaluate_run(run[0], directory=tmp_path / "unknown")
    assert said in format_metrics(evaluate_run(tmp_path / "work", directory=tmp_path / "again"))
    assert "recipe steps" not in page


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("--model.dropout 0.25", "model.dropout"),
        ("--train.seed 5 --sampling.rois-per-image 9", "sampling.rois_per_image, train.seed"),
        ("--input.scales 48 --input.no-flip --input.test-scale 50", "input.scales, input.flip"),
        ("--data.train folder/a --proposals.train-files a.npz", "data.train, proposals.train_files"),
        ("--optimizer.rules.0.pattern a --loss.classification focal", "loss.classification, optimizer.rules"),
    ],
)
def test_what_does_not_is_refused_by_name(run, tmp_path, arguments, names):
    with pytest.raises(ValueError, match=f"^{names}: not a setting of an evaluation") as refused:
        evaluate_run(run[0], changed(run, *arguments.split()), directory=tmp_path / "eval")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "eval").exists()


def test_what_an_evaluation_advises_can_be_set():
    """Its error about a slow disk names input.read_timeout."""
    check_changes(Config(), replace(Config(), input={"read_timeout": 900.0, "workers": 2}))


def test_results_are_not_overwritten_unless_told_to(run, tmp_path):
    directory = tmp_path / "voc"
    settings = {"directory": tmp_path / "eval", "voc_results": directory}
    metrics = evaluate_run(run[0], **settings)
    assert sorted(path.name for path in directory.iterdir()) == FILES
    lines = [len((directory / name).read_text().splitlines()) for name in FILES]
    assert lines == list(metrics["detections"].values())
    assert sum(lines) > 3
    (directory / FILES[1]).write_text("mine\n")
    (directory / FILES[0]).unlink()
    shutil.rmtree(tmp_path / "eval")
    with pytest.raises(FileExistsError, match=rf"voc/{FILES[1]} already exists"):
        evaluate_run(run[0], **settings)
    assert (directory / FILES[1]).read_text() == "mine\n"
    assert not (tmp_path / "eval").exists()
    evaluate_run(run[0], **settings, overwrite=True)
    assert [len((directory / name).read_text().splitlines()) for name in FILES] == lines


def test_the_same_detections_as_coco_results_and_xml(run, tmp_path):
    detector, found = load_detector(run[0]), tmp_path / "out/found.json"
    config = changed(run, "--evaluate.picture-score", "0.3")
    metrics = evaluate_run(run[0], config, directory=tmp_path / "eval", coco_results=found, voc_xml=tmp_path / "xml")
    rows = json.loads(found.read_text())
    assert len(rows) == sum(metrics["detections"].values()) > 3
    annotations = json.loads((tmp_path / "out/found.annotations.json").read_text())
    assert [(image["id"], image["file_name"]) for image in annotations["images"]] == [(1, "a.jpg"), (2, "b.jpg")]
    assert (annotations["images"][0]["height"], annotations["images"][0]["width"]) == (30, 40)
    assert [item["name"] for item in annotations["categories"]] == list(detector.classes)
    assert [item["bbox"] for item in annotations["annotations"]] == [[4, 4, 26, 21]] * 6
    for number, image in ((1, "a"), (2, "b")):
        drawn = sorted(
            detector.classes[row["category_id"] - 1]
            for row in rows
            if row["image_id"] == number and row["score"] >= 0.3
        )
        annotation = read_annotation(tmp_path / f"xml/{image}.xml")
        assert sorted(item.name for item in annotation.objects) == drawn
        assert (annotation.width, annotation.height) == (40, 30)
    assert 0 < sum(row["score"] >= 0.3 for row in rows) < len(rows)


@pytest.mark.parametrize("argument", ["coco_results", "voc_xml"])
def test_neither_are_these_overwritten(run, tmp_path, no_search, argument):
    path = {"coco_results": tmp_path / "found.json", "voc_xml": tmp_path / "xml"}[argument]
    mine = {"coco_results": tmp_path / "found.annotations.json", "voc_xml": tmp_path / "xml/b.xml"}[argument]
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(FileExistsError, match=rf"{mine} (already )?exist.*: give --overwrite to replace"):
        evaluate_run(run[0], directory=tmp_path / "eval", **{argument: path})
    with pytest.raises(AssertionError, match="proposals are opened"):
        evaluate_run(run[0], directory=tmp_path / "eval", **{argument: path}, overwrite=True)
    assert mine.read_text() == "mine"


def test_coco_results_are_a_file(run, tmp_path, no_search):
    with pytest.raises(ValueError, match=f"^{tmp_path}: COCO results are a file; give its name, which ends in .json$"):
        evaluate_run(run[0], directory=tmp_path / "eval", coco_results=tmp_path)


def test_cocos_measures(run, tmp_path):
    pytest.importorskip("pycocotools")
    metrics = evaluate_run(run[0], changed(run, "--evaluate.coco"), directory=tmp_path)
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics["coco"]["ap"]) == set(metrics["ap"])
    assert 0 <= metrics["coco"]["AR_100"] <= 1
    assert metrics["coco"]["AP_medium"] is None  # all objects are small
    assert f"AP50 {metrics['coco']['AP50']:.4f}" in format_metrics(metrics)
    plain = evaluate_run(run[0], directory=tmp_path / "plain")
    assert "coco" not in plain
    assert plain["map"] == metrics["map"]


def test_without_pycocotools_it_is_told_first(run, tmp_path, no_search, monkeypatch):
    monkeypatch.setattr("frcnn_jax.evaluation.coco.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install pycocotools"):
        evaluate_run(run[0], changed(run, "--evaluate.coco"), directory=tmp_path / "eval")
    with pytest.raises(ImportError, match="pip install pycocotools"):
        train(changed(run, "--evaluate.coco"), tmp_path / "work")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def no_search(monkeypatch):
    """Fails where proposals are opened, which may take hours, and so where an image is detected."""

    def fail(*arguments):
        raise AssertionError("proposals are opened")

    monkeypatch.setattr("frcnn_jax.runs.evaluate.open_proposals", fail)


@pytest.mark.parametrize("overwrite", [False, True])
def test_ids_that_results_files_cannot_hold_are_refused_first(run, tmp_path, no_search, overwrite):
    files = VocFiles(tmp_path / "data")
    for image in ("a b", "c"):
        files.image(image, *(object_xml(name, (5, 5, 30, 25)) for name in CLASSES))
    files.split("test", "a b", "c")
    config = changed(run, "--data.root", str(tmp_path / "data"))
    with pytest.raises(ValueError, match="image id 'a b' is empty or has white space") as refused:
        evaluate_run(run[0], config, directory=tmp_path / "eval", voc_results=tmp_path / "voc", overwrite=overwrite)
    assert "\n" not in str(refused.value)
    assert not {"eval", "voc"} & {path.name for path in tmp_path.iterdir()}
    # Without results files such ids are like any other.
    with pytest.raises(AssertionError, match="proposals are opened"):
        evaluate_run(run[0], config, directory=tmp_path / "eval")


def test_class_names_are_checked_when_files_are_replaced_too(run, tmp_path, no_search, monkeypatch):
    detector = dataclasses.replace(load_detector(run[0]), classes=("a/b", "one", "two"))
    files = VocFiles(tmp_path / "data")
    files.image("a", object_xml("a/b", (5, 5, 30, 25)))
    files.split("test", "a")
    monkeypatch.setattr("frcnn_jax.runs.evaluate.load_detector", lambda workdir, checkpoint: detector)
    data = dataclasses.replace(detector.config.data, root=str(tmp_path / "data"), classes=detector.classes)
    config = dataclasses.replace(detector.config, data=data)
    with pytest.raises(ValueError, match="'a/b' cannot be part of the name of a results file"):
        evaluate_run(run[0], config, directory=tmp_path / "eval", voc_results=tmp_path / "voc", overwrite=True)


@pytest.mark.parametrize("argument", ["directory", "voc_results"])
def test_a_file_in_place_of_a_folder_is_told_first(run, tmp_path, no_search, argument):
    (tmp_path / "file").write_text("mine")
    folders = {"directory": tmp_path / "eval", "voc_results": tmp_path / "voc"}
    way = f"give another folder by {'--out' if argument == 'directory' else '--voc-results'}"
    for place in (tmp_path / "file", tmp_path / "file/deep/in"):
        with pytest.raises(NotADirectoryError, match=f"^{place}: {tmp_path}/file is a file, not a folder: {way}$"):
            evaluate_run(run[0], **folders | {argument: place}, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["images", "thumbnails", "index.html"])
def test_photographs_and_pages_of_others_are_not_replaced(run, tmp_path, no_search, name):
    (tmp_path / "mine" / name).mkdir(parents=True)
    with pytest.raises(FileExistsError, match=rf"^{tmp_path}/mine/{name} would be replaced.*: give another folder"):
        evaluate_run(run[0], directory=tmp_path / "mine")


def test_a_folder_that_cannot_be_written_to_is_told_first(run, tmp_path, no_search, monkeypatch):
    monkeypatch.setattr("os.access", lambda *arguments: False)
    with pytest.raises(
        PermissionError, match=f"^{tmp_path}/a/eval: {tmp_path} cannot be written to: give another folder by --out$"
    ):
        evaluate_run(run[0], directory=tmp_path / "a/eval")


def test_a_test_set_without_annotations(run, tmp_path):
    """The case of VOC 2012, with only images and lists published."""
    root = tmp_path / "unlabelled"
    shutil.copytree(run[1], root, ignore=shutil.ignore_patterns("Annotations"))
    config = changed(run)
    data = dataclasses.replace(
        config.data, root=str(root), classes=tuple(sorted(CLASSES)), faults=FaultPolicy(missing_annotation="empty")
    )
    metrics = evaluate_run(
        run[0], dataclasses.replace(config, data=data), directory=tmp_path / "eval", voc_results=tmp_path / "voc"
    )
    assert metrics["map"] is None
    assert set(metrics["ap"].values()) == {None}
    before = evaluate_run(run[0], directory=tmp_path / "labelled", voc_results=tmp_path / "voc2")
    assert before["map"] is not None
    for name in FILES:
        assert (tmp_path / "voc" / name).read_text() == (tmp_path / "voc2" / name).read_text()
    assert "not measured" in (tmp_path / "eval/index.html").read_text()


def test_other_classes_are_refused(run, tmp_path):
    data = dataclasses.replace(changed(run).data, classes=("one", "three", "two", "zebra"))
    with pytest.raises(ValueError, match=r"folder/test has the classes .*zebra.* the detector"):
        evaluate_run(run[0], dataclasses.replace(changed(run), data=data), directory=tmp_path)
