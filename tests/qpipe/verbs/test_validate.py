from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import qpipe
from qpipe.data import Preprocess
from qpipe.errors import DataError, ModelError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.save import save_model
from qpipe.verbs.validate import ValidationReport, ValidationRow
from support.networks import parse
from support.run import run_as_written
from support.zoo.digits import digits_model

TEST_IMAGES = 360


def by_name(report: ValidationReport) -> dict[str, ValidationRow]:
    return {Path(row.name).name: row for row in report.rows}


def test_a_whole_family(stages: Path) -> None:
    files = ["net.onnx", "net.qdq.onnx", "tuned.qdq.onnx", "net.int8.onnx"]
    report = qpipe.validate([stages / file for file in files], "digits", batch_size=100)
    rows = by_name(report)
    assert list(rows) == files
    assert (report.ok, report.images, report.problems) == (True, TEST_IMAGES, ())
    # A trainable file is not what ships: that it was finalized stands beside the figures.
    trainable = [f"{stages / file}: can be trained, and was finalized in memory: " for file in files[1:3]]
    assert [note[: len(start)] for note, start in zip(report.notes, trainable, strict=True)] == trainable
    assert [row.kind for row in report.rows] == ["float", "QDQ, trainable", "QDQ, trainable", "qoperator"]
    assert [row.size for row in report.rows] == [(stages / file).stat().st_size for file in files]
    # The calibrated and the tuned network differ, and nobody asks them to be equal.
    assert [row.integers_equal for row in report.rows] == [None, None, True, True]
    assert [row.certificate for row in report.rows] == [None, "holds", "holds", "holds"]
    assert (rows["net.onnx"].agreement, rows["net.onnx"].largest_difference) == (1, 0)
    assert rows["tuned.qdq.onnx"].top1 == rows["net.int8.onnx"].top1
    assert rows["tuned.qdq.onnx"].largest_difference == rows["net.int8.onnx"].largest_difference > 0
    top1, top5 = rows["tuned.qdq.onnx"].top1, rows["tuned.qdq.onnx"].top5
    assert top1 is not None
    assert top5 is not None
    assert 0.5 < top1 < top5 <= 1  # of random weights, three epochs: from 0.58 to 0.74 over four seeds
    assert report.to_json()["rows"][3]["integers_equal"] is True


NHWC = {"io": "integer", "layout": "NHWC"}
UINT8 = {"weights": "uint8"}


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        *((format_, options) for format_ in ("qoperator", "integer") for options in ({}, NHWC, UINT8)),
        *(("qdq", options) for options in ({}, UINT8)),
    ],
    ids=str,
)
def test_every_export_computes_the_integers_of_its_qdq_file(
    stages: Path, format_: str, options: dict[str, str]
) -> None:
    exported = qpipe.export(stages / "tuned.qdq.onnx", format=format_, **options)
    report = qpipe.validate([stages / "tuned.qdq.onnx", exported], "digits")
    assert (report.ok, report.problems) == (True, ())
    assert [row.integers_equal for row in report.rows] == [True, True]
    assert [row.certificate for row in report.rows] == ["holds", "holds"]
    assert report.rows[1].largest_difference == 0


def changed_bias(path: Path, target: Path) -> Path:
    """A copy of an export with another bias in its last layer."""
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT32 and list(t.dims) == [10])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.int32(1), tensor.name))
    onnx.save_model(model, target)
    return target


def test_one_changed_integer_is_found_in_the_outputs_and_in_the_certificate(stages: Path, tmp_path: Path) -> None:
    changed = changed_bias(stages / "net.int8.onnx", tmp_path / "changed.onnx")
    report = qpipe.validate([stages / "tuned.qdq.onnx", stages / "net.int8.onnx", changed], "digits", limit=50)
    assert not report.ok
    assert [row.integers_equal for row in report.rows] == [False, False, False]
    assert [row.certificate for row in report.rows] == ["holds", "holds", "fails"]
    assert report.problems[0] == (
        f"{stages / 'tuned.qdq.onnx'} and {changed} were made from one QDQ file, but differ on 50 of 50 images"
    )
    assert report.problems[-1].startswith(f"{changed}: the file's nodes or constants are not those")
    assert not qpipe.validate([changed], "digits", limit=5).ok, "the certificate alone is enough"


