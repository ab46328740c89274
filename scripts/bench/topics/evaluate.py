"""Evaluation end to end: from a data set's JPEG files and proposals to the detections of each image."""

import contextlib
import dataclasses
import io
import tempfile
from pathlib import Path

import jax
import numpy as np

from bench.pictures import Pictures, load_pictures
from bench.result import Row
from bench.scene import build_model
from bench.sizes import Sizes
from bench.timing import measure
from bench.topics import Setup
from frcnn_jax.config import EvalConfig, InputConfig, ProposalConfig
from frcnn_jax.data.proposals.source import Proposals, open_proposals
from frcnn_jax.evaluation.evaluate import detect_dataset
from frcnn_jax.machine import cores
from frcnn_jax.models.fast_rcnn import init_params
from frcnn_jax.training.statistics import identity_statistics


def measure_evaluate(setup: Setup) -> list[Row]:
    """A row for each model: a pass over the images, with precomputed proposals of Selective Search."""
    sizes = setup.sizes
    pictures = load_pictures(setup.images, sizes.evaluated, sizes)
    proposals = _search(pictures, sizes)
    count = np.mean([len(boxes) for boxes in proposals])
    input_config = InputConfig(
        test_scale=sizes.shorter, test_max_size=sizes.longest, workers=cores(), test_batch_size=_batch_size(sizes)
    )
    rows = []
    for name in setup.models:
        model = build_model(name, sizes)
        params = init_params(model, jax.random.key(0))
        statistics = identity_statistics(sizes.num_classes)

        def run(model=model, params=params, statistics=statistics):
            # The progress bar is not needed here.
            with contextlib.redirect_stderr(io.StringIO()):
                detect_dataset(
                    model,
                    params,
                    statistics,
                    pictures,
                    proposals,
                    input_config=input_config,
                    # With random weights all scores are near 1 / classes.
                    config=EvalConfig(score_threshold=0.0),
                )

        height, width = pictures.sizes.max(axis=0)
        rows.append(
            Row(
                topic="evaluate",
                what=f"{name}: {len(pictures)} JPEG files {height}x{width}, {count:.0f} proposals each, "
                f"{input_config.test_batch_size} a batch",
                ours=measure(run, effort=sizes.effort),
                items=len(pictures),
                unit="images",
            )
        )
    return rows


def _batch_size(sizes: Sizes) -> int:
    return 1 if jax.devices()[0].platform == "cpu" else sizes.batched_images


def _search(pictures: Pictures, sizes: Sizes) -> Proposals:
    config = ProposalConfig(method="selective_search_fast", max_count=sizes.proposals, workers=cores())
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        return open_proposals(dataclasses.replace(pictures, directory=Path(folder)), config, progress=False)
