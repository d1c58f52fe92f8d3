"""Networks with islands of float: every integer of each region is compared, from the floats at its beginning."""

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.data import Batch, Preprocess
from qpipe.data.carried import store_preprocess
from qpipe.errors import LoweringError, ModelError, ParityError
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
    "two regions": "s = LpNormalization<axis=1>(a) k = Conv(s, w4) m = LpNormalization<axis=1>(k)",
    "split": "l, r = Split<axis=1, num_outputs=2>(a) e = Erf(l) m = Concat<axis=1>(e, r)",
    "a branch": (
        "e = Erf(a) m = If<then_branch = then () => (float[] p) { p = Exp(e) }, "
        "else_branch = other () => (float[] o) { o = Sin(a) }>(flag)"
    ),
    # Time comes first in it, and several of its outputs are left out.
    "LSTM": (
        "rows = Reshape(a, sizes) t = Transpose<perm=[1,0,2]>(rows) h, , state = LSTM<hidden_size=64>(t, wl, rl) "
        "s = Squeeze(h, one) g = Transpose<perm=[1,0,2]>(s) m = Reshape(g, back)"
    ),
    "GRU, whose last state is read": (
        "rows = Reshape(a, sizes) t = Transpose<perm=[1,0,2]>(rows) , h = GRU<hidden_size=64>(t, wg, rg) "
        "s = Transpose<perm=[1,0,2]>(h) g = Reshape(s, one_image) m = Add(a, g)"
    ),
    "a scan": (
        "z = Slice(a, nought, one, axis) first = Squeeze(z, axis) s, m = Scan<num_scan_inputs=1, scan_input_axes=[2], "
        "scan_output_axes=[2], body = body (float[N,6,8] v, float[N,6,8] e) => (float[N,6,8] sum, float[N,6,8] o) "
        "{ sum = Add(v, e) o = Sin(sum) }>(first, a)"
    ),
    "choices": ("k, i = TopK<axis=-1>(a, eight) e = Cast<to=1>(i) b = Mul(e, k) m = Hardmax<axis=1>(b)"),
}
LOOP = (
    "m = Loop<body = body (int64 i, bool go_on, float[] v) => (bool go, float[] w) "
    "{ go = Identity(go_on) w = LpNormalization<axis=1>(v) }>(three, flag, a)"
)


def network(inner: str, outer: str = "y = Gemm<transB=1>(f, w3)") -> ir.Model:
    """Conv, the inner nodes from `a` to `m` [N, 6, 8, 8], Conv, Gemm."""
    w = Weights()
    w.normal("w1", 6, 3, 3, 3)
    w.normal("w2", 4, 6, 3, 3)
    w.normal("w3", 5, 4 * 64)
    w.normal("w4", 6, 6, 1, 1)
    for name, gates in (("l", 4), ("g", 3)):
        w.normal(f"w{name}", 1, gates * 64, 64)
        w.normal(f"r{name}", 1, gates * 64, 64)
    w.constants |= {
        "gain": np.linspace(0.5, 1.5, 8, dtype=np.float32), "flag": np.array(True),
        "sizes": np.array([0, 6, 64]), "back": np.array([0, 6, 8, 8]), "one": np.array([1]),
        "one_image": np.array([0, 1, 8, 8]), "three": np.array(3),
        "eight": np.array([8]), "nought": np.array([0]), "axis": np.array([2]),
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
@pytest.mark.parametrize("inner", list(INNER))
def test_every_lowering_passes_the_gate(inner: str, lower) -> None:
    spec = spec_of(INNER[inner])
    report = run_gate(spec, lower(spec), batches=[Batch(images())])
    assert report.tensors == len(read_view(spec).inputs) + len(read_view(spec).layers)
    assert (report.images, report.extreme_rows) == (12, 16)


def test_a_shape_that_nobody_knows() -> None:
    """What a loop gives may have any; the operators of one format ask for no shape, the other names the tensor."""
    spec = spec_of(LOOP)
    run_gate(spec, to_qoperator(spec), batches=[Batch(images())])
    with pytest.raises(LoweringError, match=r"^tensor 'e2': its rank is unknown"):
        to_integer(spec)


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


@pytest.mark.parametrize("lower", LOWERINGS)
def test_an_island_at_the_input_of_which_a_loop_reads_from_outside(lower) -> None:
    """As tf2onnx writes Keras' LSTM: the body of its loop takes the input's rows from outside."""
    nodes = (
        "r = Reshape(x, sizes) m = Loop<body = body (int64 i, bool go_on, float[N,192] v) => (bool go, float[N,192] w) "
        "{ go = Identity(go_on) s = Sin(v) w = Add(s, r) }>(three, flag, r) y = Gemm<transB=1>(m, w3)"
    )
    constants = {"flag": np.array(True), "three": np.array(3), "sizes": np.array([0, 192])}
    graph = f"net (float[N, 3, 8, 8] x) => (float[] y) {{ {nodes} }}"
    spec = finalized(quantized(build(graph, **constants, w3=images(5).reshape(5, 192))))
    assert run_gate(spec, lower(spec)).layer_rounds


def test_floats_that_are_not_finite_are_named() -> None:
    w = np.ones((2, 3, 1, 1), np.float32)
    spec = finalized(quantized(build("net (float[N, 3, 8, 8] x) => (float[] y) { m = Sinh(x) y = Conv(m, w) }", w=w)))
    regions = Regions(spec, read_view(spec))
    with pytest.raises(ModelError, match=r"^tensor 'm' has NaN or infinite values"):
        regions.piece(Batch(1e4 * images()))


def test_a_lowered_graph_without_the_float_is_named() -> None:
    with pytest.raises(ModelError, match="no node of the exported graph gives 'nothing'"):
        begin_at(spec_of(INNER["length"]), ["nothing"])


@pytest.mark.parametrize("lower", LOWERINGS)
def test_pixels_and_integers_at_both_ends_of_a_network_with_an_island(lower) -> None:
    spec = spec_of(INNER["length"])
    store_preprocess(spec, Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    lowered = lower(spec, io="integer")
    assert (lowered.graph.inputs[0].dtype, lowered.graph.outputs[0].dtype) == (ir.DataType.UINT8, ir.DataType.INT32)
    run_gate(spec, lowered)


@pytest.mark.parametrize("lower", LOWERINGS)
@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ("[odd] m = LpNormalization<axis=1>(x) y = Conv(m, w)", "reads the input in float, expected io 'float'"),
        (
            "a = Conv(x, w) [odd] m = LpNormalization<axis=1>(a) d = Conv(m, w) y = Sub(m, d)",
            "an output is made of its floats, expected io 'float'",
        ),
    ],
)
def test_floats_at_an_end_that_is_to_be_integer(nodes: str, words: str, lower) -> None:
    w = images(3)[:, :, :1, :1]
    spec = finalized(quantized(build(f"net (float[N, 3, 8, 8] x) => (float[] y) {{ {nodes} }}", w=w)))
    store_preprocess(spec, Preprocess())
    with pytest.raises(LoweringError, match=f"^LpNormalization 'odd': {words}"):
        lower(spec, io="integer")
