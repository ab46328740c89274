"""Encoded images: decoded to RGB, and found out when they are cut short."""

import cv2
import numpy as np
import pytest

from frcnn_jax.data.images import check_image, decode_image, encode_image, exif_orientation, image_size
from tests.data.voc_files import pixels, with_exif_orientation


def encode(suffix: str, image: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, image, options)[1].tobytes()


def test_decode_gives_rgb():
    image = np.zeros((3, 5, 3), np.uint8)
    image[..., 2] = 200  # OpenCV writes BGR: this is red
    decoded = decode_image(encode(".png", image))
    assert decoded.shape == (3, 5, 3)
    assert decoded[0, 0].tolist() == [200, 0, 0]


def test_encoded_images_are_decoded_again():
    image = pixels()[:, ::-1]
    np.testing.assert_array_equal(decode_image(encode_image(image, ".png")), image)
    coarse = encode_image(image, ".jpg", (cv2.IMWRITE_JPEG_QUALITY, 10))
    assert len(coarse) < len(encode_image(image, ".jpg"))


@pytest.mark.parametrize(("suffix", "longest"), [(".jpg", 65500), (".JPEG", 65500), (".webp", 16383), (".png", 70000)])
def test_an_image_too_long_for_its_format_is_reduced(suffix, longest):
    for shape in ((8, 70000, 3), (70000, 8, 3)):
        decoded = decode_image(encode_image(np.full(shape, 99, np.uint8), suffix))
        assert max(decoded.shape) == longest
        assert abs(decoded.astype(int) - 99).max() < 3


def test_an_image_that_cannot_be_encoded_is_named(monkeypatch):
    message = r"^OpenCV cannot encode an image of 30 x 40 pixels as \.jpg$"
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, ()))
    with pytest.raises(ValueError, match=message):
        encode_image(np.zeros((40, 30, 3), np.uint8), ".jpg")


def test_exif_orientation_is_ignored():
    jpeg = encode(".jpg", pixels())
    turned = with_exif_orientation(jpeg, 6)
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (40, 30, 3), "no EXIF in it"
    np.testing.assert_array_equal(decode_image(turned), decode_image(jpeg))
    assert check_image(turned) == (30, 40)


@pytest.mark.parametrize("order", ["big", "little"])
def test_exif_orientation_is_found(order):
    jpeg = encode(".jpg", pixels())
    assert [exif_orientation(with_exif_orientation(jpeg, i, order)) for i in range(1, 9)] == list(range(1, 9))
    after = with_exif_orientation(jpeg, 3, order)
    other = b"\xff\xe1" + (14).to_bytes(2, "big") + b"http://x/xmp"  # APP1 segments hold other things too
    assert exif_orientation(after[:2] + other + after[2:]) == 3
    for orientation in (0, 9):
        assert exif_orientation(with_exif_orientation(jpeg, orientation, order)) == 1


def test_without_exif_there_is_no_orientation():
    assert exif_orientation(encode(".jpg", pixels())) == exif_orientation(encode(".png", pixels())) == 1
    data = with_exif_orientation(encode(".jpg", pixels()), 6)
    for mark in (b"\xff\xd9\x00\x02", b"\xff\xda\x00\x02"):
        assert exif_orientation(data[:2] + mark + data[2:]) == 1, "it comes before the pixels, or not at all"
    for length in range(40):
        assert exif_orientation(data[:length]) in (1, 6)


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff\xd9"])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode_image(data)
    with pytest.raises(ValueError, match=r"neither JPEG nor PNG|without a frame header"):
        image_size(data)


@pytest.mark.parametrize(
    "data",
    [
        encode(".jpg", pixels()),
        encode(".jpg", pixels(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        encode(".jpg", pixels(), cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
        encode(".jpg", pixels()[..., 0]),
        encode(".png", pixels()),
        encode(".png", pixels()[..., 0]),
    ],
    ids=["jpeg", "progressive", "restarts", "gray", "png", "gray png"],
)
def test_any_cut_is_found(data):
    assert image_size(data) == check_image(data) == (30, 40)
    assert image_size(data + b"appended by a camera") == (30, 40)
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"cut short|neither JPEG nor PNG|frame header|checksum"):
            image_size(data[:length])


def test_end_marker_of_a_thumbnail_is_not_the_images():
    jpeg, thumbnail = encode(".jpg", pixels()), encode(".jpg", pixels(height=4, width=4))
    data = jpeg[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + jpeg[2:]
    assert check_image(data) == (30, 40)
    with pytest.raises(ValueError, match="cut short"):
        image_size(data[:-2])


def test_damaged_png_is_found():
    data = bytearray(encode(".png", pixels()))
    data[len(data) // 2] ^= 1
    with pytest.raises(ValueError, match="wrong checksum in its IDAT part"):
        image_size(bytes(data))


def test_size_in_header_must_be_that_of_the_pixels(monkeypatch):
    from frcnn_jax.data import images as voc_image

    monkeypatch.setattr(voc_image, "decode_image", lambda data: np.zeros((30, 39, 3), np.uint8))
    with pytest.raises(ValueError, match="decodes to 39 x 30 pixels, but its header says 40 x 30"):
        check_image(encode(".jpg", pixels()))
