"""The networks by name, and the constructor that people call."""

from typing import Any

import jax.numpy as jnp

from frcnn_jax.models.caffe_trunks import VGG16, VGGCNNM1024, CaffeNet
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.heads import FastRCNNHead
from frcnn_jax.models.pixels import CAFFE_PIXELS, CENTERED_PIXELS, PixelNormalization
from frcnn_jax.models.tiny import TinyBackbone

# Trunk, widths of fc6 and fc7, RoI grid, and pixels, by name.
_ARCHITECTURES = {
    "caffenet": (CaffeNet, (4096, 4096), (6, 6), CAFFE_PIXELS),
    "vgg_cnn_m_1024": (VGGCNNM1024, (4096, 1024), (6, 6), CAFFE_PIXELS),
    "vgg16": (VGG16, (4096, 4096), (7, 7), CAFFE_PIXELS),
    "tiny": (TinyBackbone, (512, 256), (7, 7), CENTERED_PIXELS),
}


def create_model(
    name: str,
    num_classes: int,
    *,
    dropout: float = 0.5,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    pixels: PixelNormalization | None = None,
    fc6_rank: int | None = None,
    fc7_rank: int | None = None,
    roi_pooling: str = "xla",
) -> FastRCNN:
    """A detector by name: "caffenet", "vgg_cnn_m_1024", "vgg16" (the paper's S, M and L) or "tiny".

    Args:
        num_classes: classes including background: 21 for VOC.
        dropout: probability after fc6 and fc7.
        dtype: of activations; `param_dtype`: of parameters.
        pixels: normalisation of 8-bit images; the architecture's own if None.
        fc6_rank, fc7_rank: make two layers of fc6 or fc7, for weights compressed to that rank (section 3.1).
        roi_pooling: "xla", or "pallas" for kernels on GPUs (see `roi_max_pool`).

    Raises:
        ValueError: the name is not known, there is no class beside background, or a rank is not in 1 ... the smaller
            side of its layer.
    """
    if name not in _ARCHITECTURES:
        raise ValueError(f"no model {name!r}; there are {', '.join(sorted(_ARCHITECTURES))}")
    if num_classes < 2:
        raise ValueError(f"num_classes counts background and must be at least 2, not {num_classes}")
    make_backbone, widths, output_size, default_pixels = _ARCHITECTURES[name]
    types = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype)}
    backbone = make_backbone(**types)
    inputs = backbone.channels[-1] * output_size[0] * output_size[1]
    _check_rank("fc6_rank", fc6_rank, inputs, widths[0])
    _check_rank("fc7_rank", fc7_rank, *widths)
    return FastRCNN(
        backbone=backbone,
        head=FastRCNNHead(num_classes, widths, dropout, (fc6_rank, fc7_rank), **types),
        pixels=default_pixels if pixels is None else pixels,
        output_size=output_size,
        roi_pooling=roi_pooling,
    )


def _check_rank(argument: str, rank: int | None, inputs: int, outputs: int) -> None:
    if rank is not None and not 1 <= rank <= min(inputs, outputs):
        raise ValueError(f"{argument} {rank} is not in 1 ... {min(inputs, outputs)}: the layer is {inputs} x {outputs}")
