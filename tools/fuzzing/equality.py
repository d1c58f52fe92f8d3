"""An export's numbers beside those of the specification, the QDQ file that it was made from."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
from fuzzing.judge import DIFFERENT, Finding

from passes.finalize import Finalize
from qpipe.ir.files.load import load_model
from qpipe.runtime.session import open_session

ROWS = 16


def judge_export(specification: str, exported: str) -> list[Finding]:
    spec = load_model(Path(specification))
    if not any(node.op_type == "QuantizeLinear" for node in spec.graph):
        return []
    Finalize()(spec)
    theirs, ours = open_session(spec, optimize=False, threads=1), open_session(Path(exported), threads=1)
    if theirs.get_inputs()[0].type != ours.get_inputs()[0].type:
        return []  # --io integer
    shape = [size if isinstance(size, int) else ROWS for size in theirs.get_inputs()[0].shape]
    rng = np.random.default_rng(5)
    found = []
    for scale in (0.5, 2.0, 20.0):
        x = (rng.standard_normal(shape) * scale).astype(np.float32)
        expected = theirs.run(None, {theirs.get_inputs()[0].name: x})
        given = ours.run(None, {ours.get_inputs()[0].name: x})
        for number, (a, b) in enumerate(zip(expected, given, strict=True)):
            if a.shape != b.shape or not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
                wrong = int((a != b).sum()) if a.shape == b.shape else -1
                ops = sorted({node.op_type for node in ir.load(exported).graph})
                found.append(Finding(DIFFERENT, f"output {number}: {' '.join(ops)}", f"{wrong} of {a.size} differ"))
                return found
    return found
