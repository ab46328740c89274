"""Brightness, contrast, saturation and hue of an image, changed together: one linear map of its RGB values."""

import math

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from frcnn_jax.config import AugmentConfig

__all__ = ["changes_colors", "color_map", "jitter_colors"]

_GRAY = np.array([0.299, 0.587, 0.114])  # of RGB, after Rec. 601


def changes_colors(settings: AugmentConfig) -> bool:
    """True if a setting changes colours."""
    return any((settings.brightness, settings.contrast, settings.saturation, settings.hue))


def jitter_colors(image: UInt8[np.ndarray, "H W 3"], chance: Float[np.ndarray, "4"], settings: AugmentConfig) -> None:
    """Changes the colours of an RGB image in place.

    Args:
        chance: numbers in [0, 1) for brightness, contrast, saturation and hue.
    """
    sides = 2 * np.asarray(chance) - 1
    factors = 1 + sides[:3] * (settings.brightness, settings.contrast, settings.saturation)
    mean = cv2.mean(image)[:3] if settings.contrast else (0.0, 0.0, 0.0)
    matrix = color_map(*factors, hue=sides[3] * settings.hue, mean=float(_GRAY @ mean))
    image[...] = cv2.transform(image, matrix).reshape(image.shape)  # saturates at 0 and 255


def color_map(
    brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0, *, hue: float = 0.0, mean: float = 0.0
) -> Float[np.ndarray, "3 4"]:
    """The map of (R, G, B, 1) that turns the hue, then scales saturation, contrast and brightness.

    Args:
        brightness, contrast, saturation: factors; 1 means no change.
        hue: turns of the circle of hues, red to green at 1/3. The gray value of a colour is unchanged.
        mean: the gray value that contrast does not change.
    """
    colors = saturation * _turn(hue) + (1 - saturation) * np.tile(_GRAY, (3, 1))
    shift = np.full((3, 1), (1 - contrast) * mean)
    return brightness * np.concatenate([contrast * colors, shift], axis=1)


def _turn(hue: float) -> Float[np.ndarray, "3 3"]:
    """Rotation of the colours about the gray axis, sheared along the axis so that each colour keeps its gray value."""
    cos, sin = math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue) / math.sqrt(3)
    colored = np.eye(3) - 1 / 3  # subtracts the mean of the channels
    turned = (cos * np.eye(3) + sin * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])) @ colored
    return turned + _GRAY @ (np.eye(3) - turned)