def test_models_in_memory_limits_splits_and_single_models(stages: Path) -> None:
    report = qpipe.validate([onnx.load(stages / "net.onnx"), ir.load(stages / "net.qdq.onnx")], "digits", limit=7)
    assert (report.images, [(row.name, row.size) for row in report.rows]) == (7, [("model 1", None), ("model 2", None)])
    assert len(qpipe.validate(stages / "net.onnx", "digits", split="train", limit=3).rows) == 1
    assert "'test' is used" in qpipe.validate([stages / "net.onnx"], "digits", split="val", limit=3).notes[0]


def test_data_without_labels_have_no_accuracy(stages: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1)).astype(np.uint8)
    report = qpipe.validate([stages / "net.onnx", stages / "net.int8.onnx"], images)
    assert [(row.top1, row.top5) for row in report.rows] == [(None, None)] * 2
    assert report.images == 12


def test_the_preprocessing_is_that_which_the_models_carry(stages: Path) -> None:
    tuned, other = stages / "tuned.qdq.onnx", {"mean": (0.9,), "std": (0.38,)}
    carried, overridden = qpipe.validate([tuned], "digits"), qpipe.validate([tuned], "digits", preprocess=other)
    assert carried.rows[0].top1 != overridden.rows[0].top1
    # A float network carries none, and is run with that of the others.
    beside = qpipe.validate([stages / "net.onnx", tuned], "digits").rows[0]
    given = qpipe.validate([stages / "net.onnx"], "digits", preprocess={"mean": (0.3,), "std": (0.38,)}).rows[0]
    assert (beside.top1, beside.top5) == (given.top1, given.top5)


def test_different_preprocessing_is_refused_unless_it_is_overridden(stages: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.qdq.onnx"
    qpipe.calibrate(stages / "net.onnx", "digits", other, batches=1, preprocess={"mean": (0.5,), "std": (0.38,)})
    with pytest.raises(DataError, match=r"carry different preprocessing \(mean \(0\.3,\) and \(0\.5,\)\)"):
        qpipe.validate([stages / "net.qdq.onnx", other], "digits")
    assert qpipe.validate([stages / "net.qdq.onnx", other], "digits", limit=5, preprocess={"mean": (0.3,)}).ok


def test_a_network_of_another_tool_has_neither_origin_nor_certificate(stages: Path) -> None:
    model = onnx.load(stages / "net.qdq.onnx")
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == "x_scale")
    scale.CopyFrom(numpy_helper.from_array(np.float32(0.3), "x_scale"))
    (row,) = qpipe.validate([model], "digits", limit=5).rows
    assert (row.kind, row.integers_equal, row.certificate) == ("QDQ of another form", None, None)


def test_a_float_tail_is_run_as_well(tmp_path: Path) -> None:
    tail = ["[softmax] answer = Softmax(logits)"]
    path = tmp_path / "probabilities.onnx"
    onnx.save_model(digits_model(behind=tail), path)
    qdq = qpipe.calibrate(path, "digits", batches=1)
    exported = qpipe.export(qdq)
    report = qpipe.validate([path, qdq, exported], "digits", limit=50)
    assert report.ok
    assert [row.integers_equal for row in report.rows] == [None, True, True]
    assert report.rows[1].largest_difference < 1


@pytest.mark.parametrize("format_", ["qoperator", "integer"])
def test_an_export_without_its_float_tail_is_compared_on_what_the_tail_reads(format_: str) -> None:
    tail = ["[softmax] answer = Softmax(logits)"]
    model = digits_model(behind=tail)
    qdq = qpipe.calibrate(model, "digits", batches=1)
    without, whole = (qpipe.export(qdq, format=format_, io=io) for io in ("integer", "float"))
    report = qpipe.validate([model, qdq, without, whole], "digits", limit=50)
    assert (report.ok, report.images) == (True, 50)
    assert [row.integers_equal for row in report.rows] == [None, True, True, True]
    assert [row.top1 for row in report.rows[1:]] == [report.rows[1].top1] * 3
    assert [row.largest_difference is None for row in report.rows] == [False, False, True, False]
    assert qpipe.validate([without], "digits", limit=50).rows[0].top1 == report.rows[1].top1
    other = qpipe.calibrate(model, "digits", batches=1, activation_bits=4)
    assert qpipe.validate([other, without], "digits", limit=5).rows[1].integers_equal is None


