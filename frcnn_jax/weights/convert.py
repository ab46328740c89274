"""Conversion of other frameworks' weights to this package's format, which loads faster."""

import dataclasses
from pathlib import Path

from frcnn_jax.config import expand_user
from frcnn_jax.models.architectures import create_model
from frcnn_jax.models.heads import output_layers
from frcnn_jax.weights.formats.base import Weights
from frcnn_jax.weights.formats.table import CONVERTED, read_foreign, refuse_existing, write_weights
from frcnn_jax.weights.load import fit_weights
from frcnn_jax.weights.metadata import NetworkMetadata
from frcnn_jax.weights.published import locate_weights
from frcnn_jax.weights.svd import stored_ranks


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Result of `convert_weights`."""

    path: Path  # of the written file
    arrays: tuple[str, ...]  # names of the arrays in the file
    skipped: tuple[str, ...]  # layers of the source that are not in the file
    metadata: NetworkMetadata


def convert_weights(source: str | Path, model: str, out: str | Path, num_classes: int | None = None) -> Conversion:
    """Writes `out`/weights.safetensors with the weights of a `.caffemodel`, torchvision's `.pth` or `.safetensors`,
    EfficientNet-Lite's `.pth`, Keras's `.h5`, or "imagenet", as `load_weights` takes them.

    `load_weights` takes that file and the folder, with the same result as the source. If the source has `fc6_L` and
    `fc6_U` instead of fc6, or the same for fc7, the metadata holds the ranks to create the model with.

    Args:
        model: name for `create_model`.
        num_classes: number of classes of a trained detector, background included; that of the source if None.

    Raises:
        FileNotFoundError: the source does not exist.
        FileExistsError: the file already exists, or `out` is the folder of a run or of its checkpoints, which are read
            from it instead.
        ValueError: the source has an unknown format, is damaged or does not fit the model.
    """
    source, path = locate_weights(source, model), expand_user(out) / CONVERTED
    _refuse_run(path.parent)
    refuse_existing(path)
    smallest = create_model(model, num_classes or 2)
    weights = read_foreign(source, smallest)
    count = _count_classes(weights, output_layers(smallest.head)[0]) if num_classes is None else num_classes
    ranks = {f"{layer}_rank": rank for layer, rank in stored_ranks(weights.arrays).items()}
    try:
        target = create_model(model, count, pixels=weights.pixels, **ranks)
    except ValueError as error:
        raise ValueError(f"{source} does not fit {model}: {error}") from error
    # Checks names and shapes. An ImageNet network gets random heads for the check, which are not written.
    fit_weights(source, weights, target)

    metadata = NetworkMetadata(
        model=model,
        pixels=weights.pixels,
        num_classes=count if weights.has_heads else None,
        source=source.name,
        drawn=weights.drawn,
        **ranks,
    )
    write_weights(path, weights.arrays, metadata)
    return Conversion(path, tuple(weights.arrays), weights.skipped, metadata)


def _refuse_run(out: Path) -> None:
    """Raises FileExistsError if `out` is the folder of a run, or the one of its checkpoints."""
    for folder in (out, out.parent) if out.name == "checkpoints" else (out,):
        if (folder / "config.json").exists() or (folder / "checkpoints").exists():
            raise FileExistsError(f"{folder} is the folder of a run, whose checkpoints are read: give another --out")


def _count_classes(weights: Weights, scores: str) -> int:
    """Number of classes, background included; 2, the minimum, if the weights do not state it."""
    bias = weights.arrays.get(f"head/{scores}/bias")
    return 2 if bias is None or bias.ndim != 1 else max(len(bias), 2)
