"""The peer's networks by this package's names."""

from collections.abc import Callable

from torch import nn

from bench.pytorch import caffe_trunks, efficientnet, tiny
from bench.pytorch.detector import Arrays, Detector, FullyConnectedHead, StagesHead
from bench.sizes import STRIDE

# Trunk, pixels, and prefixes of the paths that the paper's settings, or this package's, freeze.
_EFFICIENTNET = (efficientnet.Trunk, efficientnet.PIXELS, efficientnet.FROZEN)
NETWORKS: dict[str, tuple[Callable[[Arrays], nn.Module], tuple, tuple[str, ...]]] = {
    "vgg16": (caffe_trunks.vgg16, caffe_trunks.PIXELS, ("backbone/conv1_", "backbone/conv2_")),
    "vgg_cnn_m_1024": (caffe_trunks.vgg_cnn_m_1024, caffe_trunks.PIXELS, ("backbone/conv1/",)),
    "caffenet": (caffe_trunks.caffenet, caffe_trunks.PIXELS, ("backbone/conv1/",)),
    "tiny": (tiny.Trunk, tiny.PIXELS, ()),
    **{f"efficientnet_lite{number}{kind}": _EFFICIENTNET for number in range(3) for kind in ("", "_fc")},
}
GRIDS = {"vgg_cnn_m_1024": 6, "caffenet": 6}  # 7 for the others


def build_network(
    name: str, arrays: Arrays, *, grid: int | None = None, stride: int = STRIDE, pixels: tuple | None = None
) -> Detector:
    """The detector of that name with this package's parameters.

    Args:
        grid, stride, pixels: see `Detector`; the architecture's grid and pixels if None.

    Raises:
        KeyError: the network is unknown, or the parameters do not fit it.
    """
    trunk, own_pixels, frozen = NETWORKS[name]
    if "head/fc6/kernel" in arrays:
        head = FullyConnectedHead(arrays)
    else:
        head = StagesHead(arrays, efficientnet.last_stages(arrays))
    grid = GRIDS.get(name, 7) if grid is None else grid
    return Detector(trunk(arrays), head, grid, stride, pixels or own_pixels, frozen).load(arrays)
