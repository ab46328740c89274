"""One data set in every supported format: the same images, classes and boxes to the last bit."""

import dataclasses
import shutil
from functools import partial

import numpy as np
import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.formats.table import FORMATS, open_reader
from tests.data.contracts import check_dataset, check_reader
from tests.data.formats.written import PICTURES, write_coco, write_csv, write_labelimg, write_voc, write_yolo

# folder as it is written, and the name of its format
LAYOUTS = {
    "voc": (write_voc, "voc"),
    "voc one folder down": (lambda root: write_voc(root / "VOCdevkit/VOC2026"), "voc"),
    "side by side": (write_labelimg, "labelimg"),
    "images/train": (lambda root: write_labelimg(root, images="images/{}", xml="images/{}"), "labelimg"),
    "train_zip/train": (lambda root: write_labelimg(root, images="{0}_zip/{0}", xml="{0}_zip/{0}"), "labelimg"),
    "train/Annotations": (lambda root: write_labelimg(root, images="{}/Images", xml="{}/Annotations"), "labelimg"),
    "annotations/train": (lambda root: write_labelimg(root, images="images/{}", xml="annotations/{}"), "labelimg"),
    "coco": (write_coco, "coco"),
    "coco from 0": (lambda root: write_coco(root, first=0), "coco"),
    "coco with gaps": (lambda root: write_coco(root, first=3, gap=7), "coco"),
    "yolo": (write_yolo, "yolo"),
    "yolo by split": (lambda root: write_yolo(root, split_first=True), "yolo"),
    "csv": (write_csv, "csv"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_keeps_the_contract_and_gives_the_same_records(tmp_path, name):
    write, known = LAYOUTS[name]
    write(tmp_path / "set")
    for split in ("train", "validation", "test"):
        check_reader(known, tmp_path / "set", split)
    reader = open_reader(tmp_path / "set", DataConfig())[1]
    assert reader.splits == ("train", "validation", "test") or known == "voc"
    expected = {(p.split, p.stem): [(name, np.float32(box).tolist()) for name, box in p.objects] for p in PICTURES}
    found = {}
    for split in reader.splits:
        for record in reader.read(split).records:
            assert record.faults == ()
            boxes = [(item.name, np.float32(item.box).tolist()) for item in record.objects]
            found[split, record.image_id] = boxes
    assert found == expected


def test_prepared_they_are_one_data_set(tmp_path):
    """Classes, images, boxes and labels: everything that training and evaluation depend on has one fingerprint."""
    whole = [p for p in PICTURES if p.stem != "b_1"]  # VOC's own format keeps fractions to thousandths
    prints = {}
    for write in (write_voc, write_coco, write_yolo, write_csv, write_labelimg):
        root = write(tmp_path / write.__name__, whole)
        config = DataConfig(root=str(root), tfds_dir=str(tmp_path / "tfds"), test="folder/test")
        train, test = open_dataset("folder/trainval", config), open_dataset("folder/test", config)
        check_dataset(train)
        assert train.classes == ("ant", "bee", "cat")
        prints[write.__name__] = train.fingerprint, test.fingerprint
    assert len(set(prints.values())) == 1, prints


BOTH = [("images/train", "csv"), ("annotations/train", "yolo"), ("yolo", "csv")]  # of the same images


@pytest.mark.parametrize(("one", "other"), BOTH)
def test_of_two_layouts_with_the_same_objects_the_first_is_read(tmp_path, one, other, caplog):
    formats = [LAYOUTS[name][1] for name in (one, other)]
    for name in (one, other):
        LAYOUTS[name][0](tmp_path / "set")
    assert open_reader(tmp_path / "set", DataConfig())[0] == formats[0]
    said = f"the formats {' and '.join(formats)} fit and hold the same objects: {formats[0]} is read"
    assert f"{said}; --data.format {formats[1]} reads the other" in caplog.text
    for known in formats:
        assert open_reader(tmp_path / "set", DataConfig(format=known))[0] == known


def test_of_two_layouts_with_the_same_objects_the_one_with_splits_is_read(tmp_path):
    """XML files in one folder, and CSV files of all images, of those to train on and of those to test on."""
    write_labelimg(tmp_path, images="images", xml="annotations")
    whole = [dataclasses.replace(p, split="all") for p in PICTURES]
    for pictures in (whole, PICTURES):
        write_csv(tmp_path / "data", pictures)
    shutil.rmtree(tmp_path / "data/images")
    name, reader = open_reader(tmp_path, DataConfig())
    assert name == "csv"
    assert reader.splits == ("train", "validation", "test", "all")


@pytest.mark.parametrize("lost", ["a difficult object", "an image without objects"])
def test_the_layout_with_splits_must_lack_nothing(tmp_path, lost):
    """XML files in one folder have what the CSV files of the splits cannot say."""
    empty = [dataclasses.replace(PICTURES[0], stem="e_1", objects=())] if "image" in lost else []
    write_labelimg(tmp_path, [*PICTURES, *empty], images="images", xml="annotations")
    write_csv(tmp_path / "data")
    shutil.rmtree(tmp_path / "data/images")
    message = r"images/e_1\.jpg: without objects in labelimg, not annotated in csv"
    if not empty:
        file = tmp_path / "annotations/t_1.xml"
        file.write_text(file.read_text().replace("<difficult>0", "<difficult>1"))
        message = r"objects of images/t_1\.jpg: other classes, boxes or marks"
    with pytest.raises(
        ValueError,
        match=rf"\({message}; 1 of \d images differ; splits of labelimg: none; splits of csv: train, .*\); set",
    ):
        open_reader(tmp_path, DataConfig())


@pytest.mark.parametrize(("one", "other"), [("voc", "coco"), ("side by side", "csv")])
def test_two_layouts_of_other_images_are_refused(tmp_path, one, other):
    for name in (one, other):
        LAYOUTS[name][0](tmp_path / "set")
    with pytest.raises(
        ValueError, match=r"objects of .*: [12] of \w+, 0 of \w+; \d+ of 10 images differ; .*\); set data\.format"
    ):
        open_reader(tmp_path / "set", DataConfig())


def test_two_layouts_of_which_one_cannot_be_read_are_refused(tmp_path):
    """Two CSV files of one split."""
    write_labelimg(tmp_path / "set", images="images/{}", xml="images/{}")
    write_csv(tmp_path / "set")
    shutil.copy(tmp_path / "set/train_labels.csv", tmp_path / "set/my_train.csv")
    with pytest.raises(ValueError, match=r"both of split 'train'; .* as with --data\.format labelimg"):
        open_reader(tmp_path / "set", DataConfig())
    assert open_reader(tmp_path / "set", DataConfig(format="labelimg"))[0] == "labelimg"


@pytest.mark.parametrize(("one", "other"), BOTH)
@pytest.mark.parametrize("change", ["moved", "renamed", "fewer", "missing"])
def test_two_layouts_with_other_objects_are_refused(tmp_path, one, other, change):
    """They have a box moved by two pixels, another class, an object less, an image less."""
    formats, (write, _) = [LAYOUTS[name][1] for name in (one, other)], LAYOUTS[other]
    LAYOUTS[one][0](tmp_path / "set")
    changed = next(i for i, p in enumerate(PICTURES) if p.objects)
    picture = PICTURES[changed]
    (name, (x1, y1, x2, y2)), *rest = picture.objects
    objects = {
        "moved": [(name, (x1 + 2, y1, x2, y2)), *rest],
        "renamed": [("bee" if name == "ant" else "ant", (x1, y1, x2, y2)), *rest],
        "fewer": rest,
    }.get(change)
    others = [p for i, p in enumerate(PICTURES) if i != changed]
    pictures = others if objects is None else [*others, dataclasses.replace(picture, objects=tuple(objects))]
    write(tmp_path / "set", pictures)
    message = (
        rf"the formats {' and '.join(formats)} fit, and do not hold the same objects \(objects of "
        rf".*{picture.stem}\.\w+: .*\); set data\.format to one of them, as with --data\.format {formats[0]}$"
    )
    with pytest.raises(ValueError, match=message):
        open_reader(tmp_path / "set", DataConfig())
    for known in formats:
        assert open_reader(tmp_path / "set", DataConfig(format=known))[0] == known


@pytest.mark.parametrize("known", FORMATS)
def test_a_folder_of_another_format_is_refused_by_each(tmp_path, known):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/readme.txt").write_text("5 numbers are here 1 2 3\n")
    (tmp_path / "set/log.csv").write_text("step,loss\n1,2\n")
    (tmp_path / "set/other.json").write_text('{"images": []}')
    (tmp_path / "set/other.yaml").write_text("names: [a]\ntrain: x\n")
    (tmp_path / "set/other.xml").write_text("<annotations/>")
    assert not FORMATS[known].fits(tmp_path / "set")
    with pytest.raises(FileNotFoundError, match="set has no"):
        open_reader(tmp_path / "set", DataConfig(format=known))
    found = r"0 images and log\.csv, other\.json, other\.xml and 2 more"
    with pytest.raises(FileNotFoundError, match=rf"its format is not known\. It has {found}, but no folder JPEGImages"):
        open_reader(tmp_path / "set", DataConfig())


def test_a_root_that_cannot_be_read_names_the_option(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.PNG"):
        (tmp_path / "images" / name).touch()
    with pytest.raises(FileNotFoundError, match=r"known\. It has 2 images, but no .* by --data\.root$"):
        open_reader(tmp_path / "images", DataConfig())
    with pytest.raises(FileNotFoundError, match=r"= .*a\.jpg is a file: give the folder .* by --data\.root"):
        open_reader(tmp_path / "images/a.jpg", DataConfig())
    with pytest.raises(FileNotFoundError, match=r"= .*none does not exist: give the folder .* by --data\.root"):
        open_reader(tmp_path / "none", DataConfig())


def test_names_in_two_forms_of_unicode_are_one(tmp_path):
    """Composed in the annotations, decomposed as the files' names: some systems store them so."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    pictures = [dataclasses.replace(p, stem=p.stem.replace("_", f"_{composed}_")) for p in PICTURES]
    apart = partial(write_labelimg, images="images/{}", xml="annotations/{}")
    for number, write in enumerate((write_voc, apart, write_coco, write_yolo, write_csv)):
        root = write(tmp_path / str(number), pictures)
        for path in [*root.rglob("*.jpg")]:
            shutil.move(path, path.with_name(path.name.replace(composed, decomposed)))
        records = open_reader(root, DataConfig())[1].read("train").records
        assert [record.image_id for record in records] == [f"a_{composed}_{number}" for number in (1, 2)]
        assert all(record.path is not None and record.objects and not record.faults for record in records)
