"""The peer's functions besides networks: peak rates, RoI pooling, and batches from JPEG files."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from bench.sizes import GRID, STRIDE, Sizes


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A topic of the peer: a function to time for each case, outputs to compare, and the fastest variant."""

    runs: dict[str, Callable[[], Any]]
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: dict[str, str] = dataclasses.field(default_factory=dict)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


def prepare_rates(cases: Sequence[str], inputs: dict, device: torch.device, sizes: Sizes, folder: Path) -> Prepared:
    """A large matrix product, in the type of the measured networks."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    side = int(inputs["side"])
    matrix = torch.full((side, side), 1 / 64, dtype=dtype, device=device)
    return Prepared({"product": lambda: matrix @ matrix})


def prepare_roi_pool(cases: Sequence[str], inputs: dict, device: torch.device, sizes: Sizes, folder: Path) -> Prepared:
    """torchvision.ops.roi_pool, with channels first and RoIs as (image, corners)."""
    runs, arrays = {}, {}
    for case in cases:
        features = _channels_first(inputs[f"{case}/features"], device)
        boxes = inputs[f"{case}/rois"]
        images = np.repeat(np.arange(len(boxes), dtype=np.float32), boxes.shape[1])[:, None]
        rois = torch.from_numpy(np.concatenate([images, boxes.reshape(-1, 4)], axis=1)).to(device)
        shape = (*boxes.shape[:2], -1, *GRID)
        if f"{case}/cotangent" not in inputs:

            def run(features=features, rois=rois):
                with torch.inference_mode():
                    return torchvision.ops.roi_pool(features, rois, GRID, 1 / STRIDE)

            pooled = run()
        else:
            features.requires_grad_()
            by_image = inputs[f"{case}/cotangent"]
            cotangent = _channels_first(by_image.reshape(-1, *by_image.shape[2:]), device)

            def run(features=features, rois=rois, cotangent=cotangent):
                features.grad = None
                pooled = torchvision.ops.roi_pool(features, rois, GRID, 1 / STRIDE)
                pooled.backward(cotangent)
                return pooled

            pooled = run().detach()
            arrays[f"{case}/gradient"] = features.grad.cpu().numpy().transpose(0, 2, 3, 1)
        arrays[f"{case}/pooled"] = pooled.cpu().numpy().reshape(shape).transpose(0, 1, 3, 4, 2)
        runs[case] = run
    return Prepared(runs, arrays)


def prepare_input(cases: Sequence[str], inputs: dict, device: torch.device, sizes: Sizes, folder: Path) -> Prepared:
    """Decode, resize, mirror and pad with torchvision's own functions: in this thread, or in a DataLoader's workers."""
    files = [torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) for path in sorted(folder.glob("*.jpg"))]
    cores = torch.get_num_threads()  # set to the number of cores at the start of the process
    torch.set_num_threads(1)
    samples = _Samples(files, sizes)
    step = sizes.images

    def alone() -> None:
        for first in range(0, len(samples), step):
            _collate([samples[i] for i in range(first, min(first + step, len(samples)))])

    runs: dict[str, Callable[[], Any]] = {"1 core": alone}
    if len(cases) > 1:
        loader = torch.utils.data.DataLoader(
            samples, step, num_workers=cores, collate_fn=_collate, persistent_workers=True
        )
        runs[cases[1]] = lambda: [None for _ in loader]
    return Prepared(runs)


class _Samples(torch.utils.data.Dataset):
    """Images [3, h, w] of JPEG files, every other one mirrored."""

    def __init__(self, files: list[torch.Tensor], sizes: Sizes):
        self._files, self._sizes = files, sizes

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> torch.Tensor:
        from torchvision.io import ImageReadMode, decode_jpeg
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as transforms

        image = decode_jpeg(self._files[index], mode=ImageReadMode.RGB)
        scale = min(self._sizes.shorter / min(image.shape[1:]), self._sizes.longest / max(image.shape[1:]))
        size = [round(side * scale) for side in image.shape[1:]]
        image = transforms.resize(image, size, InterpolationMode.BILINEAR, antialias=False)
        return transforms.horizontal_flip(image) if index % 2 else image


def _collate(images: list[torch.Tensor]) -> torch.Tensor:
    """One batch, padded to a multiple of the stride, like this package's buckets."""
    height, width = (-(-max(image.shape[side] for image in images) // STRIDE) * STRIDE for side in (1, 2))
    batch = torch.zeros((len(images), 3, height, width), dtype=torch.uint8)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch


def _channels_first(array: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous().to(device)
