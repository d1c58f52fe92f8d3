"""The gate: a lowered model must compute the QDQ specification's integers, every one of them.

The specification is the oracle's (`qpipe.ir.quantized.oracle`): numpy alone, without a runtime. On a few rows, layer by
layer and through the whole network, it is compared with the lowered model, with the QDQ file as onnxruntime optimizes
it, and, of layers that float32 holds exactly, with the QDQ file as it runs without any optimization. On many more rows
the lowered model is compared with the optimized file, in three ways: as they are, with the outputs compared; with every
quantized tensor as an output; and cut into single layers, each with inputs of its own (see `qpipe.runtime.cut`), so
that deep layers see extreme integers too.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort

from qpipe.data import Batch
from qpipe.data.inputs import Inputs
from qpipe.errors import LoweringError, ParityError
from qpipe.ir.graph.ending import ending_in
from qpipe.ir.quantized.oracle import layer_result, network_integers, result_name
from qpipe.ir.quantized.view import LastLayer, QuantizedLayer, RequantizedLayer, View, read_view
from qpipe.ops import OPS, Product, product_of
from qpipe.progress import track
from qpipe.runtime.cut import Tensor, cut_apart, input_name, spec_tensors, tensors_of, with_outputs
from qpipe.runtime.differences import LOWERED, OPTIMIZED, SPECIFIED, UNFUSED, Differences
from qpipe.runtime.exact_pairs import open_exact
from qpipe.runtime.made_inputs import MadeInputs
from qpipe.runtime.outputs import integers_equal, run_outputs
from qpipe.runtime.probes import ROUNDS, layer_probe
from qpipe.runtime.regions import Piece, Regions
from qpipe.runtime.session import open_session, run_feeds

Array = npt.NDArray[Any]

ELEMENTS = 2**23  # integers of all tensors together in one run: keeps memory and time of a run small
ORACLE_ELEMENTS = 2**20  # the same of what the oracle computes, which is slower
WHOLE_ELEMENTS = 24 * 10**6  # the same of all images together, of which large ones have many windows each
FEWEST_ROWS = 8  # of whatever size; as many as there are kinds of extreme rows
ORACLE_ROUNDS = 3  # of single layers: random, extreme, the weights' patterns
MAX_BATCH = 16
_PRODUCTS = frozenset({*(name for name, op in OPS.items() if isinstance(op, Product)), "ConvTranspose"})
FLOAT_OPS = _PRODUCTS | {f"Fused{name}" for name in _PRODUCTS}


@dataclass
class GateReport:
    """What was run: images of calibration data, rows of extreme inputs, rounds of single layers; integers compared.

    oracle_rows: those of them that numpy computed too, through the network or layer by layer.
    """

    tensors: int = 0
    images: int = 0
    extreme_rows: int = 0
    layer_rounds: int = 0
    oracle_rows: int = 0
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
    batches = list(batches)
    view = read_view(spec)
    optimized = check_fused(spec, view)
    gate = _Gate(spec, lowered, view, seed, pairs, optimized=optimized, example=batches[0].inputs if batches else None)
    gate.report.images = gate.compare_whole(batches, "calibration", gate.regions.piece)
    gate.report.extreme_rows = gate.compare_whole([gate.made.extreme()], "extreme", gate.extreme_piece)
    gate.compare_layers()
    gate.report.integers = gate.differences.integers
    return gate.report


def compare_extremes(spec: ir.Model, lowered: ir.Model, *, seed: int, pairs: str) -> None:
    """A glance at both: ParityError where an integer differs on a few rows of extreme inputs; see `run_gate`."""
    gate = _Gate(spec, lowered, read_view(spec), seed, pairs)
    gate.compare_whole([gate.made.extreme()], "extreme", gate.extreme_piece)


def check_fused(spec: ir.Model, view: View) -> ort.InferenceSession:
    """LoweringError that names a layer between quantizers which onnxruntime still computes in float; else a session."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        session = open_session(spec, optimized_path=path)
        nodes = onnx.load(path, load_external_data=False).graph.node
    floats = [node.name.removeprefix("fused ") for node in nodes if node.op_type in FLOAT_OPS]
    inner = {layer.name for layer in view.layers if isinstance(layer, RequantizedLayer)}
    for name in floats:
        if name in inner:
            raise LoweringError(
                f"layer '{name}': onnxruntime does not fuse it to an integer kernel, and runs it in float"
            )
    # A last Conv has no integer kernel with a wide output; the certificate demands that its sums are exact in float32.
    last = sum(
        isinstance(layer, LastLayer) and not product_of(layer.node).fuses_without_quantizer for layer in view.layers
    )
    if len(floats) > last + sum(layer.op_type in FLOAT_OPS for layer in (*view.islands, *view.tail)):
        raise LoweringError(f"onnxruntime runs in float: {', '.join(floats)}; expected integer kernels")
    return session


