"""Videos: frames as they were written, their times, and files that are damaged or cannot be written."""

import cv2
import numpy as np
import pytest

from frcnn_jax.runs.video import read_frames, video_facts, writing_video


def gray(value, size=(48, 64)):
    """A frame of one brightness, with a red corner."""
    image = np.full((*size, 3), value, np.uint8)
    image[:16, :16] = 255, 0, 0
    return image


def write(path, count=10, rate=25.0):
    with writing_video(path, rate) as add:
        for index in range(count):
            add(gray(20 * index))
    return path


def test_frames_come_back_in_order_and_in_their_colours(tmp_path):
    path = write(tmp_path / "a.mp4")
    facts = video_facts(path)
    assert (facts.size, facts.rate, facts.frames) == ((48, 64), 25.0, 10)
    frames = list(read_frames(path))
    assert [frame.index for frame in frames] == list(range(10))
    assert [frame.seconds for frame in frames] == pytest.approx(np.arange(10) / 25)
    for frame in frames:
        assert abs(frame.image[24:, 24:].mean() - 20 * frame.index) < 6
        red, green, blue = frame.image[2:12, 2:12].reshape(-1, 3).mean(0)
        assert red > 200 > 80 > max(green, blue)
    assert list(tmp_path.iterdir()) == [path]


def test_each_nth_frame(tmp_path):
    path = write(tmp_path / "a.mp4")
    frames = list(read_frames(path, 4))
    assert [frame.index for frame in frames] == [0, 4, 8]
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.16, 0.32])
    assert abs(frames[2].image[24:, 24:].mean() - 160) < 6


@pytest.mark.parametrize("rate", [0.25, 29.97, 240.0])
def test_rates(tmp_path, rate):
    assert video_facts(write(tmp_path / "a.mp4", 4, rate)).rate == pytest.approx(rate, rel=1e-3)


def test_frames_of_other_and_odd_sizes(tmp_path):
    with writing_video(tmp_path / "a.mp4", 25.0) as add:
        add(gray(100, (49, 65)))
        add(gray(100, (98, 130)))
    assert [frame.image.shape for frame in read_frames(tmp_path / "a.mp4")] == [(50, 66, 3)] * 2


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"text" * 100)
    for read in (video_facts, lambda path: list(read_frames(path))):
        with pytest.raises(ValueError, match=r"a\.mp4: OpenCV cannot read it; convert it, as by: ffmpeg"):
            read(tmp_path / "a.mp4")


def test_an_error_leaves_what_was_there(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"before")
    with pytest.raises(AttributeError), writing_video(tmp_path / "a.mp4", 25.0) as add:
        add(gray(1)), add(None)
    with writing_video(tmp_path / "a.mp4", 25.0):
        pass  # without a frame
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.mp4", b"before")]


def test_the_name_may_be_as_long_as_names_can_be(tmp_path):
    write(tmp_path / f"{'a' * 251}.mp4")
    assert [path.name for path in tmp_path.iterdir()] == [f"{'a' * 251}.mp4"]


def test_missing_frames_are_noticed(tmp_path, monkeypatch):
    class Full:
        """OpenCV's own has no place for bright frames, and does not say so."""

        fourcc, video = cv2.VideoWriter.fourcc, cv2.VideoWriter

        def __init__(self, *arguments):
            self.video = self.video(*arguments)
            self.isOpened, self.release = self.video.isOpened, self.video.release

        def write(self, image):
            if image.mean() < 100:
                self.video.write(image)

    monkeypatch.setattr(cv2, "VideoWriter", Full)
    with pytest.raises(OSError, match=r"a\.mp4: of 10 frames only \d could be written; is the disk full"):
        write(tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path, capfd):
    with pytest.raises(OSError, match=r"a\.mp4: OpenCV cannot write a video of 64 x 48 pixels there"):
        write(tmp_path / "nowhere/a.mp4")
    capfd.readouterr()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (41, 1), (33, 65)])
def test_an_odd_number_of_rows_or_columns_loses_none(tmp_path, size):
    with writing_video(tmp_path / "a.mp4", 25.0) as add:
        for _ in range(3):
            image = np.zeros((*size, 3), np.uint8)
            image[-1], image[:, -1] = 200, 200
            add(image)
    frames = list(read_frames(tmp_path / "a.mp4"))
    assert [frame.image.shape[:2] for frame in frames] == [tuple(side + side % 2 for side in size)] * 3
    assert frames[0].image[-2:].min() > 150
    assert frames[0].image[:, -2:].min() > 150
