"""The contract of an architecture: everything the rest of the package needs to know about a network."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn

from frcnn_jax.config import ParameterRule
from frcnn_jax.models.heads import FastRCNNHead
from frcnn_jax.models.pixels import PixelNormalization


@dataclasses.dataclass(frozen=True)
class WindowInput:
    """The ImageNet network behind an architecture, applied to whole windows."""

    size: int
    """Rows and columns of a window."""
    pooling: tuple[int, int] | None
    """Size and stride of the last max pooling, which the detector's trunk leaves out; None: no pooling."""
    hidden: Callable[..., nn.Module]
    """`hidden(dtype=..., param_dtype=...)` maps pooled features [B, h, w, C] to the vector before the classifier [B,
    F], with parameters of the detector's head.
    """
    trunk: Callable[..., nn.Module] | None = None
    """The trunk with the ImageNet network's padding; None: the detector's trunk."""
    regression_pooling: tuple[int, int] | None = None
    """Size and stride of an extra max pooling before R-CNN's box regressors, for networks with too many pooled
    features; None: no pooling.
    """


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """A file of ImageNet weights in an installed package. The package is not imported.

    Raises:
        ValueError: `package` is not a single name.
    """

    package: str
    """Import name of the package, as in `import NAME`."""
    file: str
    """Path of the file inside the package, or a pattern that matches one file (`models/*.pth`)."""
    install: str
    """Name of the package for pip."""

    def __post_init__(self):
        # Python would import the parent package to find a nested one.
        if not self.package.isidentifier():
            raise ValueError(f"PublishedWeights: the package must be one name, as in my_weights, not {self.package!r}")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Everything the rest of the package needs to know about a network."""

    trunk: Callable[..., nn.Module]
    """`trunk(dtype=..., param_dtype=...)` gives a module with an attribute `dtype` that maps images [N, H, W, 3] and
    their sizes [N, 2] (rows and columns, or None) to features [N, h, w, `channels`] and the sizes of these (None only
    for None). Features inside these sizes do not depend on padding; those outside are not used.
    """
    stride: int
    """Pixels from one feature cell to the next: an image with that many more rows has one more row of features."""
    channels: int
    """Channels of the features."""
    pixels: PixelNormalization
    """Normalisation of 8-bit images, for weights without their own."""
    rules: tuple[ParameterRule, ...]
    """Rules for all parameters, frozen ones included, for configs without their own rules."""
    output_size: tuple[int, int] = (7, 7)
    """Rows and columns of the RoI grid."""
    head: Callable[..., nn.Module] = FastRCNNHead
    """`head(num_classes, dropout=..., dtype=..., param_dtype=...)` gives a module that maps pooled features
    [B, PH, PW, C] to logits [B, K1] and offsets [B, K1, 4], of any floating dtype, with attributes `num_classes` and
    `param_dtype`; its keyword `train` switches dropout on. The attribute `output_layers` names the layers of scores and
    offsets if they are not `cls_score` and `bbox_pred`: new heads are drawn and box statistics folded by these names.
    The layer of offsets has a kernel [F, K1*4] or [F, K1, 4] and a bias [K1*4] or [K1, 4], and its output is the
    offsets. With `ranks` and `widths` like `FastRCNNHead`, it can be compressed.
    """
    weights: str = ""
    """Published weights: names and file formats."""
    imagenet: PublishedWeights | None = None
    """Weights that the name "imagenet" stands for; None: no package has them."""
    window: WindowInput | None = None
    """The network for classifiers of whole windows; None: no such network."""
