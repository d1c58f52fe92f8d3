"""How many layers and tensors of a network have how many bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from qpipe.ir.quantized.view import View
from qpipe.ir.quantized.view_weights import FinalWeight, TrainableWeight
from qpipe.reporting.record import CertificateRecord


def widths_of(view: View) -> tuple[Counter[int], Counter[int]]:
    """How many weighted layers, and how many activation quantizers, have each number of bits."""
    weights = (layer.weight for layer in view.layers)
    quantizers = {q.output: q for layer in view.layers for q in (*layer.inputs, layer.output) if q is not None}
    return Counter(_weight_widths(weights)), Counter(quantizer.bits for quantizer in quantizers.values())


def _weight_widths(weights: Iterable[TrainableWeight | FinalWeight | None]) -> Iterator[int]:
    for weight in weights:
        if weight is not None:
            yield weight.spec.bits if isinstance(weight, TrainableWeight) else weight.bits


def certified_widths(certificate: CertificateRecord | None) -> tuple[Counter[int], Counter[int]]:
    """The same of an export, whose certificate has "weight/activation" for each layer, "-" for no weight."""
    pairs = [row.bits.split("/") for row in certificate.layers] if certificate is not None else []
    return Counter(int(weight) for weight, _ in pairs if weight != "-"), Counter(int(bits) for _, bits in pairs)
