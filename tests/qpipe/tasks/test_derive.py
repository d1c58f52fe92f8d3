"""The task is derived where outputs and labels leave one reading, asked for where not, and said in either case."""

from typing import Any

import numpy as np
import pytest

from qpipe.errors import DataError, QpipeError, RecipeError
from qpipe.ir.files.load import load_model
from qpipe.settings import TaskSettings
from qpipe.tasks.derive import Purpose, derive
from qpipe.tasks.labels import facts_of
from qpipe.tasks.task import Ending, Task
from qpipe.verbs.purpose import outputs_of
from support.networks import parse

INPUT = "float[N, 6] x"
ORDER = np.array([1, 0, 2, 3])
CONSTANTS = {
    "axes": np.array([1]),
    "order": ORDER,
    "two": np.float32(2),
    "zero": np.uint8(0),
    "k": np.array([5], np.int64),
    "image": np.array([0, 3, 1, 2]),
    "groups": np.array([-1, 2, 3]),
}


def network(nodes: str, **outputs: str) -> Any:
    """Outputs by name with their types, as `y="float[N, 4]"`."""
    told = ", ".join(f"{kind} {name}" for name, kind in outputs.items())
    words = nodes.replace("(", " ").replace(")", " ").replace(",", " ").split()
    constants = {name: value for name, value in CONSTANTS.items() if name in words}
    return load_model(parse(f"({INPUT}) => ({told}) {{ {nodes} }}", **constants))


def task(model: Any, labels: Any, *, names: int | None = None, is_taught: bool = False, **asked: Any) -> Task:
    settings = TaskSettings(**asked)
    facts = None if labels is None else facts_of(np.asarray(labels), names=names, ignore=settings.ignore_label)
    return derive(outputs_of(model), facts, settings, Purpose("data", trains=True, is_taught=is_taught))


ROWS = network("y = Identity(x)", y="float[N, 6]")
ONE = network("y = ReduceMean(x, axes)", y="float[N, 1]")
SIX, CLASSES = "float[N, 6]", [0, 3, 5]


@pytest.mark.parametrize(
    ("nodes", "labels", "ending"),
    [
        ("y = Identity(x)", CLASSES, Ending("y")),
        ("y = Softmax(x)", CLASSES, Ending("y", frozenset({"y"}))),
        ("y = LogSoftmax(x)", [0.0, 3.0, 5.0], Ending("y", frozenset({"y"}))),
        ("a = Softmax(x) y = Log(a)", CLASSES, Ending("y", frozenset({"a", "y"}))),
        ("y = Sigmoid(x)", CLASSES, Ending("y", frozenset({"y"}))),
        ("a = Softmax(x) y = Gather<axis=1>(a, order6)", CLASSES, Ending("y", frozenset({"a"}))),
        ("y = Neg(x)", CLASSES, Ending("y")),
        # Whole floats and bools are labels; fewer classes than outputs are no error.
        ("y = Identity(x)", [True, False, True], Ending("y")),
        ("y = Identity(x)", [0, 0, 1], Ending("y")),
        ("y = Softmax(x)", np.eye(6), Ending("y", frozenset({"y"}))),
    ],
)
def test_scores_of_classes(nodes: str, labels: Any, ending: Ending) -> None:
    CONSTANTS["order6"] = np.arange(6)[::-1].copy()
    found = task(network(nodes, y=SIX), labels)
    assert (found.loss, found.metric, found.columns, found.ending) == ("cross-entropy", "top-1", 6, ending)
    assert found.said.startswith("output 'y', cross entropy")
    assert "derived from 6 classes and " in found.said


def test_a_choice_is_trained_by_what_it_was_made_from() -> None:
    found = task(network("a = Softmax(x) y = ArgMax<axis=1, keepdims=0>(a)", y="int64[N]"), CLASSES)
    assert (found.ending, found.is_choice, found.metric) == (Ending("a", frozenset({"a"})), True, "top-1")
    assert "cross entropy before ArgMax" in found.said
    ranked = network("v, y = TopK<axis=1>(x, k)", v="float[N, 5]", y="int64[N, 5]")
    assert task(ranked, CLASSES).ending == Ending("x")


@pytest.mark.parametrize(
    ("labels", "loss", "metric"),
    [
        ([0, 1, 1], "binary", "accuracy"),
        ([[False], [True], [True]], "binary", "accuracy"),
        ([0.5, 2.0, -1.0], "mse", "mse"),
    ],
)
def test_one_number(labels: Any, loss: str, metric: str) -> None:
    found = task(ONE, labels)
    assert (found.loss, found.metric, found.columns) == (loss, metric, 1)


