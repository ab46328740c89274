"""EfficientNet-Lite for ImageNet as a PyTorch state dict, with the names of `efficientnet_lite_pytorch`.

    _conv_stem, _bn0                                      backbone/stem
    _blocks.N._expand_conv, _bn0                          .../stageS_I/expand (not in the first block)
    _blocks.N._depthwise_conv, _bn1                       .../stageS_I/depthwise
    _blocks.N._project_conv, _bn2                         .../stageS_I/project
    _conv_head, _bn1                                      head/stages/top
    _fc                                                   left out: the classifier

Blocks are counted from 0 through all stages; the stages of the head are left out if the model has another head. Batch
normalisation is folded into the convolution before it.
"""

import re
from collections.abc import Mapping, Set
from pathlib import Path

import numpy as np

from frcnn_jax.models.efficientnet_lite import LITE0, LITE1, LITE2, Stage
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.pixels import EFFICIENTNET_LITE_PIXELS
from frcnn_jax.weights.formats.base import WeightFormat, Weights, outputs_pattern
from frcnn_jax.weights.formats.stored import Stored
from frcnn_jax.weights.formats.torch.state_dict import read_state_dict, read_state_names
from frcnn_jax.weights.params import expected_shapes, matcher

EPSILON = 1e-3  # of the batch normalisation
_FAMILY = {"efficientnet_lite0": LITE0, "efficientnet_lite1": LITE1, "efficientnet_lite2": LITE2}
_PARTS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}
_LAYER = re.compile(r"((?:backbone|head/stages)/stage(\d+)_(\d+)/(expand|depthwise|project))/kernel")


def read_efficientnet_lite(path: Path, model: FastRCNN) -> Weights:
    """The arrays for the model; fc6 and fc7, or other layers of its head besides these stages, must be drawn.

    Raises:
        ValueError: it cannot be read (see `read_state_dict`), is not EfficientNet-Lite, or is another network than the
            model's; or a tensor is missing or misshapen.
    """
    tensors = read_state_dict(path)
    if not _is_ours(tensors.keys()):
        raise ValueError("it is not EfficientNet-Lite: _conv_stem.weight and the like are missing")
    expected = expected_shapes(model)
    layers, channels = {"backbone/stem": ("_conv_stem", "_bn0")}, []
    matches = [match for match in map(_LAYER.fullmatch, expected) if match]
    blocks = {match: (int(match[2]), int(match[3])) for match in matches}
    numbers = {block: number for number, block in enumerate(sorted(set(blocks.values())))}
    for match in sorted(matches, key=blocks.get):
        layers[match[1]] = tuple(f"_blocks.{numbers[blocks[match]]}.{name}" for name in _PARTS[match[4]])
        if match[4] == "project":
            channels.append(expected[match[0]].shape[-1])
    _check_network(tensors, channels, model)
    if "head/stages/top/kernel" in expected:
        layers["head/stages/top"] = ("_conv_head", "_bn1")

    arrays = {}
    for layer, (convolution, norm) in layers.items():
        kernel, bias = _folded(tensors, convolution, norm)
        arrays |= {f"{layer}/kernel": kernel, f"{layer}/bias": bias}
    used = {name for names in layers.values() for name in names}
    others = dict.fromkeys(name.rpartition(".")[0] for name in tensors if name.rpartition(".")[0] not in used)
    skipped = tuple(name for name in others if _may_be_left(name, len(channels)))
    arrays |= {
        name: tensor.read() for name, tensor in tensors.items() if name.rpartition(".")[0] not in {*used, *skipped}
    }
    is_output = matcher("", [outputs_pattern(model)])
    drawn = tuple(
        name
        for name in expected
        if name.startswith("head/") and not (name.startswith("head/stages/") or is_output(name))
    )
    skipped = tuple(dict.fromkeys(re.sub(r"(_blocks\.\d+)\..*", r"\1", name) for name in skipped))  # whole blocks
    return Weights(arrays, EFFICIENTNET_LITE_PIXELS, skipped=skipped, has_heads=False, drawn=drawn)


def _is_ours(names: Set[str]) -> bool:
    return {"_conv_stem.weight", "_blocks.0._project_conv.weight"} <= names


def _may_be_left(layer: str, blocks: int) -> bool:
    """True for the classifier, and for layers after the model's last whole block, of which it has `blocks`."""
    block = re.match(r"_blocks\.(\d+)\.", layer)
    return layer in ("_fc", "_conv_head", "_bn1") or (block is not None and int(block[1]) >= blocks)


def _channels(stages: tuple[Stage, ...]) -> list[int]:
    return [stage.channels for stage in stages for _ in range(stage.repeats)]


def _check_network(tensors: Mapping[str, Stored], channels: list[int], model: FastRCNN) -> None:
    """Raises ValueError if the file's blocks are not those of the model, given by their channels."""
    found = []
    while f"_blocks.{len(found)}._project_conv.weight" in tensors:
        found.append(tensors[f"_blocks.{len(found)}._project_conv.weight"].shape[0])
    if channels and found[: len(channels)] == channels:
        return
    file = next((name for name, stages in _FAMILY.items() if _channels(stages) == found), None)
    held = file or f"an EfficientNet-Lite of {len(found)} blocks"
    advice = "" if file is None else f": create the model by that name, in a config as --model.name {file}"
    name = model.architecture or type(model.backbone).__name__
    raise ValueError(f"it holds {held}, the model is {name}{advice}")


def _folded(tensors: Mapping[str, Stored], convolution: str, norm: str) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (rows x columns x in x out, no `in` if depthwise) and bias of a convolution with its norm folded in."""
    names = [f"{convolution}.weight", *(f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))]
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    kernel, scale, shift, mean, variance = (np.asarray(tensors[name].read(), np.float64) for name in names)
    if kernel.ndim != 4 or not scale.shape == shift.shape == mean.shape == variance.shape == kernel.shape[:1]:
        raise ValueError(f"{names[0]} {list(kernel.shape)} and {norm} {list(scale.shape)} do not fit each other")
    with np.errstate(invalid="ignore"):  # loading reports values that are not finite
        factor = scale / np.sqrt(variance + EPSILON)
    kernel = (kernel * factor[:, None, None, None]).transpose(2, 3, 1, 0)
    if convolution.endswith("_depthwise_conv") and kernel.shape[2] == 1:
        kernel = kernel[:, :, 0]
    return kernel.astype(np.float32), (shift - mean * factor).astype(np.float32)


EFFICIENTNET_LITE_PTH = WeightFormat(
    suffix=".pth",
    pixels=lambda path: EFFICIENTNET_LITE_PIXELS,
    read=read_efficientnet_lite,
    fits=lambda path: _is_ours(read_state_names(path)),
)
