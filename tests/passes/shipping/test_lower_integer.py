"""The integer lowering of whole networks: its interface, what it stores, and the gate."""

import itertools
from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from passes.normalize import normalize
from passes.quantizing.calibrate_percentile import CalibratePercentile
from passes.quantizing.insert_quantizers import InsertQuantizers
from passes.shipping.finalize import Finalize
from passes.shipping.lower_integer import LowerInteger
from qpipe.arith.weights import pair_excess, pair_limit
from qpipe.data import Batch, Preprocess
from qpipe.data.carried import store_preprocess
from qpipe.errors import LoweringError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import get_json
from qpipe.ir.quantized.float_free import float_tensors
from qpipe.ir.quantized.view import read_view
from qpipe.lowering.integer_ends import code_tables, find_line
from qpipe.runtime.gate import run_gate
from support.networks import Weights, float_model
from support.quantize import finalized, finalized_on_grids, quantized, to_integer
from support.run import run
from support.zoo.residual import residual_network

IMAGE = (3, 8, 8)


def ops(model: ir.Model) -> Counter:
    return Counter(node.op_type for node in model.graph)


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (count, *IMAGE), np.uint8)


def with_preprocess(spec: ir.Model, **settings) -> Preprocess:
    preprocess = Preprocess(**settings)
    store_preprocess(spec, preprocess)
    return preprocess


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("weights", ["int8", "uint8"])
def test_the_gate_finds_no_difference(bits, weights):
    spec = finalized(quantized(residual_network(), bits=bits))
    model = to_integer(spec, weights=weights)
    report = run_gate(spec, model)
    assert report.tensors == 1 + len(read_view(spec).layers)
    assert ops(model)["MatMulInteger"] == 3


def test_it_is_a_drop_in():
    spec = finalized(quantized(residual_network()))
    model = to_integer(spec)
    for ours, theirs in zip(
        (*model.graph.inputs, *model.graph.outputs), (*spec.graph.inputs, *spec.graph.outputs), strict=True
    ):
        assert (ours.name, ours.dtype, ours.shape) == (theirs.name, theirs.dtype, theirs.shape)
    for batch in (1, 3):
        inputs = np.random.default_rng(0).standard_normal((batch, *IMAGE)).astype(np.float32)
        np.testing.assert_array_equal(run(model, inputs)[0], run(spec, inputs)[0])
    assert (ops(model)["QuantizeLinear"], ops(model)["DequantizeLinear"]) == (1, 1)
    assert set(model.opset_imports) == {""}
    assert {node.domain for node in model.graph} == {""}


def network_with_tail() -> ir.Model:
    w = Weights()
    w.normal("w1", 4, 3, 3, 3)
    w.normal("w2", 5, 4, 1, 1)
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", "l = Conv(r, w2)", "f = Flatten(l)", "y = Softmax<axis=1>(f)"]
    return finalized(quantized(float_model("net", IMAGE, nodes, **w.constants)))


def test_a_float_tail_stays():
    spec = network_with_tail()
    model = to_integer(spec)
    inputs = np.random.default_rng(0).standard_normal((2, *IMAGE)).astype(np.float32)
    np.testing.assert_array_equal(run(model, inputs)[0], run(spec, inputs)[0])
    assert ops(model)["Softmax"] == 1


def test_integer_outputs_cut_the_tail_off_and_say_so():
    spec = network_with_tail()
    with_preprocess(spec)
    model = to_integer(spec, io="integer")
    assert ops(model)["Softmax"] == 0
    assert [(value.name, value.dtype) for value in model.graph.outputs] == [("l", ir.DataType.INT32)]
    assert [name.split("_")[0] for name in get_json(model, "cut_tail")] == ["Flatten", "Softmax"]
    run_gate(spec, model)


def test_a_quantized_tensor_may_be_the_result():
    w = Weights()
    w.normal("w1", 4, 3, 3, 3)
    spec = finalized(
        quantized(float_model("net", IMAGE, ["c = Conv(x, w1)", "y = MaxPool<kernel_shape=[2,2]>(c)"], **w.constants))
    )
    preprocess = with_preprocess(spec)
    floats = run(spec, preprocess(images().transpose(0, 2, 3, 1)))[0]
    np.testing.assert_array_equal(run(to_integer(spec), preprocess(images().transpose(0, 2, 3, 1)))[0], floats)
    model = to_integer(spec, io="integer")
    (scale,) = get_json(model, "io")["scales"].values()
    found = run(model, images())[0]
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found * np.float32(scale), floats)