def test_an_opset_that_onnxruntime_may_not_know_is_brought_to_one_that_it_does(stages: Path, tmp_path: Path) -> None:
    model = onnx.load(stages / "net.onnx")
    model.opset_import[0].version = 22
    path = tmp_path / "new.onnx"
    onnx.save_model(model, path)
    report = qpipe.validate([stages / "net.onnx", path], "digits", limit=20)
    assert report.rows[1].largest_difference == 0


def test_what_does_not_go_together_is_refused(stages: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^no models were given"):
        qpipe.validate([], "digits")
    three = Preprocess()
    images = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(DataError, match=r"inputs have shape \[N, 3, 8, 8\], the model expects \[N, 1, 8, 8\]"):
        qpipe.validate([stages / "net.onnx"], images, preprocess=three)
    with pytest.raises(DataError, match="labels go from 0 to 10"):
        qpipe.validate([stages / "net.onnx"], (np.zeros((3, 8, 8, 1), np.uint8), np.array([0, 1, 10])))


def test_saved_and_in_memory_exports_are_the_same(stages: Path, tmp_path: Path) -> None:
    exported = qpipe.export(stages / "tuned.qdq.onnx")
    save_model(exported, tmp_path / "again.onnx")
    report = qpipe.validate([stages / "net.int8.onnx", tmp_path / "again.onnx", exported], "digits", limit=30)
    assert [row.integers_equal for row in report.rows] == [True, True, True]


@pytest.mark.parametrize(
    ("sizes", "turn"), [("8,8,3", "t = Transpose<perm = [0, 3, 1, 2]>(f)"), ("3,8,8", "t = Identity(f)")]
)
def test_a_float_network_that_takes_bytes_is_given_the_pixels(tmp_path: Path, sizes: str, turn: str) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", images=rng.integers(0, 256, (64, 8, 8, 3), np.uint8), labels=rng.integers(0, 4, 64))
    proto = parse(
        f"(uint8[N,{sizes}] x) => (float[] y) {{ f = Cast<to = 1>(x) {turn} d = Div(t, k) c = Conv(d, w) r = Relu(c) "
        "g = GlobalAveragePool(r) l = Flatten(g) y = Gemm(l, v) }",
        k=np.float32(255), w=rng.standard_normal((6, 3, 3, 3)).astype(np.float32),
        v=rng.standard_normal((6, 4)).astype(np.float32),
    )  # fmt: skip
    onnx.save(proto, tmp_path / "net.onnx")
    qdq = qpipe.calibrate(tmp_path / "net.onnx", tmp_path / "d.npz")
    report = qpipe.validate([tmp_path / "net.onnx", qdq], tmp_path / "d.npz")
    assert report.ok
    assert report.rows[1].agreement is not None
    assert report.rows[1].agreement > 0.9
    # Other pixels, or in another order, would give other answers.
    assert report.rows[1].largest_difference is not None
    outputs = run_as_written(load_model(proto), x=rng.integers(0, 256, (8, *map(int, sizes.split(","))), np.uint8))[0]
    assert report.rows[1].largest_difference < 0.1 * np.abs(outputs).max()


def test_exports_with_islands_need_not_be_equal_and_that_is_said(tmp_path: Path) -> None:
    network = digits_model(between=["[soft] s = LpNormalization<axis=1>(block)", "[gate] between = Hardmax<axis=1>(s)"])
    qpipe.calibrate(network, "digits", tmp_path / "net.qdq.onnx", batches=1)
    exported = qpipe.export(tmp_path / "net.qdq.onnx", tmp_path / "net.int8.onnx", format="qoperator")
    report = qpipe.validate([tmp_path / "net.qdq.onnx", exported], "digits", limit=50)
    assert report.ok
    assert [row.integers_equal for row in report.rows] == [None, None]
    assert [row.certificate for row in report.rows] == ["holds", "holds"]
    words = [note for note in report.notes if "float between integers" in note]
    assert len(words) == 2
    assert words[1].startswith("model 2: float between integers (2 nodes)")
