"""What happens to a pixel before the network: resize, crop, colour order, and one value per pixel and channel.

A channel's value is `table(channel)[pixel]`, with

    table(c)[v] = v * factor[c] + offset[c],  factor = pixel_max / 255 / std,  offset = -mean / std

in float32, each step rounded: the float network, and the integer table that an export makes of it, see exactly this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from qpipe.errors import DataError, near

Color = Literal["RGB", "BGR", "GRAY"]
Layout = Literal["NCHW", "NHWC"]
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

LARGEST_SIDE = 1 << 15
"""Pixels of a side that images are resized to at most: a thousand times what networks take."""
# ITU-R 601-2 luma in 16 bits, as Pillow converts RGB to L, so that a folder and an array give the same grey.
_LUMA = (19595, 38470, 7471)
_LUMA_HALF = 1 << 15


class Preprocess(BaseModel):
    """Preprocessing of uint8 images; float arrays of a file get mean, std and layout only.

    `resize`: length of the short side, bilinear with antialiasing; `crop`: side of the centred square.
    `mean`, `std`: one value, or one per channel in the order of `color`, in units of `pixel / 255 * pixel_max`;
    `pixel_max` is 1, or 255 for networks that want 0..255. `color`: the channel order that the network wants; with
    "RGB" the images of an array keep the channels that they have. `layout` is that of the network's input: [N, C, H, W]
    or [N, H, W, C].
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    resize: int | None = Field(default=None, ge=1, le=LARGEST_SIDE)
    crop: int | None = Field(default=None, ge=1, le=LARGEST_SIDE)
    mean: tuple[float, ...] = Field(default=(0.0,), min_length=1)
    std: tuple[float, ...] = Field(default=(1.0,), min_length=1)
    pixel_max: float = 1.0
    color: Color = "RGB"
    layout: Layout = "NCHW"

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        """Take "0.485,0.456,0.406" and a single number as well as a sequence."""
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(","))
        return (value,) if isinstance(value, int | float) else value

    @field_validator("std")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) <= 0:
            raise ValueError("expected numbers above 0")
        return value

    @field_validator("pixel_max")
    @classmethod
    def _one_or_255(cls, value: float) -> float:
        if value not in (1.0, 255.0):
            raise ValueError("expected 1 or 255")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Preprocess:
        if len(self.mean) != len(self.std) and 1 not in (len(self.mean), len(self.std)):
            raise ValueError(f"mean has {len(self.mean)} channels, std {len(self.std)}")
        if self.resize is not None and self.crop is not None and self.crop > self.resize:
            raise ValueError(f"crop is {self.crop}, expected at most resize, {self.resize}")
        with np.errstate(over="ignore"):
            factor, offset = self._factor_offset(max(len(self.mean), len(self.std)))
        if not (np.isfinite(factor).all() and np.isfinite(offset).all()):
            raise ValueError(f"mean {self.mean} and std {self.std} make values that float32 does not have")
        return self

    def merge(self, overrides: Mapping[str, Any]) -> Preprocess:
        """Return these settings with some replaced; a value of None means "not given". Raises DataError."""
        given = {key: value for key, value in overrides.items() if value is not None}
        for key in given:
            if key not in type(self).model_fields:
                raise DataError(f"preprocessing has no setting {key!r}; {near(key, type(self).model_fields)}")
        try:
            return Preprocess.model_validate({**self.model_dump(), **given})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "settings"
            shown = f" {first['input']!r}" if first["loc"] else ""
            message = first["msg"].removeprefix("Value error, ")
            raise DataError(f"preprocessing {key}{shown}: {message}") from None

    def check_channels(self, channels: int, name: str = "data") -> None:
        """Raise DataError where mean or std has neither one value nor one per channel."""
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise DataError(f"{name}: images have {channels} channels, {key} has {len(values)} values")

    def table(self, channel: int) -> Floats:
        """The float32 [256] values that the pixels 0..255 of this channel become."""
        factor, offset = self._factor_offset(max(len(self.mean), len(self.std), channel + 1))
        values: Floats = np.arange(256, dtype=np.float32) * factor[channel] + offset[channel]
        return values

    def __call__(self, pixels: Pixels) -> Floats:
        """Turn uint8 [N, H, W, C] (already resized, cropped and in `color`) into float32 inputs in `layout`."""
        self.check_channels(pixels.shape[-1])
        factor, offset = self._factor_offset(pixels.shape[-1])
        # Twice as fast as the table lookup that it is equal to: both are the same two rounded steps.
        if self.layout == "NHWC":
            values = pixels.astype(np.float32)
        else:
            values = pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
            factor, offset = factor[:, None, None], offset[:, None, None]
        values *= factor
        values += offset
        return values

    def normalize_floats(self, values: npt.NDArray[Any]) -> Floats:
        """Apply mean, std and layout to float arrays [N, ..., C] (4-D ones become [N, C, H, W] in layout NCHW)."""
        self.check_channels(values.shape[-1])
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        normal = (values.astype(np.float32) - mean) / std
        if self.layout == "NCHW" and normal.ndim == 4:
            normal = normal.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(normal)

    def recolor(self, pixels: Pixels, name: str = "data") -> Pixels:
        """Bring the channels of RGB or grey uint8 [..., C] into the order of `color`. Raises DataError."""
        channels = pixels.shape[-1]
        if self.color == "RGB" or (self.color == "GRAY" and channels == 1):
            return pixels
        if channels != 3:
            raise DataError(f"{name}: images have {channels} channels, color {self.color} expects 3")
        if self.color == "BGR":
            return np.ascontiguousarray(pixels[..., ::-1])
        luma = (pixels @ np.array(_LUMA, np.uint32) + np.uint32(_LUMA_HALF)) >> np.uint32(16)
        return luma.astype(np.uint8)[..., None]

    def input_shape(self, height: int, width: int, channels: int) -> tuple[int, int, int]:
        """The shape of one input in `layout`, of an image that has this size after `resize` and `crop`."""
        return (height, width, channels) if self.layout == "NHWC" else (channels, height, width)

    def _factor_offset(self, channels: int) -> tuple[Floats, Floats]:
        mean, std = (np.broadcast_to(np.array(v, np.float64), (channels,)) for v in (self.mean, self.std))
        return (self.pixel_max / 255 / std).astype(np.float32), (-mean / std).astype(np.float32)
