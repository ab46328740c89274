"""A network of the peer's that takes our parameters and gives their gradients, by our paths and arranged as ours."""

import numpy as np
import torch
from torch import nn


class Network(nn.Module):
    """Modules have our names: `trunk` is our backbone, all others are the head's."""

    frozen: tuple[str, ...] = ()
    """How the names of parameters that do not learn begin."""

    def freeze(self) -> "Network":
        """The first layers do not learn."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not name.startswith(self.frozen))
        return self

    def load(self, arrays: dict[str, np.ndarray]) -> "Network":
        """Takes our parameters by their paths, such as `backbone/conv1_1/kernel`."""
        with torch.no_grad():
            for path, array in arrays.items():
                target = self.get_parameter(_torch_name(path))
                target.copy_(torch.from_numpy(self.arrange(path, array)))
        return self

    def gradients(self) -> dict[str, np.ndarray]:
        """Gradients of what learns, by our paths and arranged as ours."""
        found = {}
        for name, parameter in self.named_parameters():
            if parameter.grad is not None:
                path = _our_path(name)
                found[path] = self.arrange(path, parameter.grad.numpy(), back=True)
        return found

    def arrange(self, path: str, array: np.ndarray, back: bool = False) -> np.ndarray:
        """Our array as PyTorch's, or `back`: kernels of height, width, in, out are out, in, height, width there."""
        if path.endswith("bias"):
            return array
        if path.endswith("depthwise/kernel"):
            return array[:, 0].transpose(1, 2, 0) if back else array.transpose(2, 0, 1)[:, None]
        if array.ndim == 4:
            return array.transpose((2, 3, 1, 0) if back else (3, 2, 0, 1))
        return array.T


def _torch_name(path: str) -> str:
    part, *layer, kind = path.split("/")
    first = ["trunk"] if part == "backbone" else []
    return ".".join([*first, *layer, "weight" if kind == "kernel" else "bias"])


def _our_path(name: str) -> str:
    *layer, kind = name.split(".")
    layer = ["backbone", *layer[1:]] if layer[0] == "trunk" else ["head", *layer]
    return "/".join([*layer, "kernel" if kind == "weight" else "bias"])
