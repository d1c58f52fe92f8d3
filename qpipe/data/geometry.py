"""Resize and crop as torchvision's Resize and CenterCrop do on Pillow images: bilinear, antialiased.

One difference: an image smaller than the crop is an error, where torchvision would add a black border.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from qpipe.data.preprocess import Pixels, Preprocess
from qpipe.errors import DataError

LARGEST_AREA = 1 << 27
"""Pixels of an image at most, after resizing."""


def resized_size(height: int, width: int, resize: int | None) -> tuple[int, int]:
    """The (height, width) of an image whose short side becomes `resize`; the long side is truncated."""
    if resize is None or min(height, width) == resize:
        return height, width
    if height <= width:
        return resize, int(resize * width / height)
    return int(resize * height / width), resize


def output_size(height: int, width: int, preprocess: Preprocess, name: str) -> tuple[int, int]:
    """The (height, width) after resize and crop. Raises DataError where the image is smaller than the crop."""
    height, width = resized_size(height, width, preprocess.resize)
    if height * width > LARGEST_AREA:
        raise DataError(f"{name}: resize {preprocess.resize} makes it {width}x{height}, more than any network takes")
    crop = preprocess.crop
    if crop is None:
        return height, width
    if crop > min(height, width):
        raise DataError(f"{name}: image is {width}x{height}, smaller than crop {crop}; set resize as well")
    return crop, crop


def fit_image(image: Image.Image, preprocess: Preprocess, name: str) -> Image.Image:
    """Resize and crop one image of any mode. Raises DataError."""
    height, width = output_size(image.height, image.width, preprocess, name)
    resized = resized_size(image.height, image.width, preprocess.resize)
    if resized != (image.height, image.width):
        image = image.resize((resized[1], resized[0]), Image.Resampling.BILINEAR)
    if (height, width) != resized:
        # torchvision rounds half to even, as Python does
        top, left = round((resized[0] - height) / 2), round((resized[1] - width) / 2)
        image = image.crop((left, top, left + width, top + height))
    return image


def fit_pixels(pixels: Pixels, preprocess: Preprocess, name: str) -> Pixels:
    """Resize and crop uint8 [H, W, C], channel by channel. Raises DataError."""
    planes = [np.asarray(fit_image(Image.fromarray(plane), preprocess, name)) for plane in np.moveaxis(pixels, -1, 0)]
    return np.stack(planes, axis=-1)
