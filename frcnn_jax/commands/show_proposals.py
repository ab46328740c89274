"""Numbers, recall and pictures of proposals, for the command `proposals`."""

import math
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np

from frcnn_jax.atomic import replacing
from frcnn_jax.config import Config
from frcnn_jax.data.dataset import Dataset, open_dataset
from frcnn_jax.data.images import check_image, decode_image, exif_orientation
from frcnn_jax.data.proposals.files import read_proposal_file
from frcnn_jax.data.proposals.recall import best_overlaps, proposal_recall
from frcnn_jax.data.proposals.selected import select_proposals
from frcnn_jax.data.proposals.selective_search import search_image
from frcnn_jax.data.proposals.source import open_proposals, proposal_files, validation_file
from frcnn_jax.evaluation.drawing import PALETTE, box_pixels, draw_detections
from frcnn_jax.evaluation.looking.augmented import draw_augmented
from frcnn_jax.evaluation.pages.gallery import file_stem
from frcnn_jax.evaluation.report import write_image
from frcnn_jax.types import Detections, GroundTruth
from frcnn_jax.words import counted

DRAWN = 40  # most proposals to draw on an image without objects


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
        numbers = f"{counted(len(proposals), 'image')}, {counted(count, 'proposal')}"
        print(f"\n{name}: {numbers}, {count / max(len(proposals), 1):.0f} an image")
        if proposals.computed:
            print(f"computed {proposals.computed} in {seconds:.1f} s, {proposals.computed / seconds:.2f} images/s")
        print_recall(proposal_recall(proposals, dataset.annotations, dataset.classes))
        for index in chosen(dataset, pictures):
            picture = draw_best(
                dataset.read_image(index), proposals[index], dataset.annotations[index], dataset.classes
            )
            save(out, f"{picture_stem(name, dataset.image_ids[index])}.proposals", picture)


def of_augmentation(config: Config, pictures: int, out: Path) -> None:
    """Pictures of some images of each training set, original and augmented."""
    for name in dict.fromkeys(config.data.train):
        dataset = open_dataset(name, config.data)
        for index in chosen(dataset, pictures):
            picture = draw_augmented(dataset, index, config.input, seed=config.train.seed)
            save(out, f"{picture_stem(name, dataset.image_ids[index])}.augmented", picture)


def picture_stem(name: str, image_id: str) -> str:
    """The data set's name and the image's id as a file name, without suffix: folder_train-0001 of folder/train."""
    return file_stem(f"{name.replace('/', '_')}-{image_id}")


def chosen(dataset: Dataset, count: int) -> list[int]:
    """Positions of that many images with objects, spread over the data set."""
    with_objects = [i for i, truth in enumerate(dataset.annotations) if len(truth.boxes)]
    places = np.linspace(0, len(with_objects) - 1, min(count, len(with_objects))).astype(int)
    return [with_objects[place] for place in np.unique(places)]


def of_image(config: Config, path: Path, boxes_file: Path | None, objects: list[list[float]], out: Path) -> None:
    """The proposals of one image as a file and a picture, and the best one of each object."""
    if boxes_file is None and config.proposals.method == "file":
        raise ValueError("proposals.method is file: give the image's proposals by --boxes")
    for box in objects:
        if not (box[0] < box[2] and box[1] < box[3]):  # also for NaN
            raise ValueError(
                f"--object {' '.join(f'{x:g}' for x in box)} is no box: give x1 y1 x2 y2 with x1 < x2, y1 < y2"
            )
    content = path.read_bytes()
    try:
        check_image(content, config.data.max_pixels)
        ignored = config.data.default_orientation == "ignore"
        image = decode_image(content, 1 if ignored else exif_orientation(content))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if boxes_file is None:
        boxes = search_image(image, config.proposals)
    else:
        sizes = np.array([image.shape[:2]])
        rows = read_proposal_file(boxes_file, [path.stem], sizes, config.proposals.invalid, subset=True)
        (boxes,) = select_proposals(rows, config.proposals, str(boxes_file))
    print(f"{path}: {counted(len(boxes), 'proposal')}")
    truth = GroundTruth(
        boxes=np.array(objects, np.float32).reshape(-1, 4),
        labels=np.arange(1, len(objects) + 1),
        difficult=np.zeros(len(objects), bool),
    )
    for wanted, index, iou in zip(objects, *best_overlaps(truth.boxes, boxes), strict=True):
        found = "none" if index < 0 else " ".join(f"{x:g}" for x in boxes[index])
        print(f"object {' '.join(f'{x:g}' for x in wanted)}: IoU {iou:.2f} with {found}")
    names = [f"object {i}" for i in truth.labels]
    if boxes_file is None:
        save_boxes(out, path.stem, boxes)
    save(out, f"{path.stem}.proposals", draw_best(image, boxes, truth, names) if objects else draw_some(image, boxes))


def draw_best(image: np.ndarray, boxes: np.ndarray, truth: GroundTruth, classes: list[str]) -> np.ndarray:
    """The image with its objects, and the best overlapping proposal of each."""
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
    canvas = image.copy()
    drawn = np.zeros((0, 4), np.float32)
    for box in np.random.default_rng(0).permutation(boxes):
        if len(drawn) < DRAWN and best_overlaps(box[None], drawn)[1] < 0.5:
            corners = box_pixels(box, canvas.shape)
            cv2.rectangle(canvas, corners[:2], corners[2:], PALETTE[len(drawn) % len(PALETTE)], 2)
            drawn = np.concatenate([drawn, box[None]])
    return canvas


def save(out: Path, name: str, picture: np.ndarray) -> None:
    """Writes OUT/NAME.jpg."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.jpg"
    write_image(path, picture)
    print(path)


def save_boxes(out: Path, image_id: str, boxes: np.ndarray) -> None:
    """Writes OUT/ID.proposals.npz with the boxes [P, 4] under the image's id, which is the stem of a file."""
    path = out / f"{image_id}.proposals.npz"
    # Not numpy.savez, whose own argument `file` may be an image's name.
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"{image_id}.npy", "w") as array,
    ):
        np.lib.format.write_array(array, np.asarray(boxes, np.float32))
    print(path)


def print_recall(recall: dict) -> None:
    """Prints a row for all objects and for each class, with a column for each threshold; a dash without objects."""

    def cell(value: float) -> str:
        return f"{'-':>8}" if math.isnan(value) else f"{value:8.3f}"

    print(f"{'recall at IoU':<20}" + "".join(f"{threshold:>8}" for threshold in recall))
    columns = list(recall.values())
    print(f"{'all objects':<20}" + "".join(cell(column["overall"]) for column in columns))
    for name in columns[0]["per_class"]:
        print(f"  {name:<18}" + "".join(cell(column["per_class"][name]) for column in columns))
