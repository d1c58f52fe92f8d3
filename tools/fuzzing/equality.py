"""An export's numbers beside the specification's: those of the final QDQ graph, by numpy and without the optimizer."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from fuzzing.judge import DIFFERENT, Finding
from passes.shipping.finalize import Finalize
from qpipe.ir.files.load import load_model
from qpipe.ir.quantized.oracle import network_integers
from qpipe.ir.quantized.view import is_final, read_view
from qpipe.runtime.cut import tensors_of, with_outputs
from qpipe.runtime.session import open_session

ROWS: Final = 8
SCALES: Final = (0.5, 3.0, 100.0)
"""Of the normal noise that is the input, so that some of it saturates."""

Arrays = dict[str, np.ndarray]


def judge_export(specification: str, exported: str) -> list[Finding]:
    """What differs, if anything: integers of single tensors, and the outputs as a user gets them."""
    if not (Path(specification).exists() and Path(exported).exists()):
        return []  # a recipe need not make all of them
    with warnings.catch_warnings(action="ignore"):
        spec, model = load_model(Path(specification)), load_model(Path(exported))
    view = read_view(spec)
    if not all(map(is_final, view.layers)):
        Finalize()(spec)
    ops = " ".join(sorted({layer.op_type for layer in view.layers}))
    for words in _differences(spec, model, Path(exported)):
        return [Finding(DIFFERENT, f"{words.split(':')[0]}: {ops}", words)]
    return []


def _differences(spec: ir.Model, model: ir.Model, exported: Path) -> Iterator[str]:
    view = read_view(spec)
    as_written = open_session(spec, optimize=False, threads=1)
    shipped = open_session(exported, threads=1)
    given = shipped.get_inputs()[0]
    if given.type != "tensor(float)":
        return  # integers in: `validate` compares them
    shape = [size if isinstance(size, int) else ROWS for size in as_written.get_inputs()[0].shape]
    tensors, known = tensors_of(model), tensors_of(spec)
    names = [name for name in tensors if name in known]
    exposed = open_session(with_outputs(model, names), threads=1)
    scales = _last_scales(view)
    rng = np.random.default_rng(5)
    for scale in SCALES:
        x = (rng.standard_normal(shape) * scale).astype(np.float32)
        expected = network_integers(spec, x)
        found: Arrays = dict(zip(names, exposed.run(None, {exposed.get_inputs()[0].name: x}), strict=True))
        for name in names:
            array = tensors[name].to_common(found[name])
            if array.dtype == np.int32:
                array = array * scales[name]
            if array.shape != expected[name].shape or not np.array_equal(array, expected[name].astype(array.dtype)):
                yield f"{tensors[name].value.producer().op_type} of the export: tensor '{name}' differs"
        written = as_written.run(None, {as_written.get_inputs()[0].name: x})
        shown = shipped.run(None, {given.name: x})
        for value, a, b in zip(spec.graph.outputs, written, shown, strict=True):
            if a.shape != b.shape or not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
                yield f"output as written: '{value.name}' differs in {_count(a, b)}"


def _last_scales(view: Any) -> dict[str, float]:
    """Real units per step of each last layer's int32."""
    last = [layer for layer in view.layers if layer.quantizer is None]
    return {str(layer.result.name): float(layer.weight.scales[0] * layer.sources[0].grid.scale) for layer in last}


def _count(a: np.ndarray, b: np.ndarray) -> str:
    return f"{int((a != b).sum())} of {a.size}" if a.shape == b.shape else f"shape: {b.shape}, expected {a.shape}"
