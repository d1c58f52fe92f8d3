"""Image files for folders of data."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, value: int = 0, size: tuple[int, int] = (10, 8), mode: str = "RGB") -> None:
    """Write a (width, height) image; its first channel is `value` plus a ramp that shows its orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[..., 0] = value + np.arange(size[0])
    pixels[..., 1] = np.arange(size[1])[:, None]
    Image.fromarray(pixels).convert(mode).save(path)
