"""What integers alone say: the codes that a lowering looks up are those that QuantizeLinear makes of the floats."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qpipe
from qpipe.arith.quantize import quantize
from qpipe.arith.spec import QuantSpec
from qpipe.errors import LoweringError
from qpipe.ir.quantized.float_free import float_tensors
from qpipe.ir.quantized.view import read_view
from qpipe.lowering.ends import add_nodes
from qpipe.lowering.integer_builder import IntegerBuilder
from qpipe.ops import lookup
from qpipe.ops.lookup import lookup_of
from qpipe.runtime.session import open_session, run_batches
from support.networks import build, load, parse
from support.run import run_as_written

RNG = np.random.default_rng(0)
ONE = np.float32(1)
FORMATS = ("integer", "qoperator", "qdq")
KINDS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64")


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def looked_up(model: ir.Model, spec: QuantSpec, **inputs: np.ndarray) -> np.ndarray:
    """The codes of `y` on onnxruntime; LoweringError where there are too many."""
    found = lookup_of(model.graph.outputs[0])
    assert found is not None
    b = IntegerBuilder(model.graph)
    codes = found.write(lambda x: (quantize(x.astype(np.float64), spec) + spec.zero_point).astype(np.uint8), b, "y")
    model.graph.outputs[0] = codes
    add_nodes(model, b.nodes)
    return np.asarray(open_session(model, threads=1, optimize=False).run(None, inputs)[0])


def expected(model: ir.Model, spec: QuantSpec, **inputs: np.ndarray) -> np.ndarray:
    """What onnxruntime's own floats become: half to even, as ONNX's QuantizeLinear says, within the grid's range."""
    (y,) = run_as_written(model, **inputs)
    return np.clip(np.rint(y.astype(np.float64) / spec.scale), spec.qmin, spec.qmax) + spec.zero_point


grids = st.builds(
    lambda bits, exponent, signed: (QuantSpec.signed if signed else QuantSpec.unsigned)(bits, exponent),
    st.integers(2, 8),
    st.integers(-10, 6),
    st.booleans(),
)
numbers = st.floats(-1e4, 1e4, width=32).filter(lambda x: abs(x) > 1e-2)


@settings(max_examples=40)
@given(
    st.sampled_from(KINDS),
    grids,
    st.lists(st.tuples(st.sampled_from(["Add", "Sub", "Mul", "Div"]), numbers, st.booleans()), max_size=3),
)
def test_every_integer_has_its_code(kind, spec, steps):
    nodes, constants = [f"f0 = Cast<to=1>({'x'})"], {}
    for i, (op, number, is_first) in enumerate(steps):
        constants[f"c{i}"] = np.float32(number)
        pair = f"c{i}, f{i}" if is_first and op != "Div" else f"f{i}, c{i}"
        nodes.append(f"f{i + 1} = {op}({pair})")
    text = f"({kind}[N,1] x) => (float[] y) {{ {' '.join(nodes)} y = Identity(f{len(steps)}) }}"
    if kind == "bool":
        x = np.array([[False], [True]])
    else:
        # Where the codes of the numbers begin and end to change, around 0, and the ends of the type.
        limits, middle = np.iinfo(kind), RNG.integers(-70, 70, 40)
        wide = [int(n) for scale in (1, 2**6, 2**12, 2**20) for n in middle * scale]
        kept = [n for n in wide if limits.min <= n <= limits.max]
        x = np.array([limits.min, limits.min + 1, limits.max - 1, limits.max, *kept], kind)[:, None]
    model = build(text, **constants)
    try:
        found = looked_up(model.clone(), spec, x=x)
    except LoweringError:
        # So flat that more than a million integers lie between the first code and the last.
        assert abs(expected_slope(steps)) < 256 * spec.scale / 2**20
        return
    np.testing.assert_array_equal(found, expected(model, spec, x=x))


def expected_slope(steps: list[tuple[str, float, bool]]) -> float:
    slope = 1.0
    for op, number, _ in steps:
        slope = slope * number if op == "Mul" else slope / number if op == "Div" else slope
    return slope


