"""What is refused in one line before anything computes with it."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from passes.normalize import normalize
from qpipe.errors import ModelError
from qpipe.ir.files.checks import MOST_ELEMENTS
from qpipe.ir.files.load import is_as_written, load_model
from qpipe.nodes import static_shape
from support.networks import parse

SMALL = "(float[N,4] x) => (float[N,4] y) { y = Add(x, k) }"


def small():
    return parse(SMALL, k=np.ones(4, np.float32))


def assert_refused(model, message):
    with pytest.raises(ModelError, match=message) as refusal:
        load_model(model)
    assert "\n" not in str(refusal.value)


def with_functions(bodies):
    """A model that calls the first of the functions f0, f1, ...; `{next}` in one's lines is the next one."""
    text = "(float[4] x) => (float[4] y) { y = own.f0(x) }"
    for index, body in enumerate(bodies):
        lines = body.format(next=f"own.f{index + 1}", same=f"own.f{index}")
        text += f' <domain: "own", opset_import: ["": 21, "own": 1]> f{index} (a) => (b) {{ {lines} }}'
    return parse(text, opsets='"": 21, "own": 1')


def test_functions_that_double_are_counted_before_they_are_written_out():
    bodies = ["t = {next}(a) b = {next}(t)"] * 40 + ["b = Relu(a)"]
    assert_refused(with_functions(bodies), r"written out, the functions are 1,099,511,627,776 nodes \('f40'")


def test_many_values_of_one_name_are_as_slow_as_many_nodes():
    bodies = ["t = {next}(a) b = {next}(t)"] * 15 + ["b = Relu(a)"]
    assert_refused(with_functions(bodies), "expected 131,072 at most")


def test_a_value_of_no_known_type():
    model = small()
    model.graph.value_info.add(name="v").type.opaque_type.SetInParent()
    assert_refused(model, "'v' is of opaque_type, expected a tensor")


def test_a_function_that_is_there_twice():
    model = with_functions(["b = Relu(a)"])
    model.functions.append(model.functions[0])
    assert_refused(model, "function 'f0' is there 2 times, expected once")


def test_a_function_that_gives_its_input():
    """onnxruntime opens no such file."""
    model = with_functions(["b = Relu(a)"])
    model.functions[0].output[0] = "a"
    assert_refused(model, "function 'f0' gives 'a', which none of its nodes computes")


def test_functions_that_are_few_stay_usable():
    model = load_model(with_functions(["t = {next}(a) b = {next}(t)"] * 5 + ["b = Sin(a)"]))
    normalize(model)
    assert [node.op_type for node in model.graph] == ["Sin"] * 32


@pytest.mark.parametrize("bodies", [["b = {same}(a)"], ["b = {next}(a)", "b = own.f0(a)"]])
def test_functions_that_call_each_other_in_a_circle(bodies):
    assert_refused(with_functions(bodies), "functions call each other in a circle")


def test_a_chain_of_functions():
    bodies = ["b = {next}(a)"] * 50 + ["b = Relu(a)"]
    model = load_model(with_functions(bodies))
    normalize(model)
    assert [node.op_type for node in model.graph] == ["Relu"]


def test_an_output_that_is_no_tensor_is_named():
    proto = small()
    proto.graph.output[0].type.opaque_type.SetInParent()
    assert_refused(proto, "output 'y' is of opaque_type, expected a tensor")


@pytest.mark.parametrize("end", ["input", "output"])
def test_a_tensor_of_no_type_is_named(end):
    proto = small()
    value = getattr(proto.graph, end)[0]
    value.type.tensor_type.ClearField("elem_type")
    assert_refused(proto, f"'{value.name}' is a tensor of no type of numbers")


def test_a_sparse_initializer_is_named():
    proto = small()
    del proto.graph.initializer[:]
    sparse = proto.graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "k"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([2]), "k_indices"))
    assert_refused(proto, "initializer 'k' is sparse, expected a dense tensor")


@pytest.mark.parametrize(
    "attributes", [{}, {"value_int": 1, "value_float": 2.0}, {"sparse_value": "sparse"}, {"what": 3}]
)
def test_a_constant_has_one_dense_value(attributes):
    if "sparse_value" in attributes:
        values = numpy_helper.from_array(np.ones(1, np.float32), "v")
        attributes["sparse_value"] = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([2]), "i"), [4])
    proto = parse("(float[N,4] x) => (float[N,4] y) { y = Add(x, k) }")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["k"], name="const", **attributes))
    assert_refused(proto, "Constant 'const'(: One and only one| (has the attributes|holds a sparse tensor))")


