"""The contract of an architecture: all that the rest of the package has to know of a network."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn

from frcnn_jax.config import ParameterRule
from frcnn_jax.models.heads import FastRCNNHead
from frcnn_jax.models.pixels import PixelNormalization


@dataclasses.dataclass(frozen=True)
class WindowInput:
    """The ImageNet network that an architecture comes from, applied to whole windows."""

    size: int
    """Rows and columns of a window."""
    pooling: tuple[int, int] | None
    """Size and stride of the last max pooling, which the detector's trunk leaves out; None: there is none."""
    hidden: Callable[..., nn.Module]
    """`hidden(dtype=..., param_dtype=...)` maps pooled features [B, h, w, C] to the vector before the classifier
    [B, F], with the parameters that the detector's head has for that."""
    trunk: Callable[..., nn.Module] | None = None
    """The trunk with the ImageNet network's padding; None: the detector's."""
    regression_pooling: tuple[int, int] | None = None
    """Size and stride of a max pooling before R-CNN's box regressors alone, where the pooled features are too many for
    them; None: there is none."""


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """A file of ImageNet weights in an installed package, of which nothing is imported.

    Raises:
        ValueError: `package` is anything but one name.
    """

    package: str
    """The name that Python knows it by, as in `import NAME`."""
    file: str
    """Path of the file inside the package; a pattern (`models/*.pth`) that one file matches."""
    install: str
    """The name that pip knows it by."""

    def __post_init__(self):
        # Python would import the package around another one to find it.
        if not self.package.isidentifier():
            raise ValueError(f"PublishedWeights: the package must be one name, as in my_weights, not {self.package!r}")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """All that the rest of the package has to know of a network."""

    trunk: Callable[..., nn.Module]
    """`trunk(dtype=..., param_dtype=...)` gives a module with an attribute `dtype` that maps images [N, H, W, 3] and
    their sizes [N, 2] (rows and columns, or None) to features [N, h, w, `channels`] and their sizes. Features are zero
    outside their sizes, and padding changes none."""
    stride: int
    """Pixels from one feature cell to the next: an image with as many rows more has one row of features more."""
    channels: int
    """Of the features."""
    pixels: PixelNormalization
    """Of 8-bit images, where weights do not bring their own."""
    rules: tuple[ParameterRule, ...]
    """Training of its parameters, frozen ones included, where a config has no rules of its own."""
    output_size: tuple[int, int] = (7, 7)
    """RoI grid, rows and columns."""
    head: Callable[..., nn.Module] = FastRCNNHead
    """`head(num_classes, dropout=..., dtype=..., param_dtype=...)` gives a module that maps pooled features
    [B, PH, PW, C] to logits [B, K1] and offsets [B, K1, 4], with attributes `num_classes` and `param_dtype`; its
    keyword `train` switches dropout on. `output_layers`, an attribute of two names, says which of its layers give
    scores and offsets, where they are not `cls_score` and `bbox_pred`: new heads are drawn and box statistics folded by
    these names. The layer of offsets has a kernel [F, K1*4] or [F, K1, 4] and a bias [K1*4] or [K1, 4], and its output
    is the offsets. With `ranks` and `widths` as `FastRCNNHead` has, it can be compressed."""
    weights: str = ""
    """Published weights: names and kinds of files."""
    imagenet: PublishedWeights | None = None
    """Weights that the name "imagenet" stands for, in place of a file; None: no package has them."""
    window: WindowInput | None = None
    """For classifiers of whole windows; None: no such network."""
