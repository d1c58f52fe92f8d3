"""Networks whose BatchNormalization was folded before export, trained as they are: weights and biases directly."""

import numpy as np
import onnx_ir as ir
import pytest

import qpipe
from qpipe.train.executor import Executor
from qpipe.train.write_back import write_back
from support.networks import Network
from support.quantize import quantized
from support.run import assert_exact
from support.training import train_steps


def folded(bits: int) -> tuple[ir.Model, np.ndarray]:
    """A residual network with a bias in every layer; one of them is a Gemm before the last."""
    net = Network(3, 8, 8)
    first = net.op("Relu", net.conv("x", 3, 8, bias=True))
    x = net.op("Relu", net.conv(first, 8, 8, bias=True, groups=2))
    x = net.op("Relu", net.op("Add", net.conv(x, 8, 8, bias=True), first))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    x = net.op("Relu", net.gemm(x, 8, 6, transposed=False))
    model, images = net.model(net.gemm(x, 6, 5)), net.inputs(24)
    return quantized(model, images, weight_bits=bits, activation_bits=bits), images


@pytest.mark.parametrize("batch_norm", ["batch", "running"])
@pytest.mark.parametrize("bits", [4, 8])
def test_weights_and_biases_train_and_stay_exact(bits: int, batch_norm: str) -> None:
    model, images = folded(bits)
    assert all(node.op_type != "BatchNormalization" for node in model.graph)
    executor = Executor(model, batch_norm=batch_norm)  # type: ignore[arg-type]
    before = {name: parameter.detach().clone() for name, parameter in executor.named_parameters()}
    train_steps(executor, images)
    changed = {name: bool((parameter != before[name]).any()) for name, parameter in executor.named_parameters()}
    assert len(changed) == 10  # a weight and a bias in each of five layers
    assert all(changed.values()), changed
    write_back(executor)
    assert_exact(model, images, executor)
    assert_exact(model, images)
    for format_ in ("qoperator", "integer"):
        # Which fails where a layer's integers differ.
        qpipe.export(model, format=format_)  # type: ignore[arg-type]
