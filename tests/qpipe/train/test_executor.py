"""The executor in evaluation equals the finalized QDQ file on onnxruntime, to the bit, before and after training."""

import numpy as np
import pytest

from qpipe.train.executor import Executor
from qpipe.train.write_back import write_back
from support.quantize import quantized
from support.run import assert_exact, run
from support.training import train_steps
from support.zoo.every_op import NETWORKS, Build, build, conv_norm_relu, preactivation, residual

OPTIONS = {
    "8": {},
    "4": {"weight_bits": 4, "activation_bits": 4},
    "4/8 free": {"weight_bits": 4, "cpu": "vnni"},
    "per tensor": {"per_channel": False},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("network", NETWORKS)
def test_evaluation_equals_the_file(network: Build, options: dict[str, object]) -> None:
    net, outputs = build(network)
    model = quantized(net.model(*outputs), net.inputs(), **options)
    assert_exact(model, net.inputs(seed=2, scale=1.5))
    executor = Executor(model)
    train_steps(executor, net.inputs())
    write_back(executor)
    assert_exact(model, net.inputs(seed=2, scale=1.5), executor)
    assert_exact(model, net.inputs(seed=2, scale=1.5))


@pytest.mark.parametrize("network", [conv_norm_relu, residual, preactivation])
def test_batch_statistics(network: Build) -> None:
    net, outputs = build(network)
    model = quantized(net.model(*outputs), net.inputs())
    executor = Executor(model, batch_norm="batch")
    train_steps(executor, net.inputs())
    write_back(executor)
    assert_exact(model, net.inputs(seed=2), executor)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_float_graph(network: Build) -> None:
    net, outputs = build(network)
    model = net.model(*outputs)
    executor = Executor(model)

    def compare() -> None:
        import torch

        with torch.no_grad():
            ours = [y.numpy() for y in executor(torch.from_numpy(net.inputs()))]
        for a, b in zip(ours, run(model, net.inputs()), strict=True):
            # Float sums in another order.
            np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-4, atol=1e-4)

    compare()
    train_steps(executor, net.inputs())
    write_back(executor)
    compare()