@settings(max_examples=20)
@given(grids, st.sampled_from(["int32", "int64"]), st.integers(0, 1), st.integers(0, 2**32 - 1))
def test_rows_of_a_table(spec, kind, axis, seed):
    rng = np.random.default_rng(seed)
    table = (rng.standard_normal((9, 9)) * 2.0 ** rng.integers(-8, 6)).astype(np.float32)
    text = (
        f"({kind}[N,4] x) => (float[] y) {{ g = Gather<axis={axis}>(table, x) m = Mul(g, c) "
        "t = Transpose<perm=[0,2,1]>(m) y = Add(d, t) }"
    )
    constants = {"table": table, "c": np.float32(3), "d": np.float32([0.25])}
    x = rng.integers(-9, 9, (3, 4)).astype(kind)
    model = build(text, **constants)
    found = looked_up(model.clone(), spec, x=x)
    np.testing.assert_array_equal(found, expected(model, spec, x=x))


NEAR_MISSES = {
    "tokens of floats": "(float[N,4] x) => (float[] y) { f = Floor(x) t = Cast<to=7>(f) y = Gather(table, t) }",
    "sizes of floats": "(float[N,4] x) => (float[] y) { t = Shape(x) y = Gather(table, t) }",
    "a table that is computed": "(int64[N] x, float[5,3] table2) => (float[] y) { y = Gather(table2, x) }",
    "one over a number": "(int64[N] x) => (float[] y) { f = Cast<to=1>(x) y = Div(one, f) }",
    "numbers along an axis": "(int64[N,5,3] x) => (float[] y) { f = Cast<to=1>(x) y = Add(f, table) }",
    "infinite": "(int64[N] x) => (float[] y) { f = Cast<to=1>(x) y = Mul(f, infinite) }",
    "another float": "(int64[N] x, float[N] z) => (float[] y) { f = Cast<to=1>(x) y = Add(f, z) }",
    "no step": "(int64[N] x) => (float[] y) { f = Cast<to=1>(x) y = Exp(f) }",
    "half": "(int64[N] x) => (float[] y) { h = Cast<to=10>(x) y = Cast<to=1>(h) }",
    "truth of a float": "(float[N] x) => (float[] y) { b = Cast<to=9>(x) y = Where(b, one, infinite) }",
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_what_is_none(name):
    constants = {"table": floats(5, 3), "one": np.float32(1), "infinite": np.float32(np.inf)}
    text = NEAR_MISSES[name]
    model = build(text, **{key: value for key, value in constants.items() if key in text.replace("table2", "")})
    assert lookup_of(model.graph.outputs[0]) is None


def test_a_table_whose_rows_are_changed() -> None:
    """Such as by the root of their length, where another layer reads it too: the codes are of what rows become."""
    network = parse(
        "(int64[N,6] tokens) => (float[N,6,11] y) { e = Gather(table, tokens) x = Mul(e, number) h = MatMul(x, w1) "
        "r = Relu(h) g = MatMul(r, w2) t = Transpose<perm=[1,0]>(table) y = MatMul(g, t) }",
        table=floats(11, 4), number=np.float32(3), w1=floats(4, 8), w2=floats(8, 4),
    )  # fmt: skip
    data = {"tokens": RNG.integers(0, 11, (64, 6))}
    qdq, found = qpipe.calibrate(network, data), []
    for format_ in FORMATS:
        exported = qpipe.export(qdq, format=format_, data=data)
        found.append(next(run_batches(open_session(exported), [data], rows_only=False))[0])
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[2])
    real = next(run_batches(open_session(load(network)), [data], rows_only=False))[0]
    assert np.square(found[2] - real).mean() < 0.05 * np.square(real).mean()


def test_a_table_that_two_share_and_the_last_layer():
    table = floats(11, 4)
    network = parse(
        "(int64[N,6] tokens, int64[N,6] next) => (float[N,6,11] y) { a = Gather(table, tokens) b = Gather(table, next) "
        "s = Add(a, b) h = MatMul(s, w1) r = Relu(h) g = MatMul(r, w2) t = Transpose<perm=[1,0]>(table) "
        "y = MatMul(g, t) }",
        table=table, w1=floats(4, 8), w2=floats(8, 4),
    )  # fmt: skip
    data = {"tokens": RNG.integers(0, 11, (32, 6)), "next": RNG.integers(0, 11, (32, 6))}
    qdq = qpipe.calibrate(network, data)
    assert read_view(qdq).islands == []
    spec = qpipe.export(qdq, format="qdq", data=data)
    assert all(tensor.dtype != ir.DataType.FLOAT or tensor.size < 44 for tensor in constants(spec))
    exported = qpipe.export(qdq, format="integer", data=data)
    assert float_tensors(exported) == []


