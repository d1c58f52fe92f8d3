"""Every kind of image becomes 8 bits as it is meant, or is refused by name; none is clipped to white."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qpipe.data import Preprocess, image_file, open_data
from qpipe.data.image_file import look_at, read_image
from qpipe.errors import DataError

RAMP = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)


def read(path: Path, mode: str = "L") -> np.ndarray:
    return np.asarray(read_image(str(path), mode))


def png16(path: Path, values: np.ndarray) -> None:
    """A colour PNG of 16 bits, which Pillow reads but does not write."""
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def tiff(path: Path, pixels: bytes, *, width: int, height: int, bits: int, photometric: int = 1) -> None:
    """A grey TIFF with one uncompressed strip."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    entries = [*tags, (279, len(pixels))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    start = 8 + len(pixels)
    path.write_bytes(
        b"II*\0" + struct.pack("<I", start) + pixels + struct.pack("<H", len(entries)) + directory + b"\0" * 4
    )


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_16_bits_of_grey_are_scaled(tmp_path: Path, name: str) -> None:
    Image.fromarray(RAMP).save(tmp_path / name)
    expected = np.floor(RAMP / 257 + 0.5)
    np.testing.assert_array_equal(read(tmp_path / name), expected)
    np.testing.assert_array_equal(read(tmp_path / name, "RGB"), np.stack([expected] * 3, -1))
    (tmp_path / "c").mkdir()
    (tmp_path / name).rename(tmp_path / "c" / name)
    (batch,) = open_data(tmp_path, preprocess=Preprocess(color="GRAY")).batches(1)
    assert batch.pixels is not None
    # One level of 8 bits is 257 of 16, so what a network of pixel / 65535 reads errs by half of it at most.
    assert np.abs(batch.inputs[0, 0] - RAMP / 65535).max() < 0.5001 / 255


def test_16_bits_of_colour_are_scaled(tmp_path: Path) -> None:
    colours = np.stack([RAMP, RAMP[::-1], RAMP.T], -1)
    png16(tmp_path / "x.png", colours)
    np.testing.assert_array_equal(read(tmp_path / "x.png", "RGB"), colours >> 8)


def test_12_bits_are_scaled(tmp_path: Path) -> None:
    # Two pixels in three bytes: 0xFFF, 0x800 and 0x001, 0x000.
    tiff(tmp_path / "x.tif", bytes([0xFF, 0xF8, 0x00, 0x00, 0x10, 0x00]), width=2, height=2, bits=12)
    np.testing.assert_array_equal(read(tmp_path / "x.tif"), [[255, 128], [0, 0]])


@pytest.mark.parametrize("bits", [8, 16])
def test_where_zero_is_white(tmp_path: Path, bits: int) -> None:
    pixels = np.array([0, 2**bits - 1], f"<u{bits // 8}").tobytes()
    tiff(tmp_path / "x.tif", pixels, width=2, height=1, bits=bits, photometric=0)
    np.testing.assert_array_equal(read(tmp_path / "x.tif"), [[255, 0]])


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (RAMP.astype(np.float32) / 65535, "has floats"),
        (RAMP.astype(np.int32), "has integers of 32 bits, or with a sign"),
    ],
)
def test_what_has_no_known_range_is_refused(tmp_path: Path, values: np.ndarray, what: str) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(values).save(path)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value) == f"image '{path}' {what}, expected 8 or 16 bits per channel; an .npz file takes floats"


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(RAMP > 30000).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read(tmp_path / "x.png"), np.where(RAMP > 30000, 255, 0))


@pytest.mark.parametrize(("mode", "name"), [("LA", "x.png"), ("RGBA", "x.png"), ("PA", "x.tif"), ("CMYK", "x.tif")])
def test_modes_with_more_than_colours(tmp_path: Path, mode: str, name: str) -> None:
    grey = Image.fromarray((RAMP >> 8).astype(np.uint8))
    if mode == "PA":
        image = Image.merge("LA", (grey, grey))
        image = image.convert("PA")
    else:
        image = grey.convert(mode)
    image.save(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read(tmp_path / name)
    np.testing.assert_array_equal(found, RAMP >> 8)


@pytest.mark.parametrize("name", ["x.gif", "x.tif", "x.png", "x.webp"])
def test_several_images_in_a_file_are_refused(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (0, 100, 200)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=rf"^image '{tmp_path / name}' holds 3 images, expected one$"):
        read(tmp_path / name)
    frames[0].save(tmp_path / name)
    assert read(tmp_path / name).shape == (8, 8)


def test_a_camera_s_preview_is_no_second_image(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (100, 200)]
    frames[0].save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert abs(int(read(tmp_path / "x.jpg")[0, 0]) - 100) < 5  # a JPEG's own loss


def test_an_image_too_large_to_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (100, 100)).save(tmp_path / "x.png")
    for limit in (9000, 4000):  # Pillow warns up to twice the limit, and raises beyond
        monkeypatch.setattr(image_file.Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match=rf"x\.png' can't be read: it has more than {limit:,} pixels$"):
            read(tmp_path / "x.png")


def test_what_is_said_of_them(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    Image.new("LA", (4, 6)).save(tmp_path / "b.png")
    turned = Image.Exif()
    turned[274] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "c.jpg", exif=turned)
    (tmp_path / "d.png").write_text("no image")
    look = look_at([str(path) for path in sorted(tmp_path.iterdir())])
    assert look.line() == "JPEG/PNG, I;16/LA/RGB, 4x6 to 20x10"
    assert look.remarks == (
        "EXIF orientation is not applied",
        "more than 8 bits are scaled to 8",
        "transparency is dropped",
    )
    plain = tmp_path / "e.png"
    Image.new("RGB", (3, 2)).save(plain)
    assert (look_at([str(plain)] * 100).line(), look_at([str(plain)]).remarks) == ("PNG, RGB, 3x2", ())
    assert look_at([str(tmp_path / "d.png")]).line() == "images"


def test_a_library_says_nothing_beside_the_refusal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Image.fromarray((RAMP >> 8).astype(np.uint8)).save(tmp_path / "x.tif", compression="tiff_deflate")
    content = bytearray((tmp_path / "x.tif").read_bytes())
    content[12] ^= 255
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.tif' can't be read: "):
        read(tmp_path / "x.tif")
    assert capfd.readouterr() == ("", "")
