"""Networks that are legal and unusual: the executor still equals the finalized file, before and after training."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch

from qpipe.ir.quantized.view import read_view
from qpipe.train.executor import Executor
from qpipe.train.write_back import write_back
from support.networks import Network
from support.quantize import finalized, quantized
from support.run import assert_exact, run
from support.training import train_steps


def check(net: Network, *outputs: str, scale: float = 1.0, **options: object) -> ir.Model:
    """Exact before and after training; returns the trained QDQ model."""
    model = quantized(net.model(*outputs), net.inputs(16, scale=scale), **options)
    assert_exact(model, net.inputs(16, seed=2, scale=scale))
    executor = Executor(model)
    train_steps(executor, net.inputs(scale=scale))
    write_back(executor)
    assert_exact(model, net.inputs(16, seed=2, scale=scale), executor)
    return model


@pytest.mark.parametrize("window", [(1, 7), (13, 1), (3, 5), (7, 7), (1, 11)])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], "half"])
def test_average_pool_counts(window: tuple[int, int], pads: list[int] | str) -> None:
    net = Network(2, 14, 14)
    x = net.op("Relu", net.conv("x", 2, 4))
    pads = [k // 2 for k in window] * 2 if pads == "half" else pads
    y = net.op("AveragePool", x, kernel_shape=window, pads=pads, strides=[2, 3])
    model = quantized(net.model(net.op("Relu", net.conv(y, 4, 4))), net.inputs(64))
    assert_exact(model, net.inputs(64, seed=2))


@pytest.mark.parametrize("size", [(7, 1), (13, 1), (3, 5), (7, 7), (1, 1), (11, 14)])
@pytest.mark.parametrize("op", ["GlobalAveragePool", "ReduceMean"])
def test_global_average_counts(size: tuple[int, int], op: str) -> None:
    net = Network(3, *size)
    axes = [net.constant(np.array([-1, -2]))] if op == "ReduceMean" else []
    x = net.op(op, net.op("Relu", net.conv("x", 3, 16, (1, 1))), *axes)
    model = quantized(net.model(net.op("Flatten", x)), net.inputs(200))
    assert_exact(model, net.inputs(200, seed=2))


def test_one_dimension() -> None:
    net = Network(3, 16)
    x = net.op("Relu", net.norm(net.conv("x", 3, 8, (5,)), 8))
    x = net.norm(net.conv(x, 8, 8, (3,), groups=8, pads=[0, 2], strides=[2]), 8)
    x = net.norm(net.op("Relu", x), 8)
    check(net, net.gemm(net.op("Flatten", net.conv(x, 8, 4, (1,))), 32, 5))


def test_batch_norm_of_vectors() -> None:
    net = Network(12)
    x = net.norm("x", 12, np.float32([1, -1, 0, 2] * 3))
    x = net.norm(net.op("Relu", net.gemm(x, 12, 16)), 16)
    model = check(net, net.gemm(x, 16, 5))
    assert [node.op_type for node in finalized(model).graph].count("Gemm") == 4


def test_matmul_of_sequences() -> None:
    net = Network(6, 12)
    x = net.op("Relu", net.op("MatMul", "x", net.constant(net.floats(12, 16, scale=0.3))))
    x = net.norm(net.op("MatMul", x, net.constant(net.floats(16, 8, scale=0.3))), 6)
    check(net, net.op("MatMul", net.op("Relu", x), net.constant(net.floats(8, 5, scale=0.3))))


def test_one_gemm() -> None:
    net = Network(12)
    check(net, net.gemm("x", 12, 5))


def test_last_layer_of_many_inputs() -> None:
    """Its sums are over 2**24: float64 in the executor, integers in onnxruntime."""
    net = Network(2048)
    weight = net.constant((np.abs(net.floats(5, 2048)) + 1).astype(np.float32))
    model = quantized(net.model(net.op("Gemm", net.op("Relu", net.gemm("x", 2048, 2048)), weight, transB=1)),
                      net.inputs(16))  # fmt: skip
    assert_exact(model, np.abs(net.inputs(16, seed=2, scale=30)))


def test_batch_of_one() -> None:
    net = Network(3, 8, 8, batch=1)
    x = net.op("Relu", net.conv("x", 3, 8))
    x = net.op("Reshape", x, net.constant(np.array([1, -1])))
    model = quantized(net.model(net.gemm(x, 512, 5)), net.inputs(4))
    executor = Executor(model)
    train_steps(executor, net.inputs(8))
    write_back(executor)
    with torch.no_grad():
        ours = executor(torch.from_numpy(net.inputs(4)))[0].numpy()
    final = finalized(model)
    theirs = np.concatenate([run(final, net.inputs(4)[i : i + 1])[0] for i in range(4)])
    np.testing.assert_array_equal(ours.astype(np.float32), theirs)


@pytest.mark.parametrize("options", [{}, {"per_channel": False}])
def test_dead_channels(options: dict[str, object]) -> None:
    """Weights, variances and multipliers that weight decay has shrunk to nothing, or pruning to zero."""
    net = Network(3, 8, 8)
    weight = net.floats(8, 3, 3, 3, scale=0.3)
    weight[1], weight[2], weight[3] = 0, 1e-20, 1e-42
    x = net.op("Conv", "x", net.constant(weight), pads=[1, 1, 1, 1])
    gamma = np.float32([1, 0.5, 0.1, 1e-20, 1e-42, 1, 1, 1])
    variance = np.float32([1, 0, 1e-40, 0, 1, 1, 1, 1])
    mean = np.float32([0.1, 1e-9, 0, 1e-20, 0, 0, 0, 0])
    beta = np.float32([0.1, 0.77, -0.3, 0.6, 0.4, 0.2, 0.1, 0])
    x = net.op("BatchNormalization", x, *(net.constant(t) for t in (gamma, beta, mean, variance)))
    net.op("Relu", x, name="constants")
    model = check(net, net.head("constants_y", 8), "constants_y", **options)
    # A channel that is constant is what its beta says, to half a step.
    alone = quantized(net.model("constants_y"), net.inputs(16), **options)
    output = read_view(alone).layers[0].quantizer
    assert output is not None
    values = run(finalized(alone), net.inputs(16))[0]
    np.testing.assert_allclose(values[:, 1], 0.77, atol=output.grid.scale / 2)
    np.testing.assert_allclose(values[:, 3], 0.6, atol=output.grid.scale / 2)
    assert model.graph.outputs[1].name == "constants_y"


def test_zero_last_layer_and_tiny_weights() -> None:
    """A classifier that starts at nothing: its bias stays in int32."""
    net = Network(12)
    x = net.op("Relu", net.gemm("x", 12, 8))
    weight = net.constant(np.full((5, 8), 1e-12, np.float32))
    y = net.op("Gemm", x, weight, net.constant(np.float32([1, -2, 3, 0, 5])), transB=1)
    model = quantized(net.model(y), net.inputs())
    values = run(finalized(model), net.inputs())[0]
    np.testing.assert_allclose(values, np.tile(np.float32([1, -2, 3, 0, 5]), (8, 1)), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:tensor '.*' was zero")
def test_a_tensor_of_zeros() -> None:
    """A residual branch whose last BatchNormalization starts at zero."""
    net = Network(3, 8, 8)
    x = net.op("Relu", net.conv("x", 3, 8))
    zero = [net.constant(np.float32(v)) for v in (np.zeros(8), np.zeros(8), np.zeros(8), np.ones(8))]
    branch = net.op("BatchNormalization", net.conv(x, 8, 8), *zero)
    check(net, net.head(net.op("Relu", net.op("Add", x, branch)), 8))


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_far_from_one(scale: float) -> None:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.conv("x", 3, 8))
    check(net, net.head(net.op("Relu", net.conv(x, 8, 8)), 8), scale=scale)


def shared_parameters(net: Network) -> str:
    """As exporters write them: equal constants once."""
    ones, zeros = net.constant(np.ones(8, np.float32)), net.constant(np.zeros(8, np.float32))
    weight, bias = net.constant(net.floats(8, 8, 3, 3, scale=0.2)), net.constant(net.floats(8))
    x = net.op("BatchNormalization", net.conv("x", 3, 8), ones, zeros, zeros, ones)
    for _ in range(2):
        x = net.op("Relu", net.op("Conv", x, weight, bias, pads=[1, 1, 1, 1]))
        x = net.op("BatchNormalization", x, ones, zeros, zeros, ones)
    return net.head(x, 8)


def test_shared_parameters() -> None:
    net = Network(3, 8, 8)
    check(net, shared_parameters(net))


def test_shared_parameters_of_a_float_graph() -> None:
    net = Network(3, 8, 8)
    model = net.model(shared_parameters(net))
    executor = Executor(model)
    train_steps(executor, net.inputs())
    write_back(executor)
    with torch.no_grad():
        ours = executor(torch.from_numpy(net.inputs()))[0].numpy()
    np.testing.assert_allclose(ours, run(model, net.inputs())[0], rtol=1e-3, atol=1e-3)  # float sums, other order


def test_names_that_quantizers_would_take() -> None:
    net = Network(3, 8, 8)
    a = net.conv("x", 3, 8)
    b = net.op("Relu", a, name=f"{a}_scale")
    c = net.op("Relu", net.conv(b, 8, 8), name="x_codes")
    for node, name in zip(net.nodes, ["x_scale", "x_zero_point", "x_quantize", "x_dequantize"], strict=False):
        node.name = name
    net.constant(net.constants["c1"], "x_quantize_weight_scale")
    proto_outputs = net.head(c, 8)
    check(net, proto_outputs, b)


def build_float_tail(net: Network) -> str:
    x = net.op("Relu", net.conv("x", 3, 8))
    return net.op("Softmax", net.head(x, 8))


TAILS: list[Callable[[Network], str]] = [build_float_tail]


def test_a_softmax_is_no_part_of_training() -> None:
    net = Network(3, 8, 8)
    float_model = net.model(build_float_tail(net))
    for model in (float_model, quantized(float_model.clone(), net.inputs())):
        executor = Executor(model)
        train_steps(executor, net.inputs())
        with torch.no_grad():
            logits = executor(torch.from_numpy(net.inputs()))[0]
        write_back(executor)
        final = model if model is float_model else finalized(model)
        probabilities = torch.softmax(logits, 1).numpy()
        np.testing.assert_allclose(probabilities, run(final, net.inputs())[0], rtol=1e-4, atol=1e-6)