def constants(model: ir.Model) -> list[ir.TensorProtocol]:
    return [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]


def test_a_table_that_something_float_reads_stays_float_there():
    network = parse(
        "(int64[N,6] tokens) => (float[N,8] y, float[] e) { e = Gather(table, tokens) f = Flatten(e) h = Gemm(f, w1) "
        "r = Relu(h) y = Gemm(r, w2) }",
        table=floats(11, 4), w1=floats(24, 8), w2=floats(8, 8),
    )  # fmt: skip
    data = {"tokens": RNG.integers(0, 11, (32, 6))}
    qdq = qpipe.calibrate(network, data)
    assert [layer.op_type for layer in read_view(qdq).islands] == ["Gather"]
    exported = qpipe.export(qdq, format="integer", integer_only=False, data=data)
    _, e = next(run_batches(open_session(exported), [data], rows_only=False))
    real = next(run_batches(open_session(load(network)), [data], rows_only=False))[1]
    np.testing.assert_array_equal(e, real)


def test_a_table_trains():
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 11, (256, 6))
    labels = (tokens < 5).sum(1) > 2
    table, w1, w2 = (rng.standard_normal(shape).astype(np.float32) for shape in ((11, 4), (24, 8), (8, 2)))
    network = parse(
        "(int64[N,6] tokens) => (float[N,2] y) { e = Gather(table, tokens) f = Flatten(e) h = Gemm(f, w1) "
        "r = Relu(h) y = Gemm(r, w2) }",
        table=table, w1=w1 / 5, w2=w2 / 3,
    )  # fmt: skip
    data = {"tokens": tokens, "labels": labels.astype(np.int64)}
    qdq = qpipe.calibrate(network, {"tokens": tokens})
    trained = qpipe.finetune(qdq, data, epochs=30, lr=0.01, batch_size=32)
    (before,) = (value.const_value for value in qdq.graph.initializers.values() if value.name == "table")
    gathers = [node for node in trained.graph if node.op_type == "Gather"]
    (after,) = (node.inputs[0].const_value for node in gathers if node.inputs[0].shape == (11, 4))
    assert not np.array_equal(before.numpy(), after.numpy())
    exported = qpipe.export(trained, format="integer", data={"tokens": tokens})
    assert float_tensors(exported) == []
    y = next(run_batches(open_session(exported), [{"tokens": tokens}], rows_only=False))[0]
    assert (y.argmax(1) == labels).mean() > 0.75


def test_each_value_is_followed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a chain is, and whatever is asked of it, in whichever order."""
    steps = [f"v{i + 1} = Abs(v{i})" for i in range(200)]
    model = build(f"(int64[N] v0) => (float[] y) {{ {' '.join(steps)} f = Cast<to=1>(v200) y = Add(f, one) }}", one=ONE)
    asked, read = [], lookup._integers_read
    monkeypatch.setattr(lookup, "_integers_read", lambda value: asked.append(value) or read(value))
    origins = lookup.Origins()
    values = [*model.graph.inputs, *(node.outputs[0] for node in model.graph)]
    found = [origins.is_integer(value) for value in (*values[::2], *values[1::2])]
    assert sum(found) == 201
    assert [origins.are_looked_up(value) for value in values[-3:]] == [False, True, True]
    # Once before what it is computed from is known, and once after.
    assert len(asked) <= 2 * len(values)


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_asked_together_or_one_by_one(name: str) -> None:
    constants = {"table": floats(5, 3), "one": np.float32(1), "infinite": np.float32(np.inf)}
    text = NEAR_MISSES[name]
    model = build(text, **{key: value for key, value in constants.items() if key in text.replace("table2", "")})
    together = lookup.Origins()
    for value in [*model.graph.inputs, *(node.outputs[0] for node in model.graph)]:
        assert together.is_integer(value) == lookup.Origins().is_integer(value)
        assert together.are_looked_up(value) == (lookup_of(value) is not None)
