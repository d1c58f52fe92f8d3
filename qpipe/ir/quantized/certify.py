"""The exactness certificate of a finalized QDQ graph, and whether a file still is what its certificate was made for.

Each op proves its own layers (`prove`), by the arithmetic of `qpipe.arith.certificate`. A file carries its certificate
in its metadata, with a hash of all its nodes and constants, and one of itself: a changed integer or claim is noticed in
any format, and the QDQ format is proven anew as well. (The hashes guard against accidents; whoever wants to can compute
others.)
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping

import onnx_ir as ir
from pydantic import JsonValue

from qpipe.arith.certificate import Certificate
from qpipe.errors import ModelError
from qpipe.ir.files.metadata import CERTIFICATE, get_object, set_json
from qpipe.ir.quantized.kind import Kind, find_kind
from qpipe.ir.quantized.view import View
from qpipe.nodes import describe

DIGEST = "sha256"
"""Of the file's nodes and constants."""
OWN_DIGEST = "certificate_sha256"
"""Of the certificate's other entries."""


def certify(view: View, *, cpu: str = "portable", weights: str = "int8") -> Certificate:
    """Prove every layer of a finalized graph; what fails is in `problems`."""
    check_pairs = cpu != "vnni" and weights != "uint8"
    rows = (layer.op.prove(layer, check_pairs=check_pairs) for layer in view.layers)
    floats = tuple(describe(node) for layer in view.islands for node in layer.nodes)
    return Certificate(cpu, weights, tuple(itertools.chain.from_iterable(rows)), float_nodes=floats)


def store_certificate(model: ir.Model, certificate: Certificate) -> None:
    """Put it into the metadata of the file that it was made for."""
    entries = {**certificate.to_json(), DIGEST: graph_digest(model)}
    set_json(model, CERTIFICATE, {**entries, OWN_DIGEST: _own_digest(entries)})


def check_certificate(model: ir.Model) -> list[str]:
    """What is wrong with the model's certificate, a line each; none where it holds.

    Raises ModelError where there is no certificate.
    """
    stored = get_object(model, CERTIFICATE)
    if stored is None:
        raise ModelError("the model has no certificate; `qpipe export` writes one")
    problems = []
    if stored.get(OWN_DIGEST) != _own_digest(stored):
        problems.append("the certificate is not as it was written")
    if stored.get(DIGEST) != graph_digest(model):
        problems.append("the file's nodes or constants are not those that its certificate was made for")
    # By its ops: an export may begin as a QDQ file does, and be none.
    kind, view = find_kind(model)
    if kind is Kind.FINAL and view is not None and view.layers:
        fresh = certify(view, cpu=str(stored.get("cpu")), weights=str(stored.get("weights")))
        problems.extend(fresh.problems)
        said = fresh.to_json()
        if any(said[name] != stored.get(name) for name in ("layers", "float_nodes")):
            problems.append("the certificate does not say what the file's integers prove")
    return problems


def _own_digest(entries: Mapping[str, JsonValue]) -> str:
    """SHA-256 of what a certificate says, as equal values give equal text."""
    others = {name: value for name, value in entries.items() if name != OWN_DIGEST}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


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
