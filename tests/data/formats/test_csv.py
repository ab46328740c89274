"""CSV files as written by TensorFlow's tutorials and Roboflow, and their faults."""

import re

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.formats.csv_files.reader import CsvReader
from frcnn_jax.data.formats.table import open_reader
from tests.data.formats.written import PICTURES, Picture, by_split, write_csv, write_rows, write_text

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax"


def one_file(root, *rows, header=HEADER, name="labels.csv"):
    for picture in PICTURES[:2]:
        picture.save(root)
    write_text(root / name, "\n".join([header, *rows]) + "\n")
    reader = CsvReader(root, DataConfig())
    return reader.read(reader.splits[0])


def test_one_file_of_all_images(tmp_path):
    rows = ["a_2.jpg,517,333,bee,2,3,516,332", "a_1.jpg,40,30,cat,1,1,40,30", "a_2.jpg,517,333,cat, 4 ,4.0,9,9.5"]
    first, second = one_file(tmp_path, *rows).records
    assert (first.image_id, first.size, first.objects[0].box) == ("a_1", (30, 40), (0, 0, 40, 30))
    assert [(item.index, item.name, item.box) for item in second.objects] == [
        (0, "bee", (1, 2, 516, 332)),
        (2, "cat", (3, 3, 9, 9.5)),
    ]
    assert first.notation.describe(first.objects[0].box) == "xmin 1, ymin 1, xmax 40, ymax 30"


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_other_columns_other_order_other_delimiters(tmp_path, mark, delimiter):
    rows = ["Class,image_id,FileName, xmin,ymin,xmax,ymax", '"cat, black",7,images/a_1.jpg,1,1,40,30']
    if delimiter != ",":
        rows = [row.replace(", black", "").replace(",", delimiter) for row in rows]
    (record,) = one_file(tmp_path, *rows[1:], header=mark + rows[0]).records
    assert (record.image_id, record.size) == ("a_1", None)
    assert record.objects[0].name == ("cat, black" if delimiter == "," else "cat")


def test_faults_and_images_without_objects(tmp_path):
    rows = ["a_1.jpg,40,30,,,,,", "a_2.jpg,517,333,,1,1,2,2", "a_2.jpg,517,333,cat,1,x,2,2",
            "a_2.jpg,517,333,cat,1,1,2", "", "lost.png,0,0,cat,1,1,2,2",
            ",1,1,cat,1,1,2,2", "a_2.jpg,518,333,ant,1,1,2,2"]  # fmt: skip
    records = one_file(tmp_path, *rows)
    first, second, lost = records.records
    assert (first.objects, first.faults, first.size) == ((), (), (30, 40))
    assert [(item.name, item.index) for item in second.objects] == [("ant", 6)]
    found = [(fault.kind, fault.object, fault.field, fault.value) for fault in second.faults]
    assert found == [
        ("unreadable_annotation", 1, "class", ""),
        ("unreadable_annotation", 2, "ymin", "x"),
        ("unreadable_annotation", 3, "ymax", ""),
        ("size_mismatch", None, "width, height", "517 x 333, 518 x 333"),
    ]
    assert ([fault.kind for fault in lost.faults], lost.size) == (["missing_image"], (0, 0))
    assert [str(fault) for fault in records.faults] == [
        "labels.csv: object 5: filename = '': missing [unreadable_annotation]"
    ]
    assert str(second.faults[0]).startswith("labels.csv (a_2.jpg): object 1: class = ''")


def test_roboflow_and_two_files_of_one_split(tmp_path):
    for split, its in by_split(PICTURES).items():
        write_csv(tmp_path / "other", its)
        folder = tmp_path / "set" / {"validation": "valid"}.get(split, split)
        for picture in its:
            picture.save(folder)
        name = {"validation": "val"}.get(split, split)
        write_text(folder / "_annotations.csv", (tmp_path / f"other/{name}_labels.csv").read_text())
    reader = CsvReader(tmp_path / "set", DataConfig())
    assert reader.splits == ("train", "validation", "test")
    assert [record.image_id for record in reader.read("train").records] == ["a_1", "a_2"]
    write_text(tmp_path / "set/train_labels.csv", (tmp_path / "other/train_labels.csv").read_text())
    with pytest.raises(
        ValueError, match=r"train/_annotations.csv and train_labels.csv are both|train_labels.csv and train/"
    ):
        CsvReader(tmp_path / "set", DataConfig())


