"""The peer's depthwise convolution, forward and its two gradients, NCHW or channels-last."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from bench.depthwise_cases import PARTS, Case, cases, compared
from bench.pytorch.functions import Prepared
from bench.sizes import Sizes

LAYOUTS = {"channels_last": torch.channels_last, "NCHW": torch.contiguous_format}


def prepare_depthwise(names: Sequence[str], inputs: dict, device: torch.device, sizes: Sizes, folder: Path) -> Prepared:
    """Each case is the name of a convolution and a part."""
    runs, arrays, notes = {}, {}, {}
    for case in cases(sizes):
        for part in PARTS:
            name = f"{case.name}, {part}"
            if name in names:
                runs[name], notes[name] = _fastest(case, part, device)
                result = runs[name]().cpu().numpy()
                order = (2, 3, 1, 0) if part == "kernel gradient" else (0, 2, 3, 1)
                found = result.transpose(order)
                arrays[name] = compared(part, found[:, :, 0] if part == "kernel gradient" else found)
    return Prepared(runs, arrays, notes)


def _fastest(case: Case, part: str, device: torch.device) -> tuple[Callable[[], Any], str]:
    """The faster layout, by the best of five calls after a warm-up."""
    best, shortest, chosen = None, float("inf"), ""
    for name, layout in LAYOUTS.items():
        run = _build(case, part, layout, device)
        run()
        for _ in range(5):
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - started
            if seconds < shortest:
                best, shortest, chosen = run, seconds, name
    return best, chosen


def _build(case: Case, part: str, layout: torch.memory_format, device: torch.device) -> Callable[[], torch.Tensor]:
    x, kernel, cotangent = (torch.from_numpy(array).to(device) for array in case.arrays())
    x, cotangent = (t.permute(0, 3, 1, 2).contiguous(memory_format=layout) for t in (x, cotangent))
    kernel = kernel.permute(2, 0, 1)[:, None].contiguous()
    strides, padding, channels = (case.stride,) * 2, (case.size // 2,) * 2, case.channels
    wanted = [part == "input gradient", part == "kernel gradient", False]

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return functional.conv2d(x, kernel, None, strides, padding, groups=channels)

    def backward() -> torch.Tensor:
        found = torch.ops.aten.convolution_backward(
            cotangent, x, kernel, None, strides, padding, (1, 1), False, (0, 0), channels, wanted
        )
        return found[wanted.index(True)]

    return forward if part == "forward" else backward
