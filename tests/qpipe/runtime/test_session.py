import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qpipe.errors import DataError, ModelError
from qpipe.runtime.session import fixed_batch, inputs_of, open_session, run_batches, run_feeds, session_name
from support.networks import parse
from support.run import run_all
from support.zoo.linear import linear_model

WEIGHT = np.arange(6).reshape(3, 2)
ROWS = np.arange(21, dtype=np.float32).reshape(7, 3)


@pytest.fixture
def path(tmp_path):
    onnx.save(linear_model(WEIGHT), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_takes_paths_bytes_protos_and_ir(path):
    proto = onnx.load(path)
    for model in (path, str(path), proto.SerializeToString(), proto, ir.from_proto(proto)):
        np.testing.assert_array_equal(run_all(open_session(model), ROWS)[0], ROWS @ WEIGHT)


def test_ir_model_with_external_data_stays_as_it_was(tmp_path):
    proto = linear_model(np.zeros((64, 64)))
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    model = ir.load(tmp_path / "net.onnx")
    assert run_all(open_session(model), np.ones((2, 64), np.float32))[0].shape == (2, 64)
    assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)


def test_names():
    assert session_name(open_session(linear_model(WEIGHT))) == "model 'small'"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("batch", ["batch", 1, 3, 7])
def test_every_batch_size_gives_the_same(batch, batch_size):
    session = open_session(linear_model(WEIGHT, batch=batch))
    assert fixed_batch(session) == (None if batch == "batch" else batch)
    np.testing.assert_array_equal(run_all(session, ROWS, batch_size)[0], ROWS @ WEIGHT)


def test_batches_keep_their_sizes():
    session = open_session(linear_model(WEIGHT, batch=2))
    sizes = [len(outputs[0]) for outputs in run_batches(session, [ROWS[:3], ROWS[:1], ROWS])]
    assert sizes == [3, 1, 7]


def test_several_outputs():
    text = "(float[2,3] x) => (float[] positive, float[] negative) { positive = Relu(x) negative = Neg(x) }"
    session = open_session(parse(text))
    positive, negative = run_all(session, ROWS - 10)
    np.testing.assert_array_equal(positive, np.maximum(ROWS - 10, 0))
    np.testing.assert_array_equal(negative, 10 - ROWS)


def test_options_reach_onnxruntime(path, tmp_path):
    session = open_session(path, threads=1, optimize=False, optimized_path=tmp_path / "o.onnx")
    options = session.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert [node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node] == ["MatMul"]
    precise = open_session(path, config={"session.x64quantprecision": "1"}).get_session_options()
    assert precise.get_session_config_entry("session.x64quantprecision") == "1"


def test_unreadable_models_are_one_line_with_the_name(tmp_path):
    (tmp_path / "text.onnx").write_text("not a model\n")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "cut.onnx").write_bytes(linear_model(WEIGHT).SerializeToString()[:100])
    cases = {
        "none.onnx": "no such file",
        "": "is a folder",
        "empty.onnx": "the file is empty",
        "text.onnx": "onnxruntime can't open it",
        "cut.onnx": "onnxruntime can't open it",
    }
    for name, message in cases.items():
        with pytest.raises(ModelError) as caught:
            open_session(tmp_path / name)
        text = str(caught.value)
        assert text.startswith(f"{tmp_path / name}: ".replace("/: ", ": "))
        assert message in text
        assert "\n" not in text
        assert "ONNXRuntimeError" not in text


def test_unknown_operator_is_a_model_error():
    model = parse("(float[1] x) => (float[] y) { y = Frobnicate(x) }")
    with pytest.raises(ModelError, match=r"model 'small': onnxruntime can't open it: .*Frobnicate"):
        open_session(model)


def test_failing_run_is_a_model_error(capfd):
    model = parse("(float[N,3] x) => (float[] y) { y = Reshape(x, shape) }", shape=np.array([7, 7]))
    with pytest.raises(ModelError, match=r"model 'small': onnxruntime can't run it: .*Reshape"):
        run_all(open_session(model), ROWS)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (ROWS[:, :2], r"takes float32 \[batch, 3\], the data are float32 \[7, 2\]"),
        (ROWS[:, :, None], r"takes float32 \[batch, 3\], the data are float32 \[7, 3, 1\]"),
        (ROWS.astype(np.uint8), r"takes float32 \[batch, 3\], the data are uint8 \[7, 3\]"),
        (ROWS[:0], r"takes float32 \[batch, 3\], the data are float32 \[0, 3\]"),
    ],
)
def test_data_that_do_not_fit(array, message):
    with pytest.raises(DataError, match=message):
        next(run_batches(open_session(linear_model(WEIGHT)), [array]))


def test_models_with_two_inputs_take_two():
    model = parse("(float[1] a, float[1] b) => (float[] y) { y = Add(a, b) }")
    with pytest.raises(DataError, match="inputs are 'a', 'b', the data have one array; expected one by each name"):
        run_all(open_session(model), ROWS)


def test_input_of_strings_is_refused():
    model = parse("(string[1] x) => (string[] y) { y = Identity(x) }")
    with pytest.raises(ModelError, match=r"input 'x' has type tensor\(string\); expected numbers"):
        inputs_of(open_session(model))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("(float[N,3] x) => (seq(float[N,3]) y) { y = SequenceConstruct(x) }", "seq(tensor(float))"),
        ("(float[N,3] x) => (string[N,3] y) { y = Cast<to=8>(x) }", "tensor(string)"),
    ],
)
def test_an_output_that_is_no_tensor_of_numbers_is_refused(text, found):
    with pytest.raises(ModelError) as caught:
        run_all(open_session(parse(text)), ROWS)
    assert str(caught.value) == f"model 'small': output 'y' has type {found}; expected a tensor of numbers"


def test_fixed_batch_needs_an_output_row_for_each_input_row():
    model = parse("(float[4,3] x) => (float[] y) { y = ReduceSum<keepdims=0>(x) }")
    with pytest.raises(ModelError, match=r"output 'y' has shape \[\]; expected 4 rows"):
        run_all(open_session(model), ROWS)


def test_a_fixed_batch_is_named_where_it_can_not_be_run():
    model = parse("(float[4,3] x) => (float[M] y) <int64[1] shape = {5}> { y = Reshape(x, shape) }")
    with pytest.raises(ModelError, match=r"onnxruntime can't run it: .* \(its batch is fixed at 4\)"):
        run_all(open_session(model), ROWS)


def test_feeds_that_a_model_does_not_take():
    session = open_session(parse("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }"))
    with pytest.raises(ModelError, match=r"model 'small': onnxruntime can't run it: "):
        run_feeds(session, {"x": np.zeros((1, 4), np.float32)})
