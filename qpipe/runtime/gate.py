"""The gate: a lowered model must compute the QDQ specification's integers, every one of them.

Both run on onnxruntime at default optimization, in three ways: as they are, with the outputs compared; with every
quantized tensor as an output; and cut into single layers, each with inputs of its own (see `qpipe.runtime.cut`), so
that deep layers see extreme integers too.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort

from qpipe.arith.spec import QuantSpec
from qpipe.data import Batch, Preprocess
from qpipe.data.carried import carried_preprocess
from qpipe.errors import LoweringError, ParityError
from qpipe.ir.graph.ending import ending_in
from qpipe.ir.quantized.view import InnerWeighted, LastLayer, QuantizedLayer, View, read_view
from qpipe.lowering.ends import result_scales
from qpipe.ops import OPS, Product, product_of
from qpipe.progress import track
from qpipe.runtime.cut import Tensor, compared, cut_apart, input_name, spec_tensors, tensors_of, with_outputs
from qpipe.runtime.exact_pairs import open_exact
from qpipe.runtime.outputs import integers_equal, model_input, run_batch
from qpipe.runtime.probes import ROUNDS, extremes, layer_probe
from qpipe.runtime.session import fixed_batch, open_session

Array = npt.NDArray[Any]

ELEMENTS = 2**23  # integers of all tensors together in one run: keeps memory and time of a run small
MAX_BATCH = 16
EXTREME_ROWS = 16
_PRODUCTS = frozenset({*(name for name, op in OPS.items() if isinstance(op, Product)), "ConvTranspose"})
FLOAT_OPS = _PRODUCTS | {f"Fused{name}" for name in _PRODUCTS}


@dataclass
class GateReport:
    """What was run: images of calibration data, rows of extreme inputs, rounds of single layers; integers compared."""

    tensors: int = 0
    images: int = 0
    extreme_rows: int = 0
    layer_rounds: int = 0
    integers: int = 0


def run_gate(
    spec: ir.Model, lowered: ir.Model, *, batches: Iterable[Batch] = (), seed: int = 0, pairs: str = "safe"
) -> GateReport:
    """Run and compare; ParityError names the first layer, in topological order, with an integer that differs.

    spec: a finalized QDQ model. lowered: made from it, each requantized value marked with what it equals. batches: of
    calibration data. pairs: as the certificate says. Where it does not prove them "safe", the specification runs on
    kernels that don't saturate; where they are "waived", so does the lowered model: what it computes with VNNI is
    compared. LoweringError where onnxruntime computes a layer of the specification in float.
    """
    gate = _Gate(spec, lowered, seed, pairs)
    check_fused(spec, gate.view)
    gate.report.images = gate.compare_whole(batches, "calibration")
    gate.report.extreme_rows = gate.compare_whole([gate.extreme_inputs()], "extreme")
    gate.compare_layers()
    return gate.report


def check_fused(spec: ir.Model, view: View) -> None:
    """LoweringError that names a layer between quantizers which onnxruntime still computes in float."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(spec, optimized_path=path)
        nodes = onnx.load(path, load_external_data=False).graph.node
    floats = [node.name.removeprefix("fused ") for node in nodes if node.op_type in FLOAT_OPS]
    inner = {layer.name for layer in view.layers if isinstance(layer, InnerWeighted)}
    for name in floats:
        if name in inner:
            raise LoweringError(
                f"layer '{name}': onnxruntime does not fuse it to an integer kernel, and runs it in float"
            )
    # A last Conv has no integer kernel with a wide output; the certificate demands that its sums are exact in float32.
    last = sum(
        isinstance(layer, LastLayer) and not product_of(layer.node).fuses_without_quantizer for layer in view.layers
    )
    if len(floats) > last + sum(layer.op_type in FLOAT_OPS for layer in view.tail):
        raise LoweringError(f"onnxruntime runs in float: {', '.join(floats)}; expected integer kernels")


