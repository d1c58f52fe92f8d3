"""What was stripped is written down, read back, and added to; what nobody wrote so is named."""

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from qpipe.errors import ModelError
from qpipe.ir.files.metadata import PLAIN, set_json
from qpipe.ir.graph.stripped_blocks import StrippedBlock, add_stripped_blocks, stripped_blocks
from support.zoo.residual import made, post_activation, stripped

names = st.text(min_size=1, max_size=9)
blocks = st.lists(
    st.builds(StrippedBlock, names, st.lists(names, min_size=1).map(tuple), st.lists(names).map(tuple)), max_size=4
)


def empty() -> ir.Model:
    return ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)


@given(first=blocks, second=blocks)
def test_what_was_added_is_read_back_in_order(first: list[StrippedBlock], second: list[StrippedBlock]) -> None:
    model = empty()
    assert stripped_blocks(model) == []
    add_stripped_blocks(model, first)
    add_stripped_blocks(model, second)
    assert stripped_blocks(model) == [*first, *second]


def test_of_a_network() -> None:
    _, model = made(post_activation)
    found = stripped_blocks(stripped(model))
    assert [block.name for block in found] == ["add1", "add2"]
    assert [len(block.layers) for block in found] == [2, 2]
    assert [block.removed[-1] for block in found] == ["add1", "add2"]


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"name": "add1"}, "Input should be a valid list"),
        (["add1"], "0: Input should be a dictionary or an instance of StrippedBlock"),
        ([{"name": "add1", "layers": []}], "0.layers: Tuple should have at least 1 item after validation, not 0"),
        ([{"layers": ["conv1"]}], "0.name: Field required"),
        ([{"name": "add1", "layers": ["conv1"], "removed": "add1"}], "0.removed: Input should be a valid tuple"),
    ],
)
def test_metadata_of_another_form(stored: JsonValue, message: str) -> None:
    model = empty()
    set_json(model, PLAIN, stored)
    with pytest.raises(ModelError, match=rf"^metadata 'qpipe.plain': {message}$"):
        stripped_blocks(model)
