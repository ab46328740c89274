"""The peer's training step and test, each in its fastest variant."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch.nn import functional

from bench.pytorch.detector import Detector
from bench.pytorch.functions import Prepared
from bench.pytorch.networks import build_network
from bench.sizes import Sizes

LARGEST_LOG_RATIO = 4.135166556742356
VARIANTS = {  # layout, compiled
    "channels_last": (torch.channels_last, False),
    "channels_last, compiled": (torch.channels_last, True),
    "NCHW": (torch.contiguous_format, False),
    "NCHW, compiled": (torch.contiguous_format, True),
}


def prepare_gradient(cases: Sequence[str], inputs: dict, device: torch.device, sizes: Sizes, folder: Path) -> Prepared:
    """Loss and gradients for this package's parameters, without dropout, to compare. Not timed."""
    tensors = _tensors(inputs, ("images", "rois", "labels", "targets"), device)
    network = _load(cases[0], inputs).to(device).freeze().eval()
    loss = _loss(network, *tensors)
    loss.backward()
    return Prepared({}, {"loss": loss.detach().cpu().numpy(), **network.cpu().gradients()})


def prepare_train_step(
    cases: Sequence[str], inputs: dict, device: torch.device, sizes: Sizes, folder: Path
) -> Prepared:
    """A step of SGD with momentum."""
    tensors = _tensors(inputs, ("images", "rois", "labels", "targets"), device)
    parameters = 0

    def build(layout: torch.memory_format, compiled: bool) -> Callable[[], Any]:
        nonlocal parameters
        network = _load(cases[0], inputs).to(device, memory_format=layout).train().freeze()
        parameters = sum(p.numel() for p in network.parameters())
        learned = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for n, p in learned if n.endswith("weight")], "weight_decay": 5e-4, "lr": 1e-7},
            {"params": [p for n, p in learned if n.endswith("bias")], "weight_decay": 0.0, "lr": 2e-7},
        ]
        optimizer = torch.optim.SGD(groups, lr=1e-7, momentum=0.9, fused=True)
        model = torch.compile(network) if compiled else network
        images = tensors[0].contiguous(memory_format=layout)

        def step() -> torch.Tensor:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = _loss(model, images, *tensors[1:])
            loss.backward()
            optimizer.step()
            return loss

        return step

    run, variant = _fastest(build, device)
    return Prepared({cases[0]: run}, notes={cases[0]: variant}, facts={"parameters": parameters})


def prepare_test(cases: Sequence[str], inputs: dict, device: torch.device, sizes: Sizes, folder: Path) -> Prepared:
    """Each case is "MODEL, network alone, N" or "MODEL, with NMS, N" for N images."""
    all_images, all_boxes = _tensors(inputs, ("images", "boxes"), device)
    threshold = float(inputs["threshold"])
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    runs, notes, arrays, models = {}, {}, {}, {}
    for case in cases:
        name, what, count = case.split(", ")
        images, boxes = all_images[: int(count)], all_boxes[: int(count)]
        owner = torch.arange(len(boxes), device=device).repeat_interleave(boxes.shape[1])[:, None].float()
        corners = torch.cat([boxes[..., :2], boxes[..., 2:] - 1], dim=-1).view(-1, 4)
        rois = torch.cat([owner, corners], dim=1)

        def build(layout, compiled, name=name, images=images, boxes=boxes, rois=rois, nms=what == "with NMS"):
            if (layout, compiled) not in models:
                network = _load(name, inputs).eval().to(device, dtype, memory_format=layout)
                models[layout, compiled] = torch.compile(network) if compiled else network
            model, pixels = models[layout, compiled], images.contiguous(memory_format=layout)

            def run() -> Any:
                with torch.inference_mode():
                    logits, deltas = model(pixels, rois)
                    if not nms:
                        return logits, deltas
                    shape = boxes.shape[:2]
                    parts = zip(logits.view(*shape, -1), deltas.view(*shape, -1, 4), boxes, strict=True)
                    return [select_detections(*part, images.shape[2:], threshold) for part in parts]

            return run

        runs[case], notes[case] = _fastest(build, device)
        if what == "network alone":
            arrays |= {f"{case}/{k}": v.cpu().numpy() for k, v in zip(("logits", "deltas"), runs[case](), strict=True)}
    return Prepared(runs, arrays, notes)


def select_detections(
    logits: torch.Tensor, deltas: torch.Tensor, boxes: torch.Tensor, size: Any, threshold: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best 100 boxes of each class, decoded, clipped and suppressed by class at IoU 0.3: boxes, scores, labels."""
    scores, chosen = logits.softmax(1)[:, 1:].T.topk(min(100, len(boxes)), dim=1)
    labels = torch.arange(1, logits.shape[1], device=logits.device)[:, None].expand_as(scores)
    offsets, proposals = deltas[chosen, labels], boxes[chosen]
    sides = proposals[..., 2:] - proposals[..., :2]
    centres = proposals[..., :2] + sides / 2 + offsets[..., :2] * sides
    half = sides / 2 * offsets[..., 2:].clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    found = torch.cat([centres - half, centres + half], dim=-1).view(-1, 4)
    found = torchvision.ops.clip_boxes_to_image(found, tuple(size))
    scores, labels = scores.reshape(-1), labels.reshape(-1)
    likely = scores > threshold
    found, scores, labels = found[likely], scores[likely], labels[likely]
    kept = torchvision.ops.batched_nms(found, scores, labels, 0.3)
    return found[kept], scores[kept], labels[kept]


def _loss(model: Any, images: torch.Tensor, rois: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> Any:
    logits, deltas = model(images, rois)
    classification = functional.cross_entropy(logits.float(), labels)
    chosen = deltas.float()[torch.arange(len(rois), device=rois.device), labels]
    distance = functional.smooth_l1_loss(chosen, targets, reduction="none").sum(1)
    return classification + (distance * (labels > 0)).sum() / len(rois)


def _fastest(build: Callable[..., Callable[[], Any]], device: torch.device) -> tuple[Callable[[], Any], str]:
    """The fastest variant, by one call after a warm-up, and its name."""
    best, shortest, chosen = None, float("inf"), ""
    for name, variant in VARIANTS.items():
        if name == "NCHW, compiled":
            continue  # would cost a minute of compiling, and was never the fastest
        run = build(*variant)
        for _ in range(2):
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - started
        if seconds < shortest:
            best, shortest, chosen = run, seconds, name
        del run
    return best, chosen


def _load(name: str, inputs: dict) -> Detector:
    return build_network(name, {path: a for path, a in inputs.items() if path.startswith(("backbone/", "head/"))})


def _tensors(inputs: dict, names: tuple[str, ...], device: torch.device) -> list[torch.Tensor]:
    """On the device; images with channels first."""
    tensors = [torch.from_numpy(inputs[name]).to(device) for name in names]
    return [t.permute(0, 3, 1, 2) if name == "images" else t for name, t in zip(names, tensors, strict=True)]
