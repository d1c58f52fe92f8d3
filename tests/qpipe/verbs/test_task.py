"""What a network is for, end to end: outputs that are no scores, without a batch axis, or several of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qpipe
from qpipe.errors import DataError, ModelError, QpipeError, RecipeError
from qpipe.ir.files.metadata import get_object
from support.networks import Network
from support.zoo.tasks import BRIGHT, IMAGES, SIDE, flat_head

CLASSES = BRIGHT.argmax(1)
DATA = {"images": IMAGES, "labels": CLASSES}
ONCE = {"epochs": 1, "batch_size": 32, "flip": False, "crop_padding": 0}


def network(
    *outputs: tuple[str, TensorProto.DataType, Sequence[Any]], batch: Any = "N", **tail: Any
) -> onnx.ModelProto:
    """Four scores `z`, a second head `e`, and `tail`: by the name of what it gives an op, its inputs and attributes."""
    net = Network(1, SIDE, SIDE, batch=batch, seed=3)
    x = net.op("Relu", net.conv("x", 1, 8, bias=True))
    z, e = flat_head(net, x, 4), flat_head(net, x, 4)
    proto = net.proto(z)
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = [{z: "z", e: "e"}.get(name, name) for name in names]
    for name, (op, inputs, attributes) in tail.items():
        names = [value if isinstance(value, str) else f"{name}_{i}" for i, value in enumerate(inputs)]
        for i, value in enumerate(inputs):
            if not isinstance(value, str):
                proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{name}_{i}"))
        proto.graph.node.append(helper.make_node(op, names, name.split("__"), name, **attributes))
    proto.graph.output.pop()
    proto.graph.output.extend(helper.make_tensor_value_info(*output) for output in outputs)
    return proto


FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
SCORES = ("z", FLOAT, ["N", 4])
ANCHORS = {"anchors": ("Identity", [np.arange(3, dtype=np.float32)], {})}
BOTH = network(("e", FLOAT, ["N", 4]), SCORES)


@pytest.mark.parametrize("batch", ["N", 8])
def test_an_output_without_a_batch_axis_is_compared_as_a_whole(batch: Any, tmp_path: Path) -> None:
    model = network(("z", FLOAT, [batch, 4]), ("anchors", FLOAT, [3]), batch=batch, **ANCHORS)
    qdq = qpipe.calibrate(model, IMAGES)
    qpipe.export(qdq, tmp_path / "e.onnx")
    tuned = qpipe.finetune(qdq, DATA, **ONCE)
    assert get_object(tuned, "training")["task"]["output"] == "z"
    report = qpipe.validate([model, qdq, tmp_path / "e.onnx"], DATA)
    assert report.ok
    assert [row.integers_equal for row in report.rows] == [None, True, True]
    moved = onnx.load(tmp_path / "e.onnx")
    (anchors,) = (t for t in moved.graph.initializer if list(t.dims) == [3] and t.data_type == FLOAT)
    anchors.CopyFrom(numpy_helper.from_array(np.array([0, 1, 9], np.float32), anchors.name))
    onnx.save(moved, tmp_path / "moved.onnx")
    report = qpipe.validate([tmp_path / "e.onnx", tmp_path / "moved.onnx"], DATA)
    assert [row.largest_difference for row in report.rows] == [0, 7]
    assert not report.ok
    assert any(f"differ on {len(IMAGES)} of {len(IMAGES)} images" in problem for problem in report.problems)


def test_integers_that_the_network_gives_are_compared_and_trained_as_they_are(tmp_path: Path) -> None:
    model = network(("y", INT, ["N"]), y=("ArgMax", ["z"], {"axis": 1, "keepdims": 0}))
    qdq = qpipe.calibrate(model, DATA)
    qpipe.export(qdq, tmp_path / "e.onnx", data=IMAGES)
    report = qpipe.validate([model, qdq, tmp_path / "e.onnx"], DATA)
    assert report.ok
    assert report.rows[0].top1 is not None
    tuned = qpipe.finetune(qdq, DATA, **{**ONCE, "epochs": 6, "lr": 0.05})
    record = get_object(tuned, "training")
    assert record["accuracy_after"] > record["accuracy_before"] + 0.1
    with pytest.raises(DataError, match="the largest label is 7, but the scores of output 'y' are 4"):
        qpipe.finetune(qdq, {**DATA, "labels": CLASSES + 4}, **ONCE)


def test_boxes_that_are_chosen_differ_in_number() -> None:
    model = network(("y", INT, [2, None]), SCORES, y=("NonZero", ["z"], {}))
    report = qpipe.validate([model, qpipe.calibrate(model, IMAGES)], DATA, output_name="z")
    assert report.rows[0].top1 is not None


def test_which_output_counts_is_asked_for() -> None:
    qdq = qpipe.calibrate(BOTH, IMAGES)
    for verb in (lambda: qpipe.finetune(qdq, DATA, **ONCE), lambda: qpipe.validate([qdq], DATA)):
        with pytest.raises(
            RecipeError, match=r"fit output 'e' \[N, 4\] by .* or output 'z' \[N, 4\] by .*--output-name"
        ):
            verb()
    tuned = qpipe.finetune(qdq, DATA, **{**ONCE, "epochs": 6, "lr": 0.05}, output_name="z")
    rows = qpipe.validate([qdq, tuned], DATA, output_name="z").rows
    assert rows[1].top1 > rows[0].top1 + 0.1
    # Who needs no labels does not ask.
    report = qpipe.validate([BOTH, qdq], IMAGES)
    assert [row.agreement for row in report.rows] == [None, None]
    report = qpipe.bench([BOTH], DATA, repeats=1)
    assert "nothing is judged" in report.notes[0]


@pytest.mark.parametrize(
    ("tail", "labels", "message"),
    [
        ({"y": ("Round", ["z"], {})}, CLASSES, "^the model: Round 'y': between .*; --output-name could be 'e' .N, 4.$"),
        ({"y": ("Sign", ["z"], {})}, CLASSES, "^the model: Sign 'y': between the last layers and 'y', and no gradient"),
    ],
)
def test_a_tail_that_can_not_be_trained_is_named(tail: Any, labels: Any, message: str) -> None:
    model = network(("y", FLOAT, ["N", 4]), ("e", FLOAT, ["N", 4]), **tail)
    qdq = qpipe.calibrate(model, IMAGES)
    with pytest.raises(ModelError, match=message):
        qpipe.finetune(qdq, {**DATA, "labels": labels}, **ONCE, output_name="y")


@pytest.mark.parametrize(
    "labels",
    [
        np.random.default_rng(0).random(96),
        np.eye(4)[CLASSES],
        np.zeros((96, 8, 8), np.int64),
        CLASSES.astype(float),
        CLASSES > 1,
        np.full(96, np.nan),
        np.arange(3),
        np.array(["cat"] * 96),
    ],
    ids=["fractions", "rows", "maps", "whole", "bools", "nan", "three", "words"],
)
def test_who_needs_no_labels_reads_none(labels: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=IMAGES, labels=labels)
    (tmp_path / "net.onnx").write_bytes(network(SCORES).SerializeToString())
    qdq = qpipe.calibrate(tmp_path / "net.onnx", tmp_path / "d.npz")
    qpipe.export(qdq, data=tmp_path / "d.npz")


def test_a_subset_without_the_last_class_trains() -> None:
    qdq = qpipe.calibrate(network(SCORES), IMAGES)
    tuned = qpipe.finetune(qdq, {**DATA, "labels": np.minimum(CLASSES, 2)}, **ONCE)
    assert "derived from 4 classes" in get_object(tuned, "training")["task"]["said"]


def test_a_loss_that_raises_is_one_line() -> None:
    qdq = qpipe.calibrate(network(SCORES), IMAGES)
    for loss, told in (
        (lambda outputs, labels: outputs[:, 99], "raised IndexError: .*, expected a number"),
        (lambda outputs, labels: outputs, r"gave \[32, 4\], expected a tensor of one number"),
        (lambda outputs, labels: 1.0, "gave float, expected a tensor of one number"),
        (lambda outputs, labels: labels.sum() * 1.0, "gave a number without a gradient"),
    ):
        with pytest.raises(QpipeError, match=f"^loss '<lambda>': {told}"):
            qpipe.finetune(qdq, DATA, **ONCE, loss=loss)


@pytest.mark.parametrize("method", [{"additional_losses": 0.1}, {"joint_distillation": 0.1}])
def test_what_learns_from_labels_says_so(method: dict[str, float]) -> None:
    qdq = qpipe.calibrate(network(SCORES), IMAGES)
    with pytest.raises(QpipeError, match=f"^.*{next(iter(method))}: learns from labels, and the data have none"):
        qpipe.finetune(qdq, IMAGES, **ONCE, **method, teacher="float")


def test_an_export_without_its_tail_is_judged_where_that_changes_no_order(tmp_path: Path) -> None:
    for op, is_judged in (("Softmax", True), ("Abs", False)):
        model = network(("y", FLOAT, ["N", 4]), y=(op, ["z"], {}))
        qdq = qpipe.calibrate(model, IMAGES)
        qpipe.export(qdq, tmp_path / f"{op}.onnx", io="integer")
        (whole,) = qpipe.validate([qdq], DATA).rows
        (cut,) = qpipe.validate([tmp_path / f"{op}.onnx"], DATA).rows
        assert cut.top1 == (whole.top1 if is_judged else None)


def test_two_tasks_are_two_runs(tmp_path: Path) -> None:
    qdq = qpipe.calibrate(BOTH, IMAGES)
    qpipe.finetune(qdq, DATA, **ONCE, output_name="z", checkpoint=tmp_path / "run")
    with pytest.raises(QpipeError, match="a checkpoint of another run: the output was z, now e"):
        qpipe.finetune(qdq, DATA, **{**ONCE, "epochs": 2}, output_name="e", checkpoint=tmp_path / "run", resume=True)
