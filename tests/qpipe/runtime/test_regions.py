"""Networks with islands of float: every integer of each region is compared, from the floats at its beginning."""

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.data import Batch
from qpipe.errors import ModelError, ParityError
from qpipe.ir.quantized.view import read_view
from qpipe.nodes import replace_constant
from qpipe.runtime.cut import begin_at
from qpipe.runtime.gate import run_gate
from qpipe.runtime.regions import Regions
from support.networks import Weights, build
from support.quantize import finalized, quantized, to_integer, to_qoperator

LOWERINGS = [to_qoperator, to_integer]
IMAGE = (3, 8, 8)
INNER = {
    "softmax": "m = Softmax<axis=1>(a)",
    "length": "m = LpNormalization<axis=1>(a)",
    "normalized": "m = LayerNormalization<axis=2>(a, gain)",
    "residual": "s = Softmax<axis=1>(a) m = Mul(s, a)",
    "two regions": "s = Erf(a) k = Conv(s, w4) m = Exp(k)",
    "split": "l, r = Split<axis=1, num_outputs=2>(a) e = Erf(l) m = Concat<axis=1>(e, r)",
    "a product of activations": "t = Transpose<perm=[0,1,3,2]>(a) p = MatMul(a, t) m = Softmax<axis=-1>(p)",
    "a branch": (
        "e = Erf(a) m = If<then_branch = then () => (float[] p) { p = Exp(e) }, "
        "else_branch = other () => (float[] o) { o = Sin(a) }>(flag)"
    ),
    "recurrent": (
        "rows = Reshape(a, sizes) t = Transpose<perm=[1,0,2]>(rows) h, last = LSTM<hidden_size=8>(t, wl, rl) "
        "g = Transpose<perm=[2,0,1,3]>(h) m = Reshape(g, back)"
    ),
}


def network(inner: str, outer: str = "y = Gemm<transB=1>(f, w3)") -> ir.Model:
    """Conv, the inner nodes from `a` to `m` [N, 6, 8, 8], Conv, Gemm."""
    w = Weights()
    w.normal("w1", 6, 3, 3, 3)
    w.normal("w2", 4, 6, 3, 3)
    w.normal("w3", 5, 4 * 64)
    w.normal("w4", 6, 6, 1, 1)
    w.normal("wl", 1, 32, 64)
    w.normal("rl", 1, 32, 8)
    w.constants |= {
        "gain": np.linspace(0.5, 1.5, 8, dtype=np.float32), "flag": np.array(True),
        "sizes": np.array([0, 6, 64]), "back": np.array([0, 6, 1, 8]),
    }  # fmt: skip
    pads = "kernel_shape=[3,3], pads=[1,1,1,1]"
    nodes = f"c = Conv<{pads}>(x, w1) a = Relu(c) {inner} d = Conv<{pads}>(m, w2) e2 = Relu(d) f = Flatten(e2) {outer}"
    used = {name: array for name, array in w.constants.items() if name in nodes}
    return build(f"net (float[N, 3, 8, 8] x) => (float[] y) {{ {nodes} }}", **used)


def images(count: int = 12) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *IMAGE)).astype(np.float32)


def spec_of(inner: str, **options: str) -> ir.Model:
    return finalized(quantized(network(inner, **options)))


@pytest.mark.parametrize("lower", LOWERINGS)
@pytest.mark.parametrize("inner", [name for name in INNER if name != "recurrent"])
def test_every_lowering_passes_the_gate(inner: str, lower) -> None:
    spec = spec_of(INNER[inner])
    report = run_gate(spec, lower(spec), batches=[Batch(images())])
    assert report.tensors == len(read_view(spec).inputs) + len(read_view(spec).layers)
    assert (report.images, report.extreme_rows) == (12, 16)


@pytest.mark.parametrize("lower", LOWERINGS)
def test_an_integer_behind_an_island_is_compared(lower) -> None:
    spec = spec_of(INNER["length"])
    lowered = lower(spec)
    # The weights of the Conv behind the island.
    name = next(name for name, value in lowered.graph.initializers.items() if value.const_value.size == 216)
    codes = lowered.graph.initializers[name].const_value.numpy().copy()
    codes.flat[100] += 1 if codes.flat[100] < 100 else -1
    replace_constant(lowered.graph.initializers[name], codes)
    with pytest.raises(ParityError, match=r"^Conv 'Conv_d': "):
        run_gate(spec, lowered)


@pytest.mark.parametrize("lower", LOWERINGS)
def test_the_codes_at_which_a_region_begins_are_compared(lower) -> None:
    spec = spec_of(INNER["length"])
    lowered = lower(spec)
    quantize = next(node for node in lowered.graph if node.op_type == "QuantizeLinear" and node.inputs[0].name == "m")
    other = ir.Value(name="other", const_value=ir.tensor(np.float32(0.125), name="other"))
    lowered.graph.register_initializer(other)
    quantize.replace_input_with(1, other)
    with pytest.raises(ParityError, match=r"^input 'm': "):
        run_gate(spec, lowered)


def test_both_models_begin_at_the_floats_of_the_specification() -> None:
    """Floats that a lowered file rounds otherwise are no error; integers from there on are equal all the same."""
    spec = spec_of(INNER["length"])
    lowered = to_qoperator(spec)
    float_node = next(node for node in lowered.graph if node.op_type == "LpNormalization")
    float_node.op_type = "Hardmax"
    run_gate(spec, lowered, batches=[Batch(images())])


@pytest.mark.parametrize("lower", LOWERINGS)
def test_what_stays_float_reads_the_input_as_it_is(lower) -> None:
    """A network that gives its input less what it finds in it."""
    nodes = "c = Conv(x, w1) a = Relu(c) d = Conv(a, w2) n = Tanh(d) m = Mul(n, x) y = Sub(x, m)"
    weights = {"w1": images(6)[:, :, :1, :1], "w2": images(6)[:3, :, :1, 0].repeat(2, 1)[..., None][..., :1]}
    spec = finalized(quantized(build(f"net (float[N, 3, 8, 8] x) => (float[] y) {{ {nodes} }}", **weights)))
    lowered = lower(spec)
    run_gate(spec, lowered, batches=[Batch(images())])
    for model in (spec, lowered):
        readers = [node.op_type for node in model.graph.inputs[0].consumers()]
        assert sorted(readers) == ["Mul", "QuantizeLinear", "Sub"]


def test_floats_that_are_not_finite_are_named() -> None:
    w = np.ones((2, 3, 1, 1), np.float32)
    spec = finalized(quantized(build("net (float[N, 3, 8, 8] x) => (float[] y) { m = Exp(x) y = Conv(m, w) }", w=w)))
    regions = Regions(spec, read_view(spec))
    with pytest.raises(ModelError, match=r"^tensor 'm' has NaN or infinite values"):
        regions.piece(Batch(1e4 * images()))


def test_a_lowered_graph_without_the_float_is_named() -> None:
    with pytest.raises(ModelError, match="no node of the exported graph gives 'nothing'"):
        begin_at(spec_of(INNER["length"]), ["nothing"])