class _Gate:
    """Both models, and the tensors to compare in topological order."""

    def __init__(self, spec: ir.Model, lowered: ir.Model, seed: int, pairs: str) -> None:
        self.view = read_view(spec)
        self.spec, self.lowered = spec, lowered
        self.rng = np.random.default_rng(seed)
        self.targets = list(spec_tensors(self.view))
        self.owner = _owners(self.view)
        self.scales = {
            str(layer.result.name): result_scales(layer) for layer in self.view.layers if layer.quantizer is None
        }
        self.lowered_tensors = tensors_of(lowered)
        names = [str(value.name) for value in lowered.graph.outputs]
        same = names == [value.name for value in spec.graph.outputs]
        self.pairs = pairs
        self.plain = self._open(spec if same else ending_in(spec, names), lowered)
        self.exposed = self._open(with_outputs(spec, self.targets), with_outputs(lowered, self.targets))
        self.shapes = self._shapes()
        row = sum(math.prod(shape) for shape in self.shapes.values())
        # Rows that one run takes: the model's own number, or as many as fit `ELEMENTS`.
        self.size = fixed_batch(self.plain[0]) or max(1, min(MAX_BATCH, ELEMENTS // max(row, 1)))
        self.report = GateReport(tensors=len(self.targets))

    def compare_whole(self, batches: Iterable[Batch], kind: str) -> int:
        """Outputs of both models as they are, and all their integers; how many rows that were."""
        rows = 0
        for batch in batches:
            for piece in _pieces(batch, self.size):
                found = [self._run_exposed(session, piece) for session in self.exposed]
                self._compare(found[0], found[1], kind)
                self._compare_outputs(piece, kind)
            rows += len(batch.inputs)
        return rows

    def extreme_inputs(self) -> Batch:
        """Random and extreme integers as the network's input."""
        shape = (EXTREME_ROWS, *(int(size) for size in self.plain[0].get_inputs()[0].shape[1:]))
        if self.plain[1].get_inputs()[0].type == "tensor(uint8)":
            preprocess = carried_preprocess(self.lowered) or Preprocess()
            if preprocess.layout == "NCHW":
                shape = (shape[0], *shape[2:], shape[1])
            pixels = extremes(shape, QuantSpec.unsigned(8, 0), self.rng)
            return Batch(preprocess(pixels), pixels=pixels)
        grid = self.view.inputs[0].rounded_to
        codes = extremes(shape, grid, self.rng).astype(np.float32)
        return Batch((codes - grid.zero_point) * np.float32(grid.scale))

    def compare_layers(self) -> None:
        """Each layer alone on random integers, on extremes, and on its weights' own patterns."""
        quantizers = {
            str(q.codes.name): q for q in (*self.view.inputs, *(x.quantizer for x in self.view.layers if x.quantizer))
        }
        readers: dict[str, list[QuantizedLayer]] = {name: [] for name in quantizers}
        for layer in self.view.layers:
            for quantizer in layer.sources:
                readers[str(quantizer.codes.name)].append(layer)
        shapes = {name: (self.size, *self.shapes[name][1:]) for name in quantizers if readers[name]}
        outputs = [name for name in self.targets if name not in {str(q.codes.name) for q in self.view.inputs}]
        sessions = self._open(*(cut_apart(model, outputs, shapes) for model in (self.spec, self.lowered)))
        tensors = [spec_tensors(self.view), self.lowered_tensors]
        for round_ in track(range(ROUNDS), "comparing single layers"):
            codes = {
                name: layer_probe(shape, quantizers[name].reach, readers[name], round_=round_, rng=self.rng)
                for name, shape in shapes.items()
            }
            found = []
            for session, own in zip(sessions, tensors, strict=True):
                arrays = session.run(None, _feeds(session, codes, own))
                found.append(dict(zip(outputs, arrays, strict=True)))
            self._compare(found[0], found[1], "single-layer")
            self.report.layer_rounds += 1

    def _open(self, spec: ir.Model, lowered: ir.Model) -> tuple[ort.InferenceSession, ort.InferenceSession]:
        """A session of each; int8 weights whose pairs are not proven safe are added exactly on every CPU."""
        return (
            open_session(spec) if self.pairs == "safe" else open_exact(spec),
            open_exact(lowered) if self.pairs == "waived" else open_session(lowered),
        )

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape at one row (or the model's fixed batch)."""
        value = self.plain[0].get_inputs()[0]
        zeros = np.zeros((fixed_batch(self.plain[0]) or 1, *value.shape[1:]), np.float32)
        arrays = self.exposed[0].run(None, {value.name: zeros})
        return {name: array.shape for name, array in zip(self.targets, arrays, strict=True)}

    def _run_exposed(self, session: ort.InferenceSession, batch: Batch) -> dict[str, Array]:
        arrays = session.run(None, {session.get_inputs()[0].name: model_input(session, batch)})
        return dict(zip(self.targets, arrays, strict=True))

    def _compare(self, spec: dict[str, Array], lowered: dict[str, Array], kind: str) -> None:
        for name, expected in spec.items():
            found = self.lowered_tensors[name].to_common(lowered[name])
            if name in self.scales and found.dtype == np.int32:
                scales = self.scales[name]
                along = (-1, *[1] * (found.ndim - 2)) if len(scales) > 1 else (1,)
                found = found.astype(np.float32) * scales.reshape(along)
            self.report.integers += expected.size
            if expected.shape != found.shape:
                raise ParityError(f"{self.owner[name]}: shape {list(found.shape)}, expected {list(expected.shape)}")
            wrong = int(np.count_nonzero(expected != found))
            if wrong:
                largest = np.abs(expected.astype(np.float64) - found).max()
                raise ParityError(
                    f"{self.owner[name]}: {wrong} of {expected.size} integers differ from the QDQ file's on {kind} "
                    f"inputs, by up to {largest:g}"
                )

    def _compare_outputs(self, batch: Batch, kind: str) -> None:
        for expected, found in zip(*(run_batch(session, batch) for session in self.plain), strict=True):
            wrong = int((~integers_equal(expected, found)).sum())
            if wrong:
                raise ParityError(
                    f"the outputs of {wrong} of {len(batch.inputs)} {kind} inputs differ from the QDQ file's, though "
                    "all integers agree once they are looked at: onnxruntime optimizes the two otherwise"
                )


def _owners(view: View) -> dict[str, str]:
    """Whose each tensor is, as messages say it."""
    owners = {str(q.codes.name): f"input '{q.source.name}'" for q in view.inputs}
    for layer in view.layers:
        owners[str(compared(layer).name)] = f"{layer.op_type} '{layer.name}'"
    return owners


def _pieces(batch: Batch, size: int) -> Iterator[Batch]:
    for start in range(0, len(batch.inputs), size):
        part = np.arange(start, start + size)
        # The last one is filled up with its first rows, for models whose batch is fixed.
        yield batch.part(np.where(part < len(batch.inputs), part, start))


def _feeds(session: ort.InferenceSession, codes: dict[str, Array], tensors: dict[str, Tensor]) -> dict[str, Array]:
    wanted = {value.name for value in session.get_inputs()}
    return {input_name(name): tensors[name].to_own(a) for name, a in codes.items() if input_name(name) in wanted}