def test_rows_of_labels() -> None:
    rows = np.array([[0, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 1]])
    assert task(ROWS, rows).loss == task(ROWS, rows.astype(float)).loss == task(ROWS, np.eye(6)).loss == "multi-label"
    assert task(network("y = Sigmoid(x)", y=SIX), rows).ending == Ending("y", frozenset({"y"}))
    assert task(network("y = Sigmoid(x)", y=SIX), rows).threshold == 0.5
    assert (task(ROWS, rows * 0.3).loss, task(ROWS, rows * 3).loss) == ("mse", "mse")
    assert task(ROWS, np.eye(6), loss="cross-entropy").loss == "cross-entropy"


def test_maps() -> None:
    maps = network("y = Reshape(x, image)", y="float[N, 3, 1, 2]")
    found = task(maps, np.array([[[0, 2]], [[1, 255]]]), ignore_label=255)
    assert (found.loss, found.metric, found.is_dense, found.class_axis) == ("cross-entropy", "miou", True, 1)
    assert task(maps, np.zeros((2, 3, 1, 2)) + 0.5).ending == Ending("y", rows=False)
    turned = "a = Reshape(x, image) b = Softmax<axis=1>(a) y = Transpose<perm=[0, 2, 3, 1]>(b)"
    assert task(network(turned, y="float[N, 1, 2, 3]"), np.array([[[0, 2]], [[1, 0]]])).class_axis == 3


@pytest.mark.parametrize(
    ("nodes", "outputs", "labels", "asked", "chosen"),
    [
        # The one with as many columns as there are classes; what scores goes before what was chosen from it.
        ("a = Concat<axis=1>(x, x) y = Identity(x)", {"a": "float[N, 12]", "y": SIX}, CLASSES, {}, "y"),
        ("y = Identity(x) c = ArgMax<axis=1>(x)", {"c": "int64[N, 1]", "y": SIX}, CLASSES, {}, "y"),
        ("y = Identity(x) e = Neg(x)", {"e": SIX, "y": SIX}, CLASSES, {"output_name": "y"}, "y"),
        ("m = ReduceMean(x, axes) y = Identity(x)", {"m": "float[N, 1]", "y": SIX}, CLASSES, {}, "y"),
        ("y = Identity(x) k2 = Identity(k)", {"k2": "int64[1]", "y": SIX}, CLASSES, {}, "y"),
    ],
)
def test_which_of_several_outputs(
    nodes: str, outputs: dict[str, str], labels: Any, asked: dict[str, Any], chosen: str
) -> None:
    found = task(network(nodes, **outputs), labels, **asked)
    assert (found.output, found.position) == (chosen, list(outputs).index(chosen))


