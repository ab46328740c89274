"""Finds objects in images with a trained detector; writes a picture and a JSON file for each.

    frcnn detect --workdir runs/X IMAGE ... [--proposals FILE] [--out FOLDER]

Proposals are computed as in training, or read from FILE: .npz with an array [P, 4] for each image's name without
ending (x1 y1 x2 y2, half-open pixels), or .mat as published with the original release.

An image with an EXIF orientation is turned as viewers turn it, unless the run has data.orientation ignore. All boxes,
those of FILE too, are in the turned image; "orientation" in the JSON is the mark that was followed, 1 for none.
"""

import json
from pathlib import Path

from frcnn_jax.cli import checkpoint_option, make_parser
from frcnn_jax.config import expand_user


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("images", nargs="+", type=expand_user, metavar="IMAGE", help="images to look at")
    parser.add_argument("--workdir", required=True, type=expand_user, help="folder of the run")
    checkpoint_option(parser)
    parser.add_argument("--proposals", type=expand_user, help="file of proposals; computed if not given")
    parser.add_argument("--out", type=expand_user, help="folder to write to; WORKDIR/detections if not given")
    parser.add_argument("--score", type=float, default=0.5, help="least score that is drawn; JSON holds all")
    arguments = parser.parse_args()

    names = [path.stem for path in arguments.images]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        parser.error(f"several images are named {', '.join(repeated)}; their results would overwrite each other")
    missing = [str(path) for path in arguments.images if not path.is_file()]
    if missing:
        parser.error(f"no file {', '.join(missing)}")

    import numpy as np

    from frcnn_jax.atomic import write_text
    from frcnn_jax.data.images import check_image, decode_image, exif_orientation, turned_size
    from frcnn_jax.data.proposals.files import read_proposal_file
    from frcnn_jax.data.proposals.selective_search import search_image
    from frcnn_jax.data.proposals.source import select_proposals
    from frcnn_jax.evaluation.drawing import draw_detections
    from frcnn_jax.evaluation.report import write_image
    from frcnn_jax.runs.detector import load_detector

    detector = load_detector(arguments.workdir, arguments.checkpoint)
    config = detector.config.proposals
    if config.method == "file" and arguments.proposals is None:
        parser.error("the detector was trained with proposals from a file: give --proposals")
    out = arguments.out or arguments.workdir / "detections"
    sizes, turns = [], []
    for path in arguments.images:
        data = path.read_bytes()
        try:
            size, mark = check_image(data), exif_orientation(data)
        except ValueError as error:
            parser.error(f"{path}: {error}")
        other = other_image(out / f"{path.stem}.detections.json", path)
        if other is not None:
            parser.error(f"{out} holds detections of {other}: give another --out for {path}")
        turns.append(1 if detector.config.data.orientation == "ignore" else mark)
        sizes.append(turned_size(size, turns[-1]))
        if mark != 1 and turns[-1] == 1:
            print(f"{path}: its EXIF orientation is ignored: boxes and picture are as the pixels lie in the file")
        elif mark != 1:
            print(f"{path}: its EXIF orientation, {mark}, is followed: boxes and picture are of the turned image")
    proposals = None
    if arguments.proposals is not None:
        rows = read_proposal_file(arguments.proposals, names, np.array(sizes), config.invalid, subset=True)
        proposals = select_proposals(rows, config, str(arguments.proposals))

    out.mkdir(parents=True, exist_ok=True)
    # Decoded one by one: a folder of photographs need not fit into memory.
    for index, path in enumerate(arguments.images):
        image = decode_image(path.read_bytes(), turns[index])
        boxes = search_image(image, config) if proposals is None else proposals[index]
        found = detector.detect(image, boxes)
        write_image(
            out / f"{path.stem}.detections.jpg",
            draw_detections(image, found, detector.classes, min_score=arguments.score),
        )
        rows = [
            {"class": detector.classes[label - 1], "score": float(score), "box": [float(x) for x in box]}
            for label, score, box in zip(found.labels, found.scores, found.boxes, strict=True)
        ]
        text = {
            "image": str(path),  # as it was given; "path" is what tells images apart
            "path": str(path.resolve()),
            "height": image.shape[0],
            "width": image.shape[1],
            "orientation": turns[index],  # EXIF mark by which the image was turned; 1: as it lies in the file
            "detections": rows,
        }
        write_text(out / f"{path.stem}.detections.json", json.dumps(text, indent=1) + "\n")
        shown = int((found.scores >= arguments.score).sum())
        print(f"{path}: {len(boxes)} proposals, {shown} objects with score >= {arguments.score}")
    print(f"Pictures and JSON, of the checkpoint of step {detector.step}, are in {out}")


def other_image(results: Path, image: Path) -> str | None:
    """The image whose detections a JSON file of this script holds, if it is not this one; None also without a file."""
    try:
        about = json.loads(results.read_text())
        # Old results have no "path" but "image", as it was given in a folder that is not known.
        before = Path(about["path"] if "path" in about else about["image"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{results} is not a file of `detect`: give another --out, or move it ({error!r})") from error
    if not before.is_absolute():
        return f"{before} in an unknown folder"
    return str(before) if before.resolve() != image.resolve() else None
