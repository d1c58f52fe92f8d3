"""Every verb names the file in what it says about a model, whatever room found it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qpipe
from qpipe.errors import ModelError
from qpipe.progress import reporting
from qpipe.verbs.sources import about, preprocess_of
from support.networks import build, load, parse
from support.zoo.digits import write_quantized_digits

DATA = {"images": np.zeros((10, 8, 8, 1), np.uint8), "labels": np.arange(10)}
VERBS: dict[str, Callable[[Path], Any]] = {
    "calibrate": lambda path: qpipe.calibrate(path, DATA, batches=1),
    "finetune": lambda path: qpipe.finetune(path, DATA, epochs=1),
    "export": lambda path: qpipe.export(path, data=DATA),
    "validate": lambda path: qpipe.validate([path], DATA),
    "bench": lambda path: qpipe.bench([path], DATA, repeats=1),
    "report": lambda path: qpipe.report([path]),
}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    folder = tmp_path_factory.mktemp("digits")
    write_quantized_digits(folder)
    return onnx.load(folder / "net.qdq.onnx")


@pytest.mark.parametrize(
    ("key", "value", "verbs"),
    [
        ("preprocess", '{"mean": ["x"]}', ("calibrate", "finetune", "export", "validate", "bench")),
        ("preprocess", "[]", tuple(VERBS)),
        ("plain", '[{"name": "a"}]', ("finetune",)),
        ("provenance", '{"pass": 1}', ("calibrate", "finetune", "export", "report")),
    ],
)
def test_metadata(network: onnx.ModelProto, key: str, value: str, verbs: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "damaged.qdq.onnx"
    damaged = onnx.ModelProto.FromString(network.SerializeToString())
    props = {entry.key: entry.value for entry in network.metadata_props}
    onnx.helper.set_model_props(damaged, {**props, f"qpipe.{key}": value})
    onnx.save_model(damaged, path)
    for verb in verbs:
        with pytest.raises(ModelError, match=f"damaged.qdq.onnx: metadata 'qpipe.{key}'") as caught:
            VERBS[verb](path)
        assert str(caught.value).count(path.name) == 1, verb


def test_a_file_is_named_once() -> None:
    with pytest.raises(ModelError, match=r"^net\.onnx: no nodes$"), about("net.onnx"), about("net.onnx"):
        raise ModelError("no nodes")


PROLOGUE = """(uint8[N,8,8,3] x) => (float[] y) {
    f = Cast<to = 1>(x) t = Transpose<perm = [0, 3, 1, 2]>(f) [by_255] d = Div(t, k) [centred] s = Sub(d, m)
    c = Conv<pads = [1, 1, 1, 1]>(s, w) r = Relu(c) g = GlobalAveragePool(r) h = Flatten(g) y = Gemm(h, v) }"""


def prologue() -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return {
        "k": np.float32(255),
        "m": np.float32([0.5, 0.4, 0.3]).reshape(1, 3, 1, 1),
        "w": draw.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "v": draw.standard_normal((4, 5)).astype(np.float32),
    }


def test_what_the_graph_normalizes_is_fed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes, channels last, and no mean: the graph's own input, before calibration and behind it."""
    proto = parse(PROLOGUE, **prologue())
    images = np.random.default_rng(1).integers(0, 256, (16, 8, 8, 3)).astype(np.uint8)
    with reporting():
        quantized = qpipe.calibrate(proto, {"images": images}, batches=1)
    said = "the network normalizes its input itself (Div 'by_255', Sub 'centred'): it takes pixels from 0 to 255"
    assert said in capsys.readouterr().err
    pixels = preprocess_of(quantized, None)
    assert (pixels.pixel_max, pixels.layout, pixels.mean, pixels.std) == (255, "NHWC", (0,), (1,))
    assert quantized.graph.inputs[0].shape == build(PROLOGUE, **prologue()).graph.inputs[0].shape
    np.testing.assert_array_equal(pixels(images[:2]), images[:2].astype(np.float32))


def test_a_mean_on_top_of_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting():
        given = preprocess_of(build(PROLOGUE, **prologue()), {"mean": 3.0, "pixel_max": 1.0})
    assert "mean and std come on top of that" in capsys.readouterr().err
    assert (given.mean, given.pixel_max, given.layout) == ((3,), 1, "NHWC")


def test_nothing_stays_float_of_a_prologue() -> None:
    assert qpipe.inspect(parse(PROLOGUE, **prologue())).ready
    assert [node.op_type for node in load(parse(PROLOGUE, **prologue())).graph][:3] == [
        "Transpose", "BatchNormalization", "Conv"
    ]  # fmt: skip
