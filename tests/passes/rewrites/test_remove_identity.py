import numpy as np
import pytest

from passes.rewrites.remove_identity import RemoveIdentity
from qpipe.errors import ModelError
from qpipe.ir.files.infer import infer_shapes
from support.networks import build, integers, ops
from support.run import run_as_written


@pytest.mark.parametrize("call", ["Identity(z)", "Dropout(z)", "Dropout(z, ratio)", "Dropout(z, ratio, off)"])
def test_nodes_that_do_nothing_go(call):
    model = build(
        f"(float[N,4] x) => (float[N,4] y) {{ z = Relu(x) a = {call} b = Identity(a) y = Neg(b) }}",
        ratio=np.float32(0.5),
        off=np.array(False),
    )
    x = integers(3, 4)
    expected = run_as_written(model, x=x)[0]
    assert RemoveIdentity()(model).modified
    assert ops(model) == ["Relu", "Neg"]
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected)
    assert not RemoveIdentity()(model).modified


@pytest.mark.parametrize("op", ["Identity", "Dropout"])
def test_graph_output_keeps_its_name(op):
    model = build(f"(float[N,4] x) => (float[N,4] y) {{ z = Relu(x) y = {op}(z) }}")
    assert RemoveIdentity()(model).modified
    assert ops(model) == ["Relu"]
    assert model.graph.outputs[0].name == "y"
    x = integers(3, 4)
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], np.maximum(x, 0))


def test_identity_from_input_to_output_stays():
    model = build("(float[N,4] x) => (float[N,4] y) { y = Identity(x) }")
    assert not RemoveIdentity()(model).modified
    assert ops(model) == ["Identity"]


def test_dropout_whose_mask_is_used_stays():
    model = build("(float[N,4] x) => (float[N,4] y, bool[N,4] m) { y, m = Dropout(x) }")
    assert not RemoveIdentity()(model).modified


def test_dropout_in_training_mode_is_refused_by_name():
    model = build(
        "(float[N,4] x) => (float[N,4] y) { y = Dropout(x, ratio, on) }", ratio=np.float32(0.5), on=np.array(True)
    )
    with pytest.raises(ModelError, match="Dropout 'y': is in training mode, expected a model exported for inference"):
        RemoveIdentity()(model)


def test_dropout_of_nothing_in_training_mode_goes():
    model = build(
        "(float[N,4] x) => (float[N,4] y) { z = Relu(x) y = Dropout(z, ratio, on) }",
        ratio=np.float32(0),
        on=np.array(True),
    )
    assert RemoveIdentity()(model).modified
    assert ops(model) == ["Relu"]


@pytest.mark.parametrize(("condition", "left"), [(False, "Relu"), (True, "Neg")])
def test_a_choice_that_is_always_the_same_goes(condition, left):
    """What attention writes as a function has one, of rows of which all is masked."""
    model = build(
        "(float[N,4] x) => (float[N,4] y) { a = Neg(x) b = Relu(x) w = Where(c, a, b) y = Abs(w) }",
        c=np.full((1, 4), condition),
    )
    infer_shapes(model)
    x = integers(3, 4)
    (expected,) = run_as_written(model, x=x)
    assert RemoveIdentity()(model).modified
    assert "Where" not in ops(model)
    (reader,) = model.graph.outputs[0].producer().inputs
    assert reader.producer().op_type == left
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected)


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("w = Where(c, x, b)", np.array([[True, False, True, True]])),
        ("s = ReduceSum<keepdims=1>(x) w = Where(c, s, x)", np.array([[True] * 4])),
    ],
    ids=["both are taken", "it is broadcast"],
)
def test_other_choices_stay(text, condition):
    model = build(f"(float[N,4] x) => (float[N,4] y) {{ b = Relu(x) {text} y = Abs(w) }}", c=condition)
    infer_shapes(model)
    assert not RemoveIdentity()(model).modified
