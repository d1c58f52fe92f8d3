import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from qpipe.errors import OutputError
from qpipe.ir.files import save
from qpipe.ir.files.load import load_model
from qpipe.ir.files.save import save_model
from support.networks import parse


@pytest.fixture
def model():
    weight = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    loaded = load_model(parse("(float[N,64] x) => (float[N,8] y) { y = MatMul(x, w) }", w=weight))
    loaded.metadata_props["qpipe.preprocess"] = "{}"
    return loaded


def run(path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.ones((2, 64), np.float32)})[0]


def test_what_is_saved_loads_again(model, tmp_path):
    save_model(model, tmp_path / "net.onnx")
    again = load_model(tmp_path / "net.onnx")
    assert ir.to_proto(again) == ir.to_proto(model)
    assert os.listdir(tmp_path) == ["net.onnx"]


def test_equal_models_give_equal_bytes(model, tmp_path):
    save_model(model, tmp_path / "a.onnx")
    save_model(load_model(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_type_of_an_initializer_is_written_once(model, tmp_path):
    weight = model.graph.initializers["w"]
    save_model(model, tmp_path / "net.onnx")
    assert len(onnx.load(tmp_path / "net.onnx").graph.value_info) == 0
    weight.metadata_props["note"] = "read me"
    save_model(model, tmp_path / "net.onnx")
    again = load_model(tmp_path / "net.onnx").graph.initializers["w"]
    assert (again.dtype, again.shape, again.metadata_props) == (weight.dtype, weight.shape, {"note": "read me"})


def test_external_data(model, tmp_path):
    save_model(model, tmp_path / "whole.onnx")
    save_model(model, tmp_path / "net.onnx", external_data="weights.bin")
    assert sorted(os.listdir(tmp_path)) == ["net.onnx", "weights.bin", "whole.onnx"]
    assert (tmp_path / "weights.bin").stat().st_size == 64 * 8 * 4
    np.testing.assert_array_equal(run(tmp_path / "net.onnx"), run(tmp_path / "whole.onnx"))
    # The model in hand is still in memory, and a loaded one is as if it had been written whole.
    assert not isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)
    assert ir.to_proto(load_model(tmp_path / "net.onnx")) == ir.to_proto(load_model(tmp_path / "whole.onnx"))


def test_external_data_are_deterministic(model, tmp_path):
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        save_model(model, folder / "net.onnx", external_data="net.data")
        contents.append([(folder / name).read_bytes() for name in ("net.onnx", "net.data")])
    assert contents[0] == contents[1]


def test_a_model_over_the_limit_gets_external_data_unasked(model, tmp_path, monkeypatch):
    monkeypatch.setattr(save, "PROTOBUF_LIMIT", 64 * 8 * 4)
    save_model(model, tmp_path / "at.onnx")
    monkeypatch.setattr(save, "PROTOBUF_LIMIT", 64 * 8 * 4 - 1)
    save_model(model, tmp_path / "over.onnx")
    assert sorted(os.listdir(tmp_path)) == ["at.onnx", "over.onnx", "over.onnx.data"]
    np.testing.assert_array_equal(run(tmp_path / "at.onnx"), run(tmp_path / "over.onnx"))


def test_a_model_opened_lazily_is_written_whole(model, tmp_path):
    (tmp_path / "in").mkdir()
    save_model(model, tmp_path / "in" / "net.onnx", external_data="net.data")
    save_model(ir.load(tmp_path / "in" / "net.onnx"), tmp_path / "net.onnx")
    onnx.checker.check_model(tmp_path / "net.onnx", full_check=True)
    np.testing.assert_array_equal(run(tmp_path / "net.onnx"), run(tmp_path / "in" / "net.onnx"))


@pytest.mark.parametrize("name", ["../net.data", "net.onnx", "sub/net.data"])
def test_external_data_beside_the_model_only(model, tmp_path, name):
    with pytest.raises(OutputError, match="expected the plain name of another file"):
        save_model(model, tmp_path / "net.onnx", external_data=name)
    assert not os.listdir(tmp_path)


def test_the_folder_has_to_be_there(model, tmp_path):
    with pytest.raises(OutputError, match=r"net.onnx: the folder '.*gone' does not exist"):
        save_model(model, tmp_path / "gone" / "net.onnx")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        save_model(model, tmp_path / "file" / "net.onnx")
    with pytest.raises(OutputError, match="is a folder"):
        save_model(model, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(model, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="can't be written: Permission denied"):
        save_model(model, tmp_path / "net.onnx")


def test_full_disk(model, tmp_path):
    """A limit on the file size is a disk that fills up on the way."""
    save_model(model, tmp_path / "net.onnx")
    old = (tmp_path / "net.onnx").read_bytes()
    script = """
import resource, signal, sys
from qpipe.errors import OutputError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.save import save_model
from support.networks import parse
model = load_model(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for external_data in (None, "net.data"):
    try:
        save_model(model, sys.argv[1], external_data=external_data)
    except OutputError as error:
        print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", script, str(tmp_path / "net.onnx")]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert printed.count("net.onnx: can't be written: File too large") == 2
    assert os.listdir(tmp_path) == ["net.onnx"]
    assert (tmp_path / "net.onnx").read_bytes() == old
