"""torchvision's ResNets, from `.pth` or from safetensors, with batch normalisation folded into the convolutions.

conv1, bn1                                    backbone/conv1
layer1.0.conv2, layer1.0.bn2                  backbone/layer1_0/conv2, to layer3
layer1.0.downsample.0, layer1.0.downsample.1  backbone/layer1_0/downsample
layer4.0.conv2, layer4.0.bn2                  head/stages/layer4_0/conv2
fc                                            left out: the classifier
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from frcnn_jax.models.pixels import TORCHVISION_PIXELS
from frcnn_jax.weights.formats.layers import Layers, layer_format
from frcnn_jax.weights.formats.stored import Stored
from frcnn_jax.weights.formats.torch.networks import RESNET_CONVOLUTION, network_of_file
from frcnn_jax.weights.formats.torch.tensors import read_names, read_tensors
from frcnn_jax.words import joined

EPSILON = 1e-5  # of the batch normalisation
_NORM = ("weight", "bias", "running_mean", "running_var")


def read_resnet(path: Path) -> Layers:
    """The layers of a file, with each convolution's normalisation folded in; other layers keep their names.

    Raises:
        ValueError: a `.pth` cannot be read, see `read_state_dict`; or a convolution's normalisation is missing or
            does not fit it.
        safetensors.SafetensorError: it is not a safetensors file, or damaged.
    """
    tensors = read_tensors(path)
    layers: Layers = {}
    used = set()
    for name, kernel in tensors.items():
        found = RESNET_CONVOLUTION.fullmatch(name)
        if found is None:
            continue
        layer = name.removesuffix(".weight")
        norm = layer.removesuffix("0") + "1" if layer.endswith("downsample.0") else layer.replace("conv", "bn")
        layers[_our_name(found)] = _fold(layer, kernel, norm, tensors)
        used |= {name, f"{norm}.num_batches_tracked", *(f"{norm}.{part}" for part in _NORM)}
    for name, tensor in tensors.items():
        if name not in used:
            layer, _, part = name.rpartition(".")
            layers.setdefault(layer, {})[part] = tensor
    return layers


def _our_name(found: re.Match) -> str:
    name = found["name"].removesuffix(".0")
    if found["stage"] is None:
        return name
    return f"{'stages/' if found['stage'] == '4' else ''}layer{found['stage']}_{found['block']}/{name}"


def _fold(layer: str, kernel: Stored, norm: str, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Kernel (out x in x rows x columns) and bias of a convolution with its normalisation folded in."""
    names = [f"{norm}.{part}" for part in _NORM]
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}, which belong to {layer}.weight")
    shapes = {tensors[name].shape for name in names}
    if len(kernel.shape) != 4 or shapes != {kernel.shape[:1]}:
        sizes = joined(map(str, sorted(list(shape) for shape in shapes)))
        raise ValueError(f"{norm} {sizes} does not fit {layer}.weight {list(kernel.shape)}")
    scale, shift, mean, variance = (tensors[name].read().astype(np.float64) for name in names)
    with np.errstate(invalid="ignore"):  # loading reports values that are not finite
        factor = scale / np.sqrt(variance + EPSILON)

    def read_kernel() -> np.ndarray:
        return (kernel.read() * factor[:, None, None, None]).astype(np.float32)

    bias = (shift - mean * factor).astype(np.float32)
    return {"weight": Stored(kernel.shape, read_kernel), "bias": Stored(bias.shape, lambda: bias)}


def _fits(path: Path) -> bool:
    """True for a file with a ResNet's tensor names."""
    return {"conv1.weight", "layer1.0.conv1.weight"} <= read_names(path)


RESNET_PTH, RESNET_SAFETENSORS = (
    layer_format(suffix, read_resnet, TORCHVISION_PIXELS, _fits, network_of_file) for suffix in (".pth", ".safetensors")
)
