"""`qpipe energy` on what it can't count or price: one line that names it, exit status 2, and nothing half-written."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from support.networks import parse

ENERGY = "energy net.onnx"
HEAD = 'unit = "pJ"\n'
FLOATS = "[multiply]\nfloat32 = 3.7\n[add]\nfloat32 = 0.9\n"


def write(text: str) -> Callable[[], object]:
    return lambda: Path("own.toml").write_text(text)


LISTS: dict[str, tuple[Callable[[], object], str]] = {
    "missing": (lambda: None, "own.toml: cannot be read (No such file or directory), expected a price list"),
    "folder": (lambda: Path("own.toml").mkdir(), "own.toml: is a directory, expected a price list"),
    "pipe": (lambda: os.mkfifo("own.toml"), "own.toml: is no file, expected a price list"),
    "no TOML": (write("unit = "), "own.toml: not valid TOML: "),
    "empty": (write(""), "own.toml: unit: missing, but required; multiply: missing, but required; add: missing"),
    "unknown table": (write(HEAD + FLOATS + "[divide]\nint8 = 1\n"), "own.toml: divide: unknown key, "),
    "unknown format": (
        write(HEAD + FLOATS + "fp8 = 1\n"),
        "own.toml: [add] fp8: 'fp8', expected a format such as int8, float32 or element8",
    ),
    "no number": (
        write(HEAD + FLOATS + 'int8 = "cheap"\n'),
        "own.toml: [add] int8: 'cheap', expected a number, or a fraction such as '4/7'",
    ),
    "nothing": (write(HEAD + FLOATS + "int8 = 0\n"), "own.toml: [add] int8: 0, expected greater than 0"),
    "no integers": (
        write(HEAD + FLOATS),
        "own.toml: no price for 'add int32', expected int32 under [add], or another width",
    ),
    "no sums": (
        write(HEAD + FLOATS.replace("[add]", "element8 = 1\n[add]")),
        "own.toml: no price for 'add int32', expected int32 under [add], or another width",
    ),
    "no elements": (
        write(HEAD + FLOATS + "int16 = 1\n"),
        "own.toml: no price for 'multiply ⟨2, 4⟩', expected element7 under [multiply], or int8",
    ),
    "no export": (
        write(HEAD + FLOATS.replace("[add]", "element8 = 1\n[add]\nint32 = 1")),
        "own.toml: no price for 'multiply int32', expected int32 under [multiply], or another width",
    ),
}


@pytest.mark.parametrize("case", LISTS)
def test_price_lists(case: str, refused: Callable[[str], str]) -> None:
    make, message = LISTS[case]
    make()
    assert refused(f"{ENERGY} --prices own.toml --picture out.png").startswith(message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--prices horrowitz", "prices: 'horrowitz', expected horowitz, equation-9, table-5, or a .toml file"),
        ("--element 6,1", "element: ⟨6, 1⟩, expected 0 to 5 bits of exponent and 0 to 8 of mantissa"),
        ("--element-error 2", "element_error: '2', expected bits of exponent and mantissa, as in 2,1"),
        ("--element two,one", "element: 'two,one', expected bits of exponent and mantissa"),
        ("--group-format 8,2", "group_format: ⟨8, 2⟩, expected a mantissa of 0 or 1 bits"),
        ("--group ci", "Invalid value for '--group': "),
        ("--batch-size 0", "--batch-size: 0, expected greater than or equal to 1"),
        ("--picture out.jpg", "out.jpg: a picture, expected the name of a .png or .svg file"),
        ("--picture none/out.png", "none/out.png: the folder 'none' does not exist"),
        ("--picture net.onnx.png --prices table-5 --element 5,8", "table-5: no price for 'multiply ⟨5, 8⟩', expected "),
    ],
)
def test_options(words: str, message: str, refused: Callable[[str], str]) -> None:
    assert refused(f"{ENERGY} {words}").startswith(message)


def test_a_picture_does_not_take_the_price_lists_place(refused: Callable[[str], str]) -> None:
    Path("own.png").write_text(HEAD + FLOATS)
    assert refused(f"{ENERGY} --prices own.png --picture own.png").startswith("own.png: ")


def test_an_export_has_no_float_to_compare_with(refused: Callable[[str], str]) -> None:
    assert refused("energy net.int8.onnx") == (
        "net.int8.onnx: is an export (qoperator), expected a float network, or the QDQ file that it was made from"
    )


def test_a_network_without_weights(refused: Callable[[str], str]) -> None:
    onnx.save_model(parse("(float[N,3,4,4] x) => (float[N,3,4,4] y) { y = Relu(x) }"), "bad.onnx")
    assert refused("energy bad.onnx") == (
        "bad.onnx: nothing multiplies by constant weights, expected a network with such layers to count"
    )


def test_another_tools_qdq_file(refused: Callable[[str], str]) -> None:
    nodes = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d)"
    constants = {"s": np.float32(0.3), "z": np.uint8(0)}
    onnx.save_model(parse(f"(float[N,3,4,4] x) => (float[N,3,4,4] y) {{ {nodes} }}", **constants), "bad.onnx")
    assert refused("energy bad.onnx").startswith("bad.onnx: DequantizeLinear")