PREPROCESSING = [
    {},
    {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    {"mean": (120.0,), "std": (60.0,), "pixel_max": 255.0},
]


@pytest.mark.parametrize("settings", PREPROCESSING)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("table", [False, True])
def test_pixels_give_what_preprocessed_floats_give(settings, layout, table, monkeypatch):
    if table:
        monkeypatch.setattr("qpipe.lowering.integer_ends.find_line", lambda *_: None)
    spec = finalized_on_grids(residual_network(), lambda: 2)
    preprocess = with_preprocess(spec, **settings)
    model = to_integer(spec, io="integer", layout=layout)
    pixels = images()
    last = pixels.transpose(0, 2, 3, 1)
    found = run(model, pixels if layout == "NCHW" else np.ascontiguousarray(last))[0]
    io = get_json(model, "io")
    assert (io["layout"], model.graph.inputs[0].name, model.graph.outputs[0].name) == (layout, "x", "y")
    assert list(model.graph.inputs[0].shape[1:]) == ([3, 8, 8] if layout == "NCHW" else [8, 8, 3])
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found * np.float32(io["scales"]["y"]), run(spec, preprocess(last))[0])
    assert ops(model)["Gather"] == int(table)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_pixels_for_a_network_of_channels_last(layout):
    w = Weights()
    w.normal("w1", 4, 3, 3, 3)
    nodes = ["t = Transpose<perm=[0,3,1,2]>(x)", "c = Conv(t, w1)", "r = Relu(c)", "y = GlobalAveragePool(r)"]
    spec = finalized(quantized(float_model("net", (6, 7, 3), nodes, **w.constants)))
    preprocess = with_preprocess(spec, layout="NHWC")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 7, 3), np.uint8)
    model = to_integer(spec, io="integer", layout=layout)
    found = run(model, pixels if layout == "NHWC" else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))[0]
    (scale,) = get_json(model, "io")["scales"].values()
    np.testing.assert_array_equal(found * np.float32(scale), run(spec, preprocess(pixels))[0])


@pytest.mark.parametrize("settings", PREPROCESSING)
@pytest.mark.parametrize("exponent", [-9, -6, -3, 0])
def test_a_line_is_found_only_where_it_gives_the_table(settings, exponent):
    spec = finalized_on_grids(residual_network(), lambda: exponent + 7)
    grid = read_view(spec).inputs[0].grid
    preprocess = Preprocess(**settings)
    tables = code_tables(np.stack([preprocess.table(channel) for channel in range(3)]), grid)
    line = find_line(tables, grid)
    if line is not None:
        sums = np.arange(256) * line.slope[:, None] + line.offset[:, None]
        np.testing.assert_array_equal(np.clip(sums >> 16, grid.stored_min, grid.stored_max), tables)
    bent = tables.copy()
    bent[1, 128] = tables.min() if tables[1, 128] != tables.min() else tables.max()
    if np.ptp(tables[1]) > 1:
        assert find_line(bent, grid) is None


def test_integer_inputs_need_the_preprocessing():
    with pytest.raises(LoweringError, match=r"metadata 'qpipe.preprocess' is missing"):
        LowerInteger(io="integer")(finalized(quantized(residual_network())))


def test_integer_inputs_need_an_image():
    w = Weights()
    w.normal("w1", 6, 4)
    spec = finalized(quantized(float_model("net", (6,), ["y = MatMul(x, w1)"], **w.constants)))
    with_preprocess(spec)
    with pytest.raises(LoweringError, match=r"input 'x' has shape \[N,6\], expected an image of 4 dimensions"):
        LowerInteger(io="integer")(spec)


def test_an_unfinalized_model_is_refused():
    with pytest.raises(LoweringError, match="not finalized"):
        LowerInteger()(quantized(residual_network()))


@pytest.mark.parametrize(("bits", "dtype"), [(4, ir.DataType.INT4), (2, ir.DataType.INT2)])
def test_packed_weights_are_behind_a_cast(bits, dtype):
    model = to_integer(finalized(quantized(residual_network(), bits=bits)))
    packed = [value for value in model.graph.initializers.values() if value.dtype == dtype]
    assert len(packed) == 1  # the edges have 8 bits
    (cast,) = packed[0].consumers()
    assert (cast.op_type, cast.outputs[0].dtype) == ("Cast", ir.DataType.INT8)


