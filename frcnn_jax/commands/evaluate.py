"""Evaluates a checkpoint of a run on its test set and writes WORKDIR/eval.

    frcnn evaluate --workdir runs/X [--out FOLDER] [--SETTING VALUE ...]

The test set, its proposals and test settings can be changed: the sections data, proposals and evaluate, and
input.test_*, input.buckets, input.workers and input.read_timeout.

    frcnn evaluate --workdir runs/X --data.test voc/2012/test
        --voc-results FOLDER

also writes comp4_det_SPLIT_CLASS.txt for the VOC server to FOLDER. The annotations of that test set are not public, and
are not needed; for a folder without annotations, add --data.faults.missing-annotation empty.

--coco adds COCO's measures, which need pycocotools. --coco-results and --voc-xml write the detections for other
programs: docs/results_elsewhere.md describes the files.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from functools import partial

from frcnn_jax.cli.options import checkpoint_option, make_parser, option_strings
from frcnn_jax.config import Config, DistributedConfig, expand_user, from_json, override, to_json

MEMORY_SETTINGS = "input.test_batch_size, input.test_scale and proposals.max_count"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--workdir", required=True, type=expand_user, help="folder of the run")
    checkpoint_option(parser)
    parser.add_argument(
        "--out", type=expand_user, metavar="FOLDER", help="folder to write to; WORKDIR/eval if not given"
    )
    parser.add_argument(
        "--voc-results",
        type=expand_user,
        metavar="FOLDER",
        help="write results files of the VOC server; none if not given",
    )
    parser.add_argument(
        "--coco-results",
        type=expand_user,
        metavar="FILE.json",
        help="write the detections as COCO results; none if not given",
    )
    parser.add_argument(
        "--voc-xml",
        type=expand_user,
        metavar="FOLDER",
        help="write VOC XML of detections from evaluate.picture_score on, for labelImg; none if not given",
    )
    parser.add_argument("--coco", action="store_true", help="also measure as COCO; the same as --evaluate.coco")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results files")
    parser.add_argument("--verify", action="store_true", help="read all images again; the same as --data.verify")
    arguments, settings = parser.parse_known_args()
    settings += ["--data.verify"] if arguments.verify else []
    settings += ["--evaluate.coco"] if arguments.coco else []
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("frcnn_jax").setLevel(logging.INFO)

    from frcnn_jax.distributed.start import processes

    # Only process 0 knows the run's own settings.
    given = any(setting.startswith("--distributed.") for setting in settings)
    change = partial(override, arguments=settings, program=sys.argv[0], options=option_strings(parser))
    with processes(change(Config()).distributed if given else DistributedConfig()):
        evaluate(arguments, change)


def evaluate(arguments: argparse.Namespace, change: Callable[[Config], Config]) -> None:
    """Evaluates and prints the measures, with all processes together.

    Args:
        change: the run's config with the settings of the command line.
    """
    from frcnn_jax.distributed.talk import from_first
    from frcnn_jax.evaluation.outputs.coco_json import annotations_file
    from frcnn_jax.evaluation.report import format_metrics
    from frcnn_jax.runs.evaluate import evaluate_run
    from frcnn_jax.training.workdir import read_config

    config = change(from_json(from_first(lambda: to_json(read_config(arguments.workdir)))))
    out = arguments.out or arguments.workdir / "eval"
    if (out / "metrics.json").exists():
        print(f"{out} is replaced")
    metrics = evaluate_run(
        arguments.workdir,
        config,
        directory=out,
        voc_results=arguments.voc_results,
        coco_results=arguments.coco_results,
        voc_xml=arguments.voc_xml,
        overwrite=arguments.overwrite,
        checkpoint=arguments.checkpoint,
    )
    print(format_metrics(metrics))
    print(f"Report: {out}/index.html")
    if arguments.voc_results is not None:
        print(f"Results for the VOC server are in {arguments.voc_results}")
    if arguments.coco_results is not None:
        beside = annotations_file(arguments.coco_results)
        numbers = f"of {beside}" if beside.exists() else "of the data set's own file"
        print(f"COCO results, with numbers of images and classes {numbers}, are in {arguments.coco_results}")
    if arguments.voc_xml is not None:
        print(f"VOC XML is in {arguments.voc_xml}")
