"""Sizes of inputs that a file leaves open: fixed, remembered, opened again."""

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import set_json
from qpipe.ir.files.sizes import fix_sizes, open_batch, open_sizes, read_sizes, store_sizes
from support.networks import parse

TWO = "(float[N,3,H,W] x, float[N,3,H,W] z) => (float[N,3,H,W] y) { y = Add(x, z) }"
ONE = "(float[N,3,H,W] x) => (float[N,2,H,W] y) { y = Conv(x, w) }"
WEIGHT = {"w": np.ones((2, 3, 1, 1), np.float32)}


def network(text: str = ONE) -> ir.Model:
    return load_model(parse(text, **(WEIGHT if text == ONE else {})))


def shapes(model: ir.Model) -> list[str]:
    return [str(value.shape) for value in (*model.graph.inputs, *model.graph.outputs)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"": (3, 8, 6)}, ["[N,3,8,6]", "[N,2,8,6]"]),
        ({"x": (4, 3, 8, 6)}, ["[4,3,8,6]", "[4,2,8,6]"]),
    ],
)
def test_sizes_reach_what_follows_and_are_remembered(given, expected):
    model = network()
    fix_sizes(model, given)
    assert shapes(model) == expected
    (known,) = read_sizes(model).values()
    assert known.declared == ("N", 3, "H", "W")
    open_sizes(model)
    assert shapes(model)[0] == "[N,3,H,W]"
    # Whoever loads it computes at the same sizes.
    assert shapes(load_model(model)) == expected


def test_a_batch_that_was_given_can_be_left_open():
    model = network()
    fix_sizes(model, {"x": (1, 3, 8, 6)})
    open_batch(model)
    assert shapes(model) == ["[N,3,8,6]", "[N,2,8,6]"]


def test_what_a_file_fixes_is_nothing_to_remember():
    model = load_model(parse("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }"))
    fix_sizes(model, {"x": (3,)})
    assert read_sizes(model) == {}


def test_an_input_of_unknown_rank():
    proto = parse(ONE, **WEIGHT)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    model = load_model(proto)
    fix_sizes(model, {"x": (2, 3, 8, 6)})
    assert shapes(model) == ["[2,3,8,6]", "[2,2,8,6]"]


def test_one_of_several_inputs_may_be_fixed():
    model = network(TWO)
    fix_sizes(model, {"z": (3, 4, 5)})
    fix_sizes(model, {"x": (3, 4, 5)})
    assert shapes(model) == ["[N,3,4,5]"] * 3
    assert set(read_sizes(model)) == {"x", "z"}


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        (ONE, {"y": (3, 8, 8)}, r"input shape y=3,8,8: there is no such input, expected one of x"),
        (ONE, {"x": (8, 8)}, r"input shape x=8,8: input 'x' is \[N, 3, H, W\], expected sizes that fit it"),
        (ONE, {"x": (1, 8, 8)}, r"input shape x=1,8,8: input 'x' is \[N, 3, H, W\]"),
        (ONE, {"x": (1, 1, 3, 8, 8)}, r"input shape x=1,1,3,8,8: input 'x' is"),
        (TWO, {"": (3, 8, 8)}, r"the network's inputs are 'x', 'z', expected NAME=3,8,8 for one"),
    ],
)
def test_shapes_that_fit_no_input(text, given, message):
    with pytest.raises(ModelError, match=message):
        fix_sizes(network(text), given)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"q": {"at": [None, 3, 8, 8], "declared": ["N", 3, "H", "W"]}}, "'q' is no input, expected x"),
        ({"x": {"at": [None, 8, 8], "declared": ["N", "H", "W"]}}, r"'x' at \[None, 8, 8\] is not \[N, 3, H, W\]"),
        ({"x": {"at": [None, 4, 8, 8], "declared": ["N", 3, "H", "W"]}}, r"'x' at \[None, 4, 8, 8\]"),
        ({"x": {"at": "all"}}, "qpipe.sizes"),
        ([1], "expected an object"),
    ],
)
def test_damaged_metadata(stored, message):
    model = network()
    set_json(model, "sizes", stored)
    with pytest.raises(ModelError, match=message):
        load_model(model)


def test_nothing_open_is_nothing_stored():
    model = network()
    store_sizes(model, {})
    assert "qpipe.sizes" not in model.metadata_props
