"""Detections written to files: of a folder of images, and of a video frame by frame."""

import inspect
import json
import threading

import cv2
import numpy as np
import pytest

from frcnn_jax.config import Config, ProposalConfig
from frcnn_jax.data.formats.voc.annotation import read_annotation
from frcnn_jax.data.images import decode_image
from frcnn_jax.runs import detect_files, detect_results
from frcnn_jax.runs.detect_files import check_results, detect_images, detect_video, result_files
from frcnn_jax.runs.detect_inputs import check_images
from frcnn_jax.runs.detector import Detector
from frcnn_jax.runs.video import read_frames, video_facts, writing_video
from tests.evaluation.records import detections

BOX = [100.0, 50.0, 300.0, 250.0]


class Stub(Detector):
    """Finds a cat in each image, and a dog that is not sure, and keeps what it was asked."""

    def __init__(self, method="selective_search_fast", stop_after=None):
        super().__init__(
            None, None, None, ("cat", "dog"), Config(proposals=ProposalConfig(method=method, max_side=100)), 7
        )
        object.__setattr__(self, "asked", [])
        object.__setattr__(self, "stop_after", stop_after)

    def detect(self, image, boxes):
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append((image.shape, len(boxes)))
        return detections((BOX, 0.9, 1), ([0, 0, 40, 40], 0.25, 2))


@pytest.fixture
def images(tmp_path):
    random = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "c.bmp", "d.webp"):
        image = cv2.resize(random.integers(0, 256, (8, 9, 3), np.uint8), (500, 400), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / name), image)
    (tmp_path / "out").mkdir(exist_ok=True)
    return check_images(sorted(path for path in tmp_path.iterdir() if path.is_file()), "auto")


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_pictures_are_as_good_as_the_images(images, tmp_path, capsys):
    detector, out = Stub(), tmp_path / "out"
    detect_images(detector, images, out)
    assert files(out) == [
        *("a.detections.json", "a.detections.png", "b.detections.jpg", "b.detections.json"),
        *("c.detections.json", "c.detections.png", "d.detections.jpg", "d.detections.json"),
    ]
    *lines, about_all = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(image.path) for image in images]
    assert all(line.endswith("proposals, 1 object with score >= 0.5") for line in lines)
    assert about_all == "4 images: 4 objects with score >= 0.5 (cat 4)"
    # Away from what is drawn, nothing but the encoding changes a pixel.
    original, drawn = (cv2.imread(str(path))[280:] for path in (tmp_path / "a.png", out / "a.detections.png"))
    np.testing.assert_array_equal(drawn, original)
    original, drawn = (cv2.imread(str(path))[280:] for path in (tmp_path / "b.jpg", out / "b.detections.jpg"))
    assert np.abs(drawn.astype(int) - original).mean() < 0.7
    assert [asked[0] for asked in detector.asked] == [(400, 500, 3)] * 4
    assert min(asked[1] for asked in detector.asked) > 0


def test_an_interruption_says_how_many_images_are_done(images, tmp_path, capsys):
    boxes = [np.zeros((0, 4), np.float32)] * 4
    with pytest.raises(KeyboardInterrupt):
        detect_images(Stub(stop_after=3), images, tmp_path / "out", proposals=boxes, lines=False)
    said = "3 of 4 images done"
    assert said in "".join(capsys.readouterr())
    assert len(files(tmp_path / "out")) == 6


