"""Images by their content: five formats, orientation in each, and other files with image names."""

import dataclasses
import io
import re
import threading

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from frcnn_jax.config import Config, DataConfig
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.images import IMAGE_SUFFIXES, check_image, decode_image, exif_orientation, image_size, turned_size
from frcnn_jax.evaluation.looking.survey import survey_folder
from tests.data.voc_files import pixels

JPEG_OPTIONS = {
    "baseline": (),
    "progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts": (cv2.IMWRITE_JPEG_RST_INTERVAL, 5),
}


def saved(kind: str, image: np.ndarray, orientation: int = 1, **options) -> bytes:
    """The image written by Pillow, with an EXIF orientation."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(file, kind, exif=exif, **options)
    return file.getvalue()


def jpeg(*options: int) -> bytes:
    photograph = load_sample_images().images[0][::4, ::4]
    return cv2.imencode(".jpg", photograph, options)[1].tobytes()


def test_every_format_is_read_whatever_the_name():
    image = pixels()
    for suffix in (".png", ".bmp", ".tiff", ".webp", ".jpg"):
        data = cv2.imencode(suffix, image, (cv2.IMWRITE_WEBP_QUALITY, 101) if suffix == ".webp" else ())[1].tobytes()
        assert check_image(data) == (30, 40)
        assert suffix in IMAGE_SUFFIXES
        if suffix != ".jpg":
            np.testing.assert_array_equal(decode_image(data), image[..., ::-1], err_msg=suffix)
    lossy, gray = cv2.imencode(".webp", image)[1].tobytes(), cv2.imencode(".bmp", image[..., 0])[1].tobytes()
    assert check_image(lossy) == check_image(gray) == (30, 40)


def test_they_are_prepared_under_any_name(tmp_path, files):
    contents = {kind: cv2.imencode(kind, pixels(3))[1].tobytes() for kind in (".png", ".bmp", ".tiff", ".webp")}
    for name, data in zip(("a1", "a2", "b1", "t1"), contents.values(), strict=True):
        (files.root / f"JPEGImages/{name}.jpg").write_bytes(data)
    config = DataConfig(root=str(files.root), tfds_dir=str(tmp_path / "tfds"))
    found = [open_dataset(f"folder/{split}", config) for split in ("trainval", "test")]
    for image_id, data in (("a1", ".png"), ("a2", ".bmp"), ("b1", ".tiff"), ("t1", ".webp")):
        (dataset,) = [dataset for dataset in found if image_id in dataset.image_ids]
        index = dataset.image_ids.index(image_id)
        np.testing.assert_array_equal(dataset.read_image(index), decode_image(contents[data]))


@pytest.mark.parametrize("kind", ["WEBP", "BMP", "TIFF"])
def test_any_cut_is_found(kind):
    data = saved(kind, pixels())
    assert image_size(data) == (30, 40)
    for length in range(len(data)) if kind == "BMP" else range(0, len(data), 7):
        with pytest.raises(ValueError, match=r"cut short|neither JPEG nor PNG"):
            check_image(data[:length])


@pytest.mark.parametrize("options", JPEG_OPTIONS.values(), ids=JPEG_OPTIONS)
def test_jpeg_whose_data_end_early_is_named_and_nothing_is_printed(options, capfd):
    data = jpeg(*options)
    assert check_image(data) == (107, 160)
    for length in (len(data) * 9 // 10, len(data) * 2 // 3, len(data) - 12, len(data) - 4):
        assert image_size(data[:length] + b"\xff\xd9") == (107, 160), "the end mark is there"
        with pytest.raises(ValueError, match="JPEG cut short: its data end before the last pixel"):
            check_image(data[:length] + b"\xff\xd9")
    assert capfd.readouterr() == ("", "")


def test_bytes_too_many_in_a_jpeg_change_no_pixel_and_pass(capfd):
    data = jpeg()
    assert check_image(data[:-2] + b"camera" + data[-2:]) == (107, 160)
    capfd.readouterr()  # of OpenCV, which cannot be told to be quiet


def test_jpegs_are_checked_in_threads():
    data, cut, found = jpeg(), jpeg()[:-40] + b"\xff\xd9", []

    def check():
        for _ in range(20):
            check_image(data)
            with pytest.raises(ValueError, match="cut short"):
                check_image(cut)
        found.append(True)

    threads = [threading.Thread(target=check) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(kind, orientation):
    image = cv2.resize(pixels(), (40, 32), interpolation=cv2.INTER_NEAREST)
    data = saved(kind, image, orientation, **({"lossless": True} if kind == "WEBP" else {}))
    assert exif_orientation(data) == orientation
    lying, turned = decode_image(data), decode_image(data, orientation)
    assert check_image(data) == lying.shape[:2] == (32, 40), "the frame of the file"
    assert turned.shape[:2] == turned_size((32, 40), orientation) == ((40, 32) if orientation > 4 else (32, 40))
    # OpenCV and other viewers turn it likewise.
    shown = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(turned, shown)
    if kind != "JPEG":
        np.testing.assert_array_equal(lying, image)


def test_gray_and_packed_tiff():
    for image, options in ((pixels()[..., 0], {}), (pixels(), {"compression": "tiff_lzw"})):
        assert check_image(saved("TIFF", image, **options)) == (30, 40)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "HEIC, which cannot be read: convert it to JPEG"),
        (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic", "HEIC, which cannot be read: convert it to JPEG"),
        (b"\x00\x00\x00\x1cftypavif", "AVIF"),
        (b"GIF89a", "GIF"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"<!DOCTYPE html>", "the download failed"),
        (b"BMW", "neither JPEG nor PNG, WebP, BMP or TIFF"),
        (b"RIFF\x08\x00\x00\x00WEBPabcd", "WebP without an image"),
        (b"II*\x00\x08\x00\x00\x00", "TIFF cut short"),
    ],
)
def test_what_cannot_be_read_is_named(data, message):
    with pytest.raises(ValueError, match=message):
        check_image(data)
    assert exif_orientation(data) == 1


def commands(text):
    """The programs of `python -c` in a message."""
    return re.findall(r'python -c "([^"]*)"', text)


@pytest.mark.parametrize(("bits", "most", "factor"), [(10, 3, 4), (12, 15, 16), (14, 63, 64)])
def test_images_of_16_bits_that_become_dark_are_counted(tmp_path, files, caplog, monkeypatch, bits, most, factor):
    config = DataConfig(root=str(files.root), tfds_dir=str(tmp_path / "tfds"))
    gray, largest = pixels()[..., 0].astype(np.uint32), (1 << bits) - 1
    gray[0, 0], gray[0, 1] = 0, 255
    few, whole = (gray * largest // 255).astype(np.uint16), (gray * 257).astype(np.uint16)
    alpha = np.dstack([few, few, few, np.full_like(few, 65535)])
    contents = {
        "a1": (".png", alpha),
        "a2": (".tiff", few),
        "b1": (".png", whole),
        "t1": (".png", gray.astype(np.uint8)),
    }
    for name, (kind, image) in contents.items():
        (files.root / f"JPEGImages/{name}.jpg").unlink()
        (files.root / f"JPEGImages/{name}{kind}").write_bytes(cv2.imencode(kind, image)[1].tobytes())
    dataset = open_dataset("folder/trainval", config)
    (said,) = [text for text in caplog.messages if "16 bits" in text]
    assert f"2 images have 16 bits and values up to {largest} of 65535, which become at most {most} of 255: " in said
    assert "(JPEGImages/a2.tiff, JPEGImages/a1.png)" in said
    assert dataset.read_image(dataset.image_ids.index("a1")).max() == most

    (command,) = commands(said)
    assert f"alpha=1/{factor})" in command
    monkeypatch.chdir(tmp_path)
    (tmp_path / "IN").write_bytes((files.root / "JPEGImages/a2.tiff").read_bytes())
    exec(command)
    np.testing.assert_allclose(decode_image((tmp_path / "OUT.png").read_bytes())[..., 0], gray, atol=1)

    # Survey without and with decoding.
    for verify in (False, True):
        survey = survey_folder(Config(data=dataclasses.replace(config, verify=verify)))
        (said,) = [note for note in survey.notes if "16 bits" in note]
        assert ("2 images have 16 bits and values" in said, "3 images have 16 bits, read as 8" in said) == (
            verify,
            not verify,
        )


@pytest.mark.parametrize(
    ("kind", "text"), [("f4", "32-bit floats"), ("f8", "64-bit floats"), ("i4", "32-bit integers")]
)
def test_tiff_of_floats_is_named_with_its_conversion(tmp_path, monkeypatch, kind, text):
    image = pixels()[..., 0].astype(kind)
    data = saved("TIFF", image) if kind != "f8" else cv2.imencode(".tiff", image)[1].tobytes()
    for check in (image_size, check_image):
        with pytest.raises(ValueError, match=f"TIFF of {text}, which cannot be read: convert it to 8 bits") as caught:
            check(data)
    (command,) = commands(str(caught.value))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "IN.tif").write_bytes(data)
    exec(command)
    assert check_image((tmp_path / "OUT.png").read_bytes()) == (30, 40)
