"""Layers that are told to stay float do, from the float file to exports."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qpipe
from qpipe.ir.files.load import load_model
from qpipe.ir.quantized.certify import check_certificate
from support.networks import parse
from support.zoo.digits import digits_model

X = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
TEXT = """(float[N,3,8,8] x) => (float[] y) {
    [stem] a = Conv(x, w1)  [one] b = Relu(a)  [middle] c = Conv(b, w2)  [two] d = Relu(c)  [head] y = Conv(d, w3) }"""


def network() -> Any:
    rng = np.random.default_rng(1)
    shapes = {"w1": (8, 3, 1, 1), "w2": (8, 8, 1, 1), "w3": (4, 8, 1, 1)}
    return parse(TEXT, **{name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()})


def told(*entries: tuple[str, bool]) -> list[dict[str, Any]]:
    return [{"match": match, "stays_float": stays} for match, stays in entries]


def islands(qdq: Any) -> list[str]:
    return [node.name for node in qpipe.inspect(qdq).nodes if node.role == "float island"]


@pytest.mark.filterwarnings("ignore:.*stays? float")
@pytest.mark.parametrize(
    ("entries", "kept"),
    [
        ([("middle", True)], ["middle", "two"]),
        ([("two", True)], ["middle", "two"]),  # a name of any node of the layer
        ([("stem", True)], ["stem", "one"]),
        ([("*", True), ("stem", False), ("head", False)], ["middle", "two"]),
    ],
)
def test_they_stay(entries: list[tuple[str, bool]], kept: list[str], tmp_path: Path) -> None:
    path = tmp_path / "net.qdq.onnx"
    qdq = qpipe.calibrate(network(), X, path, layers=told(*entries))
    assert islands(qdq) == kept
    for written in ("qoperator", "qdq"):
        exported = qpipe.export(path, format=written, data=X)
        assert not check_certificate(exported)
        assert islands(exported) or written == "qoperator"


@pytest.mark.filterwarnings("ignore:.*stays? float")
def test_its_weights_train_on_the_digits(tmp_path: Path) -> None:
    """A convolution and its BatchNormalization between integers."""
    start, trained = tmp_path / "start.qdq.onnx", tmp_path / "trained.qdq.onnx"
    qpipe.calibrate(digits_model(), "digits", start, layers=told(("conv2", True)))
    assert islands(start) == ["conv2", "norm2"]
    qpipe.finetune(start, "digits", trained, epochs=1, batch_size=512)
    before, after = (load_model(path).graph.initializers for path in (start, trained))
    kernel = next(name for name in before if "w2" in name)
    assert np.abs(before[kernel].const_value.numpy() - after[kernel].const_value.numpy()).max() > 0
    assert not check_certificate(qpipe.export(trained, format="qoperator", data="digits"))


@pytest.mark.filterwarnings("ignore:.*stays? float", "ignore:.*signal to noise")
def test_what_may_become_integers_may_in_the_next_calibration(tmp_path: Path) -> None:
    """The logarithm of an input would stay float by itself."""
    text = "(float[N,3,8,8] x) => (float[] y) { [log] l = Log(x) [c] c = Conv(l, w1) r = Relu(c) [h] y = Conv(r, w2) }"
    rng = np.random.default_rng(1)
    weights = {"w1": rng.standard_normal((8, 3, 1, 1)), "w2": rng.standard_normal((8, 8, 1, 1))}
    model, x = parse(text, **{k: v.astype(np.float32) for k, v in weights.items()}), np.abs(X) + 0.1
    assert islands(qpipe.calibrate(model, x)) == ["log"]
    qpipe.calibrate(model, x, tmp_path / "first.qdq.onnx", layers=told(("*", False)))
    again = qpipe.calibrate(tmp_path / "first.qdq.onnx", x, weight_bits=4)
    assert islands(again) == []


def test_what_matches_nothing_is_told() -> None:
    with pytest.raises(qpipe.RecipeError, match="layer 'midle': matches no layer, expected a pattern of names such"):
        qpipe.calibrate(network(), X, layers=told(("midle", True)))


def test_widths_beside_it_are_refused() -> None:
    with pytest.raises(qpipe.RecipeError, match="stays_float, expected by itself"):
        qpipe.calibrate(network(), X, layers=[{"match": "middle", "stays_float": True, "weight_bits": 4}])
