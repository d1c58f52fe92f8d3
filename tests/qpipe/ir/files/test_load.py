import contextlib
import os

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from support.networks import parse

GRAPH = "(float[N,3,4,4] x) => (float[N,2,4,4] y) { z = Conv(x, w) y = Relu(z) }"


X = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)


def make(graph=GRAPH, ir_version=10, imports='"": 21', **initializers):
    initializers = initializers or ({"w": np.ones((2, 3, 1, 1), np.float32)} if graph is GRAPH else {})
    return parse(graph, opsets=imports, ir_version=ir_version, **initializers)


def run(model, **inputs):
    content = ir.to_proto(model).SerializeToString() if isinstance(model, ir.Model) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def assert_refused(model, message):
    with pytest.raises(ModelError, match=message) as refusal:
        load_model(model)
    assert "\n" not in str(refusal.value)


def test_path_proto_and_ir_model_give_the_same(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(make(), path)
    models = [load_model(path), load_model(str(path)), load_model(make()), load_model(ir.from_proto(make()))]
    assert len({ir.to_proto(model).SerializeToString() for model in models}) == 1
    assert models[0].ir_version == 10
    assert dict(models[0].opset_imports) == {"": 21}


def test_the_argument_stays_as_it_was():
    proto = make(
        "(float[N,3] x, float[3] w) => (float[N,3] y) { y = Add(x, w) }", 8, '"": 13', w=np.ones(3, np.float32)
    )
    model = ir.from_proto(proto)
    before = proto.SerializeToString(), ir.to_proto(model).SerializeToString()
    load_model(proto)
    load_model(model)
    assert (proto.SerializeToString(), ir.to_proto(model).SerializeToString()) == before


@pytest.mark.parametrize("opset", range(7, 29))
def test_every_opset_from_7_comes_to_21(opset):
    text = """(float[N,3,4,4] x) => (float[N,2,2,2] y) {
        c = Conv(x, w) b = BatchNormalization(c, g, g, g, g) r = Relu(b)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r) y = Add(p, one) }"""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((2, 3, 1, 1)).astype(np.float32), "g": np.array([0.5, 2], np.float32)}
    weights["one"] = np.float32(1)
    proto = make(text, min(3 + opset // 3, 10), f'"": {opset}', **weights)
    model = load_model(proto)
    assert dict(model.opset_imports) == {"": 21}
    assert model.ir_version == 10
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    if opset < 27:  # the newest that onnxruntime 1.31 runs
        x = rng.standard_normal((2, 3, 4, 4)).astype(np.float32)
        np.testing.assert_array_equal(run(model, x=x)[0], run(proto, x=x)[0])


def test_attributes_that_became_inputs_are_converted():
    text = """(float[N,2,4,4] x) => (float[N,2,6,6] y) {
        a = Clip <min = 0.0, max = 6.0> (x) y = Pad <pads = [0, 0, 1, 1, 0, 0, 1, 1]> (a) }"""
    model = load_model(make(text, 3, '"": 9'))
    x = np.random.default_rng(0).integers(-9, 9, (2, 2, 4, 4)).astype(np.float32)
    expected = np.pad(np.clip(x, 0, 6), ((0, 0), (0, 0), (1, 1), (1, 1)))
    np.testing.assert_array_equal(run(model, x=x)[0], expected)


def test_initializers_are_no_inputs():
    proto = make("(float[N,3] x, float[3] w) => (float[N,3] y) { y = Add(x, w) }", 3, '"": 8', w=np.ones(3, np.float32))
    model = load_model(proto)
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert list(model.graph.initializers) == ["w"]


def test_unused_opset_imports_go_and_used_ones_stay():
    assert dict(load_model(make(imports='"": 13, "ai.onnx.ml": 2')).opset_imports) == {"": 21}
    used = make(
        "(float[N] x) => (float[N] y) { z = Relu(x) y = com.microsoft.Gelu(z) }", 8, '"": 13, "com.microsoft": 1'
    )
    assert dict(load_model(used).opset_imports) == {"": 21, "com.microsoft": 1}


def test_functions_stay_at_opset_21_and_are_inlined_to_convert():
    text = """(float[N] x) => (float[N] y) {{ y = qpipe.twice(x) }}
        <domain: "qpipe", opset_import: ["": {opset}]> twice (a) => (b) {{ b = Add(a, a) }}"""
    kept, inlined = (
        load_model(parse(text.format(opset=opset), opsets=f'"": {opset}, "qpipe": 1')) for opset in (21, 17)
    )
    assert [node.op_type for node in kept.graph] == ["twice"]
    assert [node.op_type for node in inlined.graph] == ["Add"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello, this is text", "not an ONNX model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "not an ONNX model"),
        (make().SerializeToString()[:-7], "not an ONNX model, or truncated"),
        (make().SerializeToString()[:12], "not an ONNX model, or truncated"),
    ],
)
def test_files_that_are_no_models(tmp_path, content, message):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    assert_refused(path, f"net.onnx: {message}")


