"""Statistics estimated anew: the means of the batches', whatever they were before."""

import numpy as np
import pytest
import torch

from qpipe.arith.multiplier import FLOAT32_EXACT
from qpipe.arith.spec import STORAGE_MAX
from qpipe.settings.training import Precision
from qpipe.train.executor import Executor
from qpipe.train.statistics import estimate_statistics
from support.networks import Weights, float_model
from support.quantize import noise, quantized
from support.training import assert_same, batch_of, state_of
from support.zoo.trainable import in_training, residual_qdq, weighted

SUMMED_IN_FLOAT32 = 1e-5
"""Relative to the largest: float32 sums of a thousand numbers in another order."""


def test_they_are_the_means_of_the_batches() -> None:
    network = in_training(residual_qdq())
    first = weighted(network)[0]
    with torch.no_grad():
        first.mean.fill_(7.0)
        first.variance.fill_(3.0)
    momentum = first.momentum
    products: list[np.ndarray] = []
    first.watch(lambda x, w, y: products.append(y.double().numpy()))
    estimate_statistics(network, [batch_of(step)[0] for step in range(3)])
    assert first.momentum == momentum
    over = (0, 2, 3)
    means = np.mean([y.mean(over) for y in products], 0) + first.offset.numpy()
    variances = np.mean([y.var(over, ddof=1) for y in products], 0)
    for found, wanted in ((first.mean, means), (first.variance, variances)):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=SUMMED_IN_FLOAT32 * np.abs(wanted).max())


def test_running_statistics_stay() -> None:
    network = Executor(residual_qdq(), batch_norm="running").train()
    before = state_of(network)
    estimate_statistics(network, [batch_of(0)[0]])
    assert_same(state_of(network), before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_behind_what_is_exact_where_nothing_has_a_gradient(precision: Precision) -> None:
    """A MatMul of activations with more products than float32 holds, a Softmax and a table: in training's type."""
    keys = 1 + FLOAT32_EXACT // STORAGE_MAX**2
    w = Weights()
    w.normal("w", 4, 3, 1)
    w.batch_norm("n", 4)
    nodes = ["c = Conv(x, w)", "b = BatchNormalization(c, n_g, n_b, n_m, n_v)", "r = Relu(b)"]
    nodes += ["t = Transpose<perm=[0, 2, 1]>(r)", "a = MatMul(r, t)", "s = Softmax(a)", "u = MatMul(s, r)"]
    w.normal("v", 4, 4, 1)
    model = quantized(float_model("net", (3, keys), [*nodes, "y = Conv(u, v)"], **w.constants))
    network = Executor(model, batch_norm="batch", precision=precision).train()
    first = weighted(network)[0]
    before = first.mean.clone()
    estimate_statistics(network, [torch.from_numpy(noise(model)[0])])
    assert not torch.equal(first.mean, before)
