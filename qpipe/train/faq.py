"""FAQ: fine-tuning after quantization.

The float weights are kept and updated; the forward pass sees quantized weights, whose exponents are computed anew at
every step, and activations on fixed, calibrated ranges; gradients go straight through. At 8 bits one epoch suffices, at
4 bits a long run with a falling rate (`qpipe/settings/recipes.py` has the paper's values).

Where the arithmetic departs from the paper, on purpose; `tools/faq_rows.py` has a row that measures each:

- A weight's grid is chosen per output channel, from the channel's own deviation about zero, and its clip is never
  beyond the largest weight. The paper has one grid a layer.
- Below 8 bits a weight's exponent is that of the power of two nearest to the step, not of the next larger one.
- Channels are rescaled at first so that weights fill their grid (`passes/quantizing/rescale_channels.py`).
- BatchNormalization's multiplier is an 8-bit integer with an exponent of its own. The paper has `l = -b/2`, so
  multiples of 1/16, for all parameters but the weights.
- A branch that comes straight from a convolution is 8-bit before the Add, in a 4-bit network too.
- An activation's range is rounded up to the next power of two. The paper says the next *even* one.

Source: FAQ, sections 3.1.1, 3.2 and 3.3.
"""

from __future__ import annotations

from qpipe.data import Augment, Source
from qpipe.errors import RecipeError
from qpipe.settings import FinetuneSettings

CIFAR_PADDING = 4  # pixels, the usual for images of 32


def default_augment(source: Source, crop_padding: int | None, flip: bool | None) -> Augment | None:
    """Random crop and flip where the data are images: padding is an eighth of the side; None where they are not."""
    if not source.has_pixels:
        return None
    side = min(source.image_shape[1:]) if source.preprocess.layout == "NCHW" else min(source.image_shape[:2])
    padding = round(CIFAR_PADDING * side / 32) if crop_padding is None else crop_padding
    is_flipped = True if flip is None else flip
    return Augment(pad=padding, flip=is_flipped) if padding or is_flipped else None


def with_augmentation(settings: FinetuneSettings, source: Source) -> FinetuneSettings:
    """The settings with the crop and the flip that these data take, where they don't say.

    RecipeError where they ask floats for one.
    """
    for name, value in (("crop_padding", settings.crop_padding), ("flip", settings.flip)):
        if value and not source.has_pixels:
            raise RecipeError(f"{name}: {value}, but without effect on float values, expected none, or uint8 images")
    augment = default_augment(source, settings.crop_padding, settings.flip)
    return settings.model_copy(
        update={"crop_padding": augment.pad if augment else 0, "flip": augment is not None and augment.flip}
    )
