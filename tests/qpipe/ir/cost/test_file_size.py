import numpy as np
import onnx_ir as ir

from qpipe.ir.cost.file_size import file_size
from qpipe.ir.files.save import save_model
from support.networks import build


def model() -> ir.Model:
    return build("(float[N,64] x) => (float[N,8] y) { y = MatMul(x, w) }", w=np.ones((64, 8), np.float32))


def test_of_one_file(tmp_path):
    save_model(model(), tmp_path / "net.onnx")
    assert file_size(tmp_path / "net.onnx") == (tmp_path / "net.onnx").stat().st_size > 64 * 8 * 4


def test_external_data_count(tmp_path, monkeypatch):
    save_model(model(), tmp_path / "net.onnx", external_data="net.data")
    alone = (tmp_path / "net.onnx").stat().st_size
    assert alone < 64 * 8 * 4
    monkeypatch.chdir(tmp_path)
    assert file_size("net.onnx") == alone + 64 * 8 * 4
