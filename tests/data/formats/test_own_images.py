"""Annotations that have lost their image, with namesakes in other folders."""

import dataclasses
import json

import pytest

from frcnn_jax.config import DataConfig, FaultPolicy
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.formats.matching.ids import missing_ids, unique_ids
from frcnn_jax.data.formats.table import open_reader
from frcnn_jax.data.formats.tree import ImageFile
from tests.data.formats.written import Picture, coco_json, write_labelimg, write_rows, write_text


def pictures(*names):
    """A picture for each `folder/stem`, in the class of its folder."""
    parts = [name.rpartition("/") for name in names]
    return [Picture(stem, folder, (30, 40), ((folder, (0, 0, 9, 9 + int(stem))),)) for folder, _, stem in parts]


def own(root, split="all"):
    """Classes of each image by its path, and the kinds of faults and names of the others."""
    records = open_reader(root, DataConfig())[1].read(split)
    assert records.faults == ()
    found = {r.path.relative_to(root).as_posix(): {item.name for item in r.objects} for r in records.records if r.path}
    lost = [(fault.kind, fault.value) for r in records.records if not r.path for fault in r.faults]
    return found, lost


@pytest.mark.parametrize(("images", "xml"), [("{}", "{}"), ("images/{}", "annotations/{}"), ("{}/a", "{}/b")])
def test_xml_that_has_lost_its_image_leaves_a_namesake_alone(tmp_path, images, xml):
    its = pictures(*(f"{kind}/{number}" for kind in ("cats", "dogs") for number in range(4)))
    write_labelimg(tmp_path, its, images=images, xml=xml)
    (tmp_path / images.format("dogs") / "0.jpg").unlink()
    (tmp_path / xml.format("cats") / "0.xml").unlink()
    found, lost = own(tmp_path)
    kept = [picture for picture in its if picture.stem != "0"]
    assert found == {f"{images.format(p.split)}/{p.name}": {p.split} for p in kept}
    assert lost == [("missing_image", "0")]


def test_labels_that_have_lost_their_image_leave_a_namesake_alone(tmp_path):
    its = pictures(*(f"{kind}/{number}" for kind in ("cats", "dogs") for number in range(4)))
    for picture in its:
        picture.save(tmp_path / "photos" / picture.split)
        number = ("cats", "dogs").index(picture.split)
        write_text(tmp_path / f"txt/{picture.split}/{picture.stem}.txt", f"{number} .5 .5 1 1\n")
    write_text(tmp_path / "classes.txt", "cats\ndogs\n")
    (tmp_path / "photos/dogs/0.jpg").unlink()
    (tmp_path / "txt/cats/0.txt").unlink()
    found, lost = own(tmp_path)
    assert found == {
        "photos/cats/0.jpg": set(),
        **{f"photos/{p.split}/{p.name}": {p.split} for p in its if p.stem != "0"},
    }
    assert lost == [("missing_image", "txt/dogs/0")]


def lists(root, form, its):
    """One file that names images with their folders."""
    if form == "coco":
        content = coco_json([])
        content["categories"] = [{"id": n, "name": name} for n, name in enumerate(sorted({p.split for p in its}))]
        names = [item["name"] for item in content["categories"]]
        for number, p in enumerate(its):
            box = {"bbox": [0, 0, 9, 9], "category_id": names.index(p.split)}
            content["images"].append({"id": number, "file_name": f"{p.split}/{p.name}", "height": 30, "width": 40})
            content["annotations"].append({"id": number, "image_id": number, **box})
        write_text(root / "annotations/all.json", json.dumps(content))
    else:
        header = "filename,class,xmin,ymin,xmax,ymax"
        write_rows(root, its, header, lambda p, *item: ",".join(map(str, (f"{p.split}/{p.name}", *item))))


@pytest.mark.parametrize("form", ["coco", "csv"])
@pytest.mark.parametrize("recurs", [True, False])
def test_a_listed_image_is_in_the_folder_of_its_name(tmp_path, form, recurs):
    """Names that recur need their folder; one that occurs once is that of an image that was moved."""
    its = pictures(*(f"scene2/{number}" for number in range(5)))
    lists(tmp_path, form, its)
    for picture in its[:4]:
        picture.save(tmp_path / "images/scene2")
    (tmp_path / "images/scene2/4.jpg").unlink(missing_ok=True)
    for picture in pictures("scene1/4", *(["scene1/3"] if recurs else [])):
        picture.save(tmp_path / "images/scene1")
    found, lost = own(tmp_path)
    if recurs:
        assert found == {f"images/scene2/{n}.jpg": {"scene2"} for n in range(4)}
        assert lost == [("missing_image", "scene2/4.jpg")]
    else:
        assert (len(found), lost) == (5, [])


