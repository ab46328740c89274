"""The peer's process: `python -m bench.peer FOLDER` reads FOLDER/job.json and inputs.npz, measures with PyTorch and
writes result.json and outputs.npz. Needs torch, torchvision and NumPy, and nothing of ours but `bench.timing`."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from bench.peer_fast_rcnn import measure_test, measure_train_step
from bench.sizes import Sizes, decode_sizes
from bench.timing import Timing, cores, measure

# Timings by case, notes by case, arrays to compare, facts
Measured = tuple[dict[str, Timing], dict[str, str], dict[str, np.ndarray], dict[str, Any]]


def main() -> None:
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    sizes, device = decode_sizes(job["sizes"]), torch.device(job["device"])
    torch.set_num_threads(cores())
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    with np.load(folder / "inputs.npz") as stored:
        inputs = {name: stored[name] for name in stored.files}
    if job["topic"] == "roi_pool":
        measured = measure_roi_pool(job["cases"], inputs, device, sizes)
    elif job["topic"] == "input":
        measured = measure_input(job["cases"], Path(job["folder"]), sizes)
    else:
        function = {"train_step": measure_train_step, "test": measure_test}[job["topic"]]
        measured = function(job["cases"], inputs, device, sizes)
    timings, notes, arrays, facts = measured
    np.savez(folder / "outputs.npz", **arrays)
    samples = {case: list(timing.samples) for case, timing in timings.items()}
    (folder / "result.json").write_text(json.dumps({"samples": samples, "notes": notes, "facts": facts}))


def measure_roi_pool(cases: list[str], inputs: dict[str, np.ndarray], device: torch.device, sizes: Sizes) -> Measured:
    """torchvision.ops.roi_pool, which takes channels first and (image, corners)."""
    timings, arrays = {}, {}

    def wait(result: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for case in cases:
        features = _channels_first(inputs[f"{case}/features"], device)
        boxes = inputs[f"{case}/rois"]
        images = np.repeat(np.arange(len(boxes), dtype=np.float32), boxes.shape[1])[:, None]
        rois = torch.from_numpy(np.concatenate([images, boxes.reshape(-1, 4)], axis=1)).to(device)
        shape = (*boxes.shape[:2], -1, 7, 7)
        if f"{case}/cotangent" not in inputs:

            def run(features=features, rois=rois):
                with torch.inference_mode():
                    return torchvision.ops.roi_pool(features, rois, (7, 7), 1 / 16)

            pooled = run()
        else:
            features.requires_grad_()
            cotangent = _channels_first(inputs[f"{case}/cotangent"].reshape(-1, *inputs[f"{case}/cotangent"].shape[2:]),
                                        device)  # fmt: skip

            def run(features=features, rois=rois, cotangent=cotangent):
                features.grad = None
                pooled = torchvision.ops.roi_pool(features, rois, (7, 7), 1 / 16)
                pooled.backward(cotangent)
                return pooled

            pooled = run().detach()
            arrays[f"{case}/gradient"] = features.grad.cpu().numpy().transpose(0, 2, 3, 1)
        arrays[f"{case}/pooled"] = pooled.cpu().numpy().reshape(shape).transpose(0, 1, 3, 4, 2)
        timings[case] = measure(run, wait, sizes.effort)
    return timings, {}, arrays, {}


def measure_input(cases: list[str], folder: Path, sizes: Sizes) -> Measured:
    """Decode, resize, mirror and pad on one core, with torchvision's own functions."""
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    torch.set_num_threads(1)
    files = [torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) for path in sorted(folder.glob("*.jpg"))]

    def load(data: torch.Tensor, mirror: bool) -> torch.Tensor:
        image = decode_jpeg(data, mode=ImageReadMode.RGB)
        scale = min(sizes.shorter / min(image.shape[1:]), sizes.longest / max(image.shape[1:]))
        size = [round(side * scale) for side in image.shape[1:]]
        image = transforms.resize(image, size, InterpolationMode.BILINEAR, antialias=False)
        if mirror:
            image = transforms.horizontal_flip(image)
        # Up to a multiple of 16, as our buckets are.
        return transforms.pad(image, [0, 0, -size[1] % 16, -size[0] % 16])

    def run() -> None:
        step = sizes.images
        for first in range(0, len(files), step):
            loaded = [load(data, bool(i % 2)) for i, data in enumerate(files[first : first + step])]
            height, width = (max(image.shape[side] for image in loaded) for side in (1, 2))
            batch = torch.zeros((len(loaded), 3, height, width), dtype=torch.uint8)
            for place, image in zip(batch, loaded, strict=True):
                place[:, : image.shape[1], : image.shape[2]] = image

    return {cases[0]: measure(run, effort=sizes.effort)}, {}, {}, {}


def _channels_first(array: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous().to(device)


if __name__ == "__main__":
    main()
