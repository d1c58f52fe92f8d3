"""Run batches through the float network and keep each tensor's range.

Source: FAQ, section 3.2: several (5) training batches; per tensor, `ymax` is the maximum over batches of the batch's
99.99th percentile (99.9 for 4-bit layers).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import onnx_ir as ir

from qpipe.calibration.percentile import FloatArray, RunningPercentile
from qpipe.errors import DataError, ModelError
from qpipe.runtime.session import open_session, run_batches

PERCENTILE = {8: 99.99, 4: 99.9}
_SMALLEST = 2.0**-64
_PIECE_VALUES = 2**22  # values of all observed tensors together that one run of the network produces: 16 MiB


@dataclass(frozen=True)
class ObservedRange:
    """ymax: the percentile in the tensor's units, before it is rounded up; is_negative: whether a value was below 0."""

    ymax: float
    is_negative: bool

    @property
    def log2_ymax(self) -> int | None:
        """The next power of two; None for a tensor of zeros (or so small that its scale would leave float32)."""
        if self.ymax < _SMALLEST:
            return None
        mantissa, exponent = math.frexp(self.ymax)
        return exponent - (mantissa == 0.5)


def default_percentile(bits: int) -> float:
    """99.99 for 8-bit tensors, 99.9 for narrower ones (FAQ, section 3.2)."""
    return PERCENTILE[8] if bits >= 8 else PERCENTILE[4]


def observe(
    model: ir.Model,
    percentiles: Mapping[str, float],
    batches: Iterable[FloatArray],
    *,
    magnitudes: frozenset[str],
) -> dict[str, ObservedRange]:
    """The range of each named value over batches of inputs `[N, C, H, W]`.

    A batch runs in pieces, so memory holds one piece's activations, whatever the batch and however many batches.

    Args:
        model: the float network, one input.
        percentiles: value name -> percentile.
        batches: float32 inputs.
        magnitudes: names whose percentile is of `|y|`, and for which the sign is looked at.
    """
    watched = {name: RunningPercentile(p, magnitude=name in magnitudes) for name, p in percentiles.items()}
    pieces = _Pieces(model, list(percentiles))
    seen = 0
    # Comparing releases the interpreter's lock, so each thread has a share of the tensors.
    threads = os.cpu_count() or 1
    shares = [list(watched)[first::threads] for first in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        for batch in batches:
            if not np.isfinite(batch).all():
                raise DataError("calibration data: NaN or infinite values, expected finite inputs")
            begun = False
            for tensors, images in pieces.run(batch):
                if not begun:
                    for name, tensor in tensors.items():
                        watched[name].begin(tensor.size // images * len(batch))
                    begun = True
                list(pool.map(_update, repeat(watched), repeat(tensors), shares))
            for percentile in watched.values():
                percentile.end()
            seen += len(batch)
    if not seen:
        raise DataError("calibration data: no batch, expected at least one")
    for name, percentile in watched.items():
        if not math.isfinite(percentile.value):
            raise ModelError(f"tensor '{name}' overflows float32 on the calibration data, expected finite values")
    return {name: ObservedRange(p.value, p.saw_negative) for name, p in watched.items()}


def _update(watched: Mapping[str, RunningPercentile], tensors: Mapping[str, FloatArray], names: Sequence[str]) -> None:
    """One thread's share."""
    for name in names:
        watched[name].update(tensors[name])


class _Pieces:
    """Runs a batch in pieces that keep the observed tensors small: as many images as fit `_PIECE_VALUES` values."""

    def __init__(self, model: ir.Model, names: Sequence[str]) -> None:
        source = model.graph.inputs[0]
        self._input = str(source.name)
        self._observes_input = self._input in names
        self._names = [name for name in names if name != self._input]
        # A network of one layer has nothing to observe but its input.
        self._session = open_session(_with_outputs(model, self._names)) if self._names else None
        self._images = 1

    def run(self, batch: FloatArray) -> Iterator[tuple[dict[str, FloatArray], int]]:
        """Each piece's tensors by name, and its number of images."""
        start = 0
        while start < len(batch):
            inputs = batch[start : start + self._images]
            # It cuts and fills up what a fixed batch size asks for.
            outputs = next(run_batches(self._session, [inputs])) if self._session is not None else []
            tensors: dict[str, FloatArray] = dict(zip(self._names, outputs, strict=True))
            if self._observes_input:
                tensors[self._input] = inputs
            yield tensors, len(inputs)
            start += len(inputs)
            values = sum(tensor.size for tensor in tensors.values()) // len(inputs)
            self._images = max(_PIECE_VALUES // max(values, 1), 1)


def _with_outputs(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy of the model whose outputs are these values."""
    copy = ir.Model(model.graph.clone(), ir_version=model.ir_version, functions=[])
    values = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values[name] for name in names)
    for value in copy.graph.outputs:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    return copy
