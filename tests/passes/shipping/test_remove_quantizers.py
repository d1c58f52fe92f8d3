import numpy as np
import onnx_ir as ir
import pytest

from passes.shipping.remove_quantizers import RemoveQuantizers
from qpipe.errors import ModelError
from qpipe.ir.files.metadata import PLAIN, get_json
from qpipe.ir.quantized.kind import Kind, find_kind
from qpipe.ir.quantized.view_weights import QUANTIZATION
from support.networks import Network, checked, ops
from support.quantize import finalized, quantized
from support.run import run
from support.zoo.every_op import NETWORKS, Build, build, residual
from support.zoo.residual import inverted_residuals, made, post_activation, stripped, unused


def removed(model: ir.Model) -> ir.Model:
    before = unused(model)
    assert RemoveQuantizers()(model).modified
    assert find_kind(model)[0] is Kind.FLOAT
    assert unused(model) <= before
    return checked(model)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("bits", [4, 8])
def test_the_float_network_is_there_again(network: Build, bits: int) -> None:
    net, outputs = build(network)
    model, x = net.model(*outputs), net.inputs()
    names = [value.name for value in model.graph.outputs]
    before, nodes = run(model, x), ops(model)
    # Without the pair condition, by which weights would lie at their codes.
    removed(quantized(model, x, weight_bits=bits, activation_bits=bits, cpu="vnni"))
    for a, b in zip(run(model, x), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert sorted(ops(model)) == sorted(nodes)
    assert [value.name for value in model.graph.outputs] == names
    assert get_json(model, QUANTIZATION) is None


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scale", [0.5, 20])
def test_a_bound_that_the_range_reaches_or_not(bits: int, scale: float) -> None:
    net = Network(3, 8, 8)
    x = net.inputs(scale=scale)
    model = net.model(net.head(net.relu6(net.conv("x", 3, 8)), 8))
    before = run(model, x)[0]
    quantized(model, x, weight_bits=bits, activation_bits=bits, cpu="vnni")
    np.testing.assert_array_equal(run(removed(model), x)[0], before)
    assert ops(model).count("Clip") == 1


def test_a_skip_that_is_carried_wider() -> None:
    net, outputs = build(residual)
    model, x = net.model(*outputs), net.inputs()
    before = run(model, x)[0]
    removed(quantized(model, x, activation_bits=3, skip_bits=8, cpu="vnni"))
    np.testing.assert_array_equal(run(model, x)[0], before)


def test_a_plain_network_stays_one() -> None:
    """Stripped on its grids and without them: the same float network."""
    for network in (post_activation, inverted_residuals):
        net, model = made(network)
        x, plain = net.inputs(), stripped(model.clone())
        stripped(quantized(model, x, cpu="vnni"))
        removed(model)
        np.testing.assert_array_equal(run(model, x)[0], run(plain, x)[0])
        assert get_json(model, PLAIN) is not None


def test_it_is_quantized_anew() -> None:
    net, outputs = build(residual)
    model, x = net.model(*outputs), net.inputs()
    fresh = quantized(model.clone(), x, weight_bits=4, activation_bits=4)
    again = quantized(removed(quantized(model, x, cpu="vnni")), x, weight_bits=4, activation_bits=4)
    np.testing.assert_array_equal(run(finalized(again), x)[0], run(finalized(fresh), x)[0])


def test_a_final_network_is_refused() -> None:
    net, model = made(post_activation)
    final = finalized(quantized(model, net.inputs()))
    nodes = ops(final)
    with pytest.raises(ModelError, match="its weights are integers, expected the file that can be trained"):
        RemoveQuantizers()(final)
    assert ops(final) == nodes


def test_weights_on_another_scale_are_refused() -> None:
    net, model = made(post_activation)
    quantized(model, net.inputs(), weight_bits=2, activation_bits=2, quantizer="dorefa")
    nodes = ops(model)
    with pytest.raises(ModelError, match=r"Conv 'conv.*: its weights are on the scale of another quantizer"):
        RemoveQuantizers()(model)
    assert ops(model) == nodes
