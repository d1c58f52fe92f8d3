from pathlib import Path

import pytest

from qpipe.errors import RecipeError
from qpipe.settings.toml import LARGEST, MOST_DOTS, about_file, read_toml, toml_key


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('unit = "pJ"\n[add]\nint8 = 0.03\n')
    assert read_toml(path, "a price list") == {"unit": "pJ", "add": {"int8": 0.03}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = ", "not valid TOML: "),
        (b"a = \xff", "byte 4 is not UTF-8, expected a TOML file"),
        (b"#" * (LARGEST + 1), "has more than 1,048,576 bytes, expected a price list"),
        (b"a" + b".a" * (MOST_DOTS + 1) + b" = 1", "line 1 has 201 dots, expected keys of one or two parts"),
        (b"a = " + b"[" * 10_000, "not valid TOML: "),
    ],
)
def test_what_can_not_be_read_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as raised:
        read_toml(path, "a price list")
    assert str(raised.value).startswith(f"{path}: {message}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("location", "key"),
    [
        (("seed",), "seed"),
        (("calibrate", "batches"), "[calibrate] batches"),
        (("preprocess", "mean", 1), "[preprocess] mean"),
        (("add", "fp8", "[key]"), "[add] fp8"),
    ],
)
def test_a_key_as_the_file_has_it(location: tuple[int | str, ...], key: str) -> None:
    assert toml_key(location) == key


def test_a_file_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^a\.toml: wrong$"), about_file("a.toml"), about_file(Path("a.toml")):
        raise RecipeError("wrong")
