"""The gate finds what was tampered with, and names the layer."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.rewrites.explicit_pools import ExplicitPools
from qpipe.arith.exact import Exact
from qpipe.arith.spec import QuantSpec
from qpipe.data import Batch
from qpipe.errors import LoweringError, ModelError, ParityError
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.view import is_final, read_view
from qpipe.lowering.marks import CODES_OF
from qpipe.ops import product_of
from qpipe.ops.add import Add
from qpipe.runtime.cut import with_outputs
from qpipe.runtime.differences import UNFUSED, Differences
from qpipe.runtime.gate import check_fused, run_gate
from qpipe.runtime.probes import draw_patterns, extremes, layer_probe
from support.networks import Weights, build, float_model
from support.quantize import finalized, finalized_on_grids, quantized, to_integer, to_qoperator
from support.zoo.residual import residual_network


@pytest.fixture
def spec():
    return finalized(quantized(residual_network()))


@pytest.fixture
def lowered(spec):
    return to_qoperator(spec)


def initializer(model: ir.Model, suffix: str) -> ir.Value:
    return next(value for name, value in model.graph.initializers.items() if name.endswith(suffix))


def change(value: ir.Value, edit) -> None:
    array = value.const_value.numpy().copy()
    edit(array)
    value.const_value = ir.tensor(array, name=value.name)


def test_an_equal_model_passes(spec, lowered):
    images = np.random.default_rng(0).standard_normal((20, 3, 8, 8)).astype(np.float32)
    report = run_gate(spec, lowered, batches=[Batch(images)])
    assert (report.images, report.extreme_rows, report.layer_rounds) == (20, 16, 6)
    assert report.tensors == 7
    assert report.integers > 10_000


def add_one(array):
    array.flat[0] += 1 if array.flat[0] < 100 else -1


def double(array):
    array.flat[-1] *= 2


@pytest.mark.parametrize(
    ("suffix", "edit", "layer"),
    [
        ("Conv_c1_weight", add_one, "Conv 'Conv_c1'"),
        ("Conv_c2_weight", add_one, "Conv 'Conv_c2'"),
        ("Gemm_y_weight", add_one, "Gemm 'Gemm_y'"),
        ("Conv_c2_weight_scale", double, "Conv 'Conv_c2'"),
        ("Gemm_y_bias", add_one, "Gemm 'Gemm_y'"),
    ],
)
def test_a_changed_integer_is_found_in_its_layer(spec, lowered, suffix, edit, layer):
    change(initializer(lowered, suffix), edit)
    with pytest.raises(ParityError, match=f"^{layer}: "):
        run_gate(spec, lowered)


def test_a_changed_bias_is_found(spec, lowered):
    def edit(array):
        array += 2000

    change(initializer(lowered, "Conv_c2_bias"), edit)
    with pytest.raises(ParityError, match=r"^Conv 'Conv_c2': "):
        run_gate(spec, lowered)


def test_a_changed_grid_is_found_in_the_add(spec, lowered):
    add = next(node for node in lowered.graph if node.op_type == "QLinearAdd")
    other = ir.Value(name="other", const_value=ir.tensor(np.float32(0.125), name="other"))
    lowered.graph.register_initializer(other)
    add.replace_input_with(6, other)
    with pytest.raises(ParityError, match=r"^Add 'Add_a': "):
        run_gate(spec, lowered)


def test_a_clip_that_is_left_out_is_found_by_extreme_integers():
    spec = finalized(quantized(residual_network(), bits=7))
    lowered = to_qoperator(spec)
    clip = next(node for node in lowered.graph if node.op_type == "Clip" and "Conv_c1" in node.name)
    value = clip.inputs[0]
    value.metadata_props.update(clip.outputs[0].metadata_props)
    clip.outputs[0].replace_all_uses_with(value)
    lowered.graph.remove(clip, safe=True)
    with pytest.raises(ParityError, match=r"^Conv 'Conv_c1': "):
        run_gate(spec, lowered)


def test_large_images_are_compared_on_fewer_rows(spec, lowered, monkeypatch):
    """Each has many windows; of extreme rows there is one of each kind at least."""
    monkeypatch.setattr("qpipe.runtime.gate.WHOLE_ELEMENTS", 1)
    images = np.random.default_rng(0).standard_normal((20, 3, 8, 8)).astype(np.float32)
    report = run_gate(spec, lowered, batches=[Batch(images[:5]), Batch(images[5:])])
    assert (report.images, report.extreme_rows) == (8, 8)


def test_a_tensor_that_nothing_holds(spec, lowered):
    value = next(value for node in lowered.graph for value in node.outputs if CODES_OF in value.metadata_props)
    del value.metadata_props[CODES_OF]
    with pytest.raises(ModelError, match="no tensor of the exported graph"):
        run_gate(spec, lowered)


def test_a_specification_that_stays_float_is_refused(spec):
    # A bias in other units than the product's keeps onnxruntime from fusing a Conv.
    layer = read_view(spec).layers[0]
    scale = layer.node.inputs[2].producer().inputs[1]

    def edit(array):
        array *= 2

    change(scale, edit)
    with pytest.raises(LoweringError, match="Conv_c1"):
        check_fused(spec, read_view(spec))


def test_a_last_layer_that_stays_float_is_refused(spec):
    dequantize = read_view(spec).layers[-1].node.inputs[1].producer()
    dequantize.resize_inputs(2)  # without a zero point onnxruntime does not fuse a Gemm
    with pytest.raises(LoweringError, match="Gemm_y"):
        check_fused(spec, read_view(spec))


def pool_network(attributes: str, *, height: int = 8) -> ir.Model:
    """Finalized, with the pool as it is given here: what passes would write otherwise stays."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 2, 1, 1)), "v": rng.standard_normal((3, 4, 1, 1))}
    nodes = ["c = Conv(x, w)", "r = Relu(c)", f"[pool] p = AveragePool<{attributes}>(r)", "y = Conv(p, v)"]
    model = float_model("net", (2, height, 8), nodes, **{name: w.astype(np.float32) for name, w in weights.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExplicitPools, "call", lambda self, model: ir.passes.PassResult(model, False))
        return finalized_on_grids(model, lambda: 1)


@pytest.mark.parametrize(("height", "pads"), [(8, [1, 1, 0, 0]), (7, [0, 0, 0, 0])])
def test_what_the_optimizer_makes_of_the_specification_is_compared_with_it(height, pads):
    """Both files would agree: each has the same fused kernel, which errs."""
    text = f"kernel_shape=[2, 2], strides=[2, 2], pads={pads}, ceil_mode=1, count_include_pad=1"
    spec = pool_network(text, height=height)
    with pytest.raises(ParityError, match=r"^AveragePool 'pool': .* says are others once onnxruntime optimizes it"):
        run_gate(spec, to_qoperator(spec))


def test_a_pool_that_onnxruntime_fuses_wrongly_is_no_part_of_a_certificate():
    spec = pool_network("kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 0, 0], ceil_mode=1, count_include_pad=1")
    assert certify(read_view(spec)).problems == [
        "AveragePool 'pool': hangs over pads that count, where onnxruntime divides by the whole window; calibrate the "
        "network again"
    ]


def test_what_a_layer_says_is_compared_with_the_file_as_it_is_written(spec, lowered, monkeypatch):
    """Without the optimizer, where float32 holds the sums."""

    def check(self, expected, found, what, *rest):
        return original(self, expected, found, what, *rest) if what == UNFUSED else None

    original = Differences.check
    monkeypatch.setattr(Add, "exact", lambda self, layer, a, b: Exact(a - b, layer.sources[0].grid.exponent))
    monkeypatch.setattr(Differences, "check", check)
    with pytest.raises(ParityError, match=r"^Add .* as onnxruntime runs it, without optimizing it, on single-layer"):
        run_gate(spec, lowered)


def test_outputs_are_the_tensors_asked_for(spec):
    names = [str(q.codes.name) for q in read_view(spec).inputs]
    assert [value.name for value in with_outputs(spec, names).graph.outputs] == names


def test_extremes_have_both_ends():
    spec = QuantSpec.signed(8, 0)
    codes = extremes((16, 3, 4, 4), spec, np.random.default_rng(0))
    assert (codes.min(), codes.max()) == (0, 255)
    assert any((row == 255).all() for row in codes)
    assert any((row == 0).all() for row in codes)


def test_patterns_reach_the_largest_sum_of_a_channel(spec):
    layer = read_view(spec).layers[0]
    grid, weight = layer.sources[0].grid, layer.weight.codes.astype(np.int64)
    codes = np.full((4, 3, 8, 8), grid.zero_point, np.uint8)
    draw_patterns(codes, layer, grid, 1, np.random.default_rng(0))
    padded = np.pad(codes, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=grid.zero_point).astype(np.int64) - 128
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    sums = np.einsum("nchwij,ocij->nohw", windows, weight)
    assert sums.max() == (np.where(weight > 0, 127, -128) * weight).sum(axis=(1, 2, 3)).max()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("text", "channels"),
    [
        ("pads=[1, 1, 1, 1]", 4),
        ("group=2, pads=[0, 2, 1, 0]", 2),
        ("group=4", 1),
        ("dilations=[2, 1], strides=[2, 3], pads=[1, 1, 0, 1]", 4),
    ],
)
def test_patterns_are_drawn_where_windows_see_them(text, channels, sign):
    """Of any window: some place sees each channel's largest sum, or its smallest."""
    weights = np.random.default_rng(0).standard_normal((4, channels, 3, 3)).astype(np.float32)
    model = float_model("net", (4, 13, 12), [f"c = Conv<{text}>(x, w)", "y = Relu(c)"], w=weights)
    layer = next(layer for layer in read_view(finalized(quantized(model))).layers if is_final(layer))
    grid, weight = layer.sources[0].grid, layer.weight.codes.astype(np.int64)
    codes = np.full((8, 4, 13, 12), grid.zero_point, np.uint8)
    draw_patterns(codes, layer, grid, sign, np.random.default_rng(0))
    x = codes.astype(np.int64) - grid.zero_point
    sums = sign * product_of(layer.node).sums(layer.node, weight, x, 255)
    ends = np.where(sign * weight > 0, grid.qmax, grid.qmin)
    np.testing.assert_array_equal(sums.max(axis=(0, 2, 3)), sign * (ends * weight).sum(axis=(1, 2, 3)))