def test_every_truncation_is_refused(tmp_path):
    """Wherever the file is cut, an error of ours comes, and never half a network."""
    content = make().SerializeToString()
    whole = len(load_model(make()).graph)
    path = tmp_path / "net.onnx"
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with contextlib.suppress(ModelError):
            assert len(load_model(path).graph) == whole


def test_missing_file_and_folder(tmp_path):
    assert_refused(tmp_path / "net.onnx", "net.onnx: no such file")
    assert_refused(tmp_path, "is a folder, expected an .onnx file")
    assert_refused(tmp_path / "a\0b.onnx", "can't be read: .*null")


def test_a_pipe_is_not_opened(tmp_path, monkeypatch):
    """Opened for reading, one that nobody writes never returns; a device such as /dev/zero never ends."""
    os.mkfifo(tmp_path / "net.onnx")
    monkeypatch.setattr(type(tmp_path), "read_bytes", lambda path: pytest.fail(f"{path} was opened"))
    assert_refused(tmp_path / "net.onnx", "net.onnx: is a FIFO, expected an .onnx file")


def test_empty_graph():
    assert_refused(helper.make_model(helper.make_graph([], "g", [], [])), "model 'g': the graph has no nodes")


@pytest.mark.parametrize("changes", [{"ir_version": 2}, {"imports": '"": 6'}, {"imports": '"ai.onnx.ml": 3'}])
def test_too_old(changes):
    proto = make(**{"imports": '"": 13', **changes})
    if changes.get("ir_version") == 2:
        proto.ir_version = 2
    with pytest.raises(ModelError):
        load_model(proto)


def test_opset_that_has_no_way_down():
    """An operator that came later and that ONNX defines by no others."""
    text = "(float[2,4,4] x, float[2,1,4] u, int64[2] at) => (float[2,4,4] y) { y = TensorScatter(x, u, at) }"
    assert_refused(make(text, 10, '"": 24'), "opset 24 can't be converted to 21: .*; export the model with opset 21")


def test_unknown_op_of_the_standard_domain():
    assert_refused(make("(float[N] x) => (float[N] y) { y = Relux(x) }"), "invalid ONNX model: .*Relux")


def test_undefined_value():
    assert_refused(make("(float[N] x) => (float[N] y) { y = Add(x, nowhere) }"), "invalid ONNX model: .*nowhere")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_weights_that_are_not_finite(value, dtype):
    weight = np.ones((2, 3, 1, 1), dtype)
    weight[1, 2] = value
    kind = {"float32": "float", "float64": "double", "float16": "float16"}[weight.dtype.name]
    text = GRAPH.replace("float[", f"{kind}[")
    assert_refused(make(text, w=weight), "initializer 'w' contains (NaN|infinite values), expected finite weights")


