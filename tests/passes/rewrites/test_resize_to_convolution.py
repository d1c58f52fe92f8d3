"""A Resize by weights that repeat is a Conv and a shuffle: beside onnxruntime's own, and through every file."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.normalize import normalize
from passes.rewrites.resize_to_convolution import ResizeToConvolution
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.ir.quantized.view import read_view
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from support.networks import Weights, checked, float_model, ops
from support.quantize import finalized, quantized, to_integer, to_qoperator
from support.run import assert_exact, run

ROUNDINGS = 1e-4
"""Of float32: coordinates of up to 60 pixels and four products each way, of numbers below 8."""
LEAST = 10**2.5
"""25 dB: what three layers of 8 bits give of an untrained network."""
MODES = ["half_pixel", "pytorch_half_pixel", "asymmetric", "half_pixel_symmetric"]


def decoder(text: str, *sizes: int, factors: tuple[float, ...] = (), asked: tuple[int, ...] = ()):
    """Resized between two convolutions, by factors or to sizes."""
    w = Weights()
    w.normal("w1", 4, 3, *(1 for _ in sizes))
    w.normal("w2", 5, 4, *(1 for _ in sizes))
    w.constants["k"] = np.array(asked) if asked else np.array(factors, np.float32)
    axes = f"axes=[{', '.join(str(2 + i) for i in range(len(sizes)))}]"
    resize = f"u = Resize<{text}, {axes}>(r, , {', k' if asked else 'k'})"
    return float_model("net", (3, *sizes), ["c = Conv(x, w1)", "r = Relu(c)", resize, "y = Conv(u, w2)"], **w.constants)


@settings(max_examples=50)
@given(st.data(), st.sampled_from(["linear", "cubic"]), st.sampled_from(MODES), st.integers(1, 2))
def test_beside_onnxruntime(data, mode, transformation, dims):
    draw = data.draw
    blocks = [draw(st.integers(1, 4)) for _ in range(dims)]
    steps = [
        draw(st.sampled_from([(1, 3), (2, 3), (3, 4), (1, 5), (3, 2), (4, 3), (5, 3), (2, 7), (1, 6)])) for _ in blocks
    ]
    sizes = [b * q for b, (q, _) in zip(blocks, steps, strict=True)]
    asked = [b * p for b, (_, p) in zip(blocks, steps, strict=True)]
    text = f'mode="{mode}", coordinate_transformation_mode="{transformation}"'
    if mode == "cubic" and dims == 1:
        # onnxruntime has no cubic Resize of a row.
        sizes, asked = [1, *sizes], [1, *asked]
    model = decoder(text, *sizes, asked=tuple(asked))
    x = np.random.default_rng(0).standard_normal((2, 3, *sizes)).astype(np.float32)
    (expected,) = run(model, x)
    if not ResizeToConvolution()(model).modified:
        assert "Resize" in ops(model)
        return
    assert "Resize" not in ops(checked(model))
    np.testing.assert_allclose(run(model, x)[0], expected, rtol=0, atol=ROUNDINGS)
    assert not ResizeToConvolution()(model).modified


PSP = ('mode="linear"', (3, 3), {"asked": (30, 30)})
CUBIC = ('mode="cubic"', (6, 4), {"factors": (2.0, 2.0)})


@pytest.mark.parametrize(("text", "sizes", "wanted"), [PSP, CUBIC, ('mode="linear"', (6, 6), {"factors": (1.5, 1.5)})])
def test_every_file_has_its_integers(text, sizes, wanted):
    model = decoder(text, *sizes, **wanted)
    x = np.random.default_rng(0).standard_normal((2, 3, *sizes)).astype(np.float32)
    (expected,) = run(model, x)
    normalize(model)
    trainable = quantized(model)
    spec = finalized(trainable)
    assert not read_view(spec).islands
    for lowered in (to_qoperator(spec), to_integer(spec)):
        run_gate(spec, lowered)
    assert_exact(trainable, x, Executor(trainable))
    noise = run(spec, x)[0] - expected
    assert np.square(expected).sum() > LEAST * np.square(noise).sum()


@pytest.mark.parametrize(
    "model",
    [
        decoder('mode="linear"', 4, 4, factors=(2, 2)),  # its means are exact
        decoder('mode="linear", coordinate_transformation_mode="align_corners"', 10, 10, asked=(31, 31)),
        decoder('mode="linear"', 17, 17, asked=(50, 50)),  # the weights repeat after 50 pixels
        decoder('mode="linear", antialias=1', 9, 9, asked=(6, 6)),
        decoder('mode="cubic", exclude_outside=1', 4, 4, factors=(2, 2)),
        decoder('mode="nearest"', 9, 9, asked=(6, 6)),
    ],
)
def test_others_stay(model):
    before = ops(model)
    assert not ResizeToConvolution()(model).modified
    assert ops(model) == before


def test_it_has_8_bits_and_makes_no_first_layer():
    """In a network of 4 bits, also in front of its first layer."""
    nodes = ['u = Resize<mode="cubic">(x, , k)', "a = Conv(u, v)", "r = Relu(a)"]
    nodes += ['q = Resize<mode="cubic">(r, , k)', "b = Conv(q, w)", "s = Relu(b)"]
    constants = {name: np.ones((3, 3, 1, 1), np.float32) for name in "vwz"} | {"k": np.float32([1, 1, 2, 2])}
    model = float_model("net", (3, 4, 4), [*nodes, "y = Conv(s, z)"], **constants)
    normalize(model)
    plan = plan_quantization(model.graph, weight_bits=4)
    assert [plan.weight_bits[node] for node in model.graph if node.op_type == "Conv"] == [8, 8, 8, 4, 8]


def test_behind_the_last_weights_it_stays():
    nodes = ["c = Conv(x, w)", 'y = Resize<mode="cubic">(c, , k)']
    constants = {"w": np.ones((2, 3, 1, 1), np.float32), "k": np.float32([1, 1, 2, 2])}
    assert not ResizeToConvolution()(float_model("net", (3, 4, 4), nodes, **constants)).modified
