"""The topics of scripts/benchmark.py, a module each, and the table that `--only`, `--help` and the measuring follow."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bench.sizes import Sizes

if TYPE_CHECKING:  # modules that import JAX are imported when a topic is measured
    from bench.floors import Rates
    from bench.peer import Peer
    from bench.result import Row


@dataclasses.dataclass(frozen=True)
class Setup:
    """Sizes, rates, peer and models for measuring a topic; each topic uses what it needs."""

    sizes: Sizes
    rates: Rates | None = None  # rates of this device, for the floors
    peer: Peer | None = None
    models: Sequence[str] = ()
    images: str | None = None  # folder of JPEG files; generated if None
    quick: bool = False  # the sizes are the small ones


@dataclasses.dataclass(frozen=True)
class Topic:
    """A row of the table."""

    function: str  # function in the module of that name; maps a Setup to rows
    usual: bool  # measured without `--only`
    help: str


TOPICS = {
    "roi_pool": Topic(
        "measure_roi_pool",
        True,
        "RoI max pooling alone, forward and backward; the peer's outputs are compared with ours first",
    ),
    "depthwise": Topic(
        "measure_depthwise", False, "depthwise convolution alone, forward and its gradients; outputs compared first"
    ),
    "train_step": Topic(
        "measure_train_step", True, "from 8-bit pixels to updated parameters; losses and gradients are compared first"
    ),
    "test": Topic(
        "measure_test",
        True,
        "the network on all proposals of an image, and on to detections; logits and offsets compared first",
    ),
    "input": Topic("measure_input", True, "JPEG files decoded, resized, mirrored and padded"),
    "proposals": Topic("measure_proposals", True, "Selective Search"),
    "evaluate": Topic("measure_evaluate", False, "from JPEG files and proposals to the detections of a data set"),
    "buckets": Topic(
        "measure_buckets", False, "a step in each padded size, and what one size for all images would cost"
    ),
    "start": Topic("measure_start", False, "first step of a process, with compiled programs at hand and without"),
    "growth": Topic("measure_growth", False, "time and memory of the parts as RoIs, proposals and classes grow"),
    "model_growth": Topic(
        "measure_model_growth", False, "the same of a test and a step, as the image, the batch, RoIs and classes grow"
    ),
    "precision": Topic(
        "measure_precision", False, "loss in bfloat16 beside float32, and whether the same steps give the same bits"
    ),
}


def usual_topics() -> tuple[str, ...]:
    """Names of the topics that are measured without `--only`."""
    return tuple(name for name, topic in TOPICS.items() if topic.usual)


def describe_topics() -> str:
    """The table as lines for the help."""
    width = max(map(len, TOPICS)) + 2
    usual, named = (
        [f"    {name:{width}}{topic.help}" for name, topic in TOPICS.items() if topic.usual is wanted]
        for wanted in (True, False)
    )
    return "\n".join(["Topics", *usual, "and, if named", *named])


def measure_function(name: str) -> Callable[[Setup], list[Row]]:
    """The function that measures a topic; imports its module."""
    return getattr(importlib.import_module(f"bench.topics.{name}"), TOPICS[name].function)
