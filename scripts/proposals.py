"""Computes the region proposals of a config's data sets, or reads them from its files; prints their recall, draws some.

    python scripts/proposals.py --config configs/X.py [--pictures N --out FOLDER] [--proposals.max-side 320 ...]
    python scripts/proposals.py --config configs/X.py --augmented N --out FOLDER [--input.augment.crop 0.6 ...]
    python scripts/proposals.py --image A.jpg [--boxes FILE] [--object X1 Y1 X2 Y2 ...] --out FOLDER

With a config, N images of each data set are drawn as FOLDER/SPLIT-NAME.proposals.jpg: objects dashed in white, and for
each the proposal that overlaps it the most, in the colour of its class and with its IoU.

With --augmented no proposals are computed: N images of each training set are drawn as they are and, five times, as
`input.augment` and the flips change them, to FOLDER/SPLIT-NAME.augmented.jpg. Objects are in the colour of their class;
what is left of one that is cut, where nothing is learned, is dashed in white.

With an image, its proposals are computed, or read from a FILE as --proposals of detect.py takes it, and drawn as
FOLDER/A.proposals.jpg. Boxes of objects (half-open, pixels) are drawn with the best proposals in the same way, and
their IoU is printed. Without any, proposals from all over the image are drawn, none that overlaps a drawn one by half.
"""

import argparse
import logging
import re
import sys
import time
from pathlib import Path

import numpy as np

from frcnn_jax.cli import run
from frcnn_jax.config import Config, expand_user, load_config, override
from frcnn_jax.data.dataset import Dataset, open_dataset
from frcnn_jax.data.proposals.recall import best_overlaps, proposal_recall
from frcnn_jax.data.proposals.source import open_proposals, proposal_files, select_proposals, validation_file
from frcnn_jax.plugins import load_plugins
from frcnn_jax.types import Detections, GroundTruth

DRAWN = 40  # proposals of an image without objects


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", type=expand_user, help="file with get_config()")
    source.add_argument("--image", type=expand_user, help="a single image")
    parser.add_argument("--pictures", type=int, default=0, metavar="N", help="images drawn of each data set")
    parser.add_argument("--augmented", type=int, default=0, metavar="N", help="training images drawn as augmented")
    parser.add_argument("--boxes", type=expand_user, metavar="FILE", help="proposals of the image")
    parser.add_argument("--object", type=float, nargs=4, action="append", metavar=("X1", "Y1", "X2", "Y2"))
    parser.add_argument("--out", type=expand_user, metavar="FOLDER", help="folder for pictures")
    parser.add_argument("--verify", action="store_true", help="read all images again; the same as --data.verify")
    arguments, settings = parser.parse_known_args()
    settings += ["--data.verify"] if arguments.verify else []
    if arguments.config and (arguments.boxes or arguments.object):
        parser.error("--boxes and --object go with --image")
    if arguments.image and (arguments.pictures or arguments.augmented):
        parser.error("--pictures and --augmented go with --config")
    if arguments.pictures and arguments.augmented:
        parser.error("--augmented computes no proposals, so that it does not go with --pictures")
    if (arguments.image or arguments.pictures or arguments.augmented) and arguments.out is None:
        parser.error("pictures need --out")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("frcnn_jax").setLevel(logging.INFO)
    config = override(load_config(arguments.config) if arguments.config else Config(), settings, sys.argv[0])
    load_plugins(config.plugins)
    if arguments.augmented:
        of_augmentation(config, arguments.augmented, arguments.out)
    elif arguments.config:
        of_datasets(config, arguments.pictures, arguments.out)
    else:
        of_image(config, arguments.image, arguments.boxes, arguments.object or [], arguments.out)


def of_datasets(config: Config, pictures: int, out: Path | None) -> None:
    """Number and recall of the proposals of each data set, and pictures of some images."""
    train_files, test_file = proposal_files(config.proposals, config.data.train)
    pairs = list(zip((*config.data.train, config.data.test), (*train_files, test_file), strict=True))
    if config.data.validation is not None:
        name = config.data.validation
        pairs.insert(-1, (name, validation_file(config.proposals, name, config.data.test)))
    for name, file in dict.fromkeys(pairs):
        dataset = open_dataset(name, config.data)
        start = time.monotonic()
        proposals = open_proposals(dataset, config.proposals, file)
        seconds = time.monotonic() - start
        count = sum(map(len, proposals))
        print(f"\n{name}: {len(proposals)} images, {count} proposals, {count / max(len(proposals), 1):.0f} an image")
        if proposals.computed:
            print(f"computed {proposals.computed} in {seconds:.1f} s, {proposals.computed / seconds:.2f} images/s")
        print_recall(proposal_recall(proposals, dataset.annotations, dataset.classes))
        for index in chosen(dataset, pictures):
            picture = draw_best(
                dataset.read_image(index), proposals[index], dataset.annotations[index], dataset.classes
            )
            save(out, f"{name}-{dataset.image_ids[index]}.proposals", picture)


