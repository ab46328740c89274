"""`scripts/proposals.py`: the original's files through to recall and pictures, of data sets and of single images."""

import dataclasses
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from frcnn_jax.config import ProposalConfig, to_json
from frcnn_jax.data.proposals.files import read_proposal_file
from frcnn_jax.data.proposals.selective_search import search_image
from tests.training.runs import TEST, TRAIN, run_config, write_data

SCRIPT = Path(__file__).parents[3] / "scripts" / "proposals.py"
RED = (230, 40, 50)  # of the first class


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def top_side(path: Path, box: tuple[int, int, int, int]) -> np.ndarray:
    """RGB along the right half of a box's top side, where no label is."""
    picture = cv2.imread(str(path))[..., ::-1].astype(int)
    x1, y1, x2, _ = box
    return picture[y1, (x1 + x2) // 2 + 4 : x2 - 4]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A data set, and its proposals as the original release has them; a config that reads these."""
    root = tmp_path_factory.mktemp("released")
    write_data(root)
    for split, names in (("train", TRAIN), ("test", TEST)):
        with np.load(root / f"{split}.npz") as arrays:
            boxes = np.empty(len(names), object)
            for i, name in enumerate(names):
                boxes[i] = np.uint16((arrays[name] + [1, 1, 0, 0])[:, [1, 0, 3, 2]])
        savemat(root / f"{split}.mat", {"boxes": boxes[None]}, do_compression=True)
    config = run_config(root)
    proposals = ProposalConfig(
        method="file", train_files=(str(root / "train.mat"),), test_file=str(root / "test.mat"), min_side=1
    )
    for name, settings in (("npz", config), ("mat", dataclasses.replace(config, proposals=proposals))):
        (root / f"{name}.json").write_text(to_json(settings))
        (root / f"{name}.py").write_text(
            "from pathlib import Path\nfrom frcnn_jax.config import from_json\n\n\n"
            f"def get_config():\n    return from_json(Path({str(root / name) + '.json'!r}).read_text())\n"
        )
    return root


def test_released_files_give_the_same_recall(released, monkeypatch, capsys):
    printed = []
    for name in ("npz", "mat"):
        run(monkeypatch, "--config", released / f"{name}.py")
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "folder/train: 8 images, 63 proposals" in printed[0]
    recall = [line.split() for line in printed[0].splitlines() if line.startswith("all objects")]
    assert [float(value) for value in recall[0][2:]] == pytest.approx([6 / 7, 6 / 7], abs=1e-3)


def test_pictures_of_a_data_set(released, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "--config", released / "mat.py", "--pictures", 2, "--out", tmp_path / "drawn")
    files = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert files == [f"folder_{name}.proposals.jpg" for name in ("test-t0", "test-t3", "train-a0", "train-a7")]
    assert str(tmp_path / "drawn" / files[0]) in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--config", released / "mat.py", "--pictures", 2)
    assert "pictures need --out" in capsys.readouterr().err


def test_pictures_of_augmentation(released, tmp_path, monkeypatch, capsys):
    """Of the training set alone, and without its proposals."""
    out = tmp_path / "drawn"
    settings = ["--proposals.train-files", "none.mat", "--input.augment.scale-jitter", 0.5, 0.5]
    run(monkeypatch, "--config", released / "mat.py", "--augmented", 2, "--out", out, *settings)
    files = sorted(path.name for path in out.iterdir())
    assert files == [f"folder_train-{name}.augmented.jpg" for name in ("a0", "a7")]
    assert str(out / files[0]) in capsys.readouterr().out
    # 30 x 40 pixels, shown with 64 x 85: as it is, and at half of that.
    picture = cv2.imread(str(out / files[0]))
    assert picture.shape == (2 * 64 + 6, 3 * 85 + 12, 3)
    assert picture[:64, :85].min(axis=-1).mean() > 50
    assert picture[35:64, 91:176].max() < 40


@pytest.fixture
def image(tmp_path):
    """A grey image of 600 x 500 and three proposals: about, on and far from (100 50 300 250)."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((500, 600, 3), 128, np.uint8))
    savemat(
        tmp_path / "a_boxes.mat", {"boxes": np.uint16([[80, 50, 299, 249], [100, 60, 299, 249], [0, 300, 99, 399]])}
    )
    return tmp_path


def test_objects_of_one_image(image, monkeypatch, capsys):
    """200 x 190 of 200 x 200 is 0.95; the other object has no proposal."""
    objects = ["--object", 100, 50, 300, 250, "--object", 400, 400, 450, 480.5]
    run(monkeypatch, "--image", image / "a.png", "--boxes", image / "a_boxes.mat", *objects, "--out", image / "out")
    printed = capsys.readouterr().out
    assert "a.png: 3 proposals" in printed
    assert "object 100 50 300 250: IoU 0.95 with 100 60 300 250" in printed
    assert "object 400 400 450 480.5: IoU 0.00" in printed
    drawn = image / "out/a.proposals.jpg"
    assert (np.abs(top_side(drawn, (100, 60, 300, 250)) - RED).max(axis=1) < 60).mean() > 0.9
    assert (top_side(drawn, (100, 50, 300, 250)).min(axis=1) > 200).mean() > 0.4, "the object, in white dashes"
    assert (np.abs(top_side(drawn, (0, 300, 100, 400)) - 128) < 30).all()


def test_proposals_of_one_image_without_objects(image, monkeypatch):
    """Of the two that overlap by more than half, one is drawn."""
    run(monkeypatch, "--image", image / "a.png", "--boxes", image / "a_boxes.mat", "--out", image / "out")
    drawn = [
        (np.abs(top_side(image / "out/a.proposals.jpg", box) - 128).max(axis=1) > 20).mean() > 0.8
        for box in ((80, 50, 300, 250), (100, 60, 300, 250), (0, 300, 100, 400))
    ]
    assert drawn[2]
    assert sum(drawn[:2]) == 1


def test_proposals_of_one_image_are_computed(image, monkeypatch, capsys):
    picture = np.full((200, 240, 3), 200, np.uint8)
    picture[60:120, 50:150] = (20, 60, 180)
    cv2.imwrite(str(image / "b.png"), picture)
    settings = ["--proposals.method", "selective_search_fast"]
    run(monkeypatch, "--image", image / "b.png", "--object", 50, 60, 150, 120, "--out", image / "out", *settings)
    printed = capsys.readouterr().out
    assert float(printed.split("IoU ")[1].split()[0]) > 0.8
    assert (image / "out/b.proposals.jpg").is_file()


def test_proposals_of_one_image_follow_a_config_and_are_kept(image, monkeypatch, capsys):
    """The file has the same boxes, under the id that `detect` looks for; names of NumPy's own arguments are ids too."""
    cv2.imwrite(
        str(image / "file.png"),
        np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8).repeat(20, 0).repeat(20, 1),
    )
    (image / "few.py").write_text(
        "from frcnn_jax.config import *\n"
        "get_config = lambda: Config(proposals=ProposalConfig(method='selective_search_mutual', max_count=7))\n"
    )
    run(monkeypatch, "--image", image / "file.png", "--config", image / "few.py", "--out", image / "out")
    assert "file.png: 7 proposals" in capsys.readouterr().out
    stored = read_proposal_file(image / "out/file.proposals.npz", ["file"], np.array([[180, 240]]), "error")
    config = ProposalConfig(method="selective_search_mutual", max_count=7)
    np.testing.assert_array_equal(stored[0], search_image(cv2.imread(str(image / "file.png"))[..., ::-1], config))
    # Read again as proposals of the image, which keeps the file, also in the same folder.
    kept = image / "out/file.proposals.npz"
    before = kept.read_bytes()
    few = ["--proposals.max-count", 3]
    run(monkeypatch, "--image", image / "file.png", "--boxes", kept, "--out", image / "out", *few)
    assert "file.png: 3 proposals" in capsys.readouterr().out
    assert kept.read_bytes() == before


