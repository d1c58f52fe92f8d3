import json

import numpy as np
import pytest
from onnx import TensorProto, helper

from qpipe.data import Batch
from qpipe.errors import DataError, ModelError
from qpipe.runtime.accuracy import measure_accuracy
from qpipe.runtime.outputs import Output, integers_equal, model_input, read_io, run_batch
from qpipe.runtime.session import open_session
from qpipe.tasks.task import Task
from support.networks import build
from support.zoo.linear import integer_linear_model, linear_model

SCALE = 2.0**-7


def one_hot_batches(choices, labels, classes=8, size=3):
    """Inputs whose identity model chooses `choices`, second best the class after it, and so on."""
    distance = (np.arange(classes)[None] - np.array(choices)[:, None]) % classes
    inputs = (classes - distance).astype(np.float32)
    labels = np.array(labels)
    return [Batch(inputs[at : at + size], labels[at : at + size]) for at in range(0, len(inputs), size)]


def metadata(layout="NHWC", **scales):
    return {"qpipe.io": json.dumps({"layout": layout, "scales": scales or {"logits": SCALE}})}


def test_top1_top5_over_uneven_batches():
    batches = one_hot_batches(choices=[0, 0, 0, 0, 0], labels=[0, 1, 4, 5, 7])
    report = measure_accuracy([linear_model(np.eye(8))], batches)
    assert report.count == 5
    assert report.models[0].top1 == 1 / 5
    assert report.models[0].top5 == 3 / 5
    assert report.models[0].agreement == 1.0
    assert report.models[0].largest_difference == 0.0


def test_agreement_difference_and_images_that_differ():
    batches = one_hot_batches(choices=[0, 1, 2, 3], labels=[0, 1, 2, 3])
    bent = np.eye(8)
    bent[0, 0] = 0.5  # class 0 gets half of its logit: 4 of 8 where it led, so that class 1 with 7 wins
    report = measure_accuracy([linear_model(np.eye(8)), linear_model(bent), linear_model(np.eye(8))], batches)
    assert report.models[1].top1 == 3 / 4
    assert report.models[1].agreement == 3 / 4
    assert report.models[1].largest_difference == 4.0
    assert report.different == ((0, 4, 0), (4, 0, 4), (0, 4, 0))


@pytest.mark.parametrize(("fixed", "sizes"), [("N", [2, 2, 1]), ("3", [3, 2])])
def test_large_images_are_run_a_few_at_a_time(fixed, sizes, monkeypatch):
    """And as many as a fixed batch asks for, whose last run would be filled up else."""
    seen = []

    def run(session, batch):
        seen.append(len(batch))
        return run_batch(session, batch)

    monkeypatch.setattr("qpipe.runtime.accuracy.run_batch", run)
    monkeypatch.setattr("qpipe.runtime.accuracy.VALUES", 2 * 8)
    model = build(f"(float[{fixed},8] x) => (float[{fixed},8] y) {{ y = Identity(x) }}")
    (batch,) = one_hot_batches(choices=[0, 0, 0, 0, 0], labels=[0, 1, 4, 5, 7], size=5)
    report = measure_accuracy([model], [batch])
    assert seen == sizes
    assert (report.count, report.models[0].top1, report.models[0].top5) == (5, 1 / 5, 3 / 5)


def test_equal_scores_rank_the_lower_class_first():
    labels = np.array([0, 1, 7])
    report = measure_accuracy([linear_model(np.zeros((8, 8)))], [Batch(np.ones((3, 8), np.float32), labels)])
    assert report.models[0].top1 == 1 / 3
    assert report.models[0].top5 == 2 / 3


def test_no_top5_for_five_classes_and_none_without_labels():
    five = measure_accuracy([linear_model(np.eye(5))], [Batch(np.eye(5, dtype=np.float32), np.arange(5))])
    assert five.models[0].top1 == 1.0
    assert five.models[0].top5 is None
    unlabelled = measure_accuracy([linear_model(np.eye(8))], [Batch(np.eye(8, dtype=np.float32))])
    assert unlabelled.models[0].top1 is None
    assert unlabelled.models[0].agreement == 1.0


@pytest.mark.parametrize(("error", "has_tail", "differing"), [(1, True, 0), (1, False, 3), (100, True, 3)])
def test_what_a_float_tail_gives_may_differ_by_roundings(error, has_tail, differing):
    """error: in last bits of 1, the largest number of each row."""
    bent = np.eye(8, dtype=np.float32)
    bent[0, 0] += error * 2.0**-23
    batch = Batch(np.float32([[1, 0, 0, 0, 0, 0, 0, 0]] * 3))
    report = measure_accuracy([linear_model(np.eye(8)), linear_model(bent)], [batch], has_tail=has_tail)
    assert report.different[0][1] == differing


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_integer_model_equals_the_float_model_of_the_same_fixed_point(layout):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 4, 3, 2)).astype(np.uint8)
    weight = rng.integers(-60, 61, (24, 10))
    ordered = pixels if layout == "NHWC" else pixels.transpose(0, 3, 1, 2)
    shape = ordered.shape[1:]
    inputs = ordered.reshape(9, -1).astype(np.float32)
    exact = linear_model(weight * SCALE)
    integer = integer_linear_model(weight, shape, metadata(layout))
    other = weight.copy()
    other[5, 3] += 1
    wrong = integer_linear_model(other, shape, metadata(layout))
    report = measure_accuracy([exact, integer, wrong], [Batch(inputs, None, pixels)])
    assert report.different[0][1] == 0
    assert report.models[1].largest_difference == 0.0
    differing = int((inputs[:, 5] != 0).sum())
    assert report.different[1][2] == report.different[0][2] == differing > 0
    assert report.models[2].largest_difference == inputs[:, 5].max() * SCALE


