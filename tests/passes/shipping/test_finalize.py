import numpy as np
import onnx_ir as ir
import pytest

from passes.shipping.finalize import Finalize
from qpipe.errors import ModelError
from qpipe.ir.quantized.view import is_final, read_view
from qpipe.nodes import constant_input
from support.networks import Network
from support.quantize import finalized, quantized
from support.run import run


def network(**options: object) -> tuple[Network, ir.Model]:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.norm(net.conv("x", 3, 8, bias=True), 8, np.float32([1, -1, 0, 2, -3, 0.1, 1, 1])))
    x = net.norm(net.op("Add", net.conv(x, 8, 8), x), 8)
    return net, quantized(net.model(net.head(net.op("Relu", x), 8)), net.inputs(), **options)


INNER = {8: ir.DataType.INT8, 5: ir.DataType.INT8, 4: ir.DataType.INT4, 3: ir.DataType.INT4, 2: ir.DataType.INT2}


@pytest.mark.parametrize("bits", INNER)
def test_no_batch_norm_and_no_float_weight_is_left(bits: int) -> None:
    _, model = network(weight_bits=bits)
    final = finalized(model)
    ops = [node.op_type for node in final.graph]
    assert "BatchNormalization" not in ops
    assert ops.count("QuantizeLinear") == len([q for q in read_view(final).layers if q.quantizer is not None]) + 1
    # Every float constant is a scale.
    floats = [v.name for v in final.graph.initializers.values() if v.dtype == ir.DataType.FLOAT]
    assert [name for name in floats if not str(name).endswith("_scale")] == []
    stored = {v.dtype for v in final.graph.initializers.values() if str(v.name).endswith("final_weight")}
    assert stored == {ir.DataType.INT8, INNER[bits]}
    assert (final.opset_imports[""], final.ir_version) == ((25, 13) if bits == 2 else (21, 10))
    assert read_view(final).is_final


def test_a_final_graph_is_left_as_it_is() -> None:
    _, model = network()
    assert Finalize()(model).modified
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not Finalize()(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_signs_zeros_and_biases() -> None:
    """A negative multiplier is in the codes, a zero one in zero codes and m = 1; scales multiply up to the bias's."""
    _, model = network()
    first = read_view(finalized(model)).layers[0]
    trainable = read_view(model).layers[0]
    assert is_final(first)
    assert not first.weight.codes[2].any()
    assert first.weight.multiplier[2] == 1
    values = trainable.weight.values.const_value.numpy()  # type: ignore[union-attr]
    for channel in (1, 4):
        codes = first.weight.codes[channel]
        assert np.all(np.sign(codes[codes != 0]) == -np.sign(values[channel][codes != 0]))
    bias = first.node.inputs[2].producer()  # type: ignore[union-attr]
    assert bias is not None
    scale = constant_input(bias, 1)
    np.testing.assert_array_equal(scale, first.weight.scales * np.float32(first.sources[0].grid.scale))
    assert constant_input(bias, 0).dtype == np.int32  # type: ignore[union-attr]


def test_it_stays_near_the_trainable_file() -> None:
    """The two differ by the rounding of multipliers and biases alone."""
    net, model = network()
    expected = run(model, net.inputs())[0]
    np.testing.assert_allclose(run(finalized(model), net.inputs())[0], expected, atol=0.05 * np.abs(expected).max())


def test_metadata_stays() -> None:
    _, model = network()
    model.metadata_props["author"] = "somebody"
    assert finalized(model).metadata_props == model.metadata_props


def test_a_norm_after_a_matmul_becomes_a_gemm() -> None:
    net = Network(12)
    x = net.op("Relu", net.norm(net.op("MatMul", "x", net.constant(net.floats(12, 8))), 8))
    model = quantized(net.model(net.op("MatMul", x, net.constant(net.floats(8, 4)))), net.inputs())
    assert [n.op_type for n in finalized(model).graph if n.op_type in {"Gemm", "MatMul"}] == ["Gemm", "MatMul"]


def test_a_graph_without_quantizers_is_refused() -> None:
    net = Network(3, 8, 8)
    with pytest.raises(ModelError, match="not a quantized model"):
        Finalize()(net.model(net.conv("x", 3, 8)))
