import math

import pytest
import torch

from qpipe.train.diagnostics.step_cosine import StepCosine, angle
from support.training import batch_of, run_updates
from support.zoo.trainable import small_executor


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, 0.0], [2.0, 0.0], 0.0),
        ([1.0, 0.0], [0.0, 3.0], math.pi / 2),
        ([1.0, 0.0], [-5.0, 0.0], math.pi),
        ([1.0, 0.0], [0.0, 0.0], math.pi / 2),
        ([1e-30, 1e-30], [1e-30, 0.0], math.pi / 4),
    ],
)
def test_angle(a: list[float], b: list[float], expected: float) -> None:
    # float64 arithmetic of two numbers; acos near 1 doubles what an ulp does.
    assert angle(torch.tensor(a), torch.tensor(b)).item() == pytest.approx(expected, abs=1e-7)


def test_it_is_the_papers_measure() -> None:
    """Against the definition, computed from the weights of every step: FAQ, section 4.7, "smoothing factor 0.9"."""
    executor, observer = small_executor(), StepCosine()
    weights: list[list[torch.Tensor]] = []
    grids: list[list[torch.Tensor]] = []

    class Recorder(StepCosine):
        def before_update(self, executor, step):
            if not weights:
                self.record(executor)

        def after_update(self, executor, step):
            self.record(executor)

        def record(self, executor):
            weights.append([layer.weight.detach().clone() for layer in executor.weighted()])
            grids.append([layer.quantized_weight().detach() for layer in executor.weighted()])

    recorder = Recorder()
    run_updates(executor, range(1, 9), Both(observer, recorder))
    for layer, found in enumerate(observer.result()["step_cosine"]):
        average, angles = torch.zeros_like(grids[0][layer]), []
        for t in range(1, 9):
            average = 0.9 * average + (1 - 0.9) * (grids[t][layer] - grids[t - 1][layer])
            angles.append(angle(weights[t][layer] - weights[t - 1][layer], average))
        assert found == torch.stack(angles[4:]).mean().cos().item()
    assert observer.result()["step_updates"] == [5, 8]


class Both(StepCosine):
    def __init__(self, *observers: StepCosine) -> None:
        self.observers = observers

    def before_update(self, executor, step):
        for observer in self.observers:
            observer.before_update(executor, step)

    def after_update(self, executor, step):
        for observer in self.observers:
            observer.after_update(executor, step)


def test_fewer_bits_are_noisier() -> None:
    """The order of Figure 1, of the layers between the first and the last."""
    cosines = {}
    for bits in (8, 4):
        observer = StepCosine()
        run_updates(small_executor(bits), range(1, 61), observer, lr=0.002)
        cosines[bits] = observer.result()["step_cosine"][1]
    assert 1 > cosines[8] > cosines[4] > 0


def test_only_the_first_updates_are_looked_at() -> None:
    observer, whole = StepCosine(updates=6), StepCosine()
    run_updates(small_executor(), range(1, 11), observer)
    run_updates(small_executor(), range(1, 7), whole)
    assert observer.result() == whole.result()
    assert observer.result()["step_updates"] == [4, 6]


def test_nothing_was_seen() -> None:
    assert StepCosine().result() == {"step_cosine": None, "step_updates": None}
    assert StepCosine().state() == {}


def test_looking_leaves_the_exponents() -> None:
    executor = small_executor()
    layer = next(executor.weighted())
    assert layer.quantizer is not None
    kept = layer.quantizer.exponent
    with torch.no_grad():
        layer.weight.mul_(4)
    on_grid = layer.quantized_weight()
    assert layer.quantizer.exponent is kept
    executor.train()(batch_of(1)[0])
    assert torch.equal(on_grid, layer.weight_in_use())
    assert not torch.equal(layer.quantizer.exponent, kept)


def test_what_ssp_does_not_round_is_looked_at_on_its_grid() -> None:
    """Or a step would have in it the way from the rounded weight to the raw one."""
    layer = next(small_executor().weighted())
    on_grid = layer.quantized_weight()
    layer.round_weights(False)
    assert torch.equal(layer.quantized_weight(), on_grid)
    assert not torch.equal(on_grid, layer.weight)
