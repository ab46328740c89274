"""Fast R-CNN with VGG16 in PyTorch, the same computation as ours: the peer of the training step and of testing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional

from bench.sizes import Sizes
from bench.timing import Timing, measure

STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
MEAN = (102.9801, 115.9465, 122.7717)  # blue, green, red
LARGEST_LOG_RATIO = 4.135166556742356


class FastRCNN(nn.Module):
    """Trunk without its last pooling, RoI pooling, fc6 and fc7 with dropout, class logits and box offsets."""

    def __init__(self, num_classes: int, widths: tuple[int, int]):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage, (convolutions, width) in enumerate(STAGES):
            if stage:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
        self.trunk = nn.Sequential(*layers)
        self.fc6, self.fc7 = nn.Linear(49 * channels, widths[0]), nn.Linear(*widths)
        self.cls_score, self.bbox_pred = nn.Linear(widths[1], num_classes), nn.Linear(widths[1], 4 * num_classes)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.startswith(("cls_score", "bbox_pred")):
                nn.init.normal_(parameter, std=0.01 if name.startswith("cls") else 0.001)
            else:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")

    def freeze(self) -> None:
        """conv1_1 to conv2_2 do not learn."""
        convolutions = [layer for layer in self.trunk if isinstance(layer, nn.Conv2d)]
        for layer in convolutions[:4]:
            layer.requires_grad_(False)

    def forward(self, images: torch.Tensor, rois: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """8-bit RGB [N, 3, H, W] and RoIs [R, 5] (image, inclusive corners) to logits [R, K1], offsets [R, K1, 4]."""
        pixels = images.flip(1).float() - self.mean.float()
        features = self.trunk(pixels.to(self.fc6.weight.dtype))
        # torchvision pools in single precision only, not in bfloat16.
        pooled = torchvision.ops.roi_pool(features.float(), rois, (7, 7), 1 / 16).to(features.dtype)
        x = functional.dropout(functional.relu(self.fc6(pooled.flatten(1))), 0.5, self.training)
        x = functional.dropout(functional.relu(self.fc7(x)), 0.5, self.training)
        return self.cls_score(x).float(), self.bbox_pred(x).float().view(len(x), -1, 4)


def measure_train_step(cases: list[str], inputs: dict[str, np.ndarray], device: torch.device, sizes: Sizes) -> Any:
    """Times the fastest way to run a step of SGD with momentum."""
    images, rois, labels, targets = _tensors(inputs, ("images", "rois", "labels", "targets"), device)
    parameters = 0

    def build(layout: torch.memory_format, compiled: bool) -> Callable[[], Any]:
        nonlocal parameters
        network = FastRCNN(sizes.num_classes, sizes.widths).to(device, memory_format=layout).train()
        network.freeze()
        parameters = sum(p.numel() for p in network.parameters())
        learned = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for n, p in learned if n.endswith("weight")], "weight_decay": 5e-4, "lr": 1e-7},
            {"params": [p for n, p in learned if n.endswith("bias")], "weight_decay": 0.0, "lr": 2e-7},
        ]
        optimizer = torch.optim.SGD(groups, lr=1e-7, momentum=0.9, fused=device.type == "cuda")
        model = torch.compile(network) if compiled else network
        pixels = images.contiguous(memory_format=layout)
        rows = torch.arange(len(rois), device=device)

        def step() -> torch.Tensor:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits, deltas = model(pixels, rois)
            classification = functional.cross_entropy(logits.float(), labels)
            distance = functional.smooth_l1_loss(deltas.float()[rows, labels], targets, reduction="none").sum(1)
            loss = classification + (distance * (labels > 0)).sum() / len(rois)
            loss.backward()
            optimizer.step()
            return loss

        return step

    timing, variant = _measure_fastest(build, device, sizes)
    return {cases[0]: timing}, {cases[0]: variant}, {}, {"parameters": parameters}


def measure_test(cases: list[str], inputs: dict[str, np.ndarray], device: torch.device, sizes: Sizes) -> Any:
    """Times each case, "network alone, N" or "with NMS, N" for N images, the fastest way to run it."""
    all_images, all_boxes = _tensors(inputs, ("images", "boxes"), device)
    threshold = float(inputs["threshold"])
    timings, notes, parameters = {}, {}, 0
    for case in cases:
        what, count = case.rsplit(", ", 1)
        images, boxes = all_images[: int(count)], all_boxes[: int(count)]
        owner = torch.arange(len(boxes), device=device).repeat_interleave(boxes.shape[1])[:, None].float()
        corners = torch.cat([boxes[..., :2], boxes[..., 2:] - 1], dim=-1).view(-1, 4)
        rois = torch.cat([owner, corners], dim=1)

        def build(layout, compiled, images=images, boxes=boxes, rois=rois, nms=what == "with NMS"):
            nonlocal parameters
            network = FastRCNN(sizes.num_classes, sizes.widths).eval()
            parameters = sum(p.numel() for p in network.parameters())
            dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
            network = network.to(device, dtype, memory_format=layout)
            model = torch.compile(network) if compiled else network
            pixels = images.contiguous(memory_format=layout)

            def run() -> Any:
                with torch.inference_mode():
                    logits, deltas = model(pixels, rois)
                    if not nms:
                        return logits, deltas
                    shape = boxes.shape[:2]
                    parts = zip(logits.view(*shape, -1), deltas.view(*shape, -1, 4), boxes, strict=True)
                    return [select_detections(*part, images.shape[2:], threshold) for part in parts]

            return run

        timings[case], notes[case] = _measure_fastest(build, device, sizes)
    return timings, notes, {}, {"parameters": parameters}


def select_detections(
    logits: torch.Tensor, deltas: torch.Tensor, boxes: torch.Tensor, size: Any, threshold: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best 100 boxes of each class, decoded, clipped and suppressed by class at IoU 0.3: boxes, scores, labels."""
    scores, chosen = logits.softmax(1)[:, 1:].T.topk(min(100, len(boxes)), dim=1)
    labels = torch.arange(1, logits.shape[1], device=logits.device)[:, None].expand_as(scores)
    offsets, own = deltas[chosen, labels], boxes[chosen]
    sides = own[..., 2:] - own[..., :2]
    centres = own[..., :2] + sides / 2 + offsets[..., :2] * sides
    half = sides / 2 * offsets[..., 2:].clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    found = torch.cat([centres - half, centres + half], dim=-1).view(-1, 4)
    found = torchvision.ops.clip_boxes_to_image(found, tuple(size))
    scores, labels = scores.reshape(-1), labels.reshape(-1)
    likely = scores > threshold
    found, scores, labels = found[likely], scores[likely], labels[likely]
    kept = torchvision.ops.batched_nms(found, scores, labels, 0.3)
    return found[kept], scores[kept], labels[kept]


def _measure_fastest(build: Callable[..., Callable[[], Any]], device: torch.device, sizes: Sizes) -> tuple[Timing, str]:
    """Tries every variant for a moment and times the best; returns its name too."""

    def wait(result: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    variants = {
        f"{layout_name}{', compiled' if compiled else ''}": (layout, compiled)
        for layout_name, layout in (("NCHW", torch.contiguous_format), ("channels_last", torch.channels_last))
        for compiled in ((False, True) if device.type == "cuda" else (False,))
    }
    trial = type(sizes.effort)(min_runs=1, min_seconds=0, sample_seconds=sizes.effort.sample_seconds)
    tried = {name: measure(build(*variant), wait, trial).median for name, variant in variants.items()}
    best = min(tried, key=tried.get)
    return measure(build(*variants[best]), wait, sizes.effort), f"peer: {best}"


def _tensors(inputs: dict[str, np.ndarray], names: tuple[str, ...], device: torch.device) -> list[torch.Tensor]:
    """On the device; images with channels first."""
    tensors = [torch.from_numpy(inputs[name]).to(device) for name in names]
    return [t.permute(0, 3, 1, 2) if name == "images" else t for name, t in zip(names, tensors, strict=True)]
