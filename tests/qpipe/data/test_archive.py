"""Arrays of an .npz as numpy wrote them, or one line: no header is believed that the file can't fill."""

import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qpipe.data import archive, open_data
from qpipe.data.archive import NpzArchive
from qpipe.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)


def npy(header: str, content: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """A member with any text for a header."""
    text = header.encode("utf-8") + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + content


def packed(path: Path, member: bytes, name: str = "images.npy", compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, member)
    return path


def message_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_data(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("values", [IMAGES.astype(np.float32), IMAGES.astype(">f8"), IMAGES.astype(">f2")])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_order_of_bytes_and_axes(tmp_path: Path, values: np.ndarray, order: Any) -> None:
    np.savez(tmp_path / "d.npz", x=np.asarray(values, order=order), labels=np.arange(6).astype(">i4"))
    (batch,) = open_data(tmp_path / "d.npz").batches(6)
    np.testing.assert_array_equal(batch.inputs, IMAGES.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(batch.labels, np.arange(6))


def test_images_whose_axes_are_in_fortrans_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=np.asfortranarray(IMAGES))
    (batch,) = open_data(tmp_path / "d.npz").batches(6)
    np.testing.assert_array_equal(batch.pixels, IMAGES)


@pytest.mark.parametrize("shape", [(10**12, 1000, 3), (2**62, 2**62), (10**30,), (10**9, 2, 2, 3)])
def test_a_shape_that_the_file_cannot_fill_costs_no_memory(tmp_path: Path, shape: tuple[int, ...]) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    path = packed(tmp_path / "d.npz", npy(header, b"\0" * 100))
    tracemalloc.start()
    found = message_of(path)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()
    assert f"'images' can't be read: uint8 {list(shape)} has " in found
    assert found.endswith(" bytes, but there are 100")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-2, -50), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (50,), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2.5,), }",
        "{'descr': '|u1', 'fortran_order': 7, 'shape': (100,), }",
        "{'descr': 'no type', 'fortran_order': False, 'shape': (100,), }",
        "{'descr': [('a', '<i4', (10**9,))], 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (100,), }",
        "{'descr': '|V100', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (), }",
        "__import__('os')",
        "{",
        "((" * 4000,
        "{'descr': '\\q', }",
        "",
    ],
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0), (9, 9)])
def test_a_damaged_header_is_one_line(tmp_path: Path, header: str, version: tuple[int, int]) -> None:
    found = message_of(packed(tmp_path / "d.npz", npy(header, b"\0" * 100, version)))
    assert found.startswith(f"data '{tmp_path / 'd.npz'}': 'images'")


@pytest.mark.parametrize(
    "start", [b"", b"\x93", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff", b"PK\x03\x04", b"\x80\x04"]
)
def test_a_member_that_is_cut_off(tmp_path: Path, start: bytes) -> None:
    assert message_of(packed(tmp_path / "d.npz", start)).startswith(f"data '{tmp_path / 'd.npz'}': 'images'")


def test_structured_arrays_are_no_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=np.zeros(3, [("a", "<i4"), ("b", "u1")]))
    assert "'images': expected arrays of numbers" in message_of(tmp_path / "d.npz")


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_FREE_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "d.npz", images=np.zeros((1 << 11, 32, 32, 3), np.uint8))
    assert "'images' can't be read: it unpacks to 1,0" in message_of(tmp_path / "d.npz")
    assert message_of(tmp_path / "d.npz").endswith(" times its size (6,291,456 bytes)")
    noise = np.random.default_rng(0).integers(0, 2, (1 << 11, 32, 32, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "d.npz", images=noise)
    assert len(open_data(tmp_path / "d.npz")) == 1 << 11


def test_more_than_the_memory_that_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_FREE_BYTES", 100)
    monkeypatch.setattr(archive, "free_memory", lambda: 1000)
    np.savez(tmp_path / "d.npz", images=np.zeros((5, 9, 9, 3), np.uint8))
    assert message_of(tmp_path / "d.npz").endswith("it has 1,215 bytes, more than the 1,000 of memory that are free")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_key_that_is_there_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as file:
        for _ in range(2):
            file.writestr("images.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (0,), }"))
    assert (
        message_of(tmp_path / "d.npz") == f"data '{tmp_path / 'd.npz'}': 'images' is in the file twice, expected once"
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["Kätzchen", "犬", "a\nb"], ("Kätzchen", "犬", "a\nb")), ([b"cat", b"dog"], ("cat", "dog"))],
)
def test_names_of_classes(tmp_path: Path, names: list[Any], expected: tuple[str, ...]) -> None:
    np.savez(tmp_path / "d.npz", images=IMAGES, labels=np.zeros(6, int), class_names=names)
    source = open_data(tmp_path / "d.npz")
    assert source.class_names == expected
    assert "\n" not in source.found.line()


@pytest.mark.parametrize("names", [np.array([b"\xff\xfe"]), np.frombuffer(b"\xff" * 8, "<U2")])
def test_names_that_are_no_text(tmp_path: Path, names: np.ndarray) -> None:
    np.savez(tmp_path / "d.npz", images=IMAGES, class_names=names)
    assert "'class_names' are no text: " in message_of(tmp_path / "d.npz")


def test_arrays_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", a=IMAGES, b=IMAGES[:2])
    with NpzArchive(tmp_path / "d.npz") as arrays:
        assert list(arrays) == ["a", "b"]
        assert "c" not in arrays
        np.testing.assert_array_equal(arrays["b"], IMAGES[:2])
