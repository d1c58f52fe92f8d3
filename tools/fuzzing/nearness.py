"""A calibrated network's numbers beside the float network's: they may differ, but not without a word."""

from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import version_converter

from fuzzing.judge import DIFFERENT, Finding
from qpipe.data import Preprocess, open_data
from qpipe.data.carried import carried_preprocess
from qpipe.errors import ModelError
from qpipe.ir.files.checks import graph_protos
from qpipe.ir.files.load import load_model
from qpipe.runtime.session import open_session, run_batches

DECIBELS: Final = 3.0
"""Of signal to noise, on the data that it was calibrated on. Eight bits have 30 and more; less than this is noise."""
NEWEST_OPSET: Final = 26
"""That onnxruntime opens; qpipe takes newer ones, which onnx brings down to opset 21."""


def judge_calibration(network: str, calibrated: str, data: str) -> list[Finding]:
    """Whether outputs are noise, or no numbers where the float network's are."""
    model = load_model(Path(calibrated))
    source = open_data(data, "train", carried_preprocess(model) or Preprocess())
    x = next(iter(source.batches(16))).inputs
    given, made = (_outputs(Path(name), x) for name in (network, calibrated))
    for number, (a, b) in enumerate(zip(given, made, strict=True)):
        if a.dtype.kind != "f" or a.shape != b.shape or not np.isfinite(a).all():
            continue
        a, b = a.astype(np.float64), b.astype(np.float64)
        noise, signal = np.square(a - b).mean(), np.square(a).mean()
        if not np.isfinite(b).all() or (signal > 0 and noise * 10 ** (DECIBELS / 10) > signal):
            words = f"output {number}: signal {signal:g}, noise {noise:g}"
            return [Finding(DIFFERENT, f"calibrate: output {number} is noise, without a warning", words)]
    return []


def _outputs(path: Path, x: np.ndarray) -> list[Any]:
    try:
        return _run(path, x)
    except ModelError:
        return _run(_made_easy(onnx.load(path)), x)


def _run(model: Path | onnx.ModelProto, x: np.ndarray) -> list[Any]:
    return next(run_batches(open_session(model, optimize=False, threads=1), [x], rows_only=False))


def _made_easy(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network where qpipe reads what onnxruntime doesn't run.

    It is in memory: onnxruntime can't open a file whose small constants, such as axes, lie beside it. Newer opsets are
    brought down, and branches declare no shapes, which may be wrong.
    """
    if max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) > NEWEST_OPSET:
        model.ir_version = max(model.ir_version, 4)  # before it every constant was an input as well
        model = version_converter.convert_version(model, NEWEST_OPSET)
    for graph in islice(graph_protos(model.graph), 1, None):
        for value in (*graph.output, *graph.value_info):
            value.type.tensor_type.ClearField("shape")
    return model
