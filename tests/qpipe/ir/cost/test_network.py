import numpy as np
import pytest

from qpipe.errors import ModelError
from qpipe.ops.work import Work
from support.counting import counted, residual
from support.networks import Network, load, parse


def test_sizes_of_products() -> None:
    network = counted(residual())
    sizes = {layer.layer.name: sizes for layer, sizes in network.products}
    first, inner, skip, strided, last = sizes.values()
    assert (first.macs, first.inputs, first.outputs, first.weights) == (36 * 8 * 27, 3 * 36, 8 * 36, 8 * 27)
    assert (inner.weight, inner.activation, inner.positions) == ((8, 8, 3, 3), (1, 8, 6, 6), 36)
    # A stride passes over pixels that a 1×1 does not read.
    assert (skip.macs, skip.inputs, skip.touched) == (9 * 16 * 8, 8 * 36, 8 * 9)
    assert (strided.positions, strided.touched) == (9, 8 * 36)
    assert (last.macs, last.weight, last.activation, last.positions) == (16 * 5, (5, 16), (1, 16), 1)
    assert (network.inputs, network.outputs) == (108, 5)


def test_first_and_last_layers_and_where_gradients_go() -> None:
    network = counted(residual())
    assert [layer.is_edge for layer, _ in network.products] == [True, False, False, False, True]
    # Nobody needs the gradient of the image.
    assert [layer.passes_gradient for layer, _ in network.products] == [False, True, True, True, True]
    assert all(node.is_trained for layer in network.layers for node in layer.nodes)


def test_gradients_are_added_where_a_tensor_is_read_twice() -> None:
    # Both blocks' inputs, of 8 channels at 6×6.
    assert counted(residual()).gradient_sums == 2 * 8 * 36


def test_what_is_before_the_first_weights_has_no_gradient() -> None:
    n = Network(4, 6, 6)
    start = n.op("Relu", "x")
    network = counted(n.model(n.head(n.op("Add", n.conv(start, 4, 4), start), 4)))
    assert next(node.is_trained for layer in network.layers for node in layer.nodes) is False
    assert network.gradient_sums == 0


@pytest.mark.parametrize(("groups", "out"), [(4, 4), (2, 8)])
def test_grouped_convolutions(groups: int, out: int) -> None:
    n = Network(4, 6, 6)
    network = counted(n.model(n.conv("x", 4, out, groups=groups)))
    ((_, sizes),) = network.products
    assert (sizes.weight, sizes.activation) == ((out, 4 // groups, 3, 3), (1, 4, 6, 6))
    assert sizes.convolution.groups == groups
    assert sizes.macs == 36 * sizes.weights


def test_rows_of_a_sequence_are_positions() -> None:
    model = load(parse("(float[N,5,6] x) => (float[N,5,3] y) { y = MatMul(x, w) }", w=np.ones((6, 3), np.float32)))
    ((_, sizes),) = counted(model).products
    assert (sizes.macs, sizes.weight, sizes.activation, sizes.positions) == (5 * 18, (3, 6, 1), (1, 6, 5), 5)
    assert sizes.touched == sizes.inputs


def test_ops_that_nothing_is_known_of_are_told() -> None:
    n = Network(4, 6, 6)
    model = n.model(n.op("Hardmax", n.op("Hardmax", n.conv("x", 4, 4))))
    assert counted(model).uncounted == {"Hardmax": 2}


def test_a_product_of_two_activations_has_no_weights() -> None:
    n = Network(4, 4)
    weighted = n.op("MatMul", "x", n.constant(n.floats(4, 4)))
    model = n.model(n.op("MatMul", weighted, "x"))
    network = counted(model)
    assert network.uncounted == {}
    assert [sizes.macs for _, sizes in network.products] == [64]
    (node,) = network.layers[1].nodes
    assert (node.elements, node.work.forward, node.work.backward) == (16, Work(4, 3), Work(8, 6))


# A matrix for each image of a batch that is open is no layer's weight.
@pytest.mark.parametrize("text", ["y = Relu(x)", "y = MatMul(w, x)", "y = MatMul(x, w)"])
def test_a_network_without_weights(text: str) -> None:
    model = load(parse(f"(float[N,4,4] x) => (float[] y) {{ {text} }}", w=np.ones((3, 4, 4), np.float32)))
    with pytest.raises(ModelError, match=r"^nothing multiplies by constant weights, expected a network with such "):
        counted(model)


def test_a_product_of_unknown_size() -> None:
    model = load(parse("(float[N,6] x) => (float[] y) { [g] y = Gemm(x, w) }", w=np.ones((6, 4), np.float32)))
    model.graph[0].outputs[0].shape = None
    with pytest.raises(ModelError, match=r"^Gemm 'g': the sizes of its tensors are unknown, expected fixed ones"):
        counted(model)


def test_a_fixed_batch_is_one_image() -> None:
    model = load(parse("(float[7,6] x) => (float[7,4] y) { y = Gemm(x, w) }", w=np.ones((6, 4), np.float32)))
    ((_, sizes),) = counted(model).products
    assert (sizes.macs, sizes.inputs, sizes.outputs) == (24, 6, 4)
