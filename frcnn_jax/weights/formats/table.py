"""The table of weight formats; reading and writing files in any of them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from frcnn_jax.atomic import replacing
from frcnn_jax.config import expand_user
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.pixels import PixelNormalization
from frcnn_jax.weights.formats.base import FOLDER, Metadata, WeightFormat, Weights, read_named
from frcnn_jax.weights.formats.caffe import CAFFEMODEL
from frcnn_jax.weights.formats.checkpoints import CHECKPOINTS
from frcnn_jax.weights.formats.keras import KERAS
from frcnn_jax.weights.formats.own import NPZ, SAFETENSORS
from frcnn_jax.weights.formats.stablehlo import STABLEHLO
from frcnn_jax.weights.formats.torch.efficientnet import EFFICIENTNET_LITE_PTH
from frcnn_jax.weights.formats.torch.resnet import RESNET_PTH, RESNET_SAFETENSORS
from frcnn_jax.weights.formats.torch.vgg16 import TORCHVISION_PTH, TORCHVISION_SAFETENSORS
from frcnn_jax.weights.metadata import WeightsMetadata
from frcnn_jax.weights.published import locate_weights

# The first format that fits is used among those with one suffix. The last one is tried if none fits, for its error
# message.
FORMATS: tuple[WeightFormat, ...] = (
    CAFFEMODEL,
    EFFICIENTNET_LITE_PTH,
    RESNET_PTH,
    RESNET_SAFETENSORS,
    TORCHVISION_PTH,
    TORCHVISION_SAFETENSORS,
    KERAS,
    SAFETENSORS,
    NPZ,
    STABLEHLO,
    CHECKPOINTS,
)
# Further suffixes of the same files: .tar, as in .pth.tar, is that of PyTorch's ImageNet example.
_SAME_AS = {".pt": ".pth", ".tar": ".pth", ".bin": ".pth", ".ckpt": ".pth", ".hdf5": ".h5"}
# Name of the file in a folder of `frcnn convert-weights`.
CONVERTED = "weights.safetensors"


def read_weights(path: Path, model: FastRCNN) -> Weights:
    """Content of the file in the layout of `model`, not yet checked against the model.

    Raises:
        FileNotFoundError, ValueError: as `load_weights`.
    """
    formats = [form for form in FORMATS if form.read is not None]
    return _read(path, formats, lambda form, file: form.read(file, model))


def read_foreign(path: Path, model: FastRCNN) -> Weights:
    """`read_weights` of a file of another framework; this package's own files are refused."""
    formats = [form for form in FORMATS if form.read is not None and form.metadata is None]
    if _suffix(path) not in _suffixes(formats):
        raise ValueError(f"{path}: weights are converted from {', '.join(_suffixes(formats))}")
    if path.exists() and _is_own(path):
        raise ValueError(f"{path} is this package's own: load_weights and --model.weights take it as it is")
    return _read(path, formats, lambda form, file: form.read(file, model))


def _is_own(path: Path) -> bool:
    """True for a file with this package's metadata."""
    try:
        _read(path, [form for form in FORMATS if form.metadata is not None], lambda form, file: form.metadata(file))
    except ValueError:
        return False
    return True


def read_pixels(path: str | Path, model: str | None = None) -> PixelNormalization:
    """The pixel normalisation of the weights, to create their model with.

    Args:
        path: as `load_weights` takes it.
        model: name of the model; only "imagenet" needs it.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: it has an unknown format, or is damaged.
    """
    path = locate_weights(path, model)
    return _read(path, FORMATS, lambda form, file: form.pixels(file))


def read_metadata(path: str | Path) -> WeightsMetadata:
    """Metadata of an exported file (safetensors, npz or stablehlo), of a workdir or of its checkpoints.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: it has an unknown format, is damaged, or holds a network without a detector's settings.
    """
    formats = [form for form in FORMATS if form.metadata is not None]
    metadata = _read(expand_user(path), formats, lambda form, file: form.metadata(file))
    if not isinstance(metadata, WeightsMetadata):
        raise ValueError(f"{path} holds weights of {metadata.source} without classes and settings of a detector")
    return metadata


def write_weights(path: str | Path, arrays: Mapping[str, Any], metadata: Metadata, *, overwrite: bool = False) -> None:
    """Writes arrays under flat names with their metadata, in the format of the path's suffix; follows a link.

    Raises:
        ValueError: no format with this suffix can be written.
        FileExistsError: the file exists and `overwrite` is False, or it is a folder.
    """
    path = Path(path)
    writers = {form.suffix: form.write for form in FORMATS if form.write is not None}
    if path.suffix not in writers:
        raise ValueError(f"{path} must end in {' or '.join(writers)}")
    refuse_existing(path, overwrite)
    with replacing(path, follow=True) as temporary:
        writers[path.suffix](temporary, arrays, metadata)


def refuse_existing(path: Path, overwrite: bool = False) -> None:
    """Raises FileExistsError if `path` exists and may not be overwritten, or is a folder."""
    if path.is_dir() or (path.exists() and not overwrite):
        raise FileExistsError(f"{path} already exists" + (" and is a folder" if path.is_dir() else ""))


def _read(path: Path, formats: Sequence[WeightFormat], use: Callable[[WeightFormat, Path], Any]) -> Any:
    """Result of `use` for the file and its format, one of these."""
    converted = path / CONVERTED
    if converted.is_file() and not (path / "checkpoints").exists():
        path = converted  # a folder that is not a run
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    suffix = FOLDER if path.is_dir() else _suffix(path)
    candidates = [form for form in formats if form.suffix == suffix]
    if not candidates:
        raise ValueError(f"{path}: weights are read from {', '.join(_suffixes(formats))} and from the folder of a run")

    def read(file: Path) -> Any:
        return use(next((form for form in candidates[:-1] if form.fits(file)), candidates[-1]), file)

    return read_named(path, read)


def _suffix(path: Path) -> str:
    """The suffix of the format of a file."""
    suffix = path.suffix.lower()
    return _SAME_AS.get(suffix, suffix)


def _suffixes(formats: Sequence[WeightFormat]) -> list[str]:
    return sorted({form.suffix for form in formats} - {FOLDER})
