import pytest
import torch

from qpipe.train.diagnostics.neuron_cosine import BINS, NeuronCosine, row_cosines
from support.training import run_updates
from support.zoo.trainable import small_executor


def test_row_cosines() -> None:
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [0.0, 0.0]])
    b = torch.tensor([[2.0, 0.0], [1.0, -1.0], [-2.0, -4.0], [1.0, 0.0]])
    # One rounding of float64 in the norm.
    torch.testing.assert_close(
        row_cosines(a, b), torch.tensor([1.0, 0.0, -1.0, torch.nan]).double(), atol=1e-15, rtol=0, equal_nan=True
    )


def test_untrained_weights_are_where_they_were() -> None:
    observer = NeuronCosine()
    run_updates(small_executor(), [], observer)
    found = observer.result()["neuron_cosine"]
    assert found["mean"] == pytest.approx(1, abs=1e-15)  # one rounding in the norm
    assert found["histogram"][-1] == sum(found["histogram"]) == 16 + 16 + 10
    assert len(found["histogram"]) == BINS


def test_weights_drawn_anew_are_near_zero_and_dead_neurons_count_for_nothing() -> None:
    executor, observer = small_executor(), NeuronCosine()
    observer.on_start(executor)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in executor.weighted():
            layer.weight.normal_(generator=generator)
            layer.weight[0] = 0
    observer.on_end(executor)
    found = observer.result()["neuron_cosine"]
    assert abs(found["mean"]) < 0.1  # 39 neurons of 27 to 144 weights: a deviation of 0.02
    assert sum(found["histogram"]) == 15 + 15 + 9
    assert [abs(mean) < 0.2 for mean in found["layers"]] == [True] * 3


def test_without_an_end_there_is_no_figure() -> None:
    assert NeuronCosine().result() == {"neuron_cosine": None}