def test_a_line_about_all_images(images, tmp_path, capsys):
    boxes = [np.zeros((0, 4), np.float32)] * 4
    detect_images(Stub(), images, tmp_path / "out", proposals=boxes, score=0.2, lines=False)
    assert capsys.readouterr().out == "4 images: 8 objects with score >= 0.2 (cat 4, dog 4)\n"
    detect_images(Stub(), images, tmp_path / "out", proposals=boxes, score=0.95, lines=False)
    assert capsys.readouterr().out == "4 images: 0 objects with score >= 0.95 (the best has 0.9)\n"
    detect_images(Stub(), images[:1], tmp_path / "out", proposals=boxes[:1], score=0.95)
    assert capsys.readouterr().out.endswith(": 0 proposals, 0 objects with score >= 0.95 (the best has 0.9)\n")
    detector = Stub()
    object.__setattr__(detector, "detect", lambda image, boxes: detections((BOX, 0.497, 1)))
    detect_images(detector, images[:1], tmp_path / "out", proposals=boxes[:1])
    assert capsys.readouterr().out.endswith("score >= 0.5 (the best has 0.497)\n"), "not rounded to the limit"
    object.__setattr__(detector, "detect", lambda image, boxes: detections((BOX, 0.49999, 1)))
    detect_images(detector, images[:1], tmp_path / "out", proposals=boxes[:1])
    assert capsys.readouterr().out.endswith("score >= 0.5 (the best has 0.4999)\n")
    detector, found = Stub(), iter([0.9, 0.1, 0.1, 0.9])
    object.__setattr__(detector, "detect", lambda image, boxes: detections((BOX, next(found), 2)))
    detect_images(detector, images, tmp_path / "out", proposals=boxes, lines=False)
    assert capsys.readouterr().out == "4 images: 2 objects with score >= 0.5 (dog 2), none in 2 images\n"


def test_the_bar_says_once_that_the_detector_compiles(images, tmp_path, capsys):
    detect_images(Stub(), images, tmp_path / "out", proposals=[np.zeros((0, 4), np.float32)] * 4)
    assert capsys.readouterr().err.count("compiling the detector") == 1


def test_names_of_results_that_are_too_long_are_refused_first(tmp_path):
    out = tmp_path / "out"  # not there yet
    check_results(out, [tmp_path / f"{'b' * 239}.jpg"], [tmp_path / f"{'b' * 238}.mp4"])
    message = (
        r"^/\S*/ä*\.jpg: its name is 1 byte too long for NAME\.detections\.json, as names of files have at most 255:"
    )
    with pytest.raises(ValueError, match=message):
        check_results(out, [tmp_path / f"{'ä' * 120}.jpg"], [])
    with pytest.raises(ValueError, match=r"2 bytes too long for NAME\.detections\.jsonl"):
        check_results(out, [], [tmp_path / f"{'b' * 240}.mp4"])


def test_json_of_an_image(images, tmp_path):
    detect_images(Stub(), images[:1], tmp_path / "out", proposals=[np.zeros((3, 4), np.float32)])
    assert json.loads((tmp_path / "out/a.detections.json").read_text()) == {
        "image": str(images[0].path),
        "path": str(images[0].path.resolve()),
        "height": 400,
        "width": 500,
        "orientation": 1,
        "detections": [
            {"class": "cat", "score": pytest.approx(0.9), "box": BOX},
            {"class": "dog", "score": pytest.approx(0.25), "box": [0, 0, 40, 40]},
        ],
    }


def test_the_least_score_in_the_files(images, clip, tmp_path, capsys):
    out, xml = tmp_path / "out", tmp_path / "xml"

    def classes_in(score, min_score):
        """Classes in the JSON, and the names in the XML."""
        options = {"score": score, "min_score": min_score}
        detect_images(Stub(), images[:1], out, proposals=[np.zeros((0, 4), np.float32)], voc_xml=xml, **options)
        detect_video(Stub(), clip, out, every=6, **options)
        results = [json.loads((out / "a.detections.json").read_text())]
        results += map(json.loads, (out / "clip.avi.detections.jsonl").read_text().splitlines())
        assert len(results) == 3
        (found,) = {tuple(row["class"] for row in result["detections"]) for result in results}
        return found, tuple(item.name for item in read_annotation(xml / "a.xml").objects)

    assert classes_in(0.5, 0.25) == (("cat", "dog"), ("cat",))
    assert classes_in(0.5, 0.3) == (("cat",), ("cat",))
    assert classes_in(0.1, 0.3) == (("cat",), ("cat",))
    assert classes_in(0.5, 0.95) == ((), ())
    assert "1 object with score >= 0.5" in capsys.readouterr().out.splitlines()[-2]  # what is drawn is counted


