"""What a file says about itself: the metadata `qpipe.training` and `qpipe.certificate`, checked."""

from __future__ import annotations

import re
from typing import Any, Final, Literal, Self, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue, field_validator, model_validator

from qpipe.arith.certificate import CertificateRow
from qpipe.arith.mls.formats import Grouping
from qpipe.arith.mls.generators import Role
from qpipe.ir.files.metadata import CERTIFICATE, FLOAT_PHASE, TRAINING, checked

Split = Literal["channel", "sample", "both"]
"""What the groups of an activation or an error are told apart by."""
_WIDTHS: Final = re.compile(r"(\d{1,2}|-)/\d{1,2}")  # of weight and activation


class Record(BaseModel):
    """A JSON object of the metadata; keys that nobody here reads are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class EpochRecord(Record):
    """One epoch, from 1: mean loss, accuracy (of 1) on training images where that is known, and how it was trained.

    test_accuracy: the task's metric on test images.
    """

    number: int
    loss: float
    accuracy: float | None = None
    lr: float | None = None
    batch_size: int | None = None
    test_accuracy: float | None = None


class NeuronRecord(Record):
    """The cosine between initial and final weights over all neurons, and its counts in equal bins from -1 to 1."""

    mean: float
    std: float
    layers: list[float | None] = []
    histogram: list[int]


class NoiseRecord(Record):
    """Signal-to-quantization-noise ratios in dB; None where nothing is lost."""

    weight: list[float | None]
    activation: list[float | None]


class LowBitFormat(Record):
    """Bits of an element's exponent and mantissa, and what has a scale of its own."""

    element: tuple[int, int]
    grouping: Grouping


class LowBitRecord(Record):
    """What low-bit formats would lose of the operands of training's products, at a few updates.

    relative_error: by role, update, format and layer, None where there was none. below_half: of activations and errors
    the shares of groups below half of the largest, by split, update and layer. maxima: of one layer, at the last of the
    updates.
    """

    layers: list[str]
    updates: list[int]
    formats: list[LowBitFormat]
    relative_error: dict[Role, list[list[list[float | None]]]]
    below_half: dict[Role, dict[Split, list[list[float | None]]]]
    maxima_layer: str
    maxima: dict[Role, dict[Split, list[float | None]]]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        """Lists are as long as what they count."""
        updates, formats, layers = len(self.updates), len(self.formats), len(self.layers)
        roles, splits = get_args(Role), get_args(Split)
        errors = [self.relative_error.get(role) for role in roles]
        shares = [self.below_half.get(role, {}).get(split) for role in roles[1:] for split in splits]
        maxima = [self.maxima.get(role, {}).get(split) for role in roles[1:] for split in splits[:2]]
        is_whole = set(map(_shape, errors)) == {(updates, formats, layers)} and None not in maxima
        if not is_whole or set(map(_shape, shares)) != {(updates, layers)}:
            raise ValueError("not whole, expected values for each role, update, format and layer")
        return self


def _shape(values: Any) -> tuple[int, ...]:
    """Of nested lists; of None, and where they are not as long as each other, that of nothing."""
    try:
        return np.array(values, np.float64).shape
    except ValueError:
        return ()


class DiagnosticsRecord(Record):
    """What `finetune --diagnose` measured; lists are in the order of `layers`, or of `activations`."""

    layers: list[str]
    weight_bits: list[int | None] = []
    activations: list[str] = []
    activation_bits: list[int] = []
    step_cosine: list[float] | None = None
    step_updates: tuple[int, int] | None = None
    neuron_cosine: NeuronRecord | None = None
    sqnr_before: NoiseRecord | None = None
    sqnr_after: NoiseRecord | None = None
    low_bit: LowBitRecord | None = None


class PhaseRecord(Record):
    """Where the metric stood on test images, on the way to the trained network."""

    phase: str
    accuracy: float | None = None


class TaskRecord(Record):
    """What a network is for. metric: None where nothing could be judged."""

    output: str = ""
    loss: str | None = None
    metric: str | None = None
    said: str = ""


class RowRecord(Record):
    """A row of `validate`; what it has besides are metrics by name."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, float | None]

    name: str
    kind: str
    size: int | None = None
    agreement: float | None = None
    largest_difference: float | None = None
    integers_equal: bool | None = None
    certificate: str | None = None


class ReportRecord(Record):
    """The report.json of a run folder."""

    rows: list[RowRecord]


class TrainingRecord(Record):
    """A run of `finetune`: its epochs, the metric before and after on test images, settings and diagnostics."""

    epochs: list[EpochRecord] = []
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    phases: list[PhaseRecord] = []
    settings: dict[str, JsonValue] = {}
    task: TaskRecord | None = None
    diagnostics: DiagnosticsRecord | None = None

    @property
    def float_accuracy(self) -> float | None:
        """Of the float network, where the run began with one."""
        return next((phase.accuracy for phase in self.phases if phase.phase == FLOAT_PHASE), None)

    @property
    def metric(self) -> str:
        """What its networks were judged by."""
        return (self.task and self.task.metric) or "top-1"

    @property
    def fade(self) -> float:
        """The part of the run over which stripped skips faded away."""
        found = self.settings.get("fade")
        return float(found) if isinstance(found, int | float) else 0.0


class GateRecord(Record):
    """What was run and compared when the file was exported."""

    integers: int
    tensors: int
    images: int
    extreme_rows: int


class CertificateRecord(Record):
    """The exactness certificate: its CPUs and weights, how pairs are dealt with, and what was run and compared."""

    cpu: Literal["portable", "vnni"]
    weights: Literal["int8", "uint8"]
    pairs: Literal["safe", "waived", "not needed"]
    layers: list[CertificateRow]
    gate: GateRecord | None = None

    @field_validator("gate", mode="before")
    @classmethod
    def _none_was_run(cls, value: Any) -> Any:
        """An empty object is what a file has that was proven without being compared."""
        return value or None

    @field_validator("layers")
    @classmethod
    def _has_widths(cls, rows: list[CertificateRow]) -> list[CertificateRow]:
        for row in rows:
            if _WIDTHS.fullmatch(row.bits) is None:
                raise ValueError(f"layer '{row.layer}' has bits '{row.bits}', expected such as '8/8' or '-/8'")
        return rows


def read_training(value: dict[str, Any] | None) -> TrainingRecord:
    """The record, an empty one where there is none; ModelError names the key that is wrong."""
    return checked(TRAINING, value or {}, TrainingRecord)


def read_certificate(value: dict[str, Any] | None) -> CertificateRecord | None:
    """The certificate, None where there is none; ModelError names the key that is wrong."""
    return None if value is None else checked(CERTIFICATE, value, CertificateRecord)
