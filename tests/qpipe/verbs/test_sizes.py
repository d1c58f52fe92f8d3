"""Networks that leave their sizes open, through calibration and every export."""

import numpy as np
import onnx
import pytest

import qpipe
from qpipe.errors import ModelError
from qpipe.ir.files.sizes import read_sizes
from qpipe.runtime.session import open_session
from support.networks import parse
from support.run import run_all

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((16, 3, 16, 16)).astype(np.float32)
OTHER = RNG.standard_normal((2, 3, 24, 10)).astype(np.float32)
ROWS = np.array([-1, 256])
HEAD = "(float[N,3,H,W] x) => (float[] y) { c = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w1) r = Relu(c) "
NETWORKS = {
    "convolutions": HEAD + "y = Conv(r, w2) }",
    "mean": HEAD + "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w3) }",
    "counted": HEAD
    + "s = Shape(r) b = Gather(s, zero) h = Gather(s, three) a = Mul(h, h) d = Mul(a, four) k = Concat<axis=0>(b, d) "
    "f = Reshape(r, k) y = Gemm<transB=1>(f, w4) }",
}


def network(name: str) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    weights = {"w1": (4, 3, 3, 3), "w2": (5, 4, 1, 1), "w3": (5, 4), "w4": (5, 256)}
    constants = {k: rng.standard_normal(s).astype(np.float32) for k, s in weights.items() if k in NETWORKS[name]}
    numbers = {"zero": 0, "three": 3, "four": 4}
    constants |= {key: np.array([number]) for key, number in numbers.items() if key in NETWORKS[name]}
    return parse(NETWORKS[name], **constants)


def sizes(model) -> list[object]:
    return open_session(model).get_inputs()[0].shape


@pytest.mark.parametrize(
    ("name", "open_formats"),
    [("convolutions", ("qdq", "qoperator", "integer")), ("mean", ("qdq", "qoperator")), ("counted", ())],
)
def test_an_export_is_open_where_its_ops_allow_it(name, open_formats):
    qdq = qpipe.calibrate(network(name), IMAGES)
    spec = qpipe.export(qdq, format="qdq")
    for format_ in ("qdq", "qoperator", "integer"):
        exported = qpipe.export(qdq, format=format_, data=IMAGES)
        is_open = format_ in open_formats
        assert sizes(exported) == (["N", 3, "H", "W"] if is_open else ["N", 3, 16, 16])
        assert bool(read_sizes(exported)) == is_open
        for images in (IMAGES, OTHER) if is_open else (IMAGES,):
            found, expected = (run_all(open_session(model), images)[0] for model in (exported, spec))
            np.testing.assert_array_equal(found, expected)


def test_an_open_qdq_network_trains_and_stays_open():
    qdq = qpipe.calibrate(network("mean"), IMAGES)
    tuned = qpipe.finetune(qdq, (IMAGES, np.arange(16) % 5), epochs=1, flip=False, crop_padding=None, evaluate=False)
    assert sizes(tuned) == ["N", 3, "H", "W"]
    assert qpipe.validate([qdq, tuned], IMAGES).images == 16


def test_an_open_network_teaches(tmp_path):
    onnx.save(network("mean"), tmp_path / "float.onnx")
    qdq = qpipe.calibrate(tmp_path / "float.onnx", IMAGES)
    tuned = qpipe.finetune(
        qdq, IMAGES, teacher=str(tmp_path / "float.onnx"), epochs=1, flip=False, crop_padding=None, evaluate=False
    )
    assert sizes(tuned) == ["N", 3, "H", "W"]


def test_a_batch_that_is_given_is_held_only_where_the_network_counts_on_it():
    free = qpipe.calibrate(network("counted"), IMAGES, input_shape={"x": (1, 3, 16, 16)})
    assert sizes(free) == ["N", 3, 16, 16]
    squared = NETWORKS["counted"].replace("Concat<axis=0>(b, d)", "Concat<axis=0>(b, b, d)")
    proto = parse(squared.replace("y = Gemm<transB=1>(f", "g = Reshape(f, rows) y = Gemm<transB=1>(g"), rows=ROWS)
    proto.graph.initializer.extend(network("counted").graph.initializer)
    held = qpipe.calibrate(proto, IMAGES, input_shape=(1, 3, 16, 16))
    assert sizes(held) == [1, 3, 16, 16]
    exported = qpipe.export(held, format="integer", data=IMAGES)
    found, expected = (
        run_all(open_session(model), IMAGES)[0] for model in (exported, qpipe.export(held, format="qdq"))
    )
    np.testing.assert_array_equal(found, expected)


def test_given_sizes_that_the_data_have_not():
    with pytest.raises(qpipe.DataError, match=r"inputs have shape \[N, 3, 16, 16\], the model expects \[N, 3, 8, 8\]"):
        qpipe.calibrate(network("mean"), IMAGES, input_shape=(3, 8, 8))


def test_several_open_inputs_need_their_sizes():
    proto = parse(
        "(float[N,3,H,W] x, float[N,3,H,W] z) => (float[] y) { a = Add(x, z) y = Conv(a, w) }",
        w=np.ones((2, 3, 1, 1), np.float32),
    )
    with pytest.raises(
        ModelError, match=r"input 'x' is \[N, 3, H, W\]: expected its sizes, as in --input-shape x=3,N,N$"
    ):
        qpipe.calibrate(proto, IMAGES)


def test_inspect_shows_every_node_and_says_what_is_open():
    report = qpipe.inspect(network("mean"))
    assert len(report.nodes) == 5
    assert report.macs is None
    (note,) = report.notes
    assert note.startswith("input 'x' is [N, 3, H, W]: calibration takes the sizes of the data")
    at = qpipe.inspect(network("mean"), input_shape=(3, 16, 16))
    assert at.macs == 4 * 27 * 64 + 4 * 5
    assert at.notes == ()


def test_bench_takes_sizes_that_one_of_the_models_knows(tmp_path):
    onnx.save(network("mean"), tmp_path / "float.onnx")
    with pytest.raises(ModelError, match=r"expected its sizes, as in --input-shape x=3,N,N"):
        qpipe.bench([tmp_path / "float.onnx"], repeats=1)
    qpipe.calibrate(tmp_path / "float.onnx", IMAGES, tmp_path / "net.qdq.onnx")
    qpipe.export(tmp_path / "net.qdq.onnx", tmp_path / "net.int8.onnx")
    rows = qpipe.bench([tmp_path / "float.onnx", tmp_path / "net.int8.onnx"], repeats=1).rows
    assert rows[0].activation_kib == rows[1].activation_kib * 4 or rows[1].activation_kib is not None
    assert qpipe.bench([tmp_path / "float.onnx"], input_shape={"x": (3, 8, 8)}, repeats=1).rows[0].median_ms > 0
