"""Opset 25 for tensors of 2 bits, 21 for all others; `test_load.py` has the rest."""

import onnx
import onnx_ir as ir
import pytest
from onnx import version_converter

from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.save import save_model
from qpipe.ir.files.upgrade import label_opset
from support.networks import parse
from support.quantize import finalized, quantized
from support.zoo.residual import residual_network


@pytest.mark.parametrize(("bits", "versions"), [(4, (21, 10)), (2, (25, 13))])
def test_a_file_has_the_opset_that_its_weights_need_and_keeps_it(tmp_path, bits, versions):
    model = finalized(quantized(residual_network(), bits=bits))
    save_model(model, tmp_path / "net.onnx")
    proto = onnx.load(tmp_path / "net.onnx")
    assert (proto.opset_import[0].version, proto.ir_version) == versions
    onnx.checker.check_model(proto, full_check=True)
    loaded = load_model(proto)
    assert (loaded.opset_imports[""], loaded.ir_version) == versions
    assert [node.op_type for node in loaded.graph] == [node.op_type for node in model.graph]


def test_the_label_is_all_that_onnx_converts():
    """From 21 to 25 no node of a finalized graph changes."""
    model = finalized(quantized(residual_network(), bits=8))
    proto = ir.to_proto(model)
    converted = version_converter.convert_version(proto, 25)
    assert [node.SerializeToString() for node in converted.graph.node] == [
        node.SerializeToString() for node in proto.graph.node
    ]
    label_opset(model)
    assert model.opset_imports[""] == 21, "nothing here has 2 bits"


@pytest.mark.parametrize("opset", [21, 24, 26])
def test_2_bits_of_any_opset_are_brought_to_25(opset):
    proto = ir.to_proto(finalized(quantized(residual_network(), bits=2)))
    proto.opset_import[0].version = opset
    assert load_model(proto).opset_imports[""] == 25


def test_a_function_of_another_opset_than_its_model_is_refused_in_one_line():
    text = """(float[N] x) => (float[N] y) { y = own.twice(x) }
        <domain: "own", opset_import: ["": 21]> twice (a) => (b) { b = Add(a, a) }"""
    with pytest.raises(ModelError, match=r"opset 24 can't be converted to 21: .*inlining"):
        load_model(parse(text, opsets='"": 24, "own": 1'))
