"""Readers of files that come from elsewhere, with small valid files of each kind, for `fuzz.py`."""

import dataclasses
import functools
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from frcnn_jax.config import DataConfig
from frcnn_jax.data.files import file_hash
from frcnn_jax.data.formats.table import FORMATS, open_reader
from frcnn_jax.data.images import check_image, decode_image, exif_orientation
from frcnn_jax.data.prepared.voc_archive import extract_archive
from frcnn_jax.data.proposals.files import read_proposal_file
from tests.data.voc_files import annotation_xml, object_xml, pixels, with_exif_orientation
from tests.reliability.mutate import Repair, in_png, in_tar, in_zip


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of file and its reader. The reader returns, or raises one of `errors` with a message of one line."""

    file: str  # below the folder that the reader is given
    seeds: Callable[[Path], list[bytes]]  # valid files; they may be made in the folder
    read: Callable[[Path], None]  # gets the folder with the file in it
    beside: Callable[[Path], None] = lambda folder: None  # writes what else is in the folder
    errors: tuple[type[BaseException], ...] = (ValueError,)
    text: bool = False
    repair: Repair | None = None
    starts: bool = False  # the reader may start a process


def image_file(suffix: str, *options: int, depth: type = np.uint8, alpha: bool = False) -> bytes:
    image = pixels(1).astype(depth) * (257 if depth is np.uint16 else 1)
    image = np.dstack([image, image[:, :, :1]]) if alpha else image
    return cv2.imencode(suffix, image, options)[1].tobytes()


def _read_image(folder: Path) -> None:
    data = (folder / "image").read_bytes()
    mark = exif_orientation(data)
    check_image(data)
    assert decode_image(data, mark).dtype == np.uint8


def _images(**more: Callable[[], list[bytes]]) -> dict[str, Target]:
    return {
        name: Target("image", lambda folder, make=make: make(), _read_image, repair=in_png if name == "png" else None)
        for name, make in more.items()
    }


def _jpegs() -> list[bytes]:
    plain = image_file(".jpg")
    progressive = image_file(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    restarts = image_file(".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 2)
    gray = cv2.imencode(".jpg", pixels(2)[:, :, 0])[1].tobytes()
    return [plain, progressive, restarts, gray, with_exif_orientation(plain, 6)]


def _pngs() -> list[bytes]:
    return [
        image_file(".png"),
        image_file(".png", depth=np.uint16),
        image_file(".png", alpha=True),
        image_file(".png", 16, 9),
    ]


def _tiffs() -> list[bytes]:
    kinds = (1, 5, 8)  # not compressed, LZW, deflate
    return [image_file(".tif", cv2.IMWRITE_TIFF_COMPRESSION, kind) for kind in kinds] + [
        image_file(".tif", depth=np.uint16)
    ]


def _webps() -> list[bytes]:
    lossy = image_file(".webp", cv2.IMWRITE_WEBP_QUALITY, 30)
    return [image_file(".webp", cv2.IMWRITE_WEBP_QUALITY, 101), lossy, image_file(".webp", alpha=True)]


def _read_folder(folder: Path, name: str) -> None:
    config = DataConfig(root=str(folder), format=name)
    with_auto = FORMATS[name].fits(folder)
    reader = open_reader(folder, config)[1]
    for split in reader.splits:
        for record in reader.read(split).records:
            assert record.path is None or record.path.resolve().is_relative_to(folder.resolve()), record.path
            assert all(isinstance(corner, float | int) for item in record.objects for corner in item.box)
        json.dumps(reader.content([split], file_hash)).encode()
    assert with_auto in (True, False)


def _beside(*files: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name in files:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image_file(path.suffix))

    return write


def _folder(name: str, file: str, texts: list[str], *images: str, more: dict[str, str] | None = None) -> Target:
    def beside(folder: Path) -> None:
        _beside(*images)(folder)
        for other, text in (more or {}).items():
            (folder / other).parent.mkdir(parents=True, exist_ok=True)
            (folder / other).write_text(text)

    seeds = [text.encode() for text in texts]
    return Target(
        *(file, lambda folder: seeds, functools.partial(_read_folder, name=name), beside),
        errors=(ValueError, FileNotFoundError),
        text=True,
    )


_XML = [
    annotation_xml(object_xml(), object_xml("dog", (1, 1, 40, 30)), filename="a.jpg"),
    '<?xml version="1.0" encoding="utf-8"?>\n' + annotation_xml(object_xml("ö", (1.5, 2, 3e1, 4)), filename="x/a.jpg"),
    annotation_xml(object_xml(extra="<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>")),
]


def _coco() -> list[str]:
    def item(number: int, **more: object) -> dict:
        return {"id": number, "image_id": 1, "category_id": 7, "bbox": [1, 2.5, 10, 12], "area": 120, **more}

    outline = item(2, bbox=[], segmentation=[[1, 2, 10, 2, 10, 9.5]], iscrowd=0)
    images = [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}, {"id": 2, "file_name": "sub/b.jpg"}]
    categories = [{"id": 7, "name": "cat"}, {"id": 90, "name": "dog"}]
    first = {"images": images, "annotations": [item(1), outline], "categories": categories}
    second = {"categories": categories, "images": images[:1], "annotations": [item(1, iscrowd=1, category_id="90")]}
    return [json.dumps(first), json.dumps(second, indent=1)]


_YAML = [
    "path: ../data\ntrain: images/train\nval: images/val\nnc: 2\nnames: ['cat', 'dog']\nkpt_shape: [2, 3]\n",
    "train: images/train\nnames:\n  0: cat\n  1: dog\n",
]
_ROWS = ["0 0.5 0.5 0.25 0.5\n1 0.1 0.2 0.1 0.1\n", "1 0.1 0.1 0.9 0.1 0.9 0.8\n0 .5 .5 1 1\n"]
_CSV = [
    "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,40,30,cat,1,2,10,12\nsub/b.jpg,40,30,dog,1,1,40,30\na.jpg,,,,,,,\n",
    'image;label;x_min;y_min;x_max;y_max;split\n"a.jpg";cat;1,5;2;10;12;train\nb.jpg;dog;1;1;40;30;val\n',
]
_LISTS = ["a\nb 1\n", '"a" -1\nb\n\n']


def _mats(folder: Path) -> list[bytes]:
    from scipy.io import savemat

    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = np.array([[1, 1, 10, 12], [2, 3, 20, 30]]), np.zeros((0, 4), np.uint16)
    names = np.array(["a", "b"], object).reshape(2, 1)
    found = []
    for content in ({"boxes": cells}, {"boxes": cells, "images": names}, {"boxes": np.ones((2, 4)), "more": "text"}):
        for options in ({}, {"do_compression": True}, {"format": "4"}):
            if options.get("format") == "4" and content["boxes"].dtype == object:
                continue
            savemat(folder / "seed.mat", content, **options)
            found.append((folder / "seed.mat").read_bytes())
    return found


def _npzs(folder: Path) -> list[bytes]:
    found = []
    for save in (np.savez, np.savez_compressed):
        save(folder / "seed.npz", a=np.array([[1, 2, 10, 12.5]]), b=np.zeros((0, 4), np.float32))
        found.append((folder / "seed.npz").read_bytes())
    metadata = json.dumps({"format": "frcnn_jax proposals", "version": 1, "fingerprint": "", "settings": {}})
    arrays = {"boxes": np.ones((3, 4), np.float32), "offsets": np.array([0, 1, 3]), "indices": np.arange(2)}
    np.savez(folder / "seed.npz", **arrays, image_ids=np.array(["a", "b"]), metadata=np.array(metadata))
    return [*found, (folder / "seed.npz").read_bytes()]


def _read_proposals(folder: Path, name: str) -> None:
    for ids in (["a", "b"], ["a"]):
        for boxes in read_proposal_file(folder / name, ids, np.full((len(ids), 2), 100), "clip", subset=True):
            assert boxes.dtype == np.float32
            assert boxes.shape[1:] == (4,)


def _tars(folder: Path) -> list[bytes]:
    root = folder / "seed"
    for name in ("JPEGImages/a.jpg", "Annotations/a.xml", "ImageSets/Main/train.txt", "Other/x"):
        path = root / "VOCdevkit/VOC2007" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    with tarfile.open(folder / "seed.tar", "w") as file:
        file.add(root / "VOCdevkit", "VOCdevkit")
    return [(folder / "seed.tar").read_bytes()]


def _read_tar(folder: Path) -> None:
    made = extract_archive(folder / "box/voc.tar")
    for path in made.rglob("*"):
        assert path.resolve().is_relative_to(made.resolve()), path
        assert path.is_symlink() or path.is_dir() or path.is_file(), path


TARGETS = {
    **_images(
        jpeg=_jpegs,
        png=_pngs,
        webp=_webps,
        bmp=lambda: [image_file(".bmp"), cv2.imencode(".bmp", pixels(3)[:, :, 0])[1].tobytes()],
        tiff=_tiffs,
    ),
    "xml": _folder("labelimg", "a.xml", _XML, "a.jpg"),
    "coco": _folder("coco", "train.json", _coco(), "a.jpg", "sub/b.jpg"),
    "yolo": _folder(
        "yolo", "labels/train/a.txt", _ROWS, "images/train/a.jpg", "images/val/b.jpg",
        more={"data.yaml": _YAML[1], "labels/val/b.txt": _ROWS[0]},
    ),
    "yolo_yaml": _folder(
        "yolo", "data.yaml", _YAML, "images/train/a.jpg", "images/val/b.jpg",
        more={"labels/train/a.txt": _ROWS[0], "labels/val/b.txt": _ROWS[1]},
    ),
    "csv": _folder("csv", "train.csv", _CSV, "a.jpg", "sub/b.jpg", "b.jpg"),
    "voc_list": _folder(
        "voc", "ImageSets/Main/train.txt", _LISTS, "JPEGImages/a.jpg", "JPEGImages/b.jpg",
        more={"Annotations/a.xml": _XML[0], "Annotations/b.xml": _XML[2]},
    ),
    "mat": Target("boxes.mat", _mats, functools.partial(_read_proposals, name="boxes.mat")),
    "npz": Target("boxes.npz", _npzs, functools.partial(_read_proposals, name="boxes.npz"), repair=in_zip),
    "tar": Target("box/voc.tar", _tars, _read_tar, repair=in_tar, errors=(ValueError, OSError)),
}  # fmt: skip
