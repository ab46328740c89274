"""Makes `fixtures/efficientnet_lite.npz`: what PyTorch computes with an EfficientNet-Lite of few channels.

    pip install torch numpy
    python tests/models/make_efficientnet_fixture.py

The weights are random, the statistics of batch normalisation too, which PyTorch applies as it stands, in eval mode.

    shapes           JSON: shapes of the state dict by the published names
    state            its numbers, one tensor after the other, in float16, which is what was computed with
    image<i>         input, [H, W, 3]
    features<i>      of the stages to stride 16, [h, w, C], with the zeros before that even sizes have
    window           input of the whole network, [H, W, 3], and the results with TensorFlow's SAME padding:
    map, vector      features of the stages to stride 16, the vector before the classifier
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

FILE = Path(__file__).parent / "fixtures/efficientnet_lite.npz"
# Kernel, stride, expansion, channels, repeats; the first five are the trunk.
STAGES = (
    (3, 1, 1, 4, 1),
    (3, 2, 2, 3, 2),
    (5, 2, 2, 4, 2),
    (3, 2, 2, 5, 1),
    (5, 1, 2, 6, 2),
    (5, 2, 2, 5, 2),
    (3, 1, 2, 7, 1),
)
TRUNK, STEM, TOP, CLASSES = 5, 4, 9, 3
IMAGES = ((53, 70), (48, 47))
WINDOW = (54, 49)  # odd at several strides, each in rows or columns or both
State = dict[str, Tensor]


def draw_state(random: np.random.Generator) -> State:
    """A state dict; activations keep about the size of the input and reach the bound of ReLU6 here and there."""
    state = {}

    def add(convolution: str, norm: str, *shape: int) -> None:
        outputs = shape[0]
        state[f"{convolution}.weight"] = random.normal(0, (3 / np.prod(shape[1:])) ** 0.5, shape)
        state[f"{norm}.weight"] = random.uniform(0.6, 1.6, outputs)
        state[f"{norm}.bias"] = random.normal(0.2, 0.7, outputs)
        state[f"{norm}.running_mean"] = random.normal(0, 0.3, outputs)
        # Small ones too, which the epsilon changes.
        state[f"{norm}.running_var"] = random.uniform(0.005, 2, outputs)
        state[f"{norm}.num_batches_tracked"] = np.array(7)

    add("_conv_stem", "_bn0", STEM, 3, 3, 3)
    channels, number = STEM, 0
    for size, _, expansion, outputs, repeats in STAGES:
        for _ in range(repeats):
            block, inner = f"_blocks.{number}", channels * expansion
            if expansion != 1:
                add(f"{block}._expand_conv", f"{block}._bn0", inner, channels, 1, 1)
            add(f"{block}._depthwise_conv", f"{block}._bn1", inner, 1, size, size)
            add(f"{block}._project_conv", f"{block}._bn2", outputs, inner, 1, 1)
            channels, number = outputs, number + 1
    add("_conv_head", "_bn1", TOP, channels, 1, 1)
    state |= {"_fc.weight": random.normal(0, 0.3, (CLASSES, TOP)), "_fc.bias": random.normal(0, 1, CLASSES)}
    half = {name: np.asarray(array, np.float16 if array.ndim else np.int64) for name, array in state.items()}
    return {name: torch.tensor(array.astype(np.float64) if array.ndim else array) for name, array in half.items()}


def pad(x: Tensor, size: int, stride: int, same: bool) -> Tensor:
    """Zeros for ceil(n / stride) cells: as many before as even sizes have, or TensorFlow's SAME for each size."""
    edges = []
    for length in (x.shape[3], x.shape[2]):  # columns first
        total = max((-(-length // stride) - 1) * stride + size - length, 0)
        before = total // 2 if same else (size - stride) // 2
        edges += [before, total - before]
    return functional.pad(x, edges)


def convolve(
    x: Tensor, state: State, convolution: str, norm: str, *, stride: int = 1, same: bool, relu: bool
) -> Tensor:
    """Padded convolution, depthwise where the kernel says so, batch normalisation, and ReLU6 where asked for."""
    kernel = state[f"{convolution}.weight"]
    groups = x.shape[1] // kernel.shape[1]
    x = functional.conv2d(pad(x, kernel.shape[-1], stride, same), kernel, stride=stride, groups=groups)
    names = ("running_mean", "running_var", "weight", "bias")
    x = functional.batch_norm(x, *(state[f"{norm}.{name}"] for name in names), training=False, eps=1e-3)
    return functional.relu6(x) if relu else x


def run(x: Tensor, state: State, stages: tuple, trunk: int, *, same: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Features of the first `trunk` stages, the vector before the classifier, and the logits; `x` is [N, 3, H, W]."""
    x = convolve(x, state, "_conv_stem", "_bn0", stride=2, same=same, relu=True)
    number, features = 0, x
    for stage, (_, first_stride, expansion, _, repeats) in enumerate(stages):
        for i in range(repeats):
            block, stride, y = f"_blocks.{number}", first_stride if i == 0 else 1, x
            if expansion != 1:
                y = convolve(y, state, f"{block}._expand_conv", f"{block}._bn0", same=same, relu=True)
            y = convolve(y, state, f"{block}._depthwise_conv", f"{block}._bn1", stride=stride, same=same, relu=True)
            y = convolve(y, state, f"{block}._project_conv", f"{block}._bn2", same=same, relu=False)
            x = x + y if stride == 1 and x.shape == y.shape else y
            number += 1
        features = x if stage + 1 == trunk else features
    vector = convolve(x, state, "_conv_head", "_bn1", same=same, relu=True).mean(dim=(2, 3))
    return features, vector, functional.linear(vector, state["_fc.weight"], state["_fc.bias"])


def main() -> None:
    """Writes the fixture."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    random = np.random.default_rng(0)
    state = draw_state(random)
    arrays = {
        "shapes": np.array(json.dumps({name: tensor.shape for name, tensor in state.items()})),
        "state": np.concatenate([tensor.numpy().ravel().astype(np.float16) for tensor in state.values()]),
    }

    def draw(height: int, width: int) -> tuple[np.ndarray, Tensor]:
        image = random.integers(-2, 3, (height, width, 3), np.int8)
        return image, torch.tensor(image.astype(np.float64).transpose(2, 0, 1)[None])

    def last(x: Tensor) -> np.ndarray:
        return x[0].movedim(0, -1).numpy().astype(np.float32)

    for i, size in enumerate(IMAGES):
        arrays[f"image{i}"], x = draw(*size)
        arrays[f"features{i}"] = last(run(x, state, STAGES, TRUNK, same=False)[0])
    arrays["window"], x = draw(*WINDOW)
    features, vector, _ = run(x, state, STAGES, TRUNK, same=True)
    arrays |= {"map": last(features), "vector": last(vector)}
    np.savez_compressed(FILE, **arrays)
    for name in ("features0", "features1", "map", "vector"):
        print(name, arrays[name].shape, "deviation", arrays[name].std())


if __name__ == "__main__":
    main()
