import math
from typing import Any

import numpy as np
import pytest
import torch

from qpipe.data import open_data
from qpipe.errors import DataError
from qpipe.train.diagnostics.noise_ratio import (
    BATCH_SIZE,
    IMAGES,
    activation_noise,
    decibels,
    diagnostic_images,
    weight_noise,
)
from support.training import batch_of, run_updates
from support.zoo.trainable import small_executor

INPUTS = [batch_of(step)[0].numpy() for step in range(3)]


def test_decibels() -> None:
    assert decibels(torch.tensor([100.0, 1.0])).item() == 20
    assert decibels(torch.tensor([1.0, 0.0])).item() == math.inf


def test_a_weights_ratio_is_that_of_its_grid() -> None:
    executor = small_executor()
    for layer, found in zip(executor.weighted(), weight_noise(executor), strict=True):
        weight = layer.weight.detach().double()
        noise = (weight - layer.quantized_weight().detach().double()).square().sum()
        assert found == 10 * torch.log10(weight.square().sum() / noise)


def test_a_bit_less_is_six_decibels() -> None:
    """Of layers between the first and the last: four bits fewer are 24 dB less, clips and powers of two aside."""
    eight, four = (weight_noise(small_executor(bits))[1] for bits in (8, 4))
    assert 15 < eight - four < 33
    eight, four = (activation_noise(small_executor(bits), INPUTS)[1] for bits in (8, 4))
    assert 15 < eight - four < 33


def test_an_activations_ratio_is_that_of_its_quantizer_behind_the_relu() -> None:
    executor = small_executor()
    found = dict(zip(dict(executor.named_quantizers()), activation_noise(executor, INPUTS), strict=True))
    x = torch.cat([torch.from_numpy(x) for x in INPUTS])
    spec = dict(executor.named_quantizers())["input"].grid
    on_grid = (x / spec.scale).round().clamp(spec.qmin, spec.qmax) * spec.scale
    # Sums of three batches in another order.
    assert found["input"].item() == pytest.approx(
        10 * math.log10(x.double().square().sum() / (x - on_grid).double().square().sum()), rel=1e-12
    )
    # Half of what comes before a ReLU is negative; were that counted as noise, there would be about 3 dB.
    assert all(ratio > 30 for ratio in found.values())


def test_what_is_carried_loses_nothing() -> None:
    executor = small_executor()
    carrying = [name for name, quantizer in executor.named_quantizers() if quantizer.carries]
    found = dict(zip(dict(executor.named_quantizers()), activation_noise(executor, INPUTS), strict=True))
    assert carrying
    assert all(found[name] == math.inf for name in carrying)


def test_the_executor_stays_as_it_was() -> None:
    executor = small_executor()
    for was_training in (True, False):
        executor.train(was_training)
        state = {name: tensor.clone() for name, tensor in executor.state_dict().items()}
        activation_noise(executor, INPUTS)
        weight_noise(executor)
        assert executor.training is was_training
        assert all(torch.equal(state[name], tensor) for name, tensor in executor.state_dict().items())
        assert not any(quantizer._forward_hooks for quantizer in executor.quantizers.children())
    run_updates(executor, [1])


def test_images_come_in_batches() -> None:
    batches = diagnostic_images(open_data("digits", "train"))
    assert [len(batch) for batch in batches] == [BATCH_SIZE] * (IMAGES // BATCH_SIZE)
    assert all(batch.dtype == np.float32 for batch in batches)


def test_no_images_is_an_error() -> None:
    class Empty:
        name = "nothing"

        def batches(self, *_: Any, **__: Any) -> list[np.ndarray]:
            return []

    with pytest.raises(DataError, match="nothing: no images"):
        diagnostic_images(Empty())  # type: ignore[arg-type]
