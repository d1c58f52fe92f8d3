"""Which quantized network a file computes: a hash of its integers, equal for all that were made from one QDQ file."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_ir as ir

from qpipe.ir.files.metadata import get_json, set_json
from qpipe.ir.quantized.view import View, is_final

ORIGIN = "origin"
"""Metadata of an export: the origin of the QDQ network that it was lowered from."""


def origin_of(view: View) -> str:
    """SHA-256 (hexadecimal) of a final graph's grids, weights, multipliers and biases, layer by layer."""
    digest = hashlib.sha256()
    for layer in view.layers:
        grids = [quantizer.grid for quantizer in (*layer.sources, layer.quantizer) if quantizer is not None]
        digest.update(f"{layer.op_type} {grids}\n".encode())
        if layer.quantizer is not None and layer.quantizer.table is not None:
            digest.update(f"{layer.quantizer.table}\n".encode())
        if is_final(layer):
            weight = layer.weight
            for array in (weight.codes, weight.multiplier, weight.exponent, weight.bias):
                # Of one width, so that it does not matter how a file stores them.
                digest.update(np.ascontiguousarray(array, np.int64).tobytes())
    return digest.hexdigest()


def store_origin(model: ir.Model, view: View) -> None:
    """Let an export say what it was made from; `view` is that of the final QDQ graph, before it was lowered."""
    set_json(model, ORIGIN, origin_of(view))


def stored_origin(model: ir.Model) -> str | None:
    """What an export says that it was made from; None where it says nothing."""
    value = get_json(model, ORIGIN)
    return value if isinstance(value, str) else None
