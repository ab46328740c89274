"""torchvision's networks by the names of their tensors."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from frcnn_jax.weights.formats.torch.tensors import read_names

# The ResNets: True for bottlenecks, and the number of blocks of each layer.
_RESNETS = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}
# Networks with convolutions in `features`: their numbers there.
_FEATURES = {
    "alexnet": (0, 3, 6, 8, 10),
    "vgg11": (0, 3, 6, 8, 11, 13, 16, 18),
    "vgg13": (0, 2, 5, 7, 10, 12, 15, 17, 20, 22),
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "vgg19": (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
}
_NUMBERED = re.compile(r"features\.(\d+)\.(weight|running_mean)")
RESNET_CONVOLUTION = re.compile(r"(?:layer(?P<stage>[1-4])\.(?P<block>\d+)\.)?(?P<name>conv\d|downsample\.0)\.weight")


def network_of_file(path: Path) -> str | None:
    """torchvision's name of the network in a file; None if unknown."""
    return torchvision_network(read_names(path))


def torchvision_network(names: Collection[str]) -> str | None:
    """torchvision's name of the network with exactly these convolutions; None if unknown.

    ResNeXts and Wide ResNets have the tensor names of ResNets.
    """
    convolutions = set(filter(RESNET_CONVOLUTION.fullmatch, names))
    for network, (is_bottleneck, blocks) in _RESNETS.items():
        if convolutions == set(_resnet_names(is_bottleneck, blocks)):
            return network
    numbered = [found for found in map(_NUMBERED.fullmatch, names) if found]
    norms = {int(found[1]) for found in numbered if found[2] == "running_mean"}
    numbers = sorted({int(found[1]) for found in numbered} - norms)
    # Batch normalisation shifts the numbers of the following layers.
    plain = tuple(number - sum(norm < number for norm in norms) for number in numbers)
    network = next((network for network, expected in _FEATURES.items() if plain == expected), None)
    return f"{network}_bn" if network and norms else network


def _resnet_names(is_bottleneck: bool, blocks: tuple[int, ...]) -> Iterator[str]:
    yield "conv1.weight"
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            for i in range(1, 4 if is_bottleneck else 3):
                yield f"layer{stage}.{block}.conv{i}.weight"
        if is_bottleneck or stage > 1:
            yield f"layer{stage}.0.downsample.0.weight"
