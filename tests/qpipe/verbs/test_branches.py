"""A network whose layers lie in branches of an If is calibrated as the branch that the data choose."""

import numpy as np
import onnx
import pytest

import qpipe
from qpipe.errors import ModelError
from qpipe.runtime.session import open_session, run_batches
from support.networks import parse

RNG = np.random.default_rng(0)
X = RNG.standard_normal((32, 6)).astype(np.float32)
WEIGHTS = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in {"a": (6, 8), "b": (8, 3)}.items()}
TEXT = """(float[N,6] x, {input}) => (float[N,3] y) {{
    {condition}
    y = If(chosen) <
        then_branch = one () => (float[N,3] y1) {{ h1 = MatMul(x, a) r1 = Relu(h1) y1 = MatMul(r1, b) }},
        else_branch = two () => (float[N,3] y2) {{ h2 = MatMul(x, a) r2 = Tanh(h2) y2 = MatMul(r2, b) }}
    >
}}"""
NETWORKS = {
    "int64": TEXT.format(input="int64 rate", condition="chosen = Equal(rate, r16)"),
    "list": TEXT.format(input="int32[1] rate", condition="e = Equal(rate, i16) chosen = Squeeze(e)"),
    "bool": TEXT.format(input="bool rate", condition="chosen = Not(rate)"),
}
CONSTANTS = {"r16": np.int64(16000), "i16": np.array([16000], np.int32)}
NUMBERS = {
    "int64": np.array([16000, 8000]), "list": np.array([[16000], [8000]], np.int32), "bool": np.array([False, True]),
}  # fmt: skip


def network(kind: str) -> onnx.ModelProto:
    used = {name: array for name, array in CONSTANTS.items() if name in NETWORKS[kind]}
    return parse(NETWORKS[kind], **WEIGHTS, **used)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("branch", [0, 1])
def test_each_branch_goes_through(kind, branch):
    data = {"x": X[:, None], "rate": np.stack([NUMBERS[kind][branch]] * len(X))}
    report = qpipe.inspect(network(kind))
    assert any("chooses the branch of If" in note for note in report.notes)
    with pytest.warns(UserWarning, match="input 'rate' chooses the branch of If .*, and is .* in the data"):
        qdq = qpipe.calibrate(network(kind), data)
    assert qpipe.inspect(qdq).ops.get("If") is None
    exported = qpipe.export(qdq, format="integer", data={"x": X})
    assert [value.name for value in exported.graph.inputs] == ["x"]
    real = np.concatenate([_run(network(kind), x=x[None], rate=np.asarray(NUMBERS[kind][branch])) for x in X])
    found = next(run_batches(open_session(exported), [X], rows_only=False))[0]
    assert np.square(found - real).mean() < 1e-2 * np.square(real).mean()


def test_data_that_choose_both_are_refused():
    data = {"x": X[:, None], "rate": np.resize(NUMBERS["int64"], len(X))}
    with pytest.raises(ModelError, match=r"chooses the branch of If .*: the data have 8000, 16000, expected one"):
        qpipe.calibrate(network("int64"), data)


def _run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    return np.asarray(open_session(model, threads=1).run(None, inputs)[0])
