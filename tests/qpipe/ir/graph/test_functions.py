"""A function is known by its body: what bears one of our names and computes something else is none of ours."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from passes.normalize import normalize
from passes.rewrites.inline_functions import InlineFunctions
from passes.skips.shortcut_every_convolution import ShortcutEveryConvolution
from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.save import save_model
from qpipe.ir.quantized.view import read_view
from support.networks import Network, build, float_model, integers, ops
from support.quantize import quantized
from support.run import run_as_written
from support.zoo.every_op import build as build_zoo
from support.zoo.every_op import conv_norm_relu
from support.zoo.residual import made, post_activation

FORMATS = ["dorefa", "lq", "bireal"]


def calibrated(quantizer: str) -> onnx.ModelProto:
    if quantizer == "bireal":
        net, model = made(post_activation)
        ShortcutEveryConvolution()(model)
        return ir.to_proto(quantized(model, net.inputs(16), quantizer=quantizer))
    net, outputs = build_zoo(conv_norm_relu)
    return ir.to_proto(quantized(net.model(*outputs), net.inputs(4), quantizer=quantizer, bits=2))


@pytest.fixture(scope="module", params=FORMATS)
def proto(request: pytest.FixtureRequest) -> onnx.ModelProto:
    return calibrated(request.param)


def test_our_own_are_still_known_when_a_file_comes_back(proto, tmp_path):
    save_model(ir.from_proto(proto), tmp_path / "net.onnx")
    assert read_view(load_model(tmp_path / "net.onnx")).layers


def _another(attribute: onnx.AttributeProto):
    if attribute.ref_attr_name:
        return 3
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.from_array(numpy_helper.to_array(value) + 1)
    return [*value, 1] if isinstance(value, list) else value + 1


def changed_bodies(proto: onnx.ModelProto):
    """One change at a time: another constant, another op, another order of a node's inputs, another output."""
    for position, node in enumerate(proto.functions[0].node):
        copy = onnx.ModelProto.FromString(proto.SerializeToString())
        body = copy.functions[0].node[position]
        if node.op_type == "Constant":
            (value,) = body.attribute
            value.CopyFrom(helper.make_attribute(value.name, _another(value)))
        elif len(node.input) > 1 and node.input[0] != node.input[1]:
            body.input[0], body.input[1] = node.input[1], node.input[0]
        else:
            body.op_type = "Identity"
            del body.attribute[:]
        yield copy
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    copy.functions[0].opset_import[0].version -= 1
    yield copy


def test_another_body_is_refused(proto):
    count = 0
    for changed in changed_bodies(proto):
        with pytest.raises(ModelError, match=r"function 'qpipe\.\w+Codes': its body is none that qpipe writes"):
            read_view(ir.from_proto(changed))
        count += 1
    assert count > 3


def test_what_its_values_are_called_does_not_matter(proto):
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for node in copy.functions[0].node:
        node.input[:] = [name and f"{name}_other" for name in node.input]
        node.output[:] = [f"{name}_other" for name in node.output]
    for names in (copy.functions[0].input, copy.functions[0].output):
        names[:] = [f"{name}_other" for name in names]
    assert read_view(ir.from_proto(copy)).layers


@pytest.mark.parametrize("domain", ["", "other"])
def test_a_standard_op_that_the_file_defines_anew_is_refused(proto, domain):
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    zero = helper.make_node("Sub", ["x", "x"], ["y"])
    opsets = [helper.make_opsetid("", 21)]
    copy.functions.append(helper.make_function(domain, "Clip", ["x"], ["y"], [zero], opsets))
    with pytest.raises(ModelError, match=rf"function '{domain}\.Clip'"):
        read_view(ir.from_proto(copy))


TWICE = """(float[N,4] x) => (float[N,4] y) { y = qpipe.SiLU(x) }
<domain: "qpipe", opset_import: ["": 21]> SiLU (a) => (b) { b = Add(a, a) }"""


def test_a_float_network_may_call_its_functions_as_it_likes():
    """It is inlined, and computes what it says."""
    model = build(TWICE, opsets='"": 21, "qpipe": 1')
    assert InlineFunctions()(model).modified
    assert ops(model) == ["Add"]
    x = integers(2, 4)
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], 2 * x)


def test_our_own_silu_stays():
    model = float_model("net", (4,), ["s = Sigmoid(x)", "y = Mul(x, s)"])
    normalize(model)
    assert ops(model) == ["SiLU"]
    assert not InlineFunctions()(model).modified


def test_quantizers_of_another_domain_are_none():
    net = Network(3, 8, 8)
    model = quantized(net.model(net.head(net.op("Relu", net.conv("x", 3, 4)), 4)), net.inputs(4))
    quantizer = next(node for node in model.graph if node.op_type == "QuantizeLinear")
    quantizer.domain = "com.microsoft"
    with pytest.raises(ModelError):
        read_view(model)
