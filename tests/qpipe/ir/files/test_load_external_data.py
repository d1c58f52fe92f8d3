"""Weights that lie beside the model: read into memory, and never from outside the model's folder."""

import os

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto

from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from support.networks import parse


def make(graph="(float[N,3,4,4] x) => (float[N,2,4,4] y) { z = Conv(x, w) y = Relu(z) }"):
    return parse(graph, **({"w": np.ones((2, 3, 1, 1), np.float32)} if "w)" in graph else {}))


def assert_refused(model, message):
    with pytest.raises(ModelError, match=message) as refusal:
        load_model(model)
    assert "\n" not in str(refusal.value)


def external(tmp_path, location="net.data", **changes):
    """A saved model whose weight is 24 bytes of `location`."""
    proto = make()
    (tmp_path / "net.data").write_bytes(np.ones(6, np.float32).tobytes())
    tensor = TensorProto(name="w", dims=[2, 3, 1, 1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **changes}.items():
        tensor.external_data.add(key=key, value=str(value))
    proto.graph.initializer[0].CopyFrom(tensor)
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    return tmp_path / "net.onnx"


def test_external_data_are_read_into_memory(tmp_path):
    path = external(tmp_path, offset=0, length=24)
    model = load_model(path)
    (tmp_path / "net.data").unlink()
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), np.ones((2, 3, 1, 1)))


def test_external_data_beside_a_bare_file_name(tmp_path, monkeypatch):
    external(tmp_path)
    monkeypatch.chdir(tmp_path)
    load_model("net.onnx")
    (tmp_path / "net.onnx").unlink()
    external(tmp_path, "../secret")
    (tmp_path.parent / "secret").write_bytes(bytes(24))
    assert_refused("net.onnx", "point to '../secret', expected a file inside the model's folder")


@pytest.mark.parametrize("absolute", [False, True])
def test_external_data_outside_the_folder(tmp_path, absolute):
    (tmp_path / "models").mkdir()
    (tmp_path / "secret").write_bytes(bytes(24))
    path = external(tmp_path / "models", str(tmp_path / "secret") if absolute else "../secret")
    assert_refused(path, "external data of 'w' point to '.*secret', expected a file inside the model's folder")


def test_external_data_behind_a_link_out_of_the_folder(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "secret").write_bytes(bytes(24))
    (tmp_path / "models" / "link").symlink_to(tmp_path / "secret")
    assert_refused(external(tmp_path / "models", "link"), "expected a file inside the model's folder")
    os.link(tmp_path / "secret", tmp_path / "models" / "hard")
    assert_refused(external(tmp_path / "models", "hard"), "external data of 'w': .*hard links")


def test_external_data_that_are_missing_or_short(tmp_path):
    assert_refused(external(tmp_path, "gone.data"), "external data of 'w': no such file 'gone.data'")
    assert_refused(external(tmp_path, offset=8, length=24), "'net.data' has 24 bytes, expected 24 up to byte 32")
    assert_refused(external(tmp_path, length=12), "expected 24")


def test_external_data_without_a_length_go_on_to_the_end(tmp_path):
    assert load_model(external(tmp_path)).graph.initializers["w"].const_value.nbytes == 24
    path = external(tmp_path)
    (tmp_path / "net.data").write_bytes(bytes(32))
    assert_refused(path, "'net.data' has 32 bytes, expected 24 up to byte 24")


def test_external_data_of_a_proto_have_no_folder(tmp_path):
    proto = onnx.load(external(tmp_path), load_external_data=False)
    assert_refused(proto, "pass the model's path")
    load_model(ir.load(tmp_path / "net.onnx"))


def test_external_data_of_a_constant_node(tmp_path):
    (tmp_path / "net.data").write_bytes(np.ones(3, np.float32).tobytes())
    proto = make("(float[N,3] x) => (float[N,3] y) { c = Constant <value = float[3] {1, 1, 1}> () y = Add(x, c) }")
    tensor = proto.graph.node[0].attribute[0].t
    tensor.ClearField("float_data")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="net.data")
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    model = load_model(tmp_path / "net.onnx")
    (tmp_path / "net.data").unlink()
    x = np.zeros((2, 3), np.float32)
    content = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], x + 1)
