"""Run a small network: on onnxruntime, and in the executor that trains it."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch

from qpipe.ir.files.metadata import get_object
from qpipe.ir.quantized.view_weights import QUANTIZATION
from qpipe.runtime.exact_pairs import open_exact
from qpipe.runtime.session import open_session, run_batches
from qpipe.train.executor import Executor
from support.quantize import finalized


def run(model: ir.Model, inputs: np.ndarray, *, optimize: bool = True) -> list[np.ndarray]:
    """Outputs on onnxruntime, on one thread.

    A file that waives the pair condition saturates on CPUs without VNNI, as it says; there it runs on other kernels.
    """
    waived = (get_object(model, QUANTIZATION) or {}).get("cpu") == "vnni"
    session = open_exact(model, threads=1) if waived else open_session(model, threads=1, optimize=optimize)
    return session.run(None, {session.get_inputs()[0].name: inputs})


def run_all(session: ort.InferenceSession, rows: np.ndarray, batch_size: int = 64) -> list[np.ndarray]:
    """Outputs of all rows in batches of `batch_size`, each [N, ...]."""
    batches = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
    return [np.concatenate(parts) for parts in zip(*run_batches(session, batches), strict=True)]


def run_as_written(model: ir.Model, **inputs: np.ndarray) -> list[np.ndarray]:
    """Outputs on onnxruntime of the graph as it is written, on one thread, after onnx's full check."""
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return open_session(model, threads=1, optimize=False).run(None, inputs)


def evaluated(executor: Executor, inputs: np.ndarray) -> list[np.ndarray]:
    device = next(executor.parameters()).device
    with torch.no_grad():
        return [y.cpu().numpy() for y in executor.eval()(torch.from_numpy(inputs).to(device))]


def assert_exact(model: ir.Model, inputs: np.ndarray, executor: Executor | None = None) -> None:
    """The executor's evaluation of a QDQ model equals its finalized file on onnxruntime, value for value."""
    ours = evaluated(executor or Executor(model), inputs)
    theirs = run(finalized(model), inputs)
    assert len(ours) == len(theirs) == len(model.graph.outputs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.astype(np.float32).reshape(b.shape), b)
        assert np.ptp(b) > 0  # a constant would prove nothing
