"""The description of a checkpoint, and its JSON."""

import dataclasses
import json
from typing import Any

from frcnn_jax.config import Config, to_json
from frcnn_jax.models.pixels import PixelNormalization

FORMAT = 2
# In checkpoints of format 1, `data` covers only ids and image bytes, and proposal files are not recorded.
READABLE = (1, FORMAT)


@dataclasses.dataclass(frozen=True)
class CheckpointMetadata:
    """Description of a checkpoint, stored beside its arrays."""

    classes: tuple[str, ...]  # without background
    pixels: PixelNormalization
    config: Config
    data: str  # fingerprint of the training set
    proposal_files: tuple[str, ...] = ()  # SHA-256 of each file of `proposals.train_files`
    orientation: str = "apply"  # or "ignore": training images were turned by their EXIF orientation or not
    format: int = FORMAT


def encode_metadata(metadata: CheckpointMetadata) -> dict[str, Any]:
    """The description as JSON values."""
    return {
        "format": metadata.format,
        "classes": list(metadata.classes),
        "pixels": dataclasses.asdict(metadata.pixels),
        "config": json.loads(to_json(metadata.config)),
        "data": metadata.data,
        "proposal_files": list(metadata.proposal_files),
        "orientation": metadata.orientation,
    }


def decode_metadata(described: dict[str, Any], config: Config) -> CheckpointMetadata:
    """The description from JSON values; its config is given, as it has been read before."""
    pixels = described["pixels"]
    return CheckpointMetadata(
        classes=tuple(described["classes"]),
        pixels=PixelNormalization(tuple(pixels["mean"]), tuple(pixels["std"]), pixels["order"]),
        config=config,
        data=described["data"],
        proposal_files=tuple(described.get("proposal_files", ())),
        orientation=described.get("orientation", config.data.default_orientation),
        format=described["format"],
    )