@pytest.mark.parametrize(
    ("nodes", "outputs", "labels", "asked", "kind", "message"),
    [
        ("y = Identity(x)", {"y": SIX}, [0, 6], {}, DataError, "labels go from 0 to 6, but output 'y' [N, 6] has 6 cl"),
        ("y = Identity(x)", {"y": SIX}, [-1, 2], {}, DataError, "labels go from -1 to 2, but output 'y'"),
        ("y = Identity(x)", {"y": SIX}, [0.5, 2], {}, DataError, "fractional labels, from 0.5 to 2, fit no output"),
        ("y = Identity(x)", {"y": SIX}, np.zeros((2, 4)), {}, DataError, "rows of 4 numbers, each 0 or 1"),
        ("y = Identity(x)", {"y": SIX}, None, {}, DataError, "no labels, expected one for each image, or a teacher"),
        (
            "y = Identity(x) e = Neg(x)",
            {"e": SIX, "y": SIX},
            CLASSES,
            {},
            RecipeError,
            "integer labels fit output 'e' [N, 6] by cross-entropy or output 'y' [N, 6] by cross-entropy: say which",
        ),
        ("y = Identity(x)", {"y": SIX}, CLASSES, {"output_name": "z"}, RecipeError, "the outputs are 'y' [N, 6]"),
        ("y = ReduceMean(x, axes)", {"y": "float[N, 1]"}, [0, 2], {}, RecipeError, "expected --loss mse"),
        ("y = Identity(x)", {"y": SIX}, CLASSES, {"loss": "mse"}, DataError, "fit no output by the loss mse"),
        (
            "y = Identity(x)",
            {"y": SIX},
            CLASSES,
            {"metric": "miou"},
            RecipeError,
            "expected top-1, top-5, accuracy, f1",
        ),
        ("a = Softmax(x) y = Mul(a, two)", {"y": SIX}, CLASSES, {}, RecipeError, "Softmax 'a' is followed by arithm"),
        ("k2 = Identity(k)", {"k2": "int64[1]"}, CLASSES, {}, DataError, "there are none with a batch axis"),
        # Over the images, whose order it keeps and not that of the scores.
        ("y = Softmax<axis=0>(x)", {"y": SIX}, CLASSES, {}, RecipeError, "Softmax 'y' is followed by arithmetic, or"),
        (
            "a = Reshape(x, groups) b = LogSoftmax<axis=2>(a) y = Flatten(b)",
            {"y": SIX},
            CLASSES,
            {},
            RecipeError,
            "LogSoftmax 'b' is followed by arithmetic, or not over the scores of an image",
        ),
        (
            "a = Reshape(x, image) y = Softmax<axis=3>(a)",
            {"y": "float[N, 3, 1, 2]"},
            [[[0, 2]], [[1, 0]]],
            {},
            DataError,
            "fit no output",
        ),
        ("v, y = TopK<largest=0>(x, k)", {"y": "int64[N, 5]"}, CLASSES, {}, RecipeError, "'y' [N, 5]: gives integers"),
        ("y = ArgMin<axis=1>(x)", {"y": "int64[N, 1]"}, CLASSES, {}, RecipeError, "expected another --output-name"),
        # Numbers that 0 does not divide: each would be a yes.
        (
            "y = HardSigmoid(x)",
            {"y": SIX},
            np.eye(6),
            {},
            RecipeError,
            "gives numbers: expected --loss cross-entropy or",
        ),
        ("m = ReduceMean(x, axes) y = Relu(m)", {"y": "float[N, 1]"}, [0, 1], {}, RecipeError, "expected --loss mse"),
        (
            "m = ReduceMean(x, axes) q = QuantizeLinear(m, two, zero) y = DequantizeLinear(q, two, zero)",
            {"y": "float[N, 1]"},
            [0, 1],
            {},
            RecipeError,
            "expected --loss mse",
        ),
        (
            "m = ReduceMean(x, axes) n = Neg(m) e = Exp(n) f = Add(two, e) y = Reciprocal(f)",
            {"y": "float[N, 1]"},
            [0, 1],
            {},
            RecipeError,
            "gives one number: expected --loss mse",
        ),
        ("a = Softmax(x) y = Mul(a, two)", {"y": SIX}, CLASSES, {"loss": "mse"}, DataError, "by the loss mse"),
    ],
)
def test_what_is_asked_for_or_refused(
    nodes: str, outputs: dict[str, str], labels: Any, asked: dict[str, Any], kind: type[QpipeError], message: str
) -> None:
    with pytest.raises(kind) as raised:
        task(network(nodes, **outputs), labels, **asked)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_names_of_more_classes_than_there_are_outputs() -> None:
    with pytest.raises(DataError, match=r"there are 7 names of classes, but output 'y' \[N, 6\] has 6 classes"):
        task(ROWS, CLASSES, names=7)


def test_a_teacher_alone() -> None:
    found = task(network("y = Softmax(x)", y=SIX), None, is_taught=True)
    assert (found.loss, found.metric, found.has_labels) == ("cross-entropy", None, False)
    assert "the teacher's answers alone train, by cross entropy" in found.said
    assert task(ONE, None, is_taught=True).loss == "mse"
    with pytest.raises(RecipeError, match=r"no labels, and there are 'e'.*, 'y'.*: say which one the teacher teaches"):
        task(network("y = Identity(x) e = Neg(x)", e=SIX, y=SIX), None, is_taught=True)


def test_a_loss_of_ones_own_reads_the_output_as_it_is() -> None:
    def own(outputs: Any, labels: Any) -> Any:
        return outputs

    found = task(network("y = Softmax(x)", y=SIX), CLASSES, loss=own)
    assert (found.loss, found.metric, found.ending) == (own, "top-1", Ending("y", rows=False))
    assert task(ROWS, np.zeros((2, 9)), loss=own).metric is None


def test_long_tails_take_no_time() -> None:
    """Neither a recursion as deep as the graph nor one that doubles at each node."""
    doubled = " ".join(f"v{i + 1} = Add(v{i}, v{i})" for i in range(60))
    assert task(network(f"v0 = Exp(x) {doubled} y = Identity(v60)", y=SIX), CLASSES).loss == "cross-entropy"
    moved = " ".join(f"v{i + 1} = Flatten(v{i})" for i in range(2000))
    assert task(network(f"v0 = Exp(x) {moved} y = Identity(v2000)", y=SIX), CLASSES).loss == "cross-entropy"
