"""A run, and all that its files say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
from pydantic import JsonValue

from qpipe.ir.files.metadata import AppliedPass
from qpipe.ir.quantized.kind import Kind
from qpipe.reporting.record import CertificateRecord, TrainingRecord

EXPORT: Final = "export-"
"""How the names of a pipeline's export stages begin."""


@dataclass(frozen=True)
class File:
    """One file of a run: its size in bytes, and what it is."""

    name: str
    size: int
    what: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that a page says about one run; what its files don't say is None or empty.

    weight_bits, activation_bits: how many layers, and how many tensors, have each width. certificate_source: where
    the certificate comes from, in words; certificate_problems: why it does not hold, checked anew. rows: of
    `qpipe validate`, in a run folder. stages: seconds of each stage. float_accuracy: the metric of the float network,
    where somebody counted it.
    """

    name: str
    path: Path
    kind: str
    model: ir.Model
    files: tuple[File, ...]
    weight_bits: Mapping[int, int]
    activation_bits: Mapping[int, int]
    training: TrainingRecord
    certificate: CertificateRecord | None
    certificate_source: str
    certificate_problems: tuple[str, ...]
    provenance: tuple[AppliedPass, ...]
    input_sha256: str | None
    preprocess: Mapping[str, JsonValue] | None
    rows: tuple[Mapping[str, Any], ...] = ()
    stages: Mapping[str, float] = field(default_factory=dict)
    float_accuracy: float | None = None

    @property
    def is_float(self) -> bool:
        """Whether nothing of the network is on a grid."""
        return self.kind == Kind.FLOAT.value

    @property
    def shipped(self) -> File:
        """What would ship: the first export, where there is one."""
        return next((file for file in self.files if file.what.startswith(EXPORT)), self.files[-1])
