"""Compresses a run's detector by truncated SVD (section 3.1 of the paper), and compares speed and mAP.

    frcnn compress --workdir runs/X --fc6 1024 --fc7 256 [--out FOLDER]
        [--SETTING VALUE ...]

fc6 and fc7 become two layers each, of rank --fc6 and --fc7; a layer without its option stays whole. The
paper's ranks are 1024 and 256, for layers of 25088 x 4096 and 4096 x 4096.

FOLDER (runs/X-svd-fc6-1024-fc7-256 if not given) is a workdir like any other: `evaluate`, `detect` and `export` accept
it, and `train` continues in it with `--model.fc6-rank 1024 --model.fc7-rank 256` and more `--train.steps`. To fine-tune
with another schedule, give it to a new run as `--model.weights` with the same two settings. runs/X is only read. A
folder that already holds this compression is measured again; any other is refused.

Both detectors are evaluated on the test set: reports are in FOLDER/eval and FOLDER/eval_before. The time per image is
the median over some test images (--images), after a warm-up: resizing, network and suppression, without proposals. With
--no-evaluate no data are needed; the time is that of a random image with proposals.max_count boxes.
FOLDER/compression.json holds the figures. Settings only change the evaluation.
"""

import dataclasses
import json
import statistics
import sys
import time

from frcnn_jax.cli.options import checkpoint_option, count, make_parser, option_strings
from frcnn_jax.config import expand_user, override

MEMORY_SETTINGS = "input.test_batch_size, input.test_scale and proposals.max_count"
ROUNDS = 3


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--workdir", required=True, type=expand_user, help="folder of the run")
    checkpoint_option(parser)
    parser.add_argument("--fc6", type=count(0), default=0, metavar="RANK", help="rank of fc6; 0: whole")
    parser.add_argument("--fc7", type=count(0), default=0, metavar="RANK", help="rank of fc7; 0: whole")
    parser.add_argument(
        "--out", type=expand_user, metavar="FOLDER", help="workdir to write; named as above if not given"
    )
    parser.add_argument("--no-evaluate", action="store_true", help="no mAP")
    parser.add_argument("--images", type=count(0), default=8, metavar="N", help="number of timed images; 0: no times")
    arguments, settings = parser.parse_known_args()

    from frcnn_jax.atomic import write_text
    from frcnn_jax.runs.compress import compress_run, compressed_workdir
    from frcnn_jax.runs.detector import load_detector
    from frcnn_jax.runs.evaluate import check_changes, evaluate_run
    from frcnn_jax.training.workdir import read_config

    before = read_config(arguments.workdir)
    config = override(before, settings, sys.argv[0], options=option_strings(parser))
    check_changes(before, config)
    ranks = {"fc6_rank": arguments.fc6 or None, "fc7_rank": arguments.fc7 or None}
    out = arguments.out or compressed_workdir(arguments.workdir, **ranks)
    start = time.perf_counter()
    chosen = {"before": arguments.checkpoint, "after": "latest"}
    if compress_run(arguments.workdir, out, **ranks, checkpoint=arguments.checkpoint):
        print(f"Compressed in {time.perf_counter() - start:.1f} s: {out}")
    else:
        print(f"{out} already holds this compression")

    folders = {"before": arguments.workdir, "after": out}
    detectors = {name: with_settings(load_detector(folder, chosen[name]), config) for name, folder in folders.items()}
    print(f"It is the checkpoint of step {detectors['after'].step}")
    figures = {name: sizes(detector) for name, detector in detectors.items()}
    if arguments.no_evaluate:
        scenes = [random_scene(config)]
    else:
        reports = {"before": out / "eval_before", "after": out / "eval"}
        for name, detector in detectors.items():
            settings = {"directory": reports[name], "checkpoint": chosen[name]}
            figures[name]["map"] = evaluate_run(folders[name], detector.config, **settings)["map"]
        scenes = test_scenes(config, arguments.images)
    if arguments.images and scenes:
        for name, seconds in median_times(detectors, scenes).items():
            figures[name]["milliseconds"] = 1000 * seconds
    about = {"source": str(arguments.workdir), "step": detectors["after"].step, **ranks, **figures}
    write_text(out / "compression.json", json.dumps(about, indent=2) + "\n")
    print_table(figures)


def with_settings(detector, config):
    """The detector with all settings of `config` except those of the model."""
    return dataclasses.replace(detector, config=dataclasses.replace(config, model=detector.config.model))


def sizes(detector) -> dict[str, float]:
    """Number of parameters of a detector, and multiplications of its head per RoI."""
    from flax.traverse_util import flatten_dict

    arrays = flatten_dict(detector.params, sep="/")
    head = [array for name, array in arrays.items() if name.startswith("head/") and name.endswith("/kernel")]
    return {
        "parameters": sum(array.size for array in arrays.values()),
        "multiply_adds_of_an_roi": sum(array.size for array in head),
    }


def test_scenes(config, count: int) -> list[tuple]:
    """Images spread over the test set, with their boxes."""
    import numpy as np

    from frcnn_jax.data.dataset import open_dataset
    from frcnn_jax.data.proposals.source import open_proposals

    dataset = open_dataset(config.data.test, config.data)
    proposals = open_proposals(dataset, config.proposals, config.proposals.test_file)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int))
    return [(dataset.read_image(int(i)), proposals[int(i)]) for i in chosen]


def random_scene(config) -> tuple:
    """A random 3:4 image at the test scale, with random boxes."""
    import numpy as np

    random = np.random.default_rng(0)
    height, width = config.input.single_test_scale, config.input.single_test_scale * 4 // 3
    image = random.integers(0, 256, (height, width, 3), np.uint8)
    corners = random.uniform(0, 0.9, (config.proposals.max_count, 2))
    ends = random.uniform(corners + 0.1, 1)
    return image, np.float32(np.concatenate([corners, ends], axis=1) * [width, height, width, height])


def median_times(detectors: dict, scenes: list) -> dict[str, float]:
    """Seconds per image of each detector; they take turns, so that a busy machine slows both."""
    for detector in detectors.values():
        for scene in scenes:
            detector.detect(*scene)
    seconds = {name: [] for name in detectors}
    for _ in range(ROUNDS):
        for scene in scenes:
            for name, detector in detectors.items():
                start = time.perf_counter()
                detector.detect(*scene)
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def print_table(figures: dict) -> None:
    """Prints a row for each figure, before and after."""
    rows = {
        "parameters": ("parameters", lambda value: f"{value / 1e6:.2f} M"),
        "multiply_adds_of_an_roi": ("multiply-adds per RoI", lambda value: f"{value / 1e6:.2f} M"),
        "milliseconds": ("time per image", lambda value: f"{value:.1f} ms"),
        "map": ("mAP", lambda value: "no objects" if value is None else f"{value:.4f}"),
    }
    print(f"\n{'':<26}{'before':>12}{'after':>12}")
    for key, (name, show) in rows.items():
        if key in figures["before"]:
            print(f"{name:<26}{show(figures['before'][key]):>12}{show(figures['after'][key]):>12}")