def test_images_of_similar_names_have_files_of_their_own(image, monkeypatch):
    for name in ("a b", "a_b", "x(1)"):
        cv2.imwrite(str(image / f"{name}.png"), np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
        run(monkeypatch, "--image", image / f"{name}.png", "--out", image / "out", "--proposals.max-side", 80)
    kept = {path.name for path in (image / "out").glob("*.npz")}
    assert kept == {"a b.proposals.npz", "a_b.proposals.npz", "x(1).proposals.npz"}


def test_mistakes(image, released, monkeypatch, capsys):
    config, picture, out = released / "mat.py", image / "a.png", image / "out"
    cases = [
        ((), "--config or --image is required"),
        (("--config", config, "--boxes", "x.mat"), "--boxes and --object go with --image"),
        (("--image", picture, "--pictures", 3, "--out", out), "--pictures and --augmented are of data sets"),
        (("--image", picture, "--augmented", 3, "--out", out), "--pictures and --augmented are of data sets"),
        (("--config", config, "--pictures", 1, "--augmented", 1, "--out", out), "it does not go with --pictures"),
        (("--config", config, "--augmented", 3), "pictures need --out"),
        (("--image", picture), "pictures need --out"),
    ]
    for arguments, message in cases:
        with pytest.raises(SystemExit, match="2"):
            run(monkeypatch, *arguments)
        assert message in capsys.readouterr().err
    (image / "text.png").write_text("no image")
    lines = [
        ((image / "text.png",), r"text\.png: "),
        ((image / "none.png",), r"none\.png"),
        ((picture, "--boxes", image / "none.mat"), r"no proposal file .*none\.mat"),
        ((picture, "--boxes", released / "test.mat"), r"test\.mat: boxes of 4 images, but there are 1"),
        ((picture, "--object", 30, 20, 1, 25), r"--object 30 20 1 25 is no box: give x1 y1 x2 y2"),
        ((picture, "--object", 1, "nan", 30, 25), r"--object 1 nan 30 25 is no box"),
        ((picture, "--config", config), r"proposals\.method is file: give the image's proposals by --boxes"),
    ]
    for arguments, message in lines:
        with pytest.raises(SystemExit, match=rf"^proposals\.py: .*{message}") as caught:
            run(monkeypatch, "--image", *arguments, "--out", out)
        assert "\n" not in str(caught.value)
    assert not out.exists()
