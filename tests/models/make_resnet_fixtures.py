"""Makes the files of ResNets in `fixtures`: what torchvision's have and compute.

    python -m venv /tmp/torch && /tmp/torch/bin/pip install torch torchvision safetensors
    /tmp/torch/bin/python tests/models/make_resnet_fixtures.py

The networks are made by torchvision's own functions with few channels and blocks. Weights and the statistics of batch
normalisation are random. `resnet_*.safetensors` are the state dicts, in float16; `resnet_*.npz` have

    image0, image1   input, float16 [H, W, 3]: sizes that are odd, even and neither
    features0, ...   after layer3, [C, h, w]
    vector0, ...     of the whole image: the mean after layer4
    pooled, mean     features of RoIs [R, C, 7, 7], and the mean of each after layer4

`torchvision_resnets.json` has the names and shapes of resnet18's and resnet50's state dicts.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18, resnet50
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

FOLDER = Path(__file__).parent / "fixtures"
WIDTH, BLOCKS = 2, (2, 1, 1, 1)
IMAGE_SIZES = ((47, 65), (64, 50))
KINDS = {"basic": BasicBlock, "bottleneck": Bottleneck}


def make_network(kind: type) -> ResNet:
    """torchvision's ResNet with these numbers of channels and blocks in place of its own."""
    net = ResNet(kind, [1, 1, 1, 1])
    net.inplanes = WIDTH
    net.conv1 = torch.nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False)
    net.bn1 = torch.nn.BatchNorm2d(WIDTH)
    for stage, blocks in enumerate(BLOCKS):
        layer = net._make_layer(kind, WIDTH << stage, blocks, stride=1 if stage == 0 else 2)
        setattr(net, f"layer{stage + 1}", layer)
    net.fc = torch.nn.Linear(WIDTH * 8 * kind.expansion, 5)
    return net.eval()


def randomize(net: torch.nn.Module, rng: np.random.Generator) -> None:
    """Values that float16 has."""
    for name, tensor in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            values = rng.uniform(0.3, 2, tensor.shape)
        elif tensor.ndim == 1:
            values = rng.normal(0.8 if name.endswith("weight") else 0, 0.3, tensor.shape)
        else:
            values = rng.normal(0, (2 / np.prod(tensor.shape[1:])) ** 0.5, tensor.shape)
        tensor.copy_(torch.from_numpy(values.astype(np.float16)))


def main() -> None:
    """Writes all fixtures."""
    torch.set_grad_enabled(False)
    rng = np.random.default_rng(0)
    for name, kind in KINDS.items():
        net = make_network(kind)
        randomize(net, rng)
        trunk = torch.nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3)
        state = {key: value.half() if value.ndim else value for key, value in net.state_dict().items()}
        save_file(state, FOLDER / f"resnet_{name}.safetensors", metadata={"format": "pt"})
        stored = {}
        for i, size in enumerate(IMAGE_SIZES):
            image = rng.normal(0, 1, (*size, 3)).astype(np.float16)
            features = trunk(torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None])
            stored |= {
                f"image{i}": image,
                f"features{i}": features[0].numpy(),
                f"vector{i}": net.avgpool(net.layer4(features)).flatten().numpy(),
            }
        pooled = rng.uniform(0, 2, (2, features.shape[1], 7, 7)).astype(np.float16)
        stored["pooled"] = pooled
        stored["mean"] = net.avgpool(net.layer4(torch.from_numpy(pooled.astype(np.float32)))).flatten(1).numpy()
        np.savez_compressed(FOLDER / f"resnet_{name}.npz", **stored)
    shapes = {
        net.__name__: {name: list(tensor.shape) for name, tensor in net(weights=None).state_dict().items()}
        for net in (resnet18, resnet50)
    }
    (FOLDER / "torchvision_resnets.json").write_text(json.dumps(shapes, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
