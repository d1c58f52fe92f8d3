"""How many layers and tensors of a network have how many bits."""

from __future__ import annotations

from collections import Counter

from qpipe.ir.quantized.view import View, Weighted
from qpipe.reporting.record import CertificateRecord


def widths_of(view: View) -> tuple[Counter[int], Counter[int]]:
    """How many weighted layers, and how many activation quantizers, have each number of bits."""
    weights = Counter(layer.weight.bits for layer in view.layers if isinstance(layer, Weighted))
    quantizers = {q.output: q for layer in view.layers for q in (*layer.sources, layer.quantizer) if q is not None}
    return weights, Counter(quantizer.bits for quantizer in quantizers.values())


def certified_widths(certificate: CertificateRecord | None) -> tuple[Counter[int], Counter[int]]:
    """The same of an export, whose certificate has "weight/activation" for each layer, "-" for no weight."""
    pairs = [row.bits.split("/") for row in certificate.layers] if certificate is not None else []
    return Counter(int(weight) for weight, _ in pairs if weight != "-"), Counter(int(bits) for _, bits in pairs)
