"""The rows of the reproduction are what the verbs take; the paper's BatchNormalization is on its grid."""

import inspect
from pathlib import Path

import numpy as np
import onnx
from faq_rows import ROWS
from onnx import numpy_helper
from paper_batch_norm import round_batch_norms

import qpipe
from qpipe.settings import FinetuneSettings
from qpipe.settings.recipes import resolve
from support.networks import Network


def test_names_differ_also_as_file_names() -> None:
    assert len({"".join(c for c in row.name.lower() if c.isalnum()) for row in ROWS}) == len(ROWS)


def test_rows_are_arguments_of_the_verbs() -> None:
    for row in ROWS:
        inspect.signature(qpipe.calibrate).bind("model", "data", **row.calibrate)
        if row.finetune is not None:
            inspect.signature(qpipe.finetune).bind("model", "data", **row.finetune)
            run = resolve(FinetuneSettings(**row.finetune))
            assert run.epochs == row.finetune.get("epochs", run.epochs)


def test_the_papers_grid(tmp_path: Path) -> None:
    net = Network(3, 8, 8)
    onnx.save(net.proto(net.head(net.op("Relu", net.norm(net.conv("x", 3, 8), 8)), 8)), tmp_path / "a.onnx")
    round_batch_norms(tmp_path / "a.onnx", tmp_path / "b.onnx")
    model = onnx.load(tmp_path / "b.onnx")
    tensors = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}
    (node,) = (node for node in model.graph.node if node.op_type == "BatchNormalization")
    gamma, _, _, variance = (tensors[name] for name in node.input[1:5])
    k = gamma / np.sqrt(variance + 1e-5)
    # What storing gamma as float32 leaves.
    np.testing.assert_allclose(k * 16, np.round(k * 16), atol=1e-4)
    assert np.any(k != 0)