def test_the_reason_is_named_and_not_what_called_it():
    proto = parse("(float[N,4] x) => (float[N,4] y) { c = Relu(x) y = Neg(c) }")
    proto.graph.node[1].output[0] = "c"
    assert_refused(proto, "model 'small': invalid ONNX model: Output 'c' is redeclared")
    proto = small()
    proto.graph.input[0].type.tensor_type.elem_type = 77
    assert_refused(proto, "model 'small': invalid ONNX model: 'x': 77 is not a valid DataType")
    proto = small()
    proto.graph.initializer[0].data_type = 99
    assert_refused(proto, "model 'small': initializer 'k' has the unknown type 99")


def test_an_input_that_nothing_reads_is_left_out_with_a_note():
    proto = parse(
        "(float[N,4] x, float[M,K] scale_factor) => (float[N,4] y) { y = Add(x, k) }", k=np.ones(4, np.float32)
    )
    with pytest.warns(UserWarning, match="model 'small': nothing reads the input 'scale_factor': it is left out"):
        model = load_model(proto)
    assert [value.name for value in model.graph.inputs] == ["x"]


def test_an_only_input_stays():
    proto = parse("(float[N,4] x) => (float[4] y) { y = Relu(k) }", k=np.ones(4, np.float32))
    assert len(load_model(proto).graph.inputs) == 1


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ("float[] x, float[N,4] y", "the output 'x' is an input: it is left out"),
        ("float[N,4] y, float[N,4] y", "the output 'y' stands twice among the outputs: it is left out"),
    ],
)
def test_outputs_that_nothing_computes_anew_are_left_out_with_a_note(outputs, message):
    with pytest.warns(UserWarning, match=message):
        model = load_model(parse(SMALL.replace("float[N,4] y", outputs), k=np.ones(4, np.float32)))
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert static_shape(model.graph.inputs[0]) == (None, 4)
    assert not is_as_written(model)


def test_an_input_that_only_is_an_output_goes_as_well():
    text = SMALL.replace("float[N,4] x", "float[N,4] x, float[M] z").replace("float[N,4] y", "float[M] z, float[N,4] y")
    with pytest.warns(UserWarning, match="'z'"):
        model = load_model(parse(text, k=np.ones(4, np.float32)))
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["x", "y"]


def test_of_outputs_that_are_all_inputs_nothing_is_left():
    text = SMALL.replace("(float[N,4] y", "(float[N,4] x, float[N,4] x")
    assert_refused(parse(text, k=np.ones(4, np.float32)), "output 'x' is an input, expected what a node gives")


def test_an_initializer_may_be_an_output_and_a_weight():
    model = load_model(parse(SMALL.replace("float[N,4] y", "float[N,4] y, float[4] k"), k=np.ones(4, np.float32)))
    assert [value.name for value in model.graph.outputs] == ["y", "k"]
    assert model.graph.node(0).inputs[1] is not model.graph.outputs[1]


@pytest.mark.parametrize(
    ("shape", "nodes", "message"),
    [
        ("100000,3,32,32", "y = Relu(x)", r"input 'x' has 307,200,000 elements, expected 268,435,456 at most; .*batch"),
        ("1,3,32,32", "y = Tile(x, s)", r"Tile 'y': its output 'y' has 307,200,000 elements"),
    ],
)
def test_a_tensor_that_no_memory_holds(shape, nodes, message):
    numbers = {"s": np.array([100000, 1, 1, 1])} if "s)" in nodes else {}
    proto = parse(f"(float[{shape}] x) => (float[A,B,C,D] y) {{ {nodes} }}", **numbers)
    with pytest.raises(ModelError, match=message):
        normalize(load_model(proto))
    assert MOST_ELEMENTS == 2**28


@pytest.mark.parametrize("name", ["net.json", "net.txt", "net.textproto", "net"])
def test_what_a_file_is_called_says_nothing_about_it(tmp_path, name):
    (tmp_path / name).write_bytes(small().SerializeToString())
    assert [node.op_type for node in load_model(tmp_path / name).graph] == ["Add"]


def test_external_data_before_the_beginning_of_a_file(tmp_path):
    proto = small()
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    proto = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "offset":
            entry.value = "-8"
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    assert_refused(tmp_path / "net.onnx", r"net\.onnx: .*offset must be non-negative, got -8 for tensor 'k'")


@pytest.mark.parametrize("what", ["node", "value", "graph"])
def test_a_name_of_megabytes(what):
    proto, name = small(), "n" * 10**7
    if what == "node":
        proto.graph.node[0].name = name
    elif what == "value":
        proto.graph.node[0].output[0] = proto.graph.output[0].name = name
    else:
        proto.graph.name = name
    with pytest.raises(ModelError, match=r"the name 'n{40}...' has 10,000,000 characters") as refusal:
        load_model(proto)
    assert len(str(refusal.value)) < 300
