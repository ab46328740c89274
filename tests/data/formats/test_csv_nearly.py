"""CSV files that are nearly tables of boxes: a line says what to write."""

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.formats.csv_files.nearly import nearly_fitting
from frcnn_jax.data.formats.table import open_reader
from tests.data.formats.written import Picture, write_text

RETINANET = "the line filename,xmin,ymin,xmax,ymax,class first"
NAMES = "the names of its columns, as filename, class, xmin, ymin, xmax, ymax in the file's order, first"


@pytest.mark.parametrize(
    ("row", "put"),
    [
        ("a_jpg.rf.0f.jpg,1,2,30,20,cat", RETINANET),
        ("/content/a.PNG,1.5,2,30e0,.5,cat", RETINANET),
        ("a.jpg,,,,,", RETINANET),
        ("a.jpg;1;2;30;20;cat", RETINANET),
        ("a.jpg,40,30,cat,1,2,30,20", NAMES),
        ("cat,a.jpg,1,2,30,20", NAMES),
        ("TRAIN,gs://b/a.jpg,cat,0.1,0.2,,,0.3,0.4,,", NAMES),
    ],
)
def test_a_table_without_a_header(tmp_path, row, put):
    Picture("a", "train", (30, 40)).save(tmp_path)
    for split in ("train", "valid"):
        write_text(tmp_path / split / "_annotations.csv", f"{row}\n{row}\n")
        write_text(tmp_path / split / "_classes.csv", "cat,0\n")
    with pytest.raises(FileNotFoundError) as caught:
        open_reader(tmp_path, DataConfig())
    begins = row.replace(";", ",")
    message = f"train/_annotations.csv has no header, as it begins with {begins!r}: put {put}"
    assert str(caught.value) == f"data.root = {tmp_path}: {message} (so in 1 more file)"


@pytest.mark.parametrize("box", ["[834.0, 222.0, 56.0, 36.0]", "8 2 5 3.", "(8,2,5,3)", "-.5;1e2;3;4"])
def test_a_box_in_one_column(tmp_path, box):
    Picture("0a1b", "train", (30, 40)).save(tmp_path / "train")
    write_text(tmp_path / "a_submission.csv", "image_id,PredictionString\n0a1b,1.0 0 0 50 50\n")
    write_text(tmp_path / "train.csv", f'image_id,width,height,bbox,source\n0a1b,40,30,"{box}",usask_1\n')
    with pytest.raises(FileNotFoundError) as caught:
        open_reader(tmp_path, DataConfig())
    assert str(caught.value) == (
        f"data.root = {tmp_path}: train.csv has the box in one column, bbox = {box!r}, which is not read: write "
        "columns filename,class,xmin,ymin,xmax,ymax in its place, where xmax is xmin + width if it holds x, y, width "
        "and height"
    )


def test_a_table_that_lacks_a_column_is_named_first(tmp_path):
    write_text(tmp_path / "a.csv", "image,bounds\na.jpg,10 10 20 20\n")
    write_text(tmp_path / "b.csv", "a.jpg,1,2,3,4,cat\n")
    write_text(tmp_path / "c.csv", "image,xmin,ymin,xmax,ymax\na.jpg,1,2,3,4\n")
    assert nearly_fitting(tmp_path).startswith("c.csv has columns image, xmin, ymin, xmax, ymax: class is missing")


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", "longitude,latitude\n1,2\n", "a.jpg,cat\nb.jpg,dog\n", "filename,size\na.jpg,[1 2 3]\n",
        "time,position\n1,[1 2 3 4]\n", "filename\na.jpg,1 2 3 4\n", "a.jpg,1,2,3\n", "x\0,y\n1,2\n",
    ],
)  # fmt: skip
def test_other_tables_are_not_named(tmp_path, text):
    write_text(tmp_path / "a.csv", text)
    assert nearly_fitting(tmp_path) == ""
