"""Networks with islands of float train: gradients pass them, and evaluation is the file's from their codes on."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

import qpipe
from qpipe.errors import ModelError
from qpipe.ir.quantized.view import read_view
from qpipe.nodes import constant_input
from qpipe.train.executor import Executor
from qpipe.train.write_back import write_back
from support.networks import Weights, build
from support.quantize import finalized, quantized
from support.run import evaluated, run
from support.zoo.digits import digits_model

FLIPPED = 0.02
"""Of an output's range: floats of an island may differ in their last bit, and a code of 256 with them."""
SIDE = 38
"""Of images: six channels of them are more numbers than a LayerNormalization has in integers."""
PADS = "kernel_shape=[3,3], pads=[1,1,1,1]"


def network(inner: str, outer: str = "y = Gemm<transB=1>(f, w3)", **more: np.ndarray) -> ir.Model:
    """Conv, the inner nodes from `a` to `m` [N, 6, SIDE, SIDE], Conv, Gemm."""
    w = Weights()
    w.normal("w1", 6, 3, 3, 3)
    w.normal("w2", 4, 6, 3, 3)
    w.normal("w3", 5, 4 * SIDE**2)
    nodes = f"c = Conv<{PADS}>(x, w1) a = Relu(c) {inner} d = Conv<{PADS}>(m, w2) e2 = Relu(d) f = Flatten(e2) {outer}"
    constants = w.constants | {"gain": np.linspace(0.5, 1.5, SIDE, dtype=np.float32)} | more
    used = {name: array for name, array in constants.items() if name in nodes}
    return build(f"net (float[N, 3, {SIDE}, {SIDE}] x) => (float[] y) {{ {nodes} }}", **used)


def images(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)


INNER = {
    "normalized": "[norm] m = LayerNormalization<axis=1>(a, gain)",
    "two islands": (
        "[norm] n = LayerNormalization<axis=1>(a, gain) k = Conv(n, w4) b = Relu(k) m = LpNormalization<axis=1>(b)"
    ),
    "halves": (
        "l, r = Split<axis=1, num_outputs=2>(a) e = LpNormalization<axis=1>(l) g = Erf(r) m = Concat<axis=1>(e, g)"
    ),
    "a front end": "z = LpNormalization<axis=1>(x) k = Conv(z, w5) m = Add(k, a)",
}
MORE = {"w4": np.eye(6, dtype=np.float32)[..., None, None], "w5": np.ones((6, 3, 1, 1), np.float32) / 3}


@pytest.mark.parametrize("inner", list(INNER))
def test_evaluation_is_the_files_but_for_codes_that_a_float_s_last_bit_decides(inner: str) -> None:
    model = quantized(network(INNER[inner], **MORE))
    (ours,), (theirs,) = evaluated(Executor(model), images()), run(finalized(model), images())
    np.testing.assert_allclose(ours, theirs, atol=FLIPPED * float(np.ptp(theirs)), rtol=0)
    assert np.ptp(theirs) > 0


@pytest.mark.parametrize("make", [quantized, lambda model: model], ids=["quantized", "float"])
@pytest.mark.parametrize("inner", list(INNER))
def test_a_gradient_reaches_what_is_before_an_island(inner: str, make) -> None:
    executor = Executor(make(network(INNER[inner], **MORE)), batch_norm="batch").train()
    executor.answer(torch.from_numpy(images())).square().sum().backward()
    for module in executor.weighted():
        assert module.weight.grad is not None
        assert module.weight.grad.abs().max() > 0


def test_a_float_network_computes_what_its_file_does() -> None:
    model = network(INNER["two islands"], **MORE)
    (theirs,) = run(model, images())
    (ours,) = evaluated(Executor(model), images())
    np.testing.assert_allclose(ours, theirs, atol=1e-4)  # float32 sums in another order


def test_weights_of_an_island_train_and_are_written_back() -> None:
    model = quantized(network(INNER["normalized"]))
    executor = Executor(model).train()
    (name,) = [name for name, _ in executor.named_parameters() if name.startswith("islands.")]
    gain = executor.get_parameter(name)
    executor.answer(torch.from_numpy(images())).square().sum().backward()
    assert gain.grad is not None
    assert gain.grad.abs().max() > 0
    with torch.no_grad():
        gain += 1
    write_back(executor.eval())
    norm = next(node for node in model.graph if node.name == "norm")
    np.testing.assert_array_equal(constant_input(norm, 1), np.linspace(0.5, 1.5, SIDE, dtype=np.float32) + 1)


def test_a_twin_has_the_weights_of_the_first() -> None:
    executor = Executor(quantized(network(INNER["normalized"]))).train()
    own, lent = (dict(network.named_parameters()) for network in (executor.twin(), executor))
    names = [name for name in own if name.startswith("islands.")]
    assert names
    assert all(own[name] is lent[name] for name in names)


def test_quantizers_behind_islands_have_names() -> None:
    executor = Executor(quantized(network(INNER["normalized"])))
    assert [name for name, _ in executor.named_quantizers()][:2] == ["input", "m"]


def test_a_requantization_of_what_an_island_gives_comes_behind_it() -> None:
    """A Concat of unlike scales: its operand is rounded once more."""
    inner = "s = LpNormalization<axis=1>(a) m2 = Concat<axis=1>(s, a) k = Conv(m2, w6) m = Relu(k)"
    model = quantized(network(inner, w6=np.ones((6, 12, 1, 1), np.float32) / 12))
    names = [type(layer).__name__ for layer in read_view(model).layers]
    assert names.index("Requantization") > names.index("InnerWeighted")
    (ours,), (theirs,) = evaluated(Executor(model), images()), run(finalized(model), images())
    np.testing.assert_allclose(ours, theirs, atol=FLIPPED * float(np.ptp(theirs)), rtol=0)


def test_what_torch_has_no_gradient_of_is_named() -> None:
    model = quantized(network("[odd] m = Hardmax<axis=1>(a)"))
    with pytest.raises(ModelError, match=r"^Hardmax 'odd': is float between integers, and no gradient passes it"):
        Executor(model)


def test_a_network_with_an_island_is_fine_tuned() -> None:
    network = digits_model(between=["[soft] s = LpNormalization<axis=1>(block)", "between = Relu(s)"])
    trainable = qpipe.calibrate(network, "digits", batches=2)
    tuned = qpipe.finetune(trainable, "digits", epochs=1, batch_size=128)
    before, after = (qpipe.validate([model], "digits").rows[0].metrics["top1"] for model in (trainable, tuned))
    assert after > before - 0.05
    exported = qpipe.export(tuned, format="qoperator", data="digits")
    assert qpipe.inspect(exported).kind == "qoperator"