class _Gate:
    """Both models, and the tensors to compare in topological order."""

    def __init__(
        self,
        spec: ir.Model,
        lowered: ir.Model,
        view: View,
        seed: int,
        pairs: str,
        *,
        optimized: ort.InferenceSession | None = None,
        example: Inputs | None = None,
    ) -> None:
        self.view = view
        self.spec, self.lowered = spec, lowered
        self.rng = np.random.default_rng(seed)
        self.differences = Differences(self.view)
        self.spec_tensors, self.lowered_tensors = spec_tensors(self.view), tensors_of(lowered)
        self.targets = list(self.spec_tensors)
        self.pairs = pairs
        self.regions = Regions(spec, self.view)
        self.plain = self._open(*self._plain(), optimized)
        self.exposed = self._open(*(self.regions.apart(with_outputs(m, self.targets)) for m in (spec, lowered)))
        self.made = MadeInputs(self.view, lowered, self.rng, example)
        self.form = self.made.form
        self.shapes = self._shapes(self.form.size or 1)
        row = sum(math.prod(shape) for shape in self.shapes.values())
        # Rows that one run takes: the model's own number, or as many as fit. Behind islands, and where images are
        # shuffled with their channels, a batch's rows need not come first, so that the oracle takes all of them.
        lead = all(shape[:1] == (self.form.size or 1,) for shape in self.shapes.values())
        self.rows_lead = not self.regions.are_cut and self.form.is_batched and lead
        elements = ELEMENTS if self.rows_lead else ORACLE_ELEMENTS
        self.size = self.form.size or max(1, min(MAX_BATCH, elements // max(row, 1)))
        self.few = max(1, min(self.size, ORACLE_ELEMENTS // max(row, 1))) if self.rows_lead else None
        self.most = max(FEWEST_ROWS, WHOLE_ELEMENTS // max(row, 1))
        self.shapes = self.shapes if self.rows_lead else self._shapes(self.size)
        self.report = GateReport(tensors=len(self.targets))
        rows = itertools.chain.from_iterable(layer.op.prove(layer, check_pairs=False) for layer in self.view.layers)
        inexact = {row.layer for row in rows if not row.exact_in_float32}
        self.exact_in_float32 = {result_name(layer) for layer in self.view.layers if layer.name not in inexact}

    def compare_whole(self, batches: Iterable[Batch], kind: str, begin: Callable[[Batch], Piece]) -> int:
        """Outputs of both models as they are, and all their integers; of how many rows, which are those of `most`."""
        rows = 0
        for batch in batches:
            batch = batch.part(np.arange(min(len(batch), self.most - rows)))
            for position, part in enumerate(_pieces(batch, self.size)):
                piece = begin(part)
                found = [self._run_exposed(session, piece) for session in self.exposed]
                if not position:
                    begins = [array[: self.few] for array in piece.begins(self.view)]
                    self._compare_specified(network_integers(self.spec, *begins), found, kind)
                self._compare(found[0], found[1], kind)
                self._compare_outputs(piece, kind)
            rows += len(batch)
        return rows

    def extreme_piece(self, batch: Batch) -> Piece:
        """A batch, and random and extreme numbers in the place of what islands give."""
        return self.regions.extreme_piece(batch, self.rng)

    def compare_layers(self) -> None:
        """Each layer alone on random integers, on extremes, and on its weights' own patterns."""
        quantizers = {
            str(q.codes.name): q for q in (*self.view.inputs, *(x.quantizer for x in self.view.layers if x.quantizer))
        }
        readers: dict[str, list[QuantizedLayer]] = {name: [] for name in quantizers}
        for layer in self.view.layers:
            for quantizer in layer.sources:
                readers[str(quantizer.codes.name)].append(layer)
        shapes = {name: self._at_size(self.shapes[name]) for name in quantizers if readers[name]}
        outputs = [name for name in self.targets if name not in {str(q.codes.name) for q in self.view.inputs}]
        apart = [cut_apart(model, outputs, shapes) for model in (self.spec, self.lowered)]
        sessions, unfused = self._open(*apart), open_session(apart[0], optimize=False)
        tensors = [self.spec_tensors, self.lowered_tensors]
        # One run of a large fixed batch has more rows than all rounds of a free one.
        rounds = ROUNDS if self.size < 2 * MAX_BATCH else ORACLE_ROUNDS
        for round_ in track(range(rounds), "comparing single layers"):
            codes = {
                name: layer_probe(shape, quantizers[name].reach, readers[name], round_=round_, rng=self.rng)
                for name, shape in shapes.items()
            }
            found = [
                dict(zip(outputs, run_feeds(session, _feeds(session, codes, own)), strict=True))
                for session, own in zip(sessions, tensors, strict=True)
            ]
            if round_ < ORACLE_ROUNDS:
                specified = {
                    result_name(layer): layer_result(
                        layer, [codes[str(q.codes.name)][: self.few] for q in layer.sources]
                    )
                    for layer in self.view.layers
                }
                self._compare_specified(specified, found, "single-layer")
                arrays = run_feeds(unfused, _feeds(unfused, codes, self.spec_tensors))
                self._compare_unfused(specified, dict(zip(outputs, arrays, strict=True)))
            self._compare(found[0], found[1], "single-layer")
            self.report.layer_rounds += 1

    def _at_size(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of as many rows as one run takes; where these do not lead everywhere, the shapes have them already."""
        return (self.size, *shape[1:]) if self.rows_lead else shape

    def _open(
        self, spec: ir.Model, lowered: ir.Model, known: ort.InferenceSession | None = None
    ) -> tuple[ort.InferenceSession, ort.InferenceSession]:
        """A session of each; int8 weights whose pairs are not proven safe are added exactly on every CPU.

        known: one of the specification as it is.
        """
        usual = known if known is not None and spec is self.spec else None
        return (
            (usual or open_session(spec)) if self.pairs == "safe" else open_exact(spec),
            open_exact(lowered) if self.pairs == "waived" else open_session(lowered),
        )

    def _plain(self) -> tuple[ir.Model, ir.Model]:
        """Both models, with the outputs of the lowered one; where there are islands, with what leaves the integers."""
        names = [str(value.name) for value in self.lowered.graph.outputs]
        if self.regions.are_cut:
            known = {value.name for node in self.lowered.graph for value in node.outputs}
            names = [str(value.name) for value in self.view.leaving() if value.name in known]
            spec, lowered = (self.regions.apart(ending_in(model, names)) for model in (self.spec, self.lowered))
            return spec, lowered
        same = names == [value.name for value in self.spec.graph.outputs]
        return self.spec if same else ending_in(self.spec, names), self.lowered

    def _shapes(self, rows: int) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape at so many rows."""
        arrays = self._run_exposed(self.exposed[0], self.extreme_piece(self.made.plain(rows)))
        return {name: array.shape for name, array in arrays.items()}

    def _run_exposed(self, session: ort.InferenceSession, piece: Piece) -> dict[str, Array]:
        return dict(zip(self.targets, run_feeds(session, piece.feeds(session)), strict=True))

    def _compare_specified(self, specified: dict[str, Array], found: list[dict[str, Array]], kind: str) -> None:
        """Both models on a few rows against the oracle."""
        self.differences.check(specified, found[0], OPTIMIZED, kind, self.spec_tensors)
        self.differences.check(specified, found[1], SPECIFIED, kind, self.lowered_tensors)
        self.report.oracle_rows += len(next(iter(specified.values())))

    def _compare_unfused(self, specified: dict[str, Array], found: dict[str, Array]) -> None:
        """Of single layers those that float32 holds exactly."""
        known = {name: array for name, array in specified.items() if name in self.exact_in_float32}
        self.differences.check(known, found, UNFUSED, "single-layer", self.spec_tensors)

    def _compare(self, spec: dict[str, Array], lowered: dict[str, Array], kind: str) -> None:
        self.differences.check(spec, lowered, LOWERED, kind, self.lowered_tensors)

    def _compare_outputs(self, piece: Piece, kind: str) -> None:
        for expected, found in zip(
            *(run_outputs(session, piece.feeds(session)) for session in self.plain), strict=True
        ):
            wrong = int((~integers_equal(expected, found)).sum())
            if wrong:
                raise ParityError(
                    f"the outputs of {wrong} of {len(piece.batch)} {kind} inputs differ from the QDQ file's, though "
                    "all integers agree once they are looked at: onnxruntime optimizes the two otherwise"
                )


def _pieces(batch: Batch, size: int) -> Iterator[Batch]:
    for start in range(0, len(batch), size):
        part = np.arange(start, start + size)
        # The last one is filled up with its first rows, for models whose batch is fixed.
        yield batch.part(np.where(part < len(batch), part, start))


def _feeds(session: ort.InferenceSession, codes: dict[str, Array], tensors: dict[str, Tensor]) -> dict[str, Array]:
    wanted = {value.name for value in session.get_inputs()}
    return {input_name(name): tensors[name].to_own(a) for name, a in codes.items() if input_name(name) in wanted}
