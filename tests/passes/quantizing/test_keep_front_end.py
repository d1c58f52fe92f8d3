"""What leads to the logarithm of a spectrum stays float; a logarithm behind a network's activations has a table."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import qpipe
from passes.normalize import normalize
from passes.quantizing.keep_front_end import KeepFrontEnd
from qpipe.ir.graph.layers import STAYS_FLOAT
from qpipe.ir.quantized.certify import check_certificate
from qpipe.train.floats import FloatNodes
from support.networks import build, parse
from support.run import run

BINS, FRAME = 17, 32
RNG = np.random.default_rng(0)


def weights() -> dict[str, np.ndarray]:
    """A Fourier transform of frames of 32 samples, bands of its power, and a small network."""
    angles = 2 * np.pi * np.outer(np.arange(BINS), np.arange(FRAME)) / FRAME
    windows = np.hanning(FRAME) * np.concatenate([np.cos(angles), np.sin(angles)])
    return {
        "fourier": windows[:, None].astype(np.float32),
        "bands": RNG.uniform(0, 1, (8, BINS, 1)).astype(np.float32),
        "w1": RNG.standard_normal((6, 8, 1)).astype(np.float32),
        "w2": RNG.standard_normal((4, 6, 1)).astype(np.float32),
        "any": RNG.standard_normal((BINS, 1, FRAME)).astype(np.float32),
        "mix": RNG.standard_normal((8, BINS, 1)).astype(np.float32),
        "bias": RNG.uniform(0, 1, 8).astype(np.float32),
        "eps": np.float32(1e-6),
        "two": np.float32(2),
    }


def spectral(front: str) -> str:
    """A network on what `front` makes of x."""
    return f"(float[N,1,256] x) => (float[] y) {{ {front} c = Conv(l, w1) r = Relu(c) y = Conv(r, w2) }}"


POWER = (
    "f = Conv<strides = [16]>(x, fourier) re, im = Split<axis = 1, num_outputs = 2>(f) a = Mul(re, re) "
    "b = Pow(im, two) p = Add(a, b) "
)
FRONTS = {
    "power": f"{POWER} m = Conv(p, bands) e = Add(m, eps) l = Log(e)",
    "magnitude": f"{POWER} s = Sqrt(p) m = Conv(s, bands) e = Max(m, eps) l = Log(e)",
}
NO_FRONTS = {
    "a trained layer": "f = Conv<strides = [16]>(x, any) p = Mul(f, f) m = Conv(p, mix) e = Add(m, eps) l = Log(e)",
    "a trained bias": f"{POWER} m = Conv(p, bands, bias) e = Add(m, eps) l = Log(e)",
    "an activation before it": f"{POWER} m = Conv(p, bands) q = Sigmoid(m) e = Add(q, eps) l = Log(e)",
    "no logarithm": f"{POWER} l = Conv(p, bands)",
}


def waves(count: int) -> np.ndarray:
    """Sounds of very different loudness."""
    level = 10.0 ** RNG.uniform(-2, 0, (count, 1, 1))
    return (level * RNG.standard_normal((count, 1, 256))).astype(np.float32)


def decibels(exact: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(np.square(exact).sum() / np.square(exact - other).sum()))


@pytest.mark.parametrize("front", FRONTS)
def test_all_up_to_the_logarithm_stays(front: str) -> None:
    model = build(spectral(FRONTS[front]), **weights())
    normalize(model)
    kept = [node.op_type for node in model.graph if STAYS_FLOAT in node.metadata_props]
    left = [node.op_type for node in model.graph if STAYS_FLOAT not in node.metadata_props]
    assert "Log" in kept
    assert kept.count("Conv") == 2
    assert left == ["Conv", "Relu", "Conv"]
    assert not KeepFrontEnd()(model).modified
    # Its weights are a formula's, and do not train.
    assert not FloatNodes([node for node in model.graph if STAYS_FLOAT in node.metadata_props], "", trains=True).trained


def test_long_windows_are_known_by_their_tone() -> None:
    """400 samples of a transform of 512, whose window and waves have no centre in common."""
    angles = 2 * np.pi * np.outer(np.arange(1, 200), np.arange(400)) / 512
    rows = np.hanning(400) * np.cos(angles)
    model = build(
        "(float[N,1,2000] x) => (float[] y) { f = Conv(x, w) p = Mul(f, f) l = Log(p) y = Conv(l, v) }",
        w=rows[:, None].astype(np.float32),
        v=np.ones((2, 199, 1), np.float32),
    )
    normalize(model)
    assert [node.op_type for node in model.graph if STAYS_FLOAT not in node.metadata_props] == ["Conv"]


@pytest.mark.parametrize("front", NO_FRONTS)
def test_nothing_else_does(front: str) -> None:
    model = build(spectral(NO_FRONTS[front]), **weights())
    normalize(model)
    assert not any(STAYS_FLOAT in node.metadata_props for node in model.graph)


def test_a_network_that_ends_in_a_logarithm_is_none() -> None:
    model = build("(float[N,1,256] x) => (float[] y) { c = Conv(x, fourier) y = Log(c) }", **weights())
    normalize(model)
    assert not any(STAYS_FLOAT in node.metadata_props for node in model.graph)


@pytest.mark.filterwarnings("ignore:.*multiply-accumulates stay float", "ignore:.*signal to noise")
def test_it_keeps_what_is_quiet(tmp_path: Path) -> None:
    network, x, other = parse(spectral(FRONTS["power"]), **weights()), waves(64), waves(32)
    exact = run(ir.from_proto(network), other)[0]
    with pytest.warns(UserWarning, match=r"stay float: Log .* decades .* --layer '\*:stays_float=false'"):
        kept = qpipe.calibrate(network, x, tmp_path / "net.qdq.onnx")
    quantized = qpipe.calibrate(network, x, layers=[{"match": "*", "stays_float": False}])
    assert decibels(exact, run(kept, other)[0]) > decibels(exact, run(quantized, other)[0]) + 10
    for written in ("qoperator", "qdq"):
        assert not check_certificate(qpipe.export(tmp_path / "net.qdq.onnx", format=written, data=x[:8]))
    with pytest.raises(qpipe.LoweringError, match="float between integers"):
        qpipe.export(tmp_path / "net.qdq.onnx", format="integer", data=x[:8])
    qpipe.export(quantized, format="integer", data=x[:8])
