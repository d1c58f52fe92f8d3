"""Networks of several inputs, of any rank and type, through calibration, every export, validation and timing."""

from collections.abc import Mapping

import numpy as np
import onnx
import pytest

import qpipe
from qpipe.data.inputs import Inputs
from qpipe.errors import DataError, LoweringError
from qpipe.ir.files.load import load_model
from qpipe.ir.quantized.view import read_view
from qpipe.runtime.session import open_session, run_batches
from qpipe.train.executor import Executor
from qpipe.train.given import given_of
from support.networks import parse

QUANTIZED = 0.2
"""Three layers of 8 bits on a few samples, one of them behind a steep Tanh: 14 dB are left at least."""
RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


TWO = parse(
    "(float[N,3,6,6] image, float[N,4] facts) => (float[N,5] y, float[N,4] scaled) { c = Conv(image, w1) r = Relu(c) "
    "p = GlobalAveragePool(r) f = Flatten(p) g = Gemm(facts, w2) h = Relu(g) k = Concat<axis=1>(f, h) y = Gemm(k, w3) "
    "scaled = Neg(facts) }",
    w1=floats(4, 3, 3, 3), w2=floats(4, 4), w3=floats(8, 5),
)  # fmt: skip
TOKENS = parse(
    "(int64[N,6] tokens, float[N,1] scale) => (float[N,3] y) { e = Gather(table, tokens) m = Flatten(e) "
    "k = Concat<axis=1>(m, scale) a = Gemm(k, w1) r = Relu(a) y = Gemm(r, w2) }",
    table=floats(11, 4), w1=floats(25, 8), w2=floats(8, 3),
)  # fmt: skip
STATE = parse(
    "(float[1,8] frame, float[2,1,4] state, int64 rate) => (float[1,4] y, float[2,1,4] next) { "
    "a = Gemm(frame, w1) r = Relu(a) h = Reshape(state, flat) k = Concat<axis=1>(r, h) y = Gemm(k, w2) "
    "u = Unsqueeze(y, zero) t = Cast<to=1>(rate) s = Tanh(u) v = Mul(s, t) next = Concat<axis=0>(v, v) }",
    w1=floats(8, 8), w2=floats(16, 4), flat=np.array([1, 8]), zero=np.array([0]),
)  # fmt: skip
CASES: dict[str, tuple[onnx.ModelProto, Mapping[str, np.ndarray]]] = {
    "two": (TWO, {"image": floats(24, 3, 6, 6), "facts": 3 * floats(24, 4)}),
    "tokens": (TOKENS, {"tokens": RNG.integers(0, 11, (24, 6)), "scale": floats(24, 1)}),
    "state": (STATE, {"frame": floats(24, 8), "state": floats(24, 2, 1, 4), "rate": np.array(2)}),
}


def outputs(model: object, samples: Inputs) -> list[np.ndarray]:
    return next(run_batches(open_session(model), [samples], rows_only=False))  # type: ignore[arg-type]


def rms(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(array))))