def test_constant_node_that_is_not_finite():
    node = helper.make_node(
        "Constant", [], ["w"], name="weights", value=numpy_helper.from_array(np.array([np.nan], np.float32))
    )
    proto = make("(float[N,1] x) => (float[N,1] y) { y = Add(x, w) }", w=np.ones(1, np.float32))
    del proto.graph.initializer[:]
    proto.graph.node.insert(0, node)
    assert_refused(proto, "Constant 'weights' contains NaN")


def test_an_infinite_bound_is_no_weight():
    text = "(float[N] x) => (float[N] y) { y = Clip(x, low, high) }"
    load_model(make(text, low=np.float32(0), high=np.float32(np.inf)))
    assert_refused(make(text, low=np.float32(np.nan), high=np.float32(6)), "'low' contains NaN")


def test_bytes_that_do_not_fit_the_shape():
    proto = make()
    proto.graph.initializer[0].raw_data = bytes(8)
    assert_refused(proto, "invalid ONNX model: .*tensor name: w.* too small for the declared shape")


@pytest.mark.parametrize("shape", ["[N,3,H,4]", "[N,3,H,W]", ""])
def test_open_input_shapes(shape):
    proto = make(GRAPH.replace("float[N,3,4,4]", f"float{shape or '[N,3,H,W]'}"), w=np.ones((2, 3, 1, 1), np.float32))
    proto.graph.input[0].type.tensor_type.shape.dim[2].Clear()
    if not shape:
        proto.graph.input[0].type.tensor_type.ClearField("shape")
    (value,) = load_model(proto).graph.inputs
    assert (value.shape is None) == (not shape)


def test_sizes_of_minus_one_are_open():
    """As Paddle's older exporters write them, of what nodes give too."""
    proto = make(GRAPH.replace("float[N,3,4,4]", "float[N,3,H,W]"), w=np.ones((2, 3, 1, 1), np.float32))
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = -1
    model = load_model(proto)
    assert [dim if isinstance(dim, int) else dim.value for dim in model.graph.inputs[0].shape] == [None, 3, None, None]


def test_an_input_without_elements():
    proto = make(GRAPH.replace("float[N,3,4,4]", "float[0,3,4,4]"), w=np.ones((2, 3, 1, 1), np.float32))
    assert_refused(proto, "input 'x': dimension 0 is 0, expected 1 or more")


@pytest.mark.parametrize("batch", ["N", "1", "5", ""])
def test_batch_may_be_anything(batch):
    proto = make(GRAPH.replace("float[N,", f"float[{batch or 'N'},"), w=np.ones((2, 3, 1, 1), np.float32))
    if not batch:
        proto.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    load_model(proto)


def test_graph_without_a_name_gets_one():
    proto = make()
    proto.graph.name = ""
    assert load_model(proto).graph.name == "main"


def test_output_without_a_shape_is_inferred():
    proto = make()
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    assert load_model(proto).graph.outputs[0].shape == ir.Shape(["N", 2, 4, 4])


def test_input_that_is_no_tensor():
    assert_refused(
        make("(seq(float[N]) x) => (int64 y) { y = SequenceLength(x) }"), "input 'x' is of type .*, expected a tensor"
    )


def test_a_failing_library_says_nothing_itself(capfd, caplog):
    proto = make("(float[N] x) => (float[N] y) { y = Relux(x) }")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    assert_refused(proto, "invalid ONNX model")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_the_standard_domain_by_its_long_name():
    assert dict(load_model(make(imports='"ai.onnx": 13')).opset_imports) == {"": 21}


def test_nodes_in_another_order_are_put_in_order():
    model = make()
    expected = run(model, x=X)
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    loaded = load_model(model)
    assert [node.op_type for node in loaded.graph] == ["Conv", "Relu"]
    np.testing.assert_array_equal(run(loaded, x=X), expected)


def test_nodes_that_read_each_other_are_refused():
    model = make("(float[N,3] x) => (float[N,3] y) { a = Add(x, x) b = Relu(a) y = Relu(b) }")
    model.graph.node[0].input[1] = "b"
    assert_refused(model, "nodes read each other in a circle, expected none")
