"""LQ-Net's quantizers on the executor: what trains is what ships, and a basis is in the state."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from qpipe.formats.base import TrainableWeight
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.view import Weighted, read_final_view, read_view
from qpipe.nodes import DOMAIN
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from qpipe.train.write_back import write_back
from support.oracle import assert_integers
from support.quantize import finalized, quantized, to_qoperator
from support.run import evaluated, run
from support.training import train_steps
from support.zoo.every_op import Build, build, carriers, concat, conv_norm_relu, residual, separable


def learned(network: Build, bits: int = 2, **options: object) -> tuple[ir.Model, np.ndarray]:
    net, outputs = build(network)
    model = net.model(*outputs)
    options = {"weight_bits": bits, "activation_bits": bits, "quantizer": "lq", **options}
    return quantized(model, net.inputs(), **options), net.inputs(seed=2, scale=1.5)


def assert_exact(model: ir.Model, inputs: np.ndarray, executor: Executor) -> None:
    for a, b in zip(evaluated(executor, inputs), run(finalized(model), inputs), strict=True):
        np.testing.assert_array_equal(a.astype(np.float32).reshape(b.shape), b)


@pytest.mark.parametrize(
    ("network", "bits"), [(residual, 2), (residual, 4), (separable, 3), (carriers, 2), (concat, 2)]
)
def test_what_trains_is_what_ships(network: Build, bits: int) -> None:
    model, images = learned(network, bits)
    executor = Executor(model)
    assert_exact(model, images, executor)
    before = {name: value.clone() for name, value in executor.state_dict().items() if name.endswith("basis")}
    # All of the convolutions before the joins are first layers, whose weights keep 8 bits.
    expected = {"quantizers"} if network is concat else {"quantizers", "layers"}
    assert {name.split(".")[0] for name in before} == expected
    train_steps(executor, images)
    assert all(not torch.equal(executor.state_dict()[name], value) for name, value in before.items())
    write_back(executor)
    ir.passes.common.CheckerPass()(model)
    assert_exact(model, images, executor)
    again = Executor(model)
    assert_exact(model, images, again)
    for name in before:
        torch.testing.assert_close(again.state_dict()[name], executor.state_dict()[name], rtol=0, atol=0)
    spec = finalized(model)
    assert not any(node.domain == DOMAIN for node in spec.graph)
    assert not certify(read_final_view(spec)).problems
    assert_integers(spec, images)
    lowered = to_qoperator(spec)
    run_gate(spec, lowered)


def test_the_trainable_file_has_the_same_codes() -> None:
    model, images = learned(residual, 3)
    # Its float outputs differ by BatchNormalization's rounding alone, so the codes are compared.
    exposed = model.clone()
    codes = [value for node in exposed.graph if node.op_type == "LQCodes" for value in node.outputs]
    exposed.graph.outputs.clear()
    exposed.graph.outputs.extend(codes)
    found = run(exposed, images)
    weights = [layer.weight for layer in read_view(model).layers if isinstance(layer, Weighted)]
    bases = [weight for weight in weights if isinstance(weight, TrainableWeight) and weight.basis is not None]
    assert len(found) == len(bases) > 2
    final = [layer.weight.codes for layer in read_view(finalized(model)).layers if isinstance(layer, Weighted)]
    inner = [abs(array) for array in final if any(array.shape == other.shape for other in found)]
    for array in found:
        assert any(np.array_equal(abs(array), other) for other in inner if other.shape == array.shape)
        assert len(np.unique(array[0])) <= 8


def test_evaluation_moves_no_basis() -> None:
    model, images = learned(conv_norm_relu)
    executor = Executor(model)
    before = {name: value.clone() for name, value in executor.state_dict().items()}
    evaluated(executor, images)
    for layer in executor.weighted():
        layer.quantized_weight()
        layer.refresh()
    for name, value in executor.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_twin_has_activations_of_its_own() -> None:
    model, images = learned(conv_norm_relu)
    network = Executor(model).train()
    twin = network.twin()
    network(torch.from_numpy(images))
    twin(torch.from_numpy(images * 3))
    bases = [[learned.basis for _, learned in each.learned_quantizers()] for each in (network, twin)]
    assert bases[0]
    assert all(not torch.equal(a, b) for a, b in zip(*bases, strict=True))
    for ours, theirs in zip(network.weighted(), twin.weighted(), strict=True):
        assert torch.equal(ours.weight_in_use(), theirs.weight_in_use())
