"""The peer's training on recorded inputs, started as `python -m bench.pytorch.training FOLDER [LAYOUT]`.

Reads what `bench.same_training.recording` wrote, trains a detector in plain PyTorch on it, and prints a line of JSON
for each step: loss, classification and localization before the update, and the seconds that it took. Needs only torch,
torchvision and NumPy.
"""

import json
import math
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from bench.pytorch.detector import Detector, our_path
from bench.pytorch.networks import build_network

LAYOUTS = {"channels_last": torch.channels_last, "NCHW": torch.contiguous_format}


def main() -> None:
    # The pipe carries only answers: output of libraries goes to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    folder, layout = Path(sys.argv[1]), LAYOUTS[sys.argv[2] if len(sys.argv) > 2 else "channels_last"]
    settings = json.loads((folder / "settings.json").read_text())
    torch.set_num_threads(settings["cores"])
    device = torch.device(settings["device"])
    with np.load(folder / "start.npz") as stored:
        about = json.loads(str(stored["__metadata__"]))
        arrays = {name: stored[name] for name in stored.files if name != "__metadata__"}
    pixels = tuple(about["pixels"][name] for name in ("mean", "std", "order"))
    size = {"grid": settings["grid"], "stride": settings["stride"]}
    network = build_network(settings["model"], arrays, pixels=pixels, **size).to(device, memory_format=layout).eval()
    # Deltas are normalised by these, per class.
    statistics = [torch.tensor(about["box_statistics"][name], device=device) for name in ("mean", "std")]
    optimizer = CaffeSGD(network, settings["optimizer"], settings["steps"])
    for step in range(settings["steps"]):
        with np.load(folder / f"step_{step:06d}.npz") as stored:
            inputs = {name: stored[name] for name in stored.files}
        started = time.perf_counter()
        tensors = {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}
        parts = losses(network, tensors, statistics, layout)
        loss = parts["classification"] + settings["localization_weight"] * parts["localization"]
        optimizer.update(loss, step)
        values = {"loss": loss.item(), **{name: part.item() for name, part in parts.items()}}
        print(json.dumps(values | {"seconds": time.perf_counter() - started}), file=answers)


def losses(
    network: Detector, inputs: Mapping[str, torch.Tensor], statistics: list[torch.Tensor], layout: torch.memory_format
) -> dict[str, torch.Tensor]:
    """The two parts of the multi-task loss, each a sum over the RoIs divided by their number.

    Args:
        inputs: images uint8 [N, H, W, 3] (RGB, padded), image_sizes [N, 2], scales [N], rois and gt_boxes [N, R, 4]
            (half-open, pixels before scaling), labels and mask [N, R].
        statistics: mean and deviation [K1, 4] of the box targets.
    """
    images, sizes, mask = inputs["images"].permute(0, 3, 1, 2), inputs["image_sizes"], inputs["mask"]
    scale = inputs["scales"][:, None, None]
    corners = torch.cat([inputs["rois"][..., :2], inputs["rois"][..., 2:] - 1], dim=-1) * scale
    logits, deltas, order = [], [], []
    # Each image without its padding, grouped by size.
    for size in sizes.unique(dim=0):
        (members,) = (sizes == size).all(1).nonzero(as_tuple=True)
        alone = images[members, :, : size[0], : size[1]].contiguous(memory_format=layout)
        place, roi = mask[members].nonzero(as_tuple=True)
        rois = torch.cat([place[:, None].to(corners.dtype), corners[members][place, roi]], dim=1)
        logits_, deltas_ = network(alone, rois)
        logits.append(logits_)
        deltas.append(deltas_)
        order.append((members[place], roi))
    logits, deltas = torch.cat(logits), torch.cat(deltas)
    chosen = tuple(torch.cat(index) for index in zip(*order, strict=True))
    rois, boxes, labels = (inputs[name][chosen] for name in ("rois", "gt_boxes", "labels"))
    labels, count = labels.long(), max(len(labels), 1)
    mean, std = (table[labels] for table in statistics)
    targets = (encode(rois, boxes) - mean) / std
    of_class = deltas[torch.arange(len(labels), device=labels.device), labels]
    distance = functional.smooth_l1_loss(of_class, targets, reduction="none").sum(1)
    return {
        "classification": functional.cross_entropy(logits, labels, reduction="sum") / count,
        "localization": distance[labels > 0].sum() / count,
    }


def encode(rois: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Offsets from `rois` to `boxes`, both half-open [R, 4] (section 2.3)."""
    sides, wanted = ((b[:, 2:] - b[:, :2]).clamp(min=1e-3) for b in (rois, boxes))
    shift = (boxes[:, :2] + boxes[:, 2:]) / 2 - (rois[:, :2] + rois[:, 2:]) / 2
    return torch.cat([shift / sides, (wanted / sides).log()], dim=1)


class CaffeSGD:
    """SGD with the rate inside the momentum, v <- m v + rate (g + decay w), w <- w - v, and a rule per parameter."""

    def __init__(self, network: Detector, settings: Mapping[str, Any], steps: int):
        self.settings, self.steps, self.learned = settings, steps, []
        for name, parameter in network.named_parameters():
            path = our_path(name, parameter)
            rule = next(rule for rule in settings["rules"] if re.search(rule["pattern"], path))
            parameter.requires_grad_(rule["learning_rate"] is not None)
            if parameter.requires_grad:
                self.learned.append((parameter, rule["learning_rate"], rule["weight_decay"]))
        # With a rate of 1, as the gradients include the rate.
        self.optimizer = torch.optim.SGD([p for p, _, _ in self.learned], lr=1.0, momentum=settings["momentum"])

    def update(self, loss: torch.Tensor, step: int) -> None:
        """Moves the parameters against the gradient of `loss`; `step` counts the updates before."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        with torch.no_grad():
            factor = 1.0
            if self.settings["clip_norm"] is not None:
                norm = torch.stack([p.grad.norm() for p, _, _ in self.learned]).norm()
                factor = min(self.settings["clip_norm"] / max(norm.item(), 1e-30), 1.0)
            for parameter, rate, decay in self.learned:
                parameter.grad.mul_(factor).add_(parameter, alpha=self.settings["weight_decay"] * decay)
                parameter.grad.mul_(self.rate(step) * rate)
        self.optimizer.step()

    def rate(self, step: int) -> float:
        """The learning rate of a step: up from zero, then constant with drops, or a cosine to zero."""
        base, warmup = self.settings["learning_rate"], self.settings["warmup"]
        if self.settings["schedule"] == "step":
            base *= self.settings["drop_factor"] ** sum(step >= drop for drop in self.settings["drops"])
        if step < warmup:
            return base * step / warmup
        if self.settings["schedule"] == "cosine":
            return base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(self.steps - warmup, 1)))
        return base


if __name__ == "__main__":
    main()
