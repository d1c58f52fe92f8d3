"""What a number format of weights says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self

import numpy as np
import onnx_ir as ir

from qpipe.arith.feedback import OutputError
from qpipe.arith.multiplier import weight_exponent_floor
from qpipe.arith.namespace import A, AnyArray, Float64Array, FloatArray, IntArray, namespace
from qpipe.arith.power_of_two import Rounding
from qpipe.arith.spec import QuantSpec
from qpipe.arith.table import CodeTable
from qpipe.errors import LoweringError, ModelError, RecipeError
from qpipe.formats import WeightQuantizer
from qpipe.nodes import constant_array, describe, exponent_of, input_value


@dataclass(frozen=True)
class WeightOptions:
    """What is said of a layer's weights, by a user or by a file; a format takes what it knows, None is its own choice.

    clip: in standard deviations. rounding: of log2 of the step. per_channel: one exponent per output channel, else one
    in all. pair_limit: what two neighbours of equal sign may sum to in magnitude on a CPU that adds two products in a
    saturating int16; None where that is waived.
    """

    clip: float | None = None
    rounding: Rounding | None = None
    per_channel: bool = True
    pair_limit: int | None = None


@dataclass(frozen=True)
class Around(Generic[A]):
    """What a layer's weights lie between: the grid that it reads, the affine map behind, the grid that it gives.

    k, beta: of the map, float64 `[C]`. output: None of a last layer.
    """

    k: A
    beta: A
    source: QuantSpec
    output: QuantSpec | None


@dataclass(frozen=True)
class WeightPlace:
    """Where a weight's quantizer is written: its float values, scale and zero point are initializers of the model.

    base: of names. axis: of the output channels. basis: `[C, K]`, of a format that learns one.
    """

    model: ir.Model
    base: str
    weight: ir.Value
    scale: ir.Value
    zero_point: ir.Value
    axis: int
    basis: FloatArray | None


@dataclass(frozen=True)
class TrainableWeight:
    """Float values (an initializer) on per-channel exponents `[C]`, as a QDQ file has them."""

    values: ir.Value
    scale: ir.Value
    exponents: IntArray
    format: WeightFormat
    basis: ir.Value | None = None
    """Where the format learns one: an initializer `[C, K]`."""

    @property
    def bits(self) -> int:
        """The width."""
        return self.format.bits

    @property
    def array(self) -> FloatArray:
        """The float values as they are now."""
        array = constant_array(self.values)
        assert array is not None
        return array.astype(np.float32)

    @property
    def basis_array(self) -> FloatArray | None:
        """The basis as it is now."""
        array = constant_array(self.basis)
        return None if array is None else array.astype(np.float32)


class WeightFormat(ABC):
    """Codes, integers up to `qmax` in magnitude, times one power of two per output channel, and how weights get them.

    The class answers for the choice by name: what may be given with it, which networks can have it. An instance is the
    format of one layer's weights. `rows` are weights `[C, K]`, output channels by what one output sums over, numpy's or
    torch's; `basis`, `[C, K]`, is what a format learns its levels from beside the weights, None of others.
    """

    name: ClassVar[WeightQuantizer]
    widths: ClassVar[range]
    """The bits that may be given; empty where the format has a width of its own, and so have the activations."""
    takes: ClassVar[frozenset[str]] = frozenset()
    """Of the settings "weight_clip", "weight_rounding" and "per_channel" those that may be given."""
    needs_batch_norm: ClassVar[bool] = False
    """Whether its scale is complete only with the multiplier of a BatchNormalization behind the layer."""
    learned_widths: ClassVar[range] = range(0)
    """Of unsigned activations, those at which their levels are learned, from what calibration observes."""
    holds_floats: ClassVar[bool] = False
    """Whether the float weights that it trains are those of a float network, in scale as well."""
    rebuild: ClassVar[str | None] = None
    """The pass that makes a network ready for it and marks the layers that get it; None: all inner layers do."""
    codes_op: ClassVar[str]
    """The op of the node that gives the codes in a QDQ file."""

    bits: int
    per_channel: bool = True
    """In the file; where a multiplier rides in the scales, these are of the channels anyway."""

    @property
    @abstractmethod
    def qmax(self) -> int:
        """The largest magnitude of a code."""

    @property
    def code_bits(self) -> int:
        """The width of a signed code."""
        return self.qmax.bit_length() + 1

    @classmethod
    def check(cls, node: ir.Node, bits: int, *, has_batch_norm: bool) -> None:
        """Raise an error that names a layer which can't have such weights.

        Raises:
            RecipeError: a width that there is not.
            LoweringError: no BatchNormalization follows, whose multiplier could hold a factor.
        """
        if bits not in cls.widths:
            raise RecipeError(
                f"{describe(node)}: {bits}-bit weights, expected {cls.widths[0]} to {cls.widths[-1]} with {cls.name}"
            )
        if cls.needs_batch_norm and not has_batch_norm:
            raise LoweringError(f"{describe(node)}: no BatchNormalization follows it, expected one with {cls.name}")

    @classmethod
    @abstractmethod
    def first(
        cls, node: ir.Node, rows: FloatArray, bits: int, source: QuantSpec, options: WeightOptions
    ) -> tuple[Self, FloatArray | None]:
        """The format of a layer's pretrained weights, which reads a tensor on `source`, and the first basis."""

    @classmethod
    def learned_table(cls, bits: int, before: QuantSpec, ymax: float, percentile: float) -> CodeTable:
        """The first levels of such an activation behind an 8-bit grid; ymax: what was observed at the percentile."""
        raise NotImplementedError(f"{cls.name} has no levels of activations")

    @classmethod
    def input_table(cls, source: QuantSpec) -> CodeTable | None:
        """What a layer's input passes before it is multiplied; None: nothing."""
        return None

    @abstractmethod
    def quantize(self, rows: A, around: Around[A], *, basis: A | None = None, raised: A | None = None) -> tuple[A, A]:
        """A training step's codes `[C, K]`, in the float type of rows, and exponents, int `[C]`.

        raised: what the method of this name gave.
        """

    def raised(self, rows: A, exponent: A, around: Around[A]) -> A | None:
        """How far a file's exponents `[C]` lie above those that `quantize` would choose; None where all lie there."""
        return None

    @abstractmethod
    def codes_at(self, rows: A, exponent: A, basis: A | None = None) -> A:
        """What evaluation uses: codes at exponents `[C]`; at its own, what `quantize` gives."""

    def stored_codes(self, rows: A, exponent: A, basis: A | None = None) -> A:
        """Codes of the float weights that a file stores, which `storable` gives."""
        return self.codes_at(rows, exponent, basis)

    def free_exponents(self, rows: FloatArray, around: Around[AnyArray]) -> IntArray | None:
        """Exponents as `quantize` chooses them, whatever pairs ask; None where codes are not fitted to a layer."""
        return None

    def fitted_codes(self, rows: FloatArray, exponent: IntArray, error: OutputError) -> Float64Array:
        """Codes `[..., C, K]` at exponents `[..., C]` that err least at the layer's output."""
        raise NotImplementedError(f"{self.name} has one code for each weight")

    def storable(self, rows: FloatArray, exponent: AnyArray) -> FloatArray:
        """Float weights as a file keeps them."""
        return rows

    def unrounded(self, weight: A) -> A:
        """What is rounded, in real units and in the weight's layout."""
        return weight

    def rounded_from(self, weight: A, values: A, axis: int) -> A:
        """What has the gradient of the rounding; values: the weight without gradient, axis: of its output channels."""
        return self.unrounded(weight)

    def learn(self, rows: A, basis: A) -> A:
        """The basis for the next step of training."""
        return basis

    def filling_ratio(
        self,
        rows: FloatArray,
        k: Float64Array,
        exponent: IntArray,
        source: QuantSpec,
        output: QuantSpec,
        spread: float | None = None,
    ) -> Float64Array | None:
        """By what to multiply each channel `[C]` so that it suits the codes best, as `rescale-channels` does; or None.

        k is the BatchNormalization's factor behind, which is divided by it. spread: times how far the codes of the
        largest weight stay below the largest code, whatever pairs ask; None is as pairs ask.
        """
        return None

    @classmethod
    def codes_function(cls) -> Any:
        """The onnxscript function behind `codes_op`; None where that is one of ONNX's own."""
        return None

    @abstractmethod
    def code_nodes(self, at: WeightPlace) -> list[ir.Node]:
        """The nodes of a QDQ file from float values to int8 codes, the last one a `codes_op`."""

    @classmethod
    @abstractmethod
    def read(cls, dequantize: ir.Node, codes: ir.Node, options: WeightOptions, *, axis: int) -> TrainableWeight:
        """The weight behind what `code_nodes` has written; ModelError names the node that is of another form."""


