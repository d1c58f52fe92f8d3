"""One axis of means after the other, where both at once have no integer form."""

import numpy as np
import pytest

from passes.rewrites.split_resize import SplitResize
from qpipe.ir.quantized.view import read_view
from qpipe.runtime.gate import run_gate
from support.networks import Weights, checked, float_model, ops
from support.quantize import finalized, quantized, to_integer, to_qoperator
from support.run import run

CORNERS = 'u = Resize<mode="linear", coordinate_transformation_mode="align_corners">(r, , k)'


def decoder(text: str = CORNERS, size: int = 16, factor: float = 2):
    """An image of `size` pixels that is resized by a factor."""
    w = Weights()
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 5, 4, 1, 1)
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", text, "y = Conv(u, w2)"]
    return float_model("net", (3, size, size), nodes, **w.constants, k=np.array([1, 1, factor, factor], np.float32))


@pytest.mark.parametrize("size", [16, 40, 64])
def test_align_corners(size):
    model = decoder(size=size)
    x = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    (expected,) = run(model, x)
    assert SplitResize()(model).modified
    assert not SplitResize()(model).modified
    assert ops(checked(model)) == ["Conv", "Relu", "Resize", "Resize", "Conv"]
    np.testing.assert_allclose(run(model, x)[0], expected, rtol=1e-4, atol=1e-5)  # float sums in another order


def test_every_file_has_its_integers():
    spec = finalized(quantized(decoder()))
    assert not read_view(spec).islands
    for lowered in (to_qoperator(spec), to_integer(spec)):
        run_gate(spec, lowered)


@pytest.mark.parametrize("model", [
    decoder(size=8),  # both axes at once have a form
    decoder(size=128),  # one axis alone has none either
    decoder('u = Resize<mode="cubic">(r, , k)'),
    decoder('u = Resize<mode="linear">(r, , k)'),
])  # fmt: skip
def test_others_stay(model):
    before = ops(model)
    assert not SplitResize()(model).modified
    assert ops(model) == before


@pytest.mark.parametrize("factors", [(2 / 3, 2), (2 / 3, 3), (1.2, 2)])
def test_axes_keep_the_factors_that_are_given(factors: tuple[float, float]) -> None:
    """Which are not those of the sizes: 4 pixels become 2, or stay 4."""
    nodes = ['u = Resize<mode="linear">(x, , k)', "y = Conv(u, w)"]
    eye = np.eye(3, dtype=np.float32)[:, :, None, None]
    model = float_model("net", (3, 4, 3), nodes, w=eye, k=np.array([1, 1, *factors], np.float32))
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 3)).astype(np.float32)
    (expected,) = run(model, x)
    SplitResize()(model)
    np.testing.assert_allclose(run(checked(model), x)[0], expected, rtol=1e-4, atol=1e-5)  # sums in another order