def test_values_have_short_names_that_the_graph_has_not():
    spec = finalized(quantized(residual_network()))
    spec.graph.inputs[0].name = "i1"
    model = to_integer(spec)
    names = [value.name for node in model.graph for value in node.outputs]
    assert len(set(names) | {"i1"}) == len(names) + 1
    said = {str(value.name) for node in spec.graph for value in node.outputs}
    assert max(len(name) for name in names if name not in said and not name.endswith("_int32")) <= 5


def test_every_quantized_tensor_says_what_it_equals():
    spec = finalized(quantized(residual_network()))
    model = to_integer(spec)
    view = read_view(spec)
    expected = {q.codes.name for q in view.inputs}
    expected |= {layer.result.name if layer.quantizer is None else layer.quantizer.codes.name for layer in view.layers}
    marked = {value.metadata_props.get("qpipe.codes_of"): value for node in model.graph for value in node.outputs}
    assert set(marked) - {None} == expected
    for value in marked.values():
        layout = value.metadata_props.get("qpipe.layout")
        assert layout in {"NCHW", None} or len(value.shape) == 4


@pytest.mark.parametrize(("groups", "each"), [(8, 3), (5, 5), (40, 1), (33, 1), (6, 4), (1, 3), (1, 1), (1, 2)])
@pytest.mark.parametrize("kernel", [(3, 3), (7, 7), (4, 3)])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_every_matrix_keeps_its_pairs_safe(groups, each, kernel, stride):
    """Joining groups and folding strides gives weights other neighbours: none that int16 could not hold."""
    w = Weights(3)
    w.normal("w1", groups * 2, each, *kernel)
    w.normal("w2", 4, groups * 2, 1, 1)
    nodes = [f"c = Conv<group={groups}, strides=[{stride}, {stride}]>(x, w1)", "r = Relu(c)", "y = Conv(r, w2)"]
    spec = finalized(quantized(float_model("net", (groups * each, 9, 9), nodes, **w.constants)))
    model = to_integer(spec)
    matrices = [node.inputs[1] for node in model.graph if node.op_type == "MatMulInteger"]
    named = {
        value.name: value
        for value in itertools.chain(*(n.outputs for n in model.graph), model.graph.initializers.values())
    }
    assert len(matrices) >= 2
    for matrix in evaluated(model, [named[value.name] for value in matrices]):
        assert matrix.dtype == np.int8
        assert not pair_excess(matrix.T.astype(np.int64), pair_limit(255)).any()


def evaluated(model: ir.Model, values: list[ir.Value]) -> list[np.ndarray]:
    """Constants of the graph, computed where they are not initializers."""
    copy = model.clone()
    found = {value.name: value for node in copy.graph for value in node.outputs}
    computed = [found[value.name] for value in values if value.name in found]
    arrays = {value.name: value.const_value.numpy() for value in values if value.const_value is not None}
    if computed:
        copy.graph.outputs.clear()
        copy.graph.outputs.extend(computed)
        ir.passes.common.RemoveUnusedNodesPass()(copy)
        copy.graph.inputs.clear()
        session = onnxruntime.InferenceSession(ir.to_proto(copy).SerializeToString())
        arrays.update(zip([value.name for value in computed], session.run(None, {}), strict=True))
    return [arrays[value.name] for value in values]


@pytest.mark.slow
def test_a_pretrained_network(shared):
    """ResNet-20 with its BatchNormalizations, Pads and strided Slices: every integer, from pixels too."""
    model = load_model(shared / "models" / "resnet20_cifar10_bn.onnx")
    normalize(model)
    preprocess = with_preprocess(model, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    with np.load(shared / "data" / "cifar10.npz") as data:
        pixels = data["test_images"][:128]
    CalibratePercentile(inputs=[preprocess(pixels[:64])])(model)
    InsertQuantizers()(model)
    Finalize()(model)
    integer, from_pixels = to_integer(model), to_integer(model, io="integer", layout="NHWC")
    assert float_tensors(integer) == float_tensors(from_pixels) == []
    run_gate(model, integer, batches=[Batch(preprocess(pixels[64:]))])
    expected = run(model, preprocess(pixels))[0]
    (scale,) = get_json(from_pixels, "io")["scales"].values()
    np.testing.assert_array_equal(run(from_pixels, pixels)[0] * np.float32(scale), expected)
    assert len(set(expected.argmax(axis=1))) == 10
