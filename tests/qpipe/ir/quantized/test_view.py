"""The quantized view: what calibration wrote is read back; what it could not have written is named."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.arith.spec import QuantSpec
from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.save import save_model
from qpipe.ir.quantized.qdq import insert_activation_quantizer
from qpipe.ir.quantized.view import is_final, is_trainable, leading_to, read_view
from qpipe.nodes import set_constant_input
from support.networks import Network
from support.quantize import finalized, quantized


def network(**options: object) -> tuple[Network, ir.Model]:
    net = Network(3, 8, 8)
    x = net.relu6(net.norm(net.conv("x", 3, 8, name="first"), 8))
    x = net.op("Relu", net.conv(x, 8, 8, groups=8, bias=True, name="depthwise"), name="a")
    x = net.op("Concat", x, net.norm(net.conv(x, 8, 4, (1, 1), name="branch"), 4), axis=1, name="join")
    return net, quantized(net.model(net.op("Softmax", net.head(x, 12))), net.inputs(), **options)


def test_layers_between_their_quantizers() -> None:
    _, model = network(weight_bits=4)
    view = read_view(model)
    assert not view.is_final
    assert [q.source.name for q in view.inputs] == ["x"]
    ops = [layer.op_type for layer in view.layers]
    assert [op for op in ops if op != "QuantizeLinear"] == [
        "Conv", "Conv", "Conv", "Concat", "GlobalAveragePool", "Flatten", "Gemm"
    ]  # fmt: skip
    assert [layer.op_type for layer in view.tail] == ["Softmax"]
    by_name = {layer.name: layer for layer in view.layers}
    widths = {name: by_name[name].weight.format.bits for name in ("first", "depthwise", "branch")}  # type: ignore[union-attr]
    assert widths == {"first": 8, "depthwise": 4, "branch": 4}
    last = view.layers[-1]
    assert last.quantizer is None
    assert view.results == [last.result]
    assert is_trainable(last)
    assert not last.weight.format.per_channel
    assert len(set(last.weight.exponents.tolist())) == 1


def test_the_pair_condition_is_the_inputs_and_not_a_depthwise_layers() -> None:
    limits = {
        layer.name: layer.weight.format.pair_limit
        for layer in read_view(network()[1]).layers if is_trainable(layer)
    }  # fmt: skip
    assert limits["first"] == (2**15 - 1) // 255
    assert limits["depthwise"] is None
    free = read_view(network(cpu="vnni")[1])
    assert [q.weight.format.pair_limit for q in free.layers if is_trainable(q)] == [None] * 4


@pytest.mark.parametrize("final", [False, True])
def test_a_saved_file_reads_back_the_same(tmp_path: Path, final: bool) -> None:
    model = network(weight_bits=4, weight_clip=3.0, cpu="vnni")[1]
    model = finalized(model) if final else model
    save_model(model, tmp_path / "net.onnx")
    ours, theirs = read_view(model), read_view(load_model(tmp_path / "net.onnx"))
    assert ours.is_final == theirs.is_final == final
    assert [layer.name for layer in ours.layers] == [layer.name for layer in theirs.layers]
    for a, b in zip(ours.layers, theirs.layers, strict=True):
        assert [q.grid for q in a.sources] == [q.grid for q in b.sources]
        if is_trainable(a) and is_trainable(b):
            assert a.weight.format == b.weight.format
            np.testing.assert_array_equal(a.weight.exponents, b.weight.exponents)
        if is_final(a) and is_final(b):
            assert a.weight.bits == b.weight.bits
            for name in ("codes", "multiplier", "exponent", "bias"):
                np.testing.assert_array_equal(getattr(a.weight, name), getattr(b.weight, name))


def test_results_are_in_the_order_of_the_outputs() -> None:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.conv("x", 3, 8))
    y = net.op("Relu", net.conv(x, 8, 8))
    model = quantized(net.model(net.op("Erf", y), x), net.inputs())
    names = [str(value.name) for value in read_view(model).results]
    assert names == [f"{y}_dequantized", x]


def test_leading_to_stops_at_the_first() -> None:
    a, b = ir.val("a"), ir.val("b")
    n1 = ir.node("Relu", [a])
    n2 = ir.node("Add", [n1.outputs[0], b])
    n3 = ir.node("Relu", [n2.outputs[0]])
    candidates = {n1.outputs[0], a, b}
    assert leading_to([n3.outputs[0]], candidates) == [n1.outputs[0], b]
    assert leading_to([b, n3.outputs[0]], candidates) == [b, n1.outputs[0]]
    assert leading_to([n3.outputs[0]], {n3.outputs[0], a}) == [n3.outputs[0]]


def test_not_quantized() -> None:
    net = Network(3, 8, 8)
    with pytest.raises(ModelError, match="not a quantized model"):
        read_view(net.model(net.head(net.conv("x", 3, 8), 8)))


def test_a_float_node_between_quantizers_is_an_island() -> None:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.conv("x", 3, 8, name="before"))
    y = net.conv(net.op("LpNormalization", x, name="gate"), 8, 4, name="after")
    model = quantized(net.model(net.op("Softmax", y, name="end")))
    view = read_view(model)
    assert [layer.name for layer in view.islands] == ["gate"]
    assert [layer.name for layer in view.tail] == ["end"]
    assert [layer.name for layer in view.layers] == ["before", "after"]
    assert [q.source for q in view.inputs] == [model.graph.inputs[0], view.islands[0].output]
    assert view.leaving() == [view.layers[0].result, view.layers[1].result]
    assert view.leaving(outputs=False) == [view.layers[0].result]


def test_quantized_weights_in_float_between_quantizers() -> None:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.conv("x", 3, 8))
    model = quantized(net.model(net.conv(net.op("Relu", net.conv(x, 8, 8, name="middle")), 8, 4)))
    # Without the quantizer before it.
    middle = next(node for node in model.graph if node.name == "middle")
    middle.replace_input_with(0, read_view(model).layers[0].output)
    with pytest.raises(ModelError, match="Conv 'middle': float between quantizers, though its weights are quantized"):
        read_view(model)


def test_two_quantizers_of_one_tensor() -> None:
    _, model = network()
    layer = read_view(model).layers[0]
    quantize = next(node for node, _ in layer.output.uses())
    again = ir.node("QuantizeLinear", quantize.inputs, name="again")
    back = ir.node("DequantizeLinear", [again.outputs[0], *quantize.inputs[1:]], name="back")
    model.graph.insert_after(quantize, [again, back])
    with pytest.raises(ModelError, match="Conv 'first': 2 quantizers read its output, expected one"):
        read_view(model)


def test_an_output_that_leaves_before_it_is_quantized() -> None:
    _, model = network()
    inner = read_view(model).layers[0].output
    model.graph.outputs.append(inner)
    with pytest.raises(ModelError, match=rf"Conv 'first': its output '{inner.name}' is the network's before"):
        read_view(model)


def test_a_norm_without_a_quantizer_behind() -> None:
    net = Network(3, 8, 8)
    model = net.model(net.norm(net.conv("x", 3, 8, name="c"), 8))
    insert_activation_quantizer(model.graph, model.graph.inputs[0], QuantSpec.signed(8, -4))
    with pytest.raises(ModelError, match="Conv 'c': no quantizer after its BatchNormalization"):
        read_view(model)


def test_what_is_rounded_has_a_zero_point_that_keeps_ties() -> None:
    """Only a table's codes, and what copies them, have another one."""
    net = Network(3, 8, 8)
    model = quantized(net.model(net.head(net.op("Relu", net.conv("x", 3, 8)), 8)), net.inputs())
    quantizer = read_view(model).layers[0].quantizer
    assert quantizer is not None
    for node in (quantizer.output.producer(), quantizer.source.consumers()[0]):
        set_constant_input(node, 2, np.array(9, np.uint8))
    with pytest.raises(ModelError, match="zero point 9, expected an even one"):
        read_view(model)