@pytest.mark.parametrize("given", [False, True])
def test_images_are_decoded_ahead(images, tmp_path, monkeypatch, given):
    threads = []
    monkeypatch.setattr(
        detect_files, "decode_image", lambda *file: threads.append(threading.current_thread()) or decode_image(*file)
    )
    boxes = [np.full((k, 4), k, np.float32) for k in range(4)] if given else None
    detector = Stub()
    detect_images(detector, images, tmp_path / "out", proposals=boxes)
    assert len(threads) == 4
    assert threading.current_thread() not in threads
    assert not given or [count for _, count in detector.asked] == [0, 1, 2, 3]


def test_an_image_is_decoded_once_more_than_for_its_check(images, tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(detect_files, "decode_image", lambda *given: decoded.append(0) or decode_image(*given))
    detect_images(Stub(), images, tmp_path / "out")
    assert len(decoded) == len(images)


def test_the_format_of_pictures(images, tmp_path):
    out, boxes = tmp_path / "out", [np.zeros((0, 4), np.float32)] * 4
    detect_images(Stub(), images, out, proposals=boxes, pictures="none")
    assert {path.suffix for path in out.iterdir()} == {".json"}
    for ending, other in (("jpg", "png"), ("png", "jpg")):
        detect_images(Stub(), images, out, proposals=boxes, pictures=ending)
        assert len(list(out.glob(f"*.detections.{ending}"))) == 4
        assert not list(out.glob(f"*.{other}"))  # none of the call before is left


def test_xml_of_what_is_drawn(images, tmp_path):
    detect_images(
        Stub(), images[:2], tmp_path / "out", proposals=[np.zeros((0, 4), np.float32)] * 2, voc_xml=tmp_path / "xml"
    )
    assert files(tmp_path / "xml") == ["a.xml", "b.xml"]
    annotation = read_annotation(tmp_path / "xml/b.xml")
    assert (annotation.filename, annotation.width, annotation.height) == ("b.jpg", 500, 400)
    assert [(item.name, item.corners) for item in annotation.objects] == [("cat", (101, 51, 300, 250))]


def test_an_error_in_a_search_is_not_lost(images, tmp_path):
    with pytest.raises(ValueError, match=r"proposals\.method is 'file'"):
        detect_images(Stub("file"), images, tmp_path / "out")


@pytest.fixture
def clip(tmp_path):
    path, random = tmp_path / "clip.avi.mp4", np.random.default_rng(0)
    image = cv2.resize(random.integers(0, 256, (8, 9, 3), np.uint8), (480, 320), interpolation=cv2.INTER_CUBIC)
    with writing_video(path, 20.0) as add:
        for index in range(7):
            add(np.roll(image, 10 * index, axis=1))
    (tmp_path / "out").mkdir(exist_ok=True)
    return path


def test_a_video(clip, tmp_path, capsys):
    detector, out = Stub(), tmp_path / "out"
    detect_video(detector, clip, out, every=3)
    assert files(out) == ["clip.avi.detections.jsonl", "clip.avi.detections.mp4"]
    rows = [json.loads(line) for line in (out / "clip.avi.detections.jsonl").read_text().splitlines()]
    assert [(row["frame"], row["seconds"]) for row in rows] == [(0, 0), (3, 0.15), (6, 0.3)]
    assert rows[1] == {
        "video": str(clip),
        "path": str(clip.resolve()),
        "frame": 3,
        "seconds": 0.15,
        "height": 320,
        "width": 480,
        "detections": [
            {"class": "cat", "score": pytest.approx(0.9), "box": BOX},
            {"class": "dog", "score": pytest.approx(0.25), "box": [0, 0, 40, 40]},
        ],
    }
    facts = video_facts(out / "clip.avi.detections.mp4")
    assert (facts.frames, facts.size) == (3, (320, 480))
    assert facts.rate == pytest.approx(20 / 3, rel=1e-3)  # as fast as the original
    before = list(read_frames(clip, 3))
    for frame, original in zip(read_frames(out / "clip.avi.detections.mp4"), before, strict=True):
        assert np.abs(frame.image[260:, 320:].astype(int) - original.image[260:, 320:]).mean() < 8
        red, green, blue = frame.image[52:248, 99:102].reshape(-1, 3).mean(0)
        assert red > 150 > max(green, blue)
    assert capsys.readouterr().out == f"{clip}: 3 frames, one in 3, 3 objects with score >= 0.5\n"
    assert min(asked[1] for asked in detector.asked) > 0


def test_an_interruption_leaves_the_frames_until_then(clip, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        detect_video(Stub(stop_after=2), clip, tmp_path / "out")
    assert len((tmp_path / "out/clip.avi.detections.jsonl").read_text().splitlines()) == 2
    assert video_facts(tmp_path / "out/clip.avi.detections.mp4").frames == 2
    assert capsys.readouterr().out == f"{clip}: interrupted after 2 of 7 frames, 2 objects with score >= 0.5\n"


@pytest.mark.parametrize(("detect", "inputs"), [(detect_video, "clip"), (detect_images, "images")])
def test_the_threads_end_with_the_detection(request, tmp_path, monkeypatch, detect, inputs):
    """Not when the collector frees their generator, which one of them may do, and then wait for itself."""
    made, ahead = [], detect_files._ahead
    monkeypatch.setattr(detect_files, "_ahead", lambda *arguments: made.append(ahead(*arguments)) or made[-1])
    with pytest.raises(KeyboardInterrupt):
        detect(Stub(stop_after=2), request.getfixturevalue(inputs), tmp_path / "out")
    assert [inspect.getgeneratorstate(pairs) for pairs in made] == [inspect.GEN_CLOSED]


def test_an_interruption_before_the_first_frame_leaves_nothing(clip, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        detect_video(Stub(stop_after=0), clip, tmp_path / "out")
    assert files(tmp_path / "out") == []


def test_results_of_another_file_are_not_overwritten(clip, tmp_path):
    out = tmp_path / "out"
    detect_video(Stub(), clip, out, every=6)
    check_results(out, [], [clip])
    (tmp_path / "more").mkdir()
    other = tmp_path / "more/clip.avi.mov"
    with pytest.raises(FileExistsError, match=f"{out} holds detections of {clip}: give another --out for {other}"):
        check_results(out, [], [other])
    check_results(out, [other], [])  # an image of that name has files of other names
    (out / "clip.avi.detections.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="jsonl is not a file of `detect`"):
        check_results(out, [], [clip])


@pytest.mark.parametrize("video", [False, True])
def test_of_earlier_results_only_the_start_is_read(tmp_path, monkeypatch, video):
    loads, file, out = json.loads, tmp_path / 'a "\\ä.x', tmp_path / "out"
    out.mkdir()
    (results, _) = result_files(out, file, video=video)
    rows = [{"class": "cat", "score": 0.5, "box": BOX}] * 5000
    about = {"video" if video else "image": file.name, "path": str(file), "detections": rows}
    results.write_text(json.dumps(about, indent=None if video else 1) + "\n")
    monkeypatch.setattr(
        detect_results.json, "loads", lambda text: loads(text) if len(text) < 300 else pytest.fail("all")
    )
    inputs = ([], [file]) if video else ([file], [])
    check_results(out, *inputs)
    other = [[path.with_suffix(".y") for path in paths] for paths in inputs]
    with pytest.raises(FileExistsError, match="holds detections of"):
        check_results(out, *other)


def test_results_written_in_another_order_are_known_too(tmp_path):
    about = {"detections": [{"image": "no", "path": "/no"}], "path": str(tmp_path / "a.jpg"), "image": "a.jpg"}
    (tmp_path / "a.detections.json").write_text(json.dumps(about))
    check_results(tmp_path, [tmp_path / "a.jpg"], [])
    with pytest.raises(FileExistsError, match=f"holds detections of {tmp_path}/a.jpg: "):
        check_results(tmp_path, [tmp_path / "a.png"], [])
