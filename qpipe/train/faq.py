"""FAQ: fine-tuning after quantization.

The float weights are kept and updated; the forward pass sees quantized weights, whose exponents are computed anew at
every step, and activations on fixed, calibrated ranges; gradients go straight through. At 8 bits: one epoch, learning
rate 1e-4, constant, momentum and weight decay of the float training.

Source: FAQ, sections 3.1.1, 3.2 and 3.3.
"""

from __future__ import annotations

from qpipe.data import Augment, Source

CIFAR_PADDING = 4  # pixels, the usual for images of 32


def default_augment(source: Source, crop_padding: int | None, flip: bool | None) -> Augment | None:
    """Random crop and flip where the data are images: padding is an eighth of the side; None where they are not."""
    if not source.has_pixels:
        return None
    side = min(source.image_shape[1:]) if source.preprocess.layout == "NCHW" else min(source.image_shape[:2])
    padding = round(CIFAR_PADDING * side / 32) if crop_padding is None else crop_padding
    is_flipped = True if flip is None else flip
    return Augment(pad=padding, flip=is_flipped) if padding or is_flipped else None
