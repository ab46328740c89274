"""Annotations of other tools are named, with the export to choose; annotations beside the folder are pointed at."""

import json

import cv2
import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.formats.foreign import annotations_beside, foreign_format
from frcnn_jax.data.formats.table import open_reader
from tests.data.voc_files import annotation_xml, object_xml, pixels

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<!-- made by hand -->
<annotations>
  <version>1.1</version>
  <image id="0" name="a.jpg" width="40" height="30"><box label="cat" xtl="1" ytl="2" xbr="10" ybr="12"/></image>
</annotations>
"""
LABELME = {
    "version": "5.4.1",
    "flags": {},
    "shapes": [{"label": "cat", "points": [[1, 2], [10, 12]], "shape_type": "rectangle"}],
    "imagePath": "a.jpg",
    "imageData": "A" * 3_000_000,
}
VIA_IMAGE = {
    "filename": "a.jpg",
    "size": 900,
    "regions": [{"shape_attributes": {"name": "rect", "x": 1}, "region_attributes": {"class": "cat"}}],
    "file_attributes": {},
}
VIA_CSV = (
    "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
    'a.jpg,900,"{}",1,0,"{""name"":""rect"",""x"":1}","{""class"":""cat""}"\n'
)
STUDIO = [
    {
        "id": 1,
        "annotations": [{"result": [{"type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["cat"]}}]}],
        "data": {"image": "/data/upload/1/a.jpg"},
    }
]
STUDIO_MIN = [{"image": "/data/upload/1/a.jpg", "id": 1, "label": [{"x": 1, "rectanglelabels": ["cat"]}]}]
STUDIO_CSV = (
    "image,id,label,annotator,annotation_id,created_at,updated_at,lead_time\n"
    '/data/upload/1/a.jpg,1,"[{""x"": 1, ""rectanglelabels"": [""cat""]}]",1,1,2024,2024,3.2\n'
)
STUDIO_ROWS = 'id\timage\tboxes\n1\ta.jpg\t"[{""x"": 1, ""rectanglelabels"": [""cat""]}]"\n'
SUPERVISELY = {
    "description": "",
    "tags": [],
    "size": {"height": 30, "width": 40},
    "objects": [{"classTitle": "cat", "points": {"exterior": [[1, 2], [10, 12]]}}],
}


@pytest.mark.parametrize(
    ("file", "content", "name", "cure"),
    [
        ("annotations.xml", CVAT, "CVAT's own XML", '"COCO 1.0" or "PASCAL VOC 1.1"'),
        ("a.json", LABELME, "LabelMe's JSON", "labelme2coco FOLDER"),
        ("via.json", {"_via_settings": {}, "_via_img_metadata": {"a.jpg900": VIA_IMAGE}}, "VIA", "in COCO format"),
        ("via_region.json", {"a.jpg900": VIA_IMAGE}, "VIA", "in COCO format"),
        ("via.csv", VIA_CSV, "VIA", "in COCO format"),
        ("project.json", STUDIO, "Label Studio's JSON", "COCO, YOLO or Pascal VOC XML"),
        ("old.json", [{"completions": [], "data": {}}], "Label Studio's JSON", "COCO, YOLO or Pascal VOC XML"),
        ("min.json", STUDIO_MIN, "Label Studio's JSON", "COCO, YOLO or Pascal VOC XML"),
        ("project-1.csv", STUDIO_CSV, "Label Studio's table", "COCO, YOLO or Pascal VOC XML"),
        ("project-1.tsv", STUDIO_ROWS, "Label Studio's table", "COCO, YOLO or Pascal VOC XML"),
        ("ds0/ann/a.jpg.json", SUPERVISELY, "Supervisely's JSON", "COCO, YOLO or Pascal VOC"),
    ],
)
def test_other_tools_are_named(tmp_path, file, content, name, cure):
    root = tmp_path / "data"
    path = root / file
    path.parent.mkdir(parents=True)
    (tmp_path / "labels").mkdir()
    cv2.imwrite(str(root / "a.jpg"), pixels())
    (root / "meta.json").write_text('{"classes": [{"title": "cat"}], "tags": []}')
    path.write_text(
        "\ufeff" * (file == "project.json") + (content if isinstance(content, str) else json.dumps(content))
    )
    with pytest.raises(FileNotFoundError) as caught:
        open_reader(root, DataConfig())
    line = str(caught.value)
    assert line.startswith(f"data.root = {root}: {file} is ")
    assert name in line
    assert f"which is not read: {'convert' if name.startswith('LabelMe') else 'export'} it " in line
    assert cure in line
    assert "\n" not in line
    assert len(line) < len(str(root)) + 330
    assert str(tmp_path / "labels") not in line


def test_a_folder_that_is_read_is_not_foreign(tmp_path):
    """The files of another tool beside annotations that are read do not matter."""
    cv2.imwrite(str(tmp_path / "a.jpg"), pixels())
    (tmp_path / "a.json").write_text(json.dumps(LABELME))
    (tmp_path / "a.xml").write_text(annotation_xml(object_xml()))
    assert open_reader(tmp_path, DataConfig())[0] == "labelimg"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.json", {"shapes": 3}),
        ("b.json", [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 1}}]}]),
        ("package.json", {"name": "x", "size": 3, "tags": []}),
        ("c.json", "[" * 100_000),
        ("d.xml", "<annotations/>"),
        ("e.xml", "<?x?><!-- y -->" * 10_000 + "<other/>"),
        ("f.csv", "step,loss\n1,region_shape_attributes\n"),
        ("g.csv", "annotator,loss\n1,annotation_id\n"),
    ],
)
def test_other_files_are_nobodys(tmp_path, file, content):
    (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content))
    assert foreign_format(tmp_path) == ""


def test_few_files_are_read(tmp_path, monkeypatch):
    for folder in "abcdefgh":
        (tmp_path / folder).mkdir()
        for number in range(5):
            (tmp_path / folder / f"{number}.json").write_text("{}")
    read = []
    monkeypatch.setattr("frcnn_jax.data.formats.foreign._beginning", lambda path: read.append(path) or b"")
    assert foreign_format(tmp_path) == ""
    assert [str(path.relative_to(tmp_path)) for path in read] == [f"{a}/{b}.json" for a in "abc" for b in (0, 1)]


@pytest.mark.parametrize(
    ("file", "content", "found"),
    [
        ("Labels/a.txt", "", "Labels"),
        ("objects.csv", "filename,xmin,ymin\n", "objects.csv"),
        ("coco.json", '{"info": {}, "images": []}', "coco.json"),
        ("data.yaml", "path: .\nnames: [cat]\n", "data.yaml"),
        ("home.json", '{"name": "x"}', None),
        ("home.csv", "day,money\n", None),
        ("docker.yaml", "services: 1\n", None),
        ("other/labels/a.txt", "", None),
        (".labels/a.txt", "", None),
        ("labels", "a file", None),
    ],
)
def test_annotations_beside_the_folder_are_pointed_at(tmp_path, file, content, found):
    root, path = tmp_path / "set/images", tmp_path / "set" / file
    root.mkdir(parents=True)
    cv2.imwrite(str(root / "a.jpg"), pixels())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    expected = None if found is None else tmp_path / "set" / found
    assert annotations_beside(root) == expected
    with pytest.raises(FileNotFoundError, match="its format is not known") as caught:
        open_reader(root, DataConfig())
    if found is None:
        assert str(caught.value).endswith("by --data.root")
    else:
        assert str(caught.value).endswith(f"; if its annotations are {expected}, that is {tmp_path / 'set'}")
