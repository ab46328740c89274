"""Finds objects in images and videos with a trained detector.

    frcnn detect --workdir runs/X IMAGE ... FOLDER ... VIDEO ... [--out FOLDER]

Each image gets a picture and a JSON file, NAME.detections.json; each video an annotated video, NAME.detections.mp4,
and NAME.detections.jsonl with a line for each frame. A folder stands for the images in it. docs/results_elsewhere.md
describes the files. --score says what is drawn, --min-score what the JSON holds.

Proposals are computed as in training, or read from a file: .npz with an array [P, 4] per image, under its name without
suffix (x1 y1 x2 y2, half-open pixels), or .mat as published with the original release.

An image with an EXIF orientation is turned as in viewers, unless the run has data.orientation ignore, or its training
images were found to be annotated as they lie in their files. All boxes, also those of a proposal file, are in the
turned image; "orientation" in the JSON is the applied EXIF orientation, 1 for none.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from frcnn_jax.cli.options import checkpoint_option, count, make_parser
from frcnn_jax.config import ProposalConfig, expand_user

if TYPE_CHECKING:  # as imports that take seconds wait until the options have been checked
    import numpy as np

    from frcnn_jax.runs.detect_inputs import ImageInput
    from frcnn_jax.runs.detector import Detector

_LEAST = 0.05  # score in the files
_LINES = 20  # images; for as many or more, no line per image is printed


def main() -> None:
    parser = _make_parser()
    arguments = parser.parse_args()
    if arguments.min_score is None:  # the JSON holds whatever is drawn
        arguments.min_score = min(_LEAST, arguments.score)
    for option, score in (("--score", arguments.score), ("--min-score", arguments.min_score)):
        if not 0 <= score <= 1:
            parser.error(f"{option} must be in 0 ... 1, not {score:g}")
    if arguments.overwrite and arguments.voc_xml is None:
        parser.error("--overwrite replaces XML files: give --voc-xml too; other results are always replaced")

    from frcnn_jax.runs.detect_inputs import find_inputs

    files, videos = find_inputs(arguments.files)  # first, as the other imports take seconds
    _check_options(parser, arguments, files, videos)

    from frcnn_jax.runs.detector import load_detector

    detector = load_detector(arguments.workdir, arguments.checkpoint)
    _check_proposals(parser, arguments, detector.config.proposals.method, videos)
    _detect(arguments, detector, files, videos)


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("files", nargs="+", type=expand_user, metavar="FILE", help="image, folder of images, or video")
    parser.add_argument("--workdir", required=True, type=expand_user, help="folder of the run")
    checkpoint_option(parser)
    parser.add_argument("--proposals", type=expand_user, help="file of proposals; computed if not given")
    parser.add_argument("--out", type=expand_user, help="folder to write to; WORKDIR/detections if not given")
    parser.add_argument("--score", type=float, default=0.5, help="least score to draw")
    parser.add_argument(
        "--min-score",
        type=float,
        metavar="SCORE",
        help="least score in the JSON and VOC XML files, beside the run's evaluate.score_threshold; if not given: "
        f"{_LEAST}, or --score if that is less",
    )
    parser.add_argument(
        "--pictures",
        choices=("input", "jpg", "png", "none"),
        default="input",
        help="format of pictures: input (PNG for lossless inputs, else JPEG), png, jpg, or none",
    )
    parser.add_argument("--every", type=count(1), default=1, metavar="N", help="in videos, detect in every N-th frame")
    parser.add_argument(
        "--voc-xml",
        type=expand_user,
        metavar="FOLDER",
        help="write VOC XML of the drawn detections, to correct in labelImg; none if not given",
    )
    parser.add_argument(
        "--data.max-pixels",
        dest="max_pixels",
        type=count(1),
        metavar="N",
        help="most pixels of an image; the run's setting if not given",
    )
    parser.add_argument(
        "--proposals.invalid",
        dest="invalid",
        choices=("error", "drop", "clip"),
        help="answer to boxes of --proposals that are empty or outside their image; the run's setting if not given",
    )
    parser.add_argument("--skip-broken", action="store_true", help="leave out images that cannot be read")
    parser.add_argument("--verbose", action="store_true", help=f"a line for each image, also for {_LINES} and more")
    parser.add_argument("--overwrite", action="store_true", help="replace existing XML files")
    return parser


def _check_options(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, images: Sequence[Path], videos: Sequence[Path]
) -> None:
    """Ends the command if an option is given that has no effect on these files."""
    if videos and arguments.voc_xml is not None:
        parser.error(f"--voc-xml is for images: {_make_images(videos[0])}")
    of_images = {
        "--proposals": arguments.proposals is not None,
        "--pictures": arguments.pictures != "input",
        "--data.max-pixels": arguments.max_pixels is not None,
        "--skip-broken": arguments.skip_broken,
    }
    for option in [name for name, given in of_images.items() if given and not images]:
        parser.error(f"{option} is for images, and only videos are given")
    if arguments.invalid is not None and arguments.proposals is None:
        parser.error("--proposals.invalid is for the boxes of a file: give --proposals FILE too")
    if arguments.every != 1 and not videos:
        parser.error("--every is for videos, and only images are given")


def _make_images(video: Path) -> str:
    return f"make images of {video}, as by: ffmpeg -i {shlex.quote(str(video))} FOLDER/%06d.png"


def _check_proposals(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, method: str, videos: Sequence[Path]
) -> None:
    """Ends the command if no boxes can be had."""
    if videos and method == "file":
        parser.error(
            "the detector was trained with proposals from a file, and a video has none: "
            f"{_make_images(videos[0])}, and give --proposals for them"
        )
    if method == "file" and arguments.proposals is None:
        parser.error("the detector was trained with proposals from a file: give --proposals")


def _detect(arguments: argparse.Namespace, detector: Detector, files: Sequence[Path], videos: Sequence[Path]) -> None:
    """Checks all inputs and outputs, then detects and says where the results are."""
    from frcnn_jax.evaluation.outputs.files import check_folder
    from frcnn_jax.evaluation.outputs.voc_xml import check_xml_files
    from frcnn_jax.runs.detect_files import check_results, detect_images, detect_video
    from frcnn_jax.runs.detect_inputs import check_images, say_orientation
    from frcnn_jax.runs.video import video_facts

    config, out, voc_xml = detector.config, arguments.out or arguments.workdir / "detections", arguments.voc_xml
    check_folder(out, "--out")
    if voc_xml is not None:
        check_folder(voc_xml, "--voc-xml")
    max_pixels = config.data.max_pixels if arguments.max_pixels is None else arguments.max_pixels
    images = check_images(files, detector.orientation, max_pixels, skip_broken=arguments.skip_broken)
    for video in videos:
        video_facts(video)
    files = [image.path for image in images]
    check_results(out, files, videos)
    lines = arguments.verbose or len(images) < _LINES
    say_orientation(images, lines=lines)
    if voc_xml is not None:
        check_xml_files(voc_xml, [path.stem for path in files], overwrite=arguments.overwrite)
    settings = config.proposals
    if arguments.invalid is not None:
        settings = dataclasses.replace(settings, invalid=arguments.invalid)
    proposals = _read_proposals(arguments.proposals, images, settings)

    out.mkdir(parents=True, exist_ok=True)
    scores = {"score": arguments.score, "min_score": arguments.min_score}
    if images:
        options = {"pictures": arguments.pictures, "voc_xml": voc_xml, "lines": lines}
        detect_images(detector, images, out, proposals=proposals, **scores, **options)
    for video in videos:
        detect_video(detector, video, out, every=arguments.every, **scores)
    written = "JSON files" if arguments.pictures == "none" else "Pictures and JSON files"
    if not images:
        written = "Videos and JSON lines"
    print(f"{written} are in {out}, made with the checkpoint of step {detector.step}")
    if voc_xml is not None:
        print(f"VOC XML is in {voc_xml}: labelImg opens it with the images, Change Save Dir")


def _read_proposals(
    file: Path | None, images: Sequence[ImageInput], config: ProposalConfig
) -> Sequence[np.ndarray] | None:
    """The boxes of each image in the file; None without one."""
    if file is None or not images:
        return None
    import numpy as np

    from frcnn_jax.data.proposals.files import read_proposal_file
    from frcnn_jax.data.proposals.selected import select_proposals

    names, sizes = [image.path.stem for image in images], np.array([image.size for image in images])
    rows = read_proposal_file(file, names, sizes, config.invalid, subset=True)
    return select_proposals(rows, config, str(file))