def spread(samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With a number for each sample."""
    return {name: np.full(24, array) if array.ndim == 0 else array for name, array in samples.items()}


@pytest.mark.parametrize("name", CASES)
def test_every_format_computes_the_same(name, tmp_path):
    network, samples = CASES[name]
    np.savez(tmp_path / "d.npz", **samples)
    qdq = qpipe.calibrate(network, tmp_path / "d.npz", tmp_path / "net.qdq.onnx")
    spec = outputs(qpipe.export(qdq, format="qdq", data=samples), spread(samples))
    expected = outputs(load_model(network), spread(samples))
    for found, real in zip(spec, expected, strict=True):
        assert found.shape == real.shape
        assert rms(found - real) < QUANTIZED * rms(real)
    paths = [tmp_path / "net.qdq.onnx"]
    for format_ in ("qoperator", "integer", "qdq"):
        paths.append(tmp_path / f"net.{format_}.onnx")
        qpipe.export(qdq, paths[-1], format=format_, data=tmp_path / "d.npz")
        for found, real in zip(outputs(paths[-1], spread(samples)), spec, strict=True):
            np.testing.assert_array_equal(found, real)
    report = qpipe.validate(paths, samples)
    assert report.ok
    assert report.images == 24
    assert all(row.integers_equal for row in report.rows)
    assert len(qpipe.bench(paths[1:3], repeats=1).rows) == 2


def test_each_float_input_has_its_own_grid_and_integers_have_none():
    view = read_view(qpipe.calibrate(*CASES["two"]))
    grids = {str(q.source.name): q.grid for q in view.inputs}
    assert set(grids) == {"image", "facts"}
    assert grids["facts"].exponent > grids["image"].exponent
    tokens = read_view(qpipe.calibrate(*CASES["tokens"]))
    assert "tokens" not in {str(q.source.name) for q in tokens.inputs}


def test_inspect_shows_all_inputs():
    report = qpipe.inspect(TWO)
    assert [(tensor.name, tensor.shape) for tensor in report.inputs] == [("image", ("N", 3, 6, 6)), ("facts", ("N", 4))]
    assert report.ready


def test_integer_ends_are_for_one_image():
    qdq = qpipe.calibrate(*CASES["two"])
    with pytest.raises(LoweringError, match="io: 'integer', but the inputs are image, facts; expected one image"):
        qpipe.export(qdq, format="integer", io="integer")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (floats(4, 3, 6, 6), "one array, the network's inputs are 'image', 'facts': expected one by each name"),
        (
            {"image": floats(4, 3, 6, 6)},
            r"input 'facts' takes float32 \[N, 4\], but no array has its name; found 'image'",
        ),
        ({"image": floats(4, 3, 5, 6), "facts": floats(4, 4)}, r"input 'image' takes float32 \[N, 3, 6, 6\]"),
    ],
)
def test_data_that_lack_an_input(data, message):
    with pytest.raises(DataError, match=message):
        qpipe.calibrate(TWO, data)


def test_several_open_sizes_are_those_of_the_data():
    proto = parse(
        "(float[N,3,H,W] x, float[N,2,H,W] z) => (float[N,2,H,W] y) { k = Concat<axis=1>(x, z) y = Conv(k, w) }",
        w=floats(2, 5, 1, 1),
    )
    samples = {"x": floats(8, 3, 6, 4), "z": floats(8, 2, 6, 4)}
    exported = qpipe.export(qpipe.calibrate(proto, samples), format="qoperator", data=samples)
    assert [value.shape for value in open_session(exported).get_inputs()] == [["N", 3, "H", "W"], ["N", 2, "H", "W"]]
    assert outputs(exported, {"x": floats(1, 3, 2, 9), "z": floats(1, 2, 2, 9)})[0].shape == (1, 2, 2, 9)


@pytest.mark.parametrize("name", ["two", "tokens"])
def test_what_trains_is_what_ships(name):
    network, samples = CASES[name]
    labels = RNG.integers(0, 3, 24)
    qdq = qpipe.calibrate(network, samples)
    tuned = qpipe.finetune(
        qdq, {**samples, "labels": labels}, epochs=2, batch_size=8, lr=0.05, flip=False, output_name="y"
    )
    before, after = (
        [np.array(array) for array in (tensor.const_value.numpy() for tensor in model.graph.initializers.values())]
        for model in (qdq, tuned)
    )
    assert any(not np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    final = qpipe.export(tuned, format="qdq", data=samples)
    executor = Executor(load_model(tuned))
    given = given_of(executor.graph, spread(samples))
    found = executor.answer(given).detach().numpy()
    np.testing.assert_array_equal(found, outputs(final, spread(samples))[0])


def test_a_teacher_takes_the_same_inputs(tmp_path):
    network, samples = CASES["two"]
    onnx.save(network, tmp_path / "float.onnx")
    onnx.save(TOKENS, tmp_path / "other.onnx")
    options = {"epochs": 1, "batch_size": 8, "flip": False, "output_name": "y"}
    qdq = qpipe.calibrate(network, samples)
    tuned = qpipe.finetune(qdq, samples, teacher=str(tmp_path / "float.onnx"), evaluate=False, **options)
    assert tuned.graph.inputs[0].name == "image"
    with pytest.raises(qpipe.ModelError, match="takes tokens, scale, expected image, facts"):
        qpipe.finetune(qdq, samples, teacher=str(tmp_path / "other.onnx"), **options)


def test_an_image_without_a_batch_does_not_train():
    text = "(float[3,6,6] x) => (float[1,5] y) { b = Unsqueeze(x, zero) c = Conv(b, w1) r = Relu(c) f = Flatten(r) "
    network = parse(text + "y = Gemm(f, w2) }", w1=floats(4, 3, 3, 3), w2=floats(64, 5), zero=np.array([0]))
    images = floats(24, 3, 6, 6)
    with pytest.raises(DataError, match=r"the network takes no batches \('x' takes float32 \[3, 6, 6\]\)"):
        qpipe.finetune(qpipe.calibrate(network, images), (images, np.zeros(24, np.int64)), epochs=1)


def test_a_network_without_a_batch_does_not_train():
    network, samples = CASES["state"]
    qdq = qpipe.calibrate(network, samples)
    with pytest.raises(DataError, match=r"the network takes no batches \('frame' takes float32 \[1, 8\], 'state'"):
        qpipe.finetune(qdq, {**samples, "labels": np.zeros(24, np.int64)}, epochs=1, flip=False, output_name="y")