def of_augmentation(config: Config, pictures: int, out: Path) -> None:
    """Pictures of some images of each training set as they are and as training sees them."""
    from frcnn_jax.evaluation.augmented import draw_augmented

    for name in dict.fromkeys(config.data.train):
        dataset = open_dataset(name, config.data)
        for index in chosen(dataset, pictures):
            picture = draw_augmented(dataset, index, config.input, seed=config.train.seed)
            save(out, f"{name}-{dataset.image_ids[index]}.augmented", picture)


def chosen(dataset: Dataset, count: int) -> list[int]:
    """Positions of that many images with objects, from all over the data set."""
    with_objects = [i for i, truth in enumerate(dataset.annotations) if len(truth.boxes)]
    places = np.linspace(0, len(with_objects) - 1, min(count, len(with_objects))).astype(int)
    return [with_objects[place] for place in np.unique(places)]


def of_image(config: Config, path: Path, boxes_file: Path | None, objects: list[list[float]], out: Path) -> None:
    """A picture of one image's proposals, and the best one of each object."""
    from frcnn_jax.data.images import check_image, decode_image, exif_orientation
    from frcnn_jax.data.proposals.files import read_proposal_file
    from frcnn_jax.data.proposals.selective_search import search_image

    content = path.read_bytes()
    try:
        check_image(content)
        image = decode_image(content, 1 if config.data.orientation == "ignore" else exif_orientation(content))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if boxes_file is None:
        boxes = search_image(image, config.proposals)
    else:
        sizes = np.array([image.shape[:2]])
        rows = read_proposal_file(boxes_file, [path.stem], sizes, config.proposals.invalid, subset=True)
        (boxes,) = select_proposals(rows, config.proposals, str(boxes_file))
    print(f"{path}: {len(boxes)} proposals")
    truth = GroundTruth(
        boxes=np.array(objects, np.float32).reshape(-1, 4),
        labels=np.arange(1, len(objects) + 1),
        difficult=np.zeros(len(objects), bool),
    )
    for wanted, index, iou in zip(objects, *best_overlaps(truth.boxes, boxes), strict=True):
        found = "none" if index < 0 else " ".join(f"{x:g}" for x in boxes[index])
        print(f"object {' '.join(f'{x:g}' for x in wanted)}: IoU {iou:.2f} with {found}")
    names = [f"object {i}" for i in truth.labels]
    save(out, f"{path.stem}.proposals", draw_best(image, boxes, truth, names) if objects else draw_some(image, boxes))


def draw_best(image: np.ndarray, boxes: np.ndarray, truth: GroundTruth, classes: list[str]) -> np.ndarray:
    """The image with its objects, and for each the proposal that overlaps it the most."""
    from frcnn_jax.evaluation.drawing import draw_detections

    index, iou = best_overlaps(np.asarray(truth.boxes), boxes)
    near = iou > 0
    best = Detections(
        boxes=boxes[index[near]],
        scores=iou[near].astype(np.float32),
        labels=np.asarray(truth.labels)[near],
        mask=np.ones(near.sum(), bool),
    )
    return draw_detections(image, best, classes, ground_truth=truth, min_score=0.0)


def draw_some(image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The image with some of its proposals."""
    import cv2

    from frcnn_jax.evaluation.drawing import PALETTE

    canvas = image.copy()
    drawn = np.zeros((0, 4), np.float32)
    for box in np.random.default_rng(0).permutation(boxes):
        if len(drawn) < DRAWN and best_overlaps(box[None], drawn)[1] < 0.5:
            x1, y1, x2, y2 = np.round(box).astype(int).tolist()
            cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), PALETTE[len(drawn) % len(PALETTE)], 2)
            drawn = np.concatenate([drawn, box[None]])
    return canvas


def save(out: Path, name: str, picture: np.ndarray) -> None:
    """Writes OUT/NAME.jpg."""
    from frcnn_jax.evaluation.report import write_image

    out.mkdir(parents=True, exist_ok=True)
    path = out / (re.sub(r"[^\w.-]", "_", name) + ".jpg")
    write_image(path, picture)
    print(path)


def print_recall(recall: dict) -> None:
    """A row for all objects and for each class, a column for each threshold."""
    print(f"{'recall at IoU':<20}" + "".join(f"{threshold:>8}" for threshold in recall))
    columns = list(recall.values())
    print(f"{'all objects':<20}" + "".join(f"{column['overall']:8.3f}" for column in columns))
    for name in columns[0]["per_class"]:
        print(f"  {name:<18}" + "".join(f"{column['per_class'][name]:8.3f}" for column in columns))


if __name__ == "__main__":
    run(main)