def test_integers_beyond_float_precision_are_compared_as_integers():
    one = Output(np.array([[2**24]], np.int32), SCALE)
    other = Output(np.array([[2**24 + 1]], np.int32), SCALE)
    assert not integers_equal(one, other).any()
    # In float32 both are the same number, and so they are against a float file of this fixed point.
    assert integers_equal(Output(one.real()), other).all()
    assert not integers_equal(one, Output(np.array([[2**24]], np.int32), SCALE / 2)).any()
    assert not integers_equal(one, Output(np.zeros((1, 2), np.float32))).any()


def test_an_output_that_is_one_number():
    one, other = (Output(np.float32(number), None) for number in (1, 2))
    assert integers_equal(one, one).tolist() == [True]
    assert integers_equal(one, other).tolist() == [False]
    assert integers_equal(one, Output(np.float32([1, 1]), None)).tolist() == [False]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 8], "labels go from 0 to 8, but model 'small' has 8 classes; expected labels from 0 to 7"),
        ([-1, 2], "labels go from -1 to 2, but model 'small' has 8 classes"),
        ([1], "1 labels for 2 rows, expected one for each"),
    ],
)
def test_labels_that_do_not_fit(labels, message):
    batch = Batch(np.zeros((2, 8), np.float32), np.array(labels))
    with pytest.raises(DataError, match=message):
        measure_accuracy([linear_model(np.eye(8))], [batch])


def test_labels_for_a_part():
    batches = [Batch(np.eye(8, dtype=np.float32), np.arange(8)), Batch(np.eye(8, dtype=np.float32))]
    with pytest.raises(DataError, match="8 of 16 images have labels; expected all or none"):
        measure_accuracy([linear_model(np.eye(8))], batches)


def test_nothing_to_measure():
    with pytest.raises(DataError, match="no images to measure on"):
        measure_accuracy([linear_model(np.eye(8))], [])
    with pytest.raises(ModelError, match="no models to measure"):
        measure_accuracy([], [])


def test_outputs_of_other_shapes():
    models = [linear_model(np.eye(8)), linear_model(np.eye(8)[:, :5])]
    with pytest.raises(
        ModelError, match=r"outputs have shapes \[\[8, 5\]\], but those of model 'small' have \[\[8, 8\]\]"
    ):
        measure_accuracy(models, [Batch(np.eye(8, dtype=np.float32))])


def test_outputs_of_more_rows_than_there_are_images():
    twice = build("(float[N,8] x) => (float[M,8] y) { y = Concat<axis = 0>(x, x) }")
    with pytest.raises(ModelError, match=r"outputs have shapes \[\[16, 8\]\], but those of .* have \[\[8, 8\]\]"):
        measure_accuracy([linear_model(np.eye(8)), twice], [Batch(np.eye(8, dtype=np.float32))])


def test_infinite_output_is_named():
    with pytest.raises(ModelError, match="model 'small': output 'logits' has NaN or infinite values"):
        measure_accuracy([linear_model(np.full((8, 8), np.inf))], [Batch(np.ones((1, 8), np.float32))])


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({}, "metadata 'qpipe.io': missing, though the input is uint8"),
        ({"qpipe.io": "{"}, "metadata 'qpipe.io': Invalid JSON"),
        ({"qpipe.io": '{"layout": "NHWC"}'}, "metadata 'qpipe.io': scales: Field required"),
        (
            {"qpipe.io": '{"layout": "HW", "scales": {}}'},
            "qpipe.io': layout: Input should be 'NCHW' or 'NHWC'",
        ),
        (metadata(other=1.0), "no scale for the integer output 'logits'"),
    ],
)
def test_metadata_of_an_integer_model(props, message):
    model = integer_linear_model(np.eye(8), [2, 2, 2], props)
    batch = Batch(np.zeros((1, 8), np.float32), None, np.zeros((1, 2, 2, 2), np.uint8))
    with pytest.raises(ModelError, match=message):
        measure_accuracy([model], [batch])


def test_integers_that_count_no_units_are_compared_as_they_are():
    """Such as a network's own choice: its ArgMax."""
    one, other = (Output(np.array([2**40, 7]) + shift) for shift in (0, np.array([1, 0])))
    np.testing.assert_array_equal(integers_equal(one, other), [False, True])
    model = linear_model(np.eye(8))
    model.graph.node.add().CopyFrom(helper.make_node("ArgMax", ["logits"], ["choice"], axis=1, keepdims=0))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("choice", TensorProto.INT64, ["N"]))
    batches = one_hot_batches(choices=[0, 1, 2, 3], labels=[0, 1, 2, 7])
    report = measure_accuracy([model, model], batches, task=Task(is_choice=True))
    assert (report.models[0].top1, report.models[1].agreement, report.models[0].top5) == (3 / 4, 1, None)
    assert report.different[0][1] == 0


def test_integer_model_needs_pixels():
    session = open_session(integer_linear_model(np.eye(8), [2, 2, 2], metadata()))
    assert read_io(session).scales == {"logits": SCALE}
    with pytest.raises(DataError, match="takes uint8 pixels, but the data are floats"):
        model_input(session, Batch(np.zeros((1, 8), np.float32)))