def test_text_that_is_not_utf8_is_named(tmp_path):
    one_file(tmp_path, "a_1.jpg,40,30,cat,1,1,40,30")
    (tmp_path / "labels.csv").write_bytes(f"{HEADER}\na_1.jpg,40,30,Käse,1,1,40,30\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"labels.csv: not UTF-8 text of rows, save it as that \("):
        CsvReader(tmp_path, DataConfig())


FEW = [
    Picture("p_1", "train", (30, 40), (("cat", (1, 2, 30, 20)), ("ant", (5, 6, 20, 18)))),
    Picture("t_1", "test", (30, 40), (("cat", (3, 2, 30, 20)),)),
]


def of(root, split):
    records = CsvReader(root, DataConfig()).read(split)
    assert not any(faults for faults in (records.faults, *(record.faults for record in records.records)))
    return [(record.path.stem, item.name, item.box) for record in records.records for item in record.objects]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        (HEADER, lambda p, *its: (p.stem, 40, 30, *its)),
        (HEADER, lambda p, *its: (f"C:\\a\\{p.name}", 40, 30, *its)),
        (f",{HEADER}", lambda p, *its: (7, p.name, 40, 30, *its)),
        (
            '"image","xmin","ymin","xmax","ymax","label"',
            lambda p, name, *box: (f'"{p.name}"', *(f"{value}.0" for value in box), f'"{name}"'),
        ),
        ("label,class_name,image_name,x_min,y_min,x_max,y_max", lambda p, name, *box: (3, name, p.name, *box)),
        ("filename;class;xmin;ymin;xmax;ymax", lambda p, name, *box: (p.name, name, *(f"{value},0" for value in box))),
        ("filename\tclass\txmin\tymin\txmax\tymax", lambda p, name, *box: (p.name, name, *(f"{v},0" for v in box))),
        ("class,xmax,filename,ymin,xmin,ymax", lambda p, name, a, b, c, d: (name, c, p.name, b, a, d)),
        ("image_id,x_min,y_min,x_max,y_max,class_name", lambda p, name, *box: (p.stem, *box, name)),
        ("ImageID,LabelName,XMin,XMax,YMin,YMax", lambda p, name, a, b, c, d: (p.stem, name, a, c, b, d)),
        ("image_id,path,x1,y1,x2,y2,label", lambda p, name, *box: (7, f"/data/{p.name}", *box, name)),
        ("img;x1;y1;x2;y2;category_name", lambda p, name, *box: (p.name, *box, name)),
    ],
)
def test_columns_as_tools_and_people_write_them(tmp_path, header, row):
    mark = next((mark for mark in ";\t" if mark in header), ",")
    root = write_rows(tmp_path, FEW, header, lambda *its: mark.join(map(str, row(*its))))
    for picture in FEW:  # in images/train and images/test
        assert of(root, picture.split) == [(picture.stem, *item) for item in picture.objects]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_with_its_mark(tmp_path, encoding):
    root = write_rows(tmp_path, FEW, "filename;class;xmin;ymin;xmax;ymax",
                      lambda p, *its: ";".join(map(str, (p.name, *its))))  # fmt: skip
    text = (root / "labels.csv").read_text().replace("cat", "K\u00e4tzchen \u732b")
    mark = "\ufeff" if encoding == "utf-16-be" else ""  # the other writes its own
    (root / "labels.csv").write_bytes((mark + text).encode(encoding))
    assert CsvReader.fits(root)
    names = {"cat": "K\u00e4tzchen \u732b"}
    expected = [(p.stem, names.get(name, name), box) for p in FEW for name, box in p.objects]
    assert [*of(root, "train"), *of(root, "test")] == expected


@pytest.mark.parametrize(
    ("header", "lack"),
    [
        ("picture,class,xmin,ymin,xmax,ymax", "filename is missing"),
        ("filename,x1,y1,x2,y2", "class is missing"),
        ("filename;class;xmin;ymin;w;h", "xmax and ymax are missing"),
    ],
)
@pytest.mark.parametrize("setting", ["auto", "csv"])
def test_columns_that_are_missing_are_named(tmp_path, header, lack, setting):
    root = write_rows(tmp_path, FEW, header, lambda *its: "1,2,3,4,5,6")
    config = DataConfig(root=str(root), format=setting)
    columns = ", ".join(re.split("[,;]", header))
    with pytest.raises(FileNotFoundError, match=f"{root}: labels.csv has columns {columns}: {lack}, rename the column"):
        open_reader(root, config)


@pytest.mark.parametrize("header", ["filename,class,xmin,x,y", "class,box,size"])
def test_a_table_of_other_things_is_no_table_of_boxes(tmp_path, header):
    root = write_rows(tmp_path, FEW, header, lambda *its: "1,2,3")
    # Named, as it may be the table that the reader was to find.
    with pytest.raises(FileNotFoundError, match=r"not known\. It has 2 images and labels\.csv, but no folder"):
        open_reader(root, DataConfig(root=str(root)))


@pytest.mark.parametrize(
    ("column", "values"),
    [("split", {"train": "TRAIN", "test": "TEST"}), ("Set", {"train": "training", "test": "test"})],
)
def test_a_column_gives_the_splits(tmp_path, column, values):
    def row(picture, *its):
        return ",".join(map(str, (values[picture.split], picture.name, 40, 30, *its)))

    root = write_rows(tmp_path, FEW, f"{column},{HEADER}", row)
    for picture in FEW:
        assert of(root, picture.split) == [(picture.stem, *item) for item in picture.objects]
    write_text(root / "train.csv", (root / "labels.csv").read_text())
    with pytest.raises(ValueError, match=r"labels.csv and train.csv are both of split 'train'; leave one"):
        CsvReader(root, DataConfig())
