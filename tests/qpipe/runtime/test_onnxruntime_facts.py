"""What the exports rely on in onnxruntime: where its quantized kernels are exactly integer arithmetic.

Weights are small enough for pairs of products to stay in int16, so that all of it holds without VNNI too.
"""

import ml_dtypes
import numpy as np
import onnx
import pytest

from qpipe.arith.certificate import MAX_FINER
from qpipe.errors import ModelError
from qpipe.ir.files.upgrade import IR_VERSIONS, OPSET, TWO_BIT_OPSET
from qpipe.runtime.cpu import this_cpu
from qpipe.runtime.session import open_session
from support.networks import parse, scale_constants
from support.saturating_kernel import exact_matmul, saturating_matmul_u8s8

SQUARES = (1, 4, 9, 16, 25, 36, 49, 64, 100, 144, 196, 256)
INEXACT_RECIPROCALS = (7, 13, 14, 28, 125)  # Window sizes where sum * (1 / N) misses exact ties.
INT8 = onnx.TensorProto.INT8
ZERO_POINTS = [(0, 0), (0, 128), (128, 0), (128, 128), (94, 242)]


def round_half_even(numerator, denominator):
    """The quotient of integers, rounded half to even, in int64."""
    quotient, rest = np.divmod(numerator, denominator)
    return quotient + ((2 * rest > denominator) | ((2 * rest == denominator) & (quotient % 2 == 1)))


def shifted(numerator, denominator, shift):
    """clip-free numerator / denominator * 2**shift, rounded half to even."""
    return round_half_even(numerator * 2 ** max(shift, 0), denominator * 2 ** max(-shift, 0))


def run(model, **feeds):
    return open_session(model).run(None, feeds)[0].astype(np.int64)


def operators(model, folder):
    """The operators of the graph that onnxruntime really runs."""
    open_session(model, optimized_path=folder / "optimized.onnx")
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