class NominalFormat(WeightFormat):
    """Codes that don't depend on their scale: it is nominal, one power of two a layer, which stays.

    What it lacks, and any factor of a channel, is in the BatchNormalization that follows.
    """

    needs_batch_norm: ClassVar[bool] = True

    exponent: int

    @abstractmethod
    def codes(self, rows: A) -> A:
        """Codes `[C, K]`, in the float type of rows."""

    def quantize(self, rows: A, around: Around[A], *, basis: A | None = None, raised: A | None = None) -> tuple[A, A]:
        """The codes, at the nominal exponent whatever the affine map."""
        xp = namespace(rows)
        return self.codes(rows), xp.zeros_like(rows[:, 0], dtype=xp.int32) + self.exponent

    def codes_at(self, rows: A, exponent: A, basis: A | None = None) -> A:
        """The codes, whatever the exponents."""
        return self.codes(rows)


def exponent_floor(rows: A, around: Around[A]) -> A:
    """The least exponents `[C]` that leave the multiplier behind these weights its bits."""
    xp, source = namespace(rows), around.source
    largest = xp.sum(abs(rows), axis=1, dtype=xp.float64) * (source.largest * source.scale)
    return weight_exponent_floor(around.k, around.beta, source.exponent, around.output, largest=largest)


def stored_weight(
    dequantize: ir.Node, values: ir.Value | None, axis: int, described: ir.Node, expected: str
) -> tuple[ir.Value, ir.Value, IntArray]:
    """Float values, scale, and the exponents `[C]`, which are all the same where there is one scale in all.

    axis: of the output channels. ModelError says what was `expected` of the node `described` where values or scale are
    no constants.
    """
    scale = input_value(dequantize, 1)
    floats, scales = constant_array(values), constant_array(scale)
    if values is None or scale is None or floats is None or scales is None:
        raise ModelError(f"{describe(described)}: expected {expected}")
    exponents = np.array([exponent_of(dequantize, float(s)) for s in scales.reshape(-1)], np.int64)
    return values, scale, np.repeat(exponents, floats.shape[axis]) if scales.ndim == 0 else exponents
