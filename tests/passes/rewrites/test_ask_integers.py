import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.rewrites.ask_integers import AskIntegers
from passes.rewrites.remove_dead_code import RemoveDeadCode
from support.networks import build, ops
from support.rewriting import assert_stays
from support.run import run_as_written

COMPARISONS = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
KINDS = {"bool": np.bool_, "int64": np.int64, "int32": np.int32, "uint8": np.uint8, "int8": np.int8}
ASK = "(KIND[N,6] m) => (bool[N,6] y) { f = Cast<to=1>(m) NODES }"


def rewritten(kind: str, nodes: str, **constants: np.ndarray):
    model = build(ASK.replace("KIND", kind).replace("NODES", nodes), **constants)
    before = build(ASK.replace("KIND", kind).replace("NODES", nodes), **constants)
    modified = AskIntegers()(model).modified
    RemoveDeadCode()(model)
    return model, before, modified


@pytest.mark.parametrize(
    ("kind", "nodes", "left"),
    [
        ("bool", "y = Equal(f, zero)", ["Not"]),
        ("bool", "y = Greater(f, half)", ["Identity"]),
        ("bool", "u = Unsqueeze(f, axis) e = Equal(u, zero) y = Squeeze(e, axis)", ["Not", "Unsqueeze", "Squeeze"]),
        ("int64", "s = Sub(one, f) y = Cast<to=9>(s)", ["Equal", "Not"]),
        ("int64", "s = Mul(f, half) y = Greater(s, one)", ["GreaterOrEqual"]),
        ("int32", "s = Mul(f, minus) y = Less(one, s)", ["Less"]),
        ("uint8", "y = Equal(zero, f)", ["Cast", "Less"]),
        ("int64", "s = Where(g, one, half) y = Less(s, one)", ["GreaterOrEqual", "Not"]),
    ],
)
def test_the_integers_are_asked(kind: str, nodes: str, left: list[str]) -> None:
    if "Where" in nodes:
        nodes = f"g = Greater(f, one) {nodes}"
    constants = {"zero": np.float32(0), "one": np.float32(1), "half": np.float32(0.5), "minus": np.float32([-1])}
    model, before, modified = rewritten(kind, nodes, axis=np.array([1]), **constants)
    assert modified
    assert ops(model) == left
    m = np.array([[0, 1, 0, 1, 1, 0], [0, 1, 2, 3, 4, 5]]).astype(KINDS[kind])
    np.testing.assert_array_equal(run_as_written(model, m=m)[0], run_as_written(before, m=m)[0])
    assert_stays(AskIntegers(), model)


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["int64", "int32", "int8"]),
    op_type=st.sampled_from(COMPARISONS),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["Add", "Sub", "Mul", "Div"]), st.sampled_from([-3, -1, -0.3, 0.5, 2, 1e4]), st.booleans()
        ),
        max_size=3,
    ),
    number=st.sampled_from([-10000.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3e38]),
    is_first=st.booleans(),
)
def test_the_answer_is_that_of_the_floats(kind, op_type, steps, number, is_first) -> None:
    nodes, value, constants = "", "f", {"number": np.float32(number)}
    for i, (step, operand, swapped) in enumerate(steps):
        operands = f"c{i}, {value}" if swapped and step != "Div" else f"{value}, c{i}"
        nodes, value = f"{nodes} v{i} = {step}({operands})", f"v{i}"
        constants[f"c{i}"] = np.float32(operand)
    nodes += f" y = {op_type}({f'{value}, number' if is_first else f'number, {value}'})"
    model, before, modified = rewritten(kind, nodes, **constants)
    limits = np.iinfo(KINDS[kind])
    some = np.array([limits.min, limits.max, *range(-5, 6), -10000, -9999, -20001, 20000, 2**24 + 1, 100])
    m = np.resize(np.clip(some, limits.min, limits.max), (3, 6)).astype(KINDS[kind])
    np.testing.assert_array_equal(run_as_written(model, m=m)[0], run_as_written(before, m=m)[0])
    assert modified == all(node.outputs[0].dtype is not ir.DataType.FLOAT for node in model.graph)


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        ("(float[N,6] m) => (bool[N,6] y) { y = Equal(m, zero) }", {}),
        ("(bool[N,6] m) => (bool[N,6] y) { f = Cast<to=1>(m) y = Equal(f, many) }", {"many": np.zeros(6, np.float32)}),
        ("(bool[N,6] m) => (bool[N,6] y) { f = Cast<to=1>(m) y = Less(f, zero) }", {}),
        ("(int64[N,6] m) => (bool[N,6] y) { f = Gather(table, m) y = Less(f, zero) }", {"table": np.float32([1, -1])}),
        ("(bool[N,6] m, float[N,6] x) => (bool[N,6] y) { f = Cast<to=1>(m) g = Mul(f, x) y = Less(g, zero) }", {}),
    ],
    ids=["floats", "several numbers", "always the same", "a table", "floats take part"],
)
def test_what_stays(text: str, constants: dict[str, np.ndarray]) -> None:
    assert_stays(AskIntegers(), build(text, zero=np.float32(0), **constants))


@pytest.mark.parametrize("kind", ["int64", "bool"])
def test_an_output_keeps_its_name(kind: str) -> None:
    text = f"({kind}[N,6] m) => (bool[N,6] keep, float[N,6] f) {{ f = Cast<to = 1>(m) keep = Greater(f, half) }}"
    model = build(text, half=np.float32(0.5))
    assert AskIntegers()(model).modified
    assert [value.name for value in model.graph.outputs] == ["keep", "f"]
    assert ops(model) == ["Cast", "GreaterOrEqual" if kind == "int64" else "Identity"]
