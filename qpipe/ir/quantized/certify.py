"""The exactness certificate of a finalized QDQ graph, and whether a file still is what its certificate was made for.

The proof itself is in `qpipe.arith.certificate`. A file carries its certificate in its metadata, with a hash of all
its nodes and constants: a changed integer is noticed in any format, and the QDQ format is proven anew as well. (The
hash guards against accidents; whoever wants to can compute another.)
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from qpipe.arith.certificate import Certificate, CertificateRow, add_row, pool_row, weighted_row
from qpipe.errors import ModelError
from qpipe.ir.files.metadata import CERTIFICATE, get_object, set_json
from qpipe.ir.graph.layers import Role
from qpipe.ir.quantized.view import QuantizedLayer, View, Weighted, is_final, read_view
from qpipe.ir.quantized.view_weights import FinalWeight
from qpipe.ir.quantized.weight_layout import has_single_channels, to_rows
from qpipe.nodes import int_attribute, static_shape, window

DIGEST = "sha256"


def certify(view: View, *, cpu: str = "portable", weights: str = "int8") -> Certificate:
    """Prove every layer of a finalized graph; what fails is in `problems`."""
    rows = [row for layer in view.layers for row in _rows(layer, check_pairs=cpu != "vnni" and weights != "uint8")]
    return Certificate(cpu, weights, tuple(rows))


def store_certificate(model: ir.Model, certificate: Certificate) -> None:
    """Put it into the metadata of the file that it was made for."""
    set_json(model, CERTIFICATE, {**certificate.to_json(), DIGEST: graph_digest(model)})


def check_certificate(model: ir.Model) -> list[str]:
    """What is wrong with the model's certificate, a line each; none where it holds.

    Raises ModelError where there is no certificate.
    """
    stored = get_object(model, CERTIFICATE)
    if stored is None:
        raise ModelError("the model has no certificate; `qpipe export` writes one")
    problems = []
    if stored.get(DIGEST) != graph_digest(model):
        problems.append("the file's nodes or constants are not those that its certificate was made for")
    if _is_final_qdq(model):
        fresh = certify(read_view(model), cpu=str(stored.get("cpu")), weights=str(stored.get("weights")))
        problems.extend(fresh.problems)
        if fresh.to_json()["layers"] != stored.get("layers"):
            problems.append("the certificate does not say what the file's integers prove")
    return problems


def graph_digest(model: ir.Model) -> str:
    """SHA-256 of inputs, outputs, nodes and constants, by content and in a fixed order."""
    digest = hashlib.sha256()
    for text in _text(model.graph):
        digest.update(f"{text}\n".encode())
    for name, value in sorted(model.graph.initializers.items()):
        tensor = value.const_value
        assert tensor is not None
        digest.update(f"{name} {tensor.dtype.name} {list(tensor.shape.numpy())} ".encode())
        # As the file holds them: in memory, the unused half of an INT4's byte may differ.
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def _text(graph: ir.Graph) -> Iterator[str]:
    for node in sorted(graph, key=lambda node: str(node.outputs[0].name)):
        names = [[None if value is None else value.name for value in values] for values in (node.inputs, node.outputs)]
        attributes = sorted((name, _attribute(attribute)) for name, attribute in node.attributes.items())
        yield f"{node.domain} {node.op_type} {names} {attributes}"
    for value in (*graph.inputs, *graph.outputs):
        yield f"{value.name} {value.dtype}"


def _attribute(attribute: ir.Attr) -> str:
    value = attribute.value
    return str(value.numpy().tolist()) if attribute.type == ir.AttributeType.TENSOR else str(value)


def _is_final_qdq(model: ir.Model) -> bool:
    """Whether the file is a QDQ graph whose weights are integers."""
    try:
        view = read_view(model)
    except ModelError:
        return False
    return bool(view.layers) and view.is_final


def _rows(layer: QuantizedLayer, *, check_pairs: bool) -> Iterator[CertificateRow]:
    if is_final(layer):
        yield _weighted(layer, check_pairs=check_pairs)
    elif layer.quantizer is not None and layer.role is Role.JOIN:
        yield add_row(layer.name, [q.reach for q in layer.sources], layer.quantizer.before)
    elif layer.quantizer is not None and layer.role is Role.POOL:
        source, output = layer.sources[0].reach, layer.quantizer.before
        yield pool_row(layer.name, layer.op_type, source, output, counts=pool_counts(layer.node))


def _weighted(layer: Weighted[FinalWeight], *, check_pairs: bool) -> CertificateRow:
    weight = layer.weight
    source, output = layer.sources[0].reach, None if layer.quantizer is None else layer.quantizer.before
    depthwise = layer.op_type == "Conv" and has_single_channels(layer.node, weight.codes.shape)
    rows = to_rows(layer.node, weight.codes.astype(np.int64))
    return weighted_row(
        layer.name,
        layer.op_type,
        rows=rows,
        bits=weight.bits,
        multiplier=weight.multiplier,
        shift=None if output is None else output.exponent - source.exponent - weight.exponent,
        bias=weight.bias,
        source=source,
        output=output,
        check_pairs=check_pairs and not depthwise,
    )


def pool_counts(node: ir.Node) -> set[int]:
    """Over how many values each position of a pool averages; empty where the image's size is unknown."""
    shape = static_shape(node.inputs[0]) if node.inputs[0] is not None else None
    sizes: list[Any] = [] if shape is None else list(shape[2:])
    if not sizes or None in sizes:
        return set()
    if node.op_type != "AveragePool":
        return {int(np.prod(sizes))}
    found = window(node)
    include = int_attribute(node, "count_include_pad", 0)
    padded = found.padded(sizes, ceil_mode=bool(int_attribute(node, "ceil_mode", 0)))
    per_axis = []
    for axis, size in enumerate(sizes):
        begin, end, extent = found.pads[axis], found.pads[axis + len(sizes)], found.extent[axis]
        last = (size + begin + padded[axis + len(sizes)] - extent) // found.strides[axis] * found.strides[axis]
        low, high = (-begin, size + end) if include else (0, size)
        starts = range(-begin, last - begin + 1, found.strides[axis])
        taps = [range(start, start + extent, found.dilations[axis]) for start in starts]
        per_axis.append({sum(low <= tap < high for tap in window_) for window_ in taps})
    return {int(np.prod(combination)) for combination in itertools.product(*per_axis)} - {0}
