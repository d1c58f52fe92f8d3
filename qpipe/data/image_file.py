"""One image file, decoded to 8 bits per channel.

    16 bits      v * 255 / 65535, rounded (12 bits likewise); colours by their high byte, as Pillow reads them
    1 bit        0 or 255
    palette, CMYK, grey with or without transparency        as Pillow converts them; transparency is dropped

Floats, and integers of which no range is known, are refused, as is a file with several images: any choice of a range or
of an image would be a guess. An EXIF orientation is not applied, as torchvision's folders don't apply it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
from PIL import Image

from qpipe.errors import DataError, QpipeError, one_line

_LOOKS = 24
"""Images of a data set whose headers are read to say what was found."""
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION = 258, 262, 274
_WHITE_IS_ZERO = 0
_STDERR = 2
_SEVERAL_FRAMES = frozenset({"GIF", "PNG", "TIFF", "WEBP"})
"""Formats whose further images are the same picture later, or another; a JPEG's are a camera's previews."""


def read_image(path: str, mode: str) -> Image.Image:
    """The image as "RGB" or "L". Raises DataError that names the file."""
    try:
        with _opened(path) as image:
            if image.format in _SEVERAL_FRAMES and getattr(image, "is_animated", False):
                raise DataError(f"image '{path}' holds {getattr(image, 'n_frames', 'several')} images, expected one")
            with _silent_libtiff() if image.format == "TIFF" else nullcontext():
                image.load()
            eight = _eight_bits(image, path)
            if "transparency" in eight.info or eight.mode in (
                "PA",
                "La",
            ):  # Pillow warns on the direct way, or has none
                eight = eight.convert("LA" if eight.mode == "La" else "RGBA")
            return eight.convert(mode)
    except QpipeError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise DataError(f"image '{path}' can't be read: {_reason(error)}") from None


@dataclass(frozen=True)
class Look:
    """What some images of a data set are: the formats, modes and sizes (width, height), and what is to be said."""

    formats: tuple[str, ...]
    modes: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    remarks: tuple[str, ...]

    def line(self) -> str:
        """Such as "PNG, RGB, 32x32"; of several sizes the least and the largest by area."""
        if not self.formats:
            return "images"
        by_area = sorted(self.sizes, key=lambda size: size[0] * size[1])
        shown = [f"{width}x{height}" for width, height in dict.fromkeys((by_area[0], by_area[-1]))]
        return ", ".join(["/".join(self.formats), "/".join(self.modes), " to ".join(shown)])


def look_at(paths: Sequence[str]) -> Look:
    """Read the headers of a few of the images, evenly spread; what can't be read is named when it is decoded."""
    formats: set[str] = set()
    modes: set[str] = set()
    sizes: set[tuple[int, int]] = set()
    remarks: set[str] = set()
    for position in sorted({i * (len(paths) - 1) // (_LOOKS - 1) for i in range(_LOOKS)}):
        try:
            with _opened(paths[position]) as image:
                formats.add(str(image.format))
                modes.add(image.mode)
                sizes.add(image.size)
                remarks |= _remarks(image)
        except Exception:
            continue
    return Look(tuple(sorted(formats)), tuple(sorted(modes)), tuple(sorted(sizes)), tuple(sorted(remarks)))


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """The image, its header read. What Pillow warns of is nobody's affair, but for images too large to be meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            yield image


@contextmanager
def _silent_libtiff() -> Iterator[None]:
    """Without what the C library writes to stderr by itself: Pillow raises what matters of it."""
    try:
        kept = os.dup(_STDERR)
    except OSError:  # it is closed
        yield
        return
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)


def _eight_bits(image: Image.Image, path: str) -> Image.Image:
    """A decoded image of at most 8 bits per channel. Raises DataError for pixels of no known range."""
    if (peak := _peak(image)) is not None:
        values = np.asarray(image).astype(np.float64)
        scaled = np.clip(np.rint(values * 255 / peak), 0, 255).astype(np.uint8)
        return Image.fromarray(255 - scaled if _is_inverted(image) else scaled)
    if image.mode in ("I", "F"):
        what = "floats" if image.mode == "F" else "integers of 32 bits, or with a sign"
        raise DataError(f"image '{path}' has {what}, expected 8 or 16 bits per channel; an .npz file takes floats")
    return image


def _peak(image: Image.Image) -> int | None:
    """The largest value of grey of more than 8 bits; None where Pillow has brought it to 8, or no range is known."""
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})
        return int(2 ** tags.get(_BITS_PER_SAMPLE, (16,))[0] - 1)
    # Pillow scales what a .pgm says to be its largest value.
    return 65535 if image.mode == "I" and image.format in ("PNG", "PPM") else None


def _is_inverted(image: Image.Image) -> bool:
    """Whether 0 is white: Pillow inverts such TIFF files of 8 bits only."""
    return getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _remarks(image: Image.Image) -> set[str]:
    """What happens to an image that a user might not expect."""
    found = set()
    if _peak(image) is not None or ";16" in str(getattr(image, "tile", "")):
        found.add("more than 8 bits are scaled to 8")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        found.add("transparency is dropped")
    # Of a PNG without this, Pillow would decode all to look for it.
    if ("exif" in image.info or image.format == "TIFF") and image.getexif().get(_ORIENTATION, 1) != 1:
        found.add("EXIF orientation is not applied")
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    return one_line(error)
