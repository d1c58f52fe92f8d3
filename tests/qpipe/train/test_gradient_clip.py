"""Clipped gradients: no longer than their channel's weights allow, and never turned."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpipe.ops.weight_layout import to_rows
from qpipe.train.executor import Executor
from qpipe.train.gradient_clip import SHORTEST, clip_gradients
from qpipe.train.weighted import WeightedLayer
from support.zoo.trainable import plain_qdq

LAST_DIGITS = 1e-5
"""Relative: a norm of at most a thousand float32 numbers, and one product."""
NETWORK = plain_qdq()


def layers(scale: float, seed: int) -> list[WeightedLayer]:
    """The layers of a plain network, with random gradients; a channel of each has none, and one no weights."""
    executor = Executor(NETWORK)
    generator = torch.Generator().manual_seed(seed)
    found = list(executor.weighted())
    for layer in found:
        layer.weight.grad = scale * torch.randn(layer.weight.shape, generator=generator)
        with torch.no_grad():
            rows(layer, layer.weight)[0] = 0.0
        rows(layer, layer.weight.grad)[1] = 0.0
    return found


def rows(layer: WeightedLayer, values: torch.Tensor) -> torch.Tensor:
    return values if layer.layer.op_type == "Conv" else to_rows(layer.layer.node, values)  # type: ignore[no-any-return]


def lengths(layer: WeightedLayer, values: torch.Tensor) -> torch.Tensor:
    return rows(layer, values.detach().double()).flatten(1).norm(dim=1)


@given(limit=st.floats(1e-3, 10), scale=st.floats(1e-6, 1e6), seed=st.integers(0, 99))
def test_each_channel_is_as_long_as_its_weights_allow(limit: float, scale: float, seed: int) -> None:
    for layer in layers(scale, seed):
        assert layer.weight.grad is not None
        before = layer.weight.grad.clone()
        clip_gradients([layer], limit)
        longest = limit * lengths(layer, layer.weight).clamp_min(SHORTEST)
        expected = torch.minimum(lengths(layer, before), longest) if layer.has_batch_norm else lengths(layer, before)
        found = lengths(layer, layer.weight.grad)
        np.testing.assert_allclose(found, expected, rtol=LAST_DIGITS, atol=0)
        cosine = torch.nn.functional.cosine_similarity(
            rows(layer, layer.weight.grad).flatten(1), rows(layer, before).flatten(1), eps=1e-30
        )
        assert cosine[found > 0] == pytest.approx(1, rel=LAST_DIGITS)


def test_without_a_limit_nothing_is_shortened() -> None:
    for layer in layers(1e6, 0):
        assert layer.weight.grad is not None
        before = layer.weight.grad.clone()
        clip_gradients([layer], 0.0)
        assert torch.equal(layer.weight.grad, before)


def test_the_last_layer_and_what_has_no_gradient_stay() -> None:
    found = layers(1e6, 0)
    assert [layer.has_batch_norm for layer in found] == [True] * (len(found) - 1) + [False]
    found[0].weight.grad = None
    clip_gradients(found, 0.1)
    assert found[0].weight.grad is None
