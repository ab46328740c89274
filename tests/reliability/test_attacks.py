"""Folders and archives made to do harm: one line each, at once, and nothing outside the folder is touched."""

import io
import json
import tarfile
import time

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.formats.table import open_reader
from frcnn_jax.data.prepared.voc_archive import extract_archive
from tests.reliability.targets import image_file


def coco(folder, **changed):
    (folder / "a.jpg").write_bytes(image_file(".jpg"))
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "cat"}]}
    content |= {"annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}]} | changed
    (folder / "train.json").write_text(json.dumps(content))
    return open_reader(folder, DataConfig(root=str(folder)))[1].read("train").records


@pytest.mark.parametrize(
    "name", ["../out.jpg", "/etc/out.jpg", "..\\out.jpg", "a/../../out.jpg", "C:\\out.jpg", "~/out.jpg"]
)
def test_names_do_not_point_outside(tmp_path, name):
    (tmp_path / "out.jpg").write_bytes(image_file(".jpg"))
    (tmp_path / "in").mkdir()
    images = [{"id": 1, "file_name": name}, {"id": 2, "file_name": "a.jpg"}]
    record = next(r for r in coco(tmp_path / "in", images=images) if r.image_id != "a")
    assert record.path is None
    assert [fault.kind for fault in record.faults] == ["missing_image"]


def test_numbers_and_nesting_that_json_allows(tmp_path):
    huge = {"image_id": 1, "category_id": 1, "bbox": [1, 10**400, 9, 9]}
    (record,) = coco(
        tmp_path, annotations=[huge], categories=[{"id": "9" * 5000, "name": "cat"}, {"id": 1, "name": "dog"}]
    )
    assert [fault.field for fault in record.faults] == ["bbox"]
    (tmp_path / "train.json").write_text('{"images": [], "annotations": [], "categories": ' + "[" * 100_000)
    with pytest.raises(ValueError, match=r"train\.json: not JSON, export it again"):
        open_reader(tmp_path, DataConfig(root=str(tmp_path)))


def yolo(folder, yaml: str):
    for name in ("images/train", "labels/train"):
        (folder / name).mkdir(parents=True)
    (folder / "images/train/a.jpg").write_bytes(image_file(".jpg"))
    (folder / "labels/train/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (folder / "data.yaml").write_text(yaml)
    return open_reader(folder, DataConfig(root=str(folder)))[1]


BOMB = "train: images/train\na0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 64))


@pytest.mark.parametrize(
    "yaml",
    [
        BOMB + "names: [*a63]\n",
        "b0: &b0 {x: 1}\n" + "".join(f"b{i}: &b{i}\n  <<: [{', '.join([f'*b{i - 1}'] * 9)}]\n" for i in range(1, 12))
        + "train: a\nnames: [cat]\n",
        "names: [cat]\ntrain: " + "[" * 1500,
        "names: [cat]\ntrain: 2001-99-99\n",
        "names: !!python/object/apply:os.system ['touch made']\ntrain: a\n",
    ],
)  # fmt: skip
def test_yaml_that_does_harm(tmp_path, yaml):
    started = time.process_time()
    with pytest.raises(ValueError, match=r"data\.yaml: not YAML in UTF-8, put it right or remove it") as error:
        yolo(tmp_path, yaml)
    assert time.process_time() - started < 2
    assert "\n" not in str(error.value)
    assert not (tmp_path / "made").exists()


def test_yaml_with_paths_of_any_kind(tmp_path):
    (tmp_path / "secret.txt").write_text("images/train/a.jpg\n")
    for number, place in enumerate(("../secret.txt", "/etc", "x" * 300, "a/" * 100_000, "\\0", "../" * 50)):
        reader = yolo(tmp_path / str(number), f'train: "{place}"\nnames: [cat]\n')
        for split in reader.splits:
            assert [record.path.name for record in reader.read(split).records] == ["a.jpg"]


def test_a_csv_that_is_no_table(tmp_path):
    coco(tmp_path)
    (tmp_path / "other.csv").write_bytes(b"filename,class\r,xmin\n")
    assert open_reader(tmp_path, DataConfig(root=str(tmp_path)))[0] == "coco"


def archive(path, *members: tuple[str, bytes, dict]):
    with tarfile.open(path, "w") as file:
        for name, content, more in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in more.items():
                setattr(info, field, value)
            file.addfile(info, io.BytesIO(content))
    return path


IMAGE = ("VOCdevkit/VOC2007/JPEGImages/a.jpg", b"pixels", {})


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (("../../JPEGImages/a.jpg", b"x", {}), "leads out of the archive"),
        (("VOCdevkit/../../JPEGImages/a.jpg", b"x", {}), "leads out of the archive"),
        (("/tmp/JPEGImages/a.jpg", b"x", {}), "leads out of the archive"),
        (("VOCdevkit/JPEGImages", b"", {"type": tarfile.SYMTYPE, "linkname": "../../.."}), "is not a file"),
        (("VOCdevkit/JPEGImages/b.jpg", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}), "is not a file"),
        (("VOCdevkit/JPEGImages/b.jpg", b"", {"type": tarfile.LNKTYPE, "linkname": "../x"}), "is not a file"),
        (("VOCdevkit/JPEGImages/b.jpg", b"", {"type": tarfile.FIFOTYPE}), "is not a file"),
        (("VOCdevkit/JPEGImages/b.jpg", b"", {"type": tarfile.CHRTYPE}), "is not a file"),
    ],
)
def test_archives_write_files_below_their_folder_alone(tmp_path, member, reason):
    box = tmp_path / "in/box"
    box.mkdir(parents=True)
    path = archive(box / "voc.tar", IMAGE, member)
    with pytest.raises(ValueError, match=rf"voc\.tar cannot be unpacked: its member .* {reason}; delete it") as error:
        extract_archive(path)
    assert "\n" not in str(error.value)
    assert {file.name for file in box.iterdir()} <= {"voc.tar", ".unpacking.lock"}
    assert [file.name for file in tmp_path.rglob("*.jpg")] == []


def test_an_archive_sets_no_modes_and_is_unpacked_as_a_whole(tmp_path):
    name, content, _ = IMAGE
    path = archive(tmp_path / "voc.tar", (name, content, {"mode": 0o4777, "uid": 77}), ("Other/x", b"x", {}))
    made = extract_archive(path)
    assert [file.name for file in made.rglob("*") if file.is_file()] == ["a.jpg"]
    assert (made / name).read_bytes() == content
    assert (made / name).stat().st_mode & 0o7111 == 0
    data = path.read_bytes()
    for cut in (100, 600):
        (tmp_path / "cut.tar").write_bytes(data[:cut])
        with pytest.raises(ValueError, match=r"cut\.tar cannot be unpacked: .*delete it to download it again"):
            extract_archive(tmp_path / "cut.tar")


def test_an_archive_that_is_cut_within_a_file(tmp_path):
    name, _, _ = IMAGE
    path = archive(tmp_path / "voc.tar", (name, bytes(5000), {}))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"voc\.tar cannot be unpacked: unexpected end of data; delete it to download"):
        extract_archive(path)
    assert {file.name for file in tmp_path.iterdir()} == {"voc.tar", ".unpacking.lock"}
