"""Features of all images on disk, and the watch that times the stages of their computation."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from frcnn_jax.comparison.feature_store import FeatureStore, fingerprint, store_bytes, write_features
from frcnn_jax.comparison.overlaps import box_pairs
from frcnn_jax.comparison.stages.run import Run
from frcnn_jax.comparison.windows import candidates
from frcnn_jax.progress import Progress
from frcnn_jax.words import counted

__all__ = ["Describe", "Pairs", "Part", "Watch", "regression_pairs", "store_features"]


class Part(NamedTuple):
    """Features of n boxes of an image, on the device, followed by padding."""

    rows: Int[np.ndarray, " n"]  # rows of the boxes
    pooled: Float[Array, "B F"]  # the last pooled features
    vectors: Float[Array, "B V"]  # vectors before the classifier


class Describe(Protocol):
    """Features of an image's boxes, part by part; functions are called by `watch(stage, function, *arguments,
    **static)`.
    """

    def __call__(
        self, image: UInt8[np.ndarray, "H W 3"], boxes: Float[np.ndarray, "P 4"], watch: Callable[..., Any]
    ) -> Iterator[Part]: ...


class Watch:
    """Seconds by stage. Compilation of a function for new shapes is not counted.

    Attributes:
        seconds: seconds of each stage so far.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._known: set[Any] = set()

    def __call__(self, stage: str, function: Callable[..., Any], *arguments: Any, **static: Any) -> Any:
        shapes = tuple((np.shape(leaf), str(getattr(leaf, "dtype", ""))) for leaf in jax.tree.leaves(arguments))
        known = function, shapes, *static.values()
        if known not in self._known:
            self._known.add(known)
            jax.block_until_ready(function(*arguments, **static))
        started = time.perf_counter()
        result = jax.block_until_ready(function(*arguments, **static))
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started
        return result


class Pairs(NamedTuple):
    """Windows and the objects to regress boxes to, of all images, concatenated."""

    rows: list[Int[np.ndarray, " n"]]  # rows of each image's windows
    labels: Int[np.ndarray, " m"]  # 1 ... K
    targets: Float[np.ndarray, "m 4"]


def regression_pairs(run: Run) -> Pairs:
    """The pairs of every image; empty if box regression is disabled."""
    settings = run.comparison.regression
    least = settings.min_iou if settings.enabled else 2.0
    found = [
        box_pairs(candidates(run.proposals[i], truth), truth, least, inclusive=settings.inclusive)
        for i, truth in enumerate(run.annotations)
    ]
    rows, labels, targets = zip(*found, strict=True)
    return Pairs(list(rows), np.concatenate(labels), np.concatenate(targets))


def store_features(
    run: Run,
    plans: Mapping[str, tuple[Sequence[int], int]],
    compute: Callable[[int], Mapping[str, Float[np.ndarray, "B F"]]],
    params: Any,
    compile_for: Callable[[int], Any] | None = None,
) -> dict[str, FeatureStore]:
    """Stores of features in separate folders; stored images are not computed again.

    Args:
        plans: by the name of a store, the rows of each image and the features of a row.
        compute: of an image by its index, the rows of each store.
        params: of the network that they are made by.
        compile_for: runs the programs that `compute` does for this image, so that compiling is not extrapolated from a
            share; None: `compute` itself.
    """
    made_from = {**run.made_from, "network": fingerprint(params)}
    dtype = run.comparison.feature_dtype
    size = sum(store_bytes(*plan, dtype) for plan in plans.values())
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(write_features(run.folder / name, *plan, made_from=made_from, dtype=dtype))
            for name, plan in plans.items()
        }
        missing = sorted({index for writer in writers.values() for index in writer.missing()})
        if missing:
            print(f"Features of {counted(run.num_images, 'image')}: {size / 1e9:.3g} GB in {run.folder}")
            if run.comparison.share < 1:
                (compile_for or compute)(missing[0])
            anew = len(missing) == run.num_images  # as after a store was deleted
            with run.record.train("features", share=run.share, anew=anew) as tick:
                for index in Progress(missing, desc="Features", unit="image"):
                    for name, rows in compute(index).items():
                        writers[name].write(index, rows)
                    tick()
    return {name: FeatureStore.open(run.folder / name, made_from) for name in plans}