@pytest.mark.parametrize("folders", [("photos/day1", "photos/day2"), ("images", "images_new"), ("data", "more")])
def test_annotations_in_one_of_the_folders_of_images(tmp_path, folders):
    """Names that occur once need no folder: here all XML files are in the first of two folders."""
    its = pictures(*(f"all/{number}" for number in range(10)))
    for picture in its:
        picture.save(tmp_path / folders[int(picture.stem) // 5])
        write_text(tmp_path / folders[0] / f"{picture.stem}.xml", picture.xml())
    found, lost = own(tmp_path)
    assert (len(found), lost) == (10, [])


@pytest.mark.parametrize("form", ["coco", "csv"])
def test_a_folder_that_is_missing_takes_no_image_of_another(tmp_path, form):
    its = pictures(*(f"{scene}/{number}" for scene in ("scene2", "scene1") for number in range(3)))
    lists(tmp_path, form, its)
    for picture in its:
        picture.save(tmp_path / "images" / picture.split)
    for picture in its[:3]:
        (tmp_path / "images/scene2" / picture.name).unlink()
    pictures("other/7")[0].save(tmp_path / "images/other")
    found, lost = own(tmp_path)
    assert found == {f"images/scene1/{n}.jpg": {"scene1"} for n in range(3)}
    assert lost == [("missing_image", f"scene2/{n}.jpg") for n in range(3)]


def test_two_files_of_a_split_with_the_same_names_in_two_folders(tmp_path):
    """One of the folders is missing."""
    its = pictures(*(f"{scene}/{number}" for scene in ("scene1", "scene2") for number in range(3)))
    for part in (its[:3], its[3:]):
        write_coco_part(tmp_path / f"train_{part[0].split}.json", part)
    for picture in [*its[:3], *pictures("other/7")]:
        picture.save(tmp_path / picture.split)
    found, lost = own(tmp_path, "train")
    assert found == {f"scene1/{n}.jpg": set() for n in range(3)}
    assert lost == [("missing_image", f"scene2/{n}.jpg") for n in range(3)]


def write_coco_part(path, its):
    content = coco_json([dataclasses.replace(picture, objects=()) for picture in its])
    for image, picture in zip(content["images"], its, strict=True):
        image["file_name"] = f"{picture.split}/{picture.name}"
    write_text(path, json.dumps(content))


@pytest.mark.parametrize("folder", ["C:\\data\\", "/content/train/images/", "old/", "photos/"])
def test_folders_of_another_machine_do_not_count(tmp_path, folder):
    """Not even where one of their names is that of a folder with other pictures."""
    its = pictures("cats/1", "dogs/2")
    for picture in its:
        picture.save(tmp_path / picture.split)
    pictures("photos/7")[0].save(tmp_path / "photos")
    content = coco_json([Picture(p.stem, "", p.size) for p in its], folder=folder)
    write_text(tmp_path / "annotations.json", json.dumps(content))
    assert own(tmp_path) == ({"cats/1.jpg": set(), "dogs/2.jpg": set()}, [])


def test_one_picture_beside_the_annotations_takes_no_image_from_them(tmp_path):
    its = pictures("all/0", "all/1", "all/2")
    write_labelimg(tmp_path, its, images="images", xml="xml")
    its[0].save(tmp_path / "xml")  # say, a drawing of its boxes
    found, lost = own(tmp_path)
    assert (set(found), lost) == ({"xml/0.jpg", "images/1.jpg", "images/2.jpg"}, [])


@pytest.mark.parametrize("answer", ["error", "drop"])
def test_a_missing_image_with_a_namesake_in_another_split(tmp_path, answer):
    its = [Picture(str(n), split, (30, 40), (("cat", (0, 0, 9, 9)),)) for n in range(3) for split in ("train", "test")]
    its = [p for p in its if (p.split, p.stem) != ("train", "2")]
    write_labelimg(tmp_path / "set", its)
    (tmp_path / "set/train/0.jpg").unlink()
    write_text(tmp_path / "set/train/2.xml", its[0].xml())
    faults = FaultPolicy(missing_image=answer, tolerance=0)
    config = DataConfig(root=str(tmp_path / "set"), tfds_dir=str(tmp_path / "tfds"), test="folder/test", faults=faults)
    if answer == "error":
        with pytest.raises(ValueError, match=r"has 2 faults \(missing_image 2\)"):
            open_dataset("folder/train", config)
    else:
        assert open_dataset("folder/train", config).image_ids == ("train/1",)
        assert open_dataset("folder/test", config).image_ids == ("0", "2", "test/1")


def test_ids_are_of_one_image_each():
    files = [ImageFile((), name, None) for name in ("a.jpg", "a.png", "a.jpg.png", "b.jpg")]
    files += [ImageFile(("b",), "b.jpg", None), ImageFile(("b",), "b.jpg.png", None)]
    ids = unique_ids(files)
    assert len(set(ids.values())) == len(files)
    assert list(ids.values())[:3] == ["a.jpg", "a.png", "a.jpg.png"]
    missing = missing_ids([("a.jpg", ()), ("0", ("x",)), ("0", ("y",)), ("c", ())], ids.values())
    assert missing == {("a.jpg", ()): "a.jpg (missing)", ("0", ("x",)): "x/0", ("0", ("y",)): "y/0", ("c", ()): "c"}