def every_sum(size):
    """Windows uint8 [255 * size + 1, 1, 1, size], one for every sum that there can be, and the sums."""
    sums = np.arange(255 * size + 1)
    windows = (sums // size)[:, None] + (np.arange(size)[None] < (sums % size)[:, None])
    return windows.astype(np.uint8)[:, None, None, :], sums


def pool_model(kind, size, constants):
    if kind.startswith("QLinear"):
        attributes = "channels_last=0" if "Global" in kind else f"kernel_shape=[1,{size}]"
        nodes = f"y = com.microsoft.{kind}<{attributes}>(x, x_scale, x_zero, y_scale, y_zero)"
    else:
        nodes = f"""
            real = DequantizeLinear(x, x_scale, x_zero)
            mean = {kind}({"real, axes" if kind == "ReduceMean" else "real"})
            y = QuantizeLinear(mean, y_scale, y_zero)"""
    if kind == "ReduceMean":
        constants = {**constants, "axes": np.array([2, 3])}
    return parse(f"(uint8[N,1,1,{size}] x) => (uint8[] y) {{ {nodes} }}", **constants)


def count_wrong_means(kind, size, shift, zero_points):
    x, sums = every_sum(size)
    constants = scale_constants(x=(-7, zero_points[0]), y=(-7 - shift, zero_points[1]))
    y = run(pool_model(kind, size, constants), x=x).ravel()
    expected = shifted(sums - zero_points[0] * size, size, shift) + zero_points[1]
    return int((y != expected.clip(0, 255)).sum())


@pytest.mark.parametrize("kind", ["QLinearGlobalAveragePool", "QLinearAveragePool", "GlobalAveragePool", "ReduceMean"])
@pytest.mark.parametrize("size", SQUARES)
def test_average_of_a_square_window_is_the_rational_mean(kind, size):
    for shift in (-4, -1, 0, 1, 2, 4):
        for zero_points in ZERO_POINTS:
            assert count_wrong_means(kind, size, shift, zero_points) == 0


@pytest.mark.parametrize("size", INEXACT_RECIPROCALS)
def test_average_of_any_window_is_exact_as_reduce_mean(size):
    for shift in (-3, -1, 0, 1, 3):
        assert count_wrong_means("ReduceMean", size, shift, (0, 0)) == 0


@pytest.mark.parametrize("size", INEXACT_RECIPROCALS)
def test_average_of_any_window_is_exact_where_no_tie_exists(size):
    factors_of_two = (size & -size).bit_length() - 1
    for shift in (factors_of_two, factors_of_two + 2):
        assert count_wrong_means("QLinearGlobalAveragePool", size, shift, (0, 0)) == 0
        assert count_wrong_means("QLinearGlobalAveragePool", size, shift, (128, 128)) == 0


def test_reduce_mean_is_not_fused_but_global_average_pool_is(tmp_path):
    constants = scale_constants(x=(-7, 0), y=(-7, 0))
    assert operators(pool_model("ReduceMean", 7, constants), tmp_path).count("ReduceMean") == 1
    assert operators(pool_model("GlobalAveragePool", 7, constants), tmp_path) == ["QLinearGlobalAveragePool"]


def pair_model(op, constants, *, relu=False):
    text = f"""(uint8[1,65536] a, uint8[1,65536] b) => (uint8[] y) {{
        a_real = DequantizeLinear(a, a_scale, a_zero)
        b_real = DequantizeLinear(b, b_scale, b_zero)
        sum = {op}(a_real, b_real)
        {"positive = Relu(sum)" if relu else ""}
        y = QuantizeLinear({"positive" if relu else "sum"}, y_scale, y_zero)
    }}"""
    return parse(text, **constants)


@pytest.mark.parametrize("apart", [0, 1, 4, 8, 12, 15])
@pytest.mark.parametrize("relu", [False, True])
def test_add_of_every_pair_is_exact_up_to_15_exponents_apart(apart, relu):
    a, b = (grid.reshape(1, -1).astype(np.uint8) for grid in np.meshgrid(np.arange(256), np.arange(256)))
    for a_zero, b_zero in ZERO_POINTS:
        for y_zero in (0,) if relu else (0, 128, 242):
            for exponent in {-2, 0, apart // 2, apart, apart + 1}:
                constants = scale_constants(a=(apart - 6, a_zero), b=(-6, b_zero), y=(exponent - 6, y_zero))
                total = (a.astype(np.int64) - a_zero) * 2**apart + b.astype(np.int64) - b_zero
                expected = shifted(total, 1, -exponent)
                expected = (expected.clip(min=0) if relu else expected) + y_zero
                y = run(pair_model("Add", constants, relu=relu), a=a, b=b)
                np.testing.assert_array_equal(y, expected.clip(0, 255))


@pytest.mark.parametrize(("op", "relu"), [("Add", True), ("Mul", False)])
def test_a_pair_is_one_integer_kernel(op, relu, tmp_path):
    constants = scale_constants(a=(-4, 128), b=(-6, 0), y=(-5, 0))
    assert operators(pair_model(op, constants, relu=relu), tmp_path) == [f"QLinear{op}"]


@pytest.mark.parametrize("finer", [-12, -1, 0, 8, MAX_FINER])
def test_a_product_of_every_pair_is_exact_as_far_as_int32_holds_it(finer):
    """What is beyond saturates at either end; the largest of int32's would not."""
    a, b = (grid.reshape(1, -1).astype(np.uint8) for grid in np.meshgrid(np.arange(256), np.arange(256)))
    for a_zero, b_zero in ZERO_POINTS:
        for y_zero in (0, 94, 128):
            constants = scale_constants(a=(-3, a_zero), b=(-4, b_zero), y=(-7 - finer, y_zero))
            expected = shifted((a.astype(np.int64) - a_zero) * (b.astype(np.int64) - b_zero), 1, finer) + y_zero
            np.testing.assert_array_equal(run(pair_model("Mul", constants), a=a, b=b), expected.clip(0, 255))
    beyond = scale_constants(a=(-3, 0), b=(-4, 0), y=(-7 - MAX_FINER - 1, 0))
    assert not run(pair_model("Mul", beyond), a=a | 255, b=b | 255).any()


CONCAT = """(uint8[1,256] a, uint8[1,256] b) => (uint8[] y) {
    a_real = DequantizeLinear(a, a_scale, a_zero)
    b_real = DequantizeLinear(b, b_scale, b_zero)
    both = Concat<axis=1>(a_real, b_real)
    y = QuantizeLinear(both, y_scale, y_zero)
}"""


@pytest.mark.parametrize("exponent", [-4, -1, 0, 2])
def test_concat_requantizes_exactly(exponent, tmp_path):
    x = np.arange(256, dtype=np.uint8)[None]
    for a_zero, y_zero in ZERO_POINTS:
        model = parse(CONCAT, **scale_constants(a=(exponent - 3, a_zero), b=(-3, 128), y=(-3, y_zero)))
        assert operators(model, tmp_path) == ["QLinearConcat"]
        first = shifted(x.astype(np.int64) - a_zero, 1, exponent) + y_zero
        expected = np.concatenate([first, x.astype(np.int64) - 128 + y_zero], axis=1)
        np.testing.assert_array_equal(run(model, a=x, b=x), expected.clip(0, 255))


def near_ties(rng, multipliers, shift):
    """An int32 for each multiplier, whose product is one step around a tie of the requantization."""
    results = rng.integers(-260, 270, len(multipliers))
    return (2 * results + 1) * 2 ** (shift - 1) // multipliers + rng.integers(-1, 2, len(multipliers))


def requantizing_model(kind, shift, zero_point, multipliers, weight, bias):
    constants = {
        **scale_constants(x=(-8, 0), y=(-18 + shift, zero_point)),
        "w_scale": (multipliers * 2.0**-10).astype(np.float32),
        "w_zero": np.zeros(len(multipliers), np.int8),
        "w": weight.T[:, :, None, None] if kind == "QLinearConv" else weight,
        "bias": bias.astype(np.int32),
    }
    shape = f"[N,{weight.shape[0]}{',1,1' if kind == 'QLinearConv' else ''}]"
    factors = "x, x_scale, x_zero, w, w_scale, w_zero"
    node = {
        "QLinearConv": f"QLinearConv({factors}, y_scale, y_zero, bias)",
        "QGemm": f"com.microsoft.QGemm({factors}, bias, y_scale, y_zero)",
        "QLinearMatMul": f"QLinearMatMul({factors}, y_scale, y_zero)",
    }[kind]
    return parse(f"(uint8{shape} x) => (uint8[] y) {{ y = {node} }}", **constants)


@pytest.mark.parametrize("kind", ["QLinearConv", "QGemm"])
@pytest.mark.parametrize(("zero_point", "largest_shift"), [(0, 16), (128, 17), (94, 16), (242, 16)])
def test_requantization_per_channel_is_exact(kind, zero_point, largest_shift):
    rng = np.random.default_rng(0)
    for shift in (8, 12, 15, largest_shift - 1, largest_shift):
        multipliers = rng.integers(1, 256, 4096)
        weight = rng.integers(-64, 65, (4, 4096)).astype(np.int8)
        x = rng.integers(0, 256, (4, 4)).astype(np.uint8)
        bias = near_ties(rng, multipliers, shift) - x[0].astype(np.int64) @ weight
        model = requantizing_model(kind, shift, zero_point, multipliers, weight, bias)
        accumulator = x.astype(np.int64) @ weight + bias
        expected = shifted(accumulator * multipliers, 1, -shift) + zero_point
        y = run(model, x=x[:, :, None, None] if kind == "QLinearConv" else x).reshape(expected.shape)
        np.testing.assert_array_equal(y, expected.clip(0, 255))


@pytest.mark.parametrize(("zero_point", "shift"), [(0, 10), (0, 13), (128, 10), (128, 13), (242, 13)])
def test_matmul_requantization_per_column_is_exact(zero_point, shift):
    rng = np.random.default_rng(1)
    multipliers = rng.integers(1, 256, 512)
    weight = rng.integers(-64, 65, (64, 512)).astype(np.int8)
    x = rng.integers(0, 256, (256, 64)).astype(np.uint8)
    model = requantizing_model("QLinearMatMul", shift, zero_point, multipliers, weight, np.zeros(1))
    expected = shifted(x.astype(np.int64) @ weight * multipliers, 1, -shift) + zero_point
    np.testing.assert_array_equal(run(model, x=x), expected.clip(0, 255))


def integer_matmul(shape, weight):
    return parse(f"(uint8{list(shape)} x) => (int32[] y) {{ y = MatMulInteger(x, w) }}", w=weight)


@pytest.mark.parametrize("shape", [(3, 5, 7, 36), (64, 33)])
def test_integer_matmul_of_any_rank_is_exact(shape):
    rng = np.random.default_rng(2)
    x = rng.integers(0, 256, shape).astype(np.uint8)
    weight = rng.integers(-64, 65, (shape[-1], 16)).astype(np.int8)
    model = integer_matmul(shape, weight)
    np.testing.assert_array_equal(run(model, x=x), x.astype(np.int64) @ weight)


@pytest.mark.parametrize("rows", [1, 64])
def test_unsafe_pairs_are_exact_with_vnni_and_saturate_as_emulated_without(rows):
    rng = np.random.default_rng(3)
    x = rng.integers(0, 256, (rows, 64)).astype(np.uint8)
    weight = rng.integers(-127, 128, (64, 32)).astype(np.int8)
    exact, emulated = exact_matmul(x, weight), saturating_matmul_u8s8(x, weight)
    assert (exact != emulated).mean() > 0.4
    if not this_cpu().has_vnni and "AVX" not in this_cpu().describe():
        pytest.skip(f"pairs are a matter of x86, and this is {this_cpu().describe()}")
    model = integer_matmul(x.shape, weight)
    np.testing.assert_array_equal(run(model, x=x), exact if this_cpu().has_vnni else emulated)


def packed_model(dtype, low, high, opset, ir_version):
    """uint8 x [N, 5] times a packed constant [5, 7] behind a Cast to int8, and that constant."""
    weight = np.random.default_rng(4).integers(low, high + 1, (5, 7))
    text = f"(uint8[N,5] x) => (int32[] y) {{ int8 = Cast<to={INT8}>(w) y = MatMulInteger(x, int8) }}"
    return parse(text, opsets=f'"": {opset}', ir_version=ir_version, w=weight.astype(dtype)), weight


FOUR_BITS = [(ml_dtypes.int4, -8, 7), (ml_dtypes.uint4, 0, 15)]
TWO_BITS = [(ml_dtypes.int2, -2, 1), (ml_dtypes.uint2, 0, 3)]
LOADED = [(*kind, OPSET) for kind in FOUR_BITS] + [(*kind, opset) for kind in TWO_BITS for opset in (TWO_BIT_OPSET, 26)]


@pytest.mark.parametrize(("dtype", "low", "high", "opset"), LOADED)
def test_a_packed_constant_is_unpacked_when_a_session_starts(dtype, low, high, opset, tmp_path):
    model, weight = packed_model(dtype, low, high, opset, IR_VERSIONS[min(opset, TWO_BIT_OPSET)])
    assert operators(model, tmp_path) == ["MatMulInteger"]
    x = np.random.default_rng(5).integers(0, 256, (3, 5)).astype(np.uint8)
    np.testing.assert_array_equal(run(model, x=x), x.astype(np.int64) @ weight)


@pytest.mark.parametrize(("dtype", "low", "high"), TWO_BITS)
@pytest.mark.parametrize("opset", range(OPSET, TWO_BIT_OPSET))
def test_two_bits_do_not_load_before_opset_25(dtype, low, high, opset):
    model, _ = packed_model(dtype, low, high, opset, IR_VERSIONS[TWO_BIT_OPSET])
    with pytest.raises(ModelError, match=r"tensor\(u?int2\)"):
        open_session(model)


def packed_conv(dtype, opset, *, cast):
    """A quantized Conv whose weight is packed, behind a Cast to int8 or straight in its DequantizeLinear."""
    constants = {
        **scale_constants(x=(-7, 0), y=(-5, 0)),
        "w": np.random.default_rng(6).integers(-1, 2, (8, 4, 3, 3)).astype(dtype),
        "w_scale": np.full(8, 0.25, np.float32),
        "w_zero": np.zeros(8, np.int8 if cast else dtype),
    }
    text = f"""(uint8[N,4,8,8] x) => (uint8[] y) {{
        {f"int8 = Cast<to={INT8}>(w)" if cast else ""}
        x_real = DequantizeLinear(x, x_scale, x_zero)
        w_real = DequantizeLinear<axis=0>({"int8" if cast else "w"}, w_scale, w_zero)
        sum = Conv(x_real, w_real)
        y = QuantizeLinear(sum, y_scale, y_zero)
    }}"""
    return parse(text, opsets=f'"": {opset}', ir_version=IR_VERSIONS[opset], **constants)


@pytest.mark.parametrize(("dtype", "opset"), [(ml_dtypes.int4, OPSET), (ml_dtypes.int2, TWO_BIT_OPSET)])
def test_a_packed_weight_behind_a_cast_runs_in_integers(dtype, opset, tmp_path):
    assert "QLinearConv" in operators(packed_conv(dtype, opset, cast=True), tmp_path)


def test_a_packed_weight_without_a_cast_does_not(tmp_path):
    found = operators(packed_conv(ml_dtypes.int4, OPSET, cast=False), tmp_path)
    assert "Conv" in found
    assert "QLinearConv" not in found
    with pytest.raises(ModelError, match="QLinearConv"):
        open_session(packed_conv(ml_dtypes.int2, TWO_BIT_OPSET, cast=False))