def test_the_first_round_is_random(spec):
    codes = layer_probe((2, 3, 8, 8), QuantSpec.unsigned(4, 0), [], round_=0, rng=np.random.default_rng(0))
    assert set(np.unique(codes)) == set(range(16))


@pytest.mark.parametrize("batch", ["1", "2"])
def test_images_that_are_shuffled_with_their_channels(batch):
    """ShuffleNetV2 as PyTorch exports it: for a while the first axis is one of halves, and not of images."""
    w = Weights()
    w.normal("w1", 6, 3, 1, 1)
    w.normal("w2", 5, 3, 1, 1)
    count = int(batch) * 3
    w.constants |= {
        "pairs": np.array([count, 2, 20]), "images": np.array([2, -1, 3, 4, 5]), "zero": np.array([0]),
        "one": np.array([1]),
    }  # fmt: skip
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", "p = Reshape(r, pairs)", "t = Transpose<perm=[1, 0, 2]>(p)"]
    nodes += ["h = Reshape(t, images)", "s = Slice(h, zero, one, zero)", "q = Squeeze(s, zero)", "y = Conv(q, w2)"]
    model = build(f"(float[{batch},3,4,5] x) => (float[] y) {{ {' '.join(nodes)} }}", **w.constants)
    x = np.random.default_rng(0).standard_normal((int(batch), 3, 4, 5)).astype(np.float32)
    spec = finalized(quantized(model, x))
    for lowered in (to_qoperator(spec), to_integer(spec)):
        run_gate(spec, lowered)
