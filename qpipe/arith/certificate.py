"""The exactness condition, proven per channel: why a runtime's float32 and int16 can't change an integer.

1. *Accumulation*: `sum |q_w| * qmax_x + |bias| <= 2**31 - 1`.
2. *Requantization*: `n <= 24 - b` (unsigned, b bits; `25 - b` signed), or `(sum |q_w| * qmax_x + |bias|) * m <= 2**24`.
3. *Pairs*: two neighbours of equal sign along K fit a saturating int16 with the input's largest code. A depthwise
   convolution (one output channel a group) is exempt, uint8 weights don't need it, a CPU with VNNI doesn't either
   (waived).
4. *Simulation in float32*, where a runtime does not fuse: the product of part 2 is at most 2**24.

1 to 3 must hold; 4 is reported. An Add needs operands whose exponents lie close enough for an exact sum in float32, a
Mul of activations an output whose steps are not so fine that the product leaves int32, an average pool a count whose
mean onnxruntime rounds rightly.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from qpipe.arith.multiplier import FLOAT32_EXACT, shift_bound
from qpipe.arith.quantize import MAX_SHIFT, MAX_WIDE_SHIFT
from qpipe.arith.spec import STORAGE_MAX, QuantSpec
from qpipe.arith.weights import pair_excess, pair_limit

INT32_MAX = 2**31 - 1
MAX_EXPONENT_DISTANCE = 15  # of the operands of an Add
MAX_SUM_REACH = 16  # the same, plus by how much the output is coarser than the coarser operand
MAX_FINER = 15  # by how much an output is finer than a product: 255**2 * 2**15 is the last that int32 holds
MAX_PRODUCT_EXPONENT = 100  # in magnitude: beyond it float32 holds no product, or not all of its bits

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CertificateRow:
    """One layer. What does not apply to its op is None.

    bits: "weight/activation". largest_accumulator, largest_shift: over channels. by_shift, by_float32: channels whose
    requantization relies on the shift's bound, or on products that float32 holds. multiplier_bits: of the shortest.
    unsafe_pairs: that could saturate an int16. problems: which conditions fail, in words.
    """

    layer: str
    op: str
    bits: str
    channels: int | None = None
    largest_accumulator: int | None = None
    largest_shift: int | None = None
    by_shift: int | None = None
    by_float32: int | None = None
    multiplier_bits: int | None = None
    unsafe_pairs: int | None = None
    exact_in_float32: bool = True
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all that must hold does."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "problems": list(self.problems), "ok": self.ok}


@dataclass(frozen=True)
class Certificate:
    """All layers. cpu "vnni" waives the pairs; weights "uint8" does without them. gate: what was run and compared.

    float_nodes: islands of float between integers, in words. Where there are any, what is proven holds for each region
    of integers from the codes at its beginning; the floats between two are the runtime's.
    """

    cpu: str
    weights: str
    rows: tuple[CertificateRow, ...]
    gate: dict[str, Any] = field(default_factory=dict)
    float_nodes: tuple[str, ...] = ()

    @property
    def pairs(self) -> str:
        """How pairs are dealt with: safe, waived or not needed."""
        return "not needed" if self.weights == "uint8" else "waived" if self.cpu == "vnni" else "safe"

    @property
    def problems(self) -> list[str]:
        """One line for each condition that fails, with its layer."""
        return [f"{row.op} '{row.layer}': {problem}" for row in self.rows for problem in row.problems]

    def to_json(self) -> dict[str, Any]:
        """Plain values; `layers` has a row for each layer."""
        return {
            "cpu": self.cpu,
            "weights": self.weights,
            "pairs": self.pairs,
            "layers": [row.to_json() for row in self.rows],
            "float_nodes": list(self.float_nodes),
            "gate": self.gate,
        }


def weighted_row(
    layer: str,
    op: str,
    *,
    rows: IntArray,
    bits: int,
    multiplier: IntArray,
    shift: IntArray | None,
    bias: IntArray,
    source: QuantSpec,
    output: QuantSpec | None,
    check_pairs: bool,
    fuses: bool,
) -> CertificateRow:
    """The proof of a product with weights.

    rows: codes `[C, K]`, neighbours along K as the kernels pair them. multiplier, bias, shift: `[C]`; shift and output
    are None for a last layer, whose int32 leave as they are. fuses: whether onnxruntime computes it in integers.
    """
    largest = np.abs(rows).sum(axis=1) * max(source.qmax, -source.qmin) + np.abs(bias)
    product = largest * multiplier
    in_float32 = product <= FLOAT32_EXACT
    excess = pair_excess(rows, pair_limit(source.stored_max)) if rows.shape[1] > 1 else np.zeros(1)
    unsafe = int(np.count_nonzero(excess))
    problems = []
    if largest.max() > INT32_MAX:
        problems.append(f"accumulator up to {largest.max()} in channel {largest.argmax()}, int32 ends at {INT32_MAX}")
    if check_pairs and unsafe:
        problems.append(
            f"{unsafe} pairs of weights over {pair_limit(source.stored_max)}, which saturate on x86 without VNNI; "
            "calibrate with cpu 'portable', or export with weights 'uint8' or cpu 'vnni'"
        )
    if not fuses and not np.all(in_float32):
        problems.append(f"a last {op} stays float on onnxruntime, and its sums are over 2**24")
    by_shift: npt.NDArray[np.bool_] | None = None
    if output is not None and shift is not None:
        by_shift = shift <= shift_bound(output)
        proven = (by_shift | in_float32) & (shift <= MAX_SHIFT)
        if not np.all(proven):
            channel = int(np.argmin(proven))
            problems.append(
                f"shift {shift[channel]} in channel {channel}, expected at most {shift_bound(output)}, or a product "
                f"(here {product[channel]}) of at most 2**24"
            )
    return CertificateRow(
        layer=layer,
        op=op,
        bits=f"{bits}/{source.bits}",
        channels=len(rows),
        largest_accumulator=int(largest.max()),
        largest_shift=None if shift is None else int(shift.max()),
        by_shift=None if by_shift is None else int(by_shift.sum()),
        by_float32=None if by_shift is None else int((~by_shift & in_float32).sum()),
        multiplier_bits=int(multiplier.min()).bit_length(),
        unsafe_pairs=unsafe,
        exact_in_float32=bool(np.all(in_float32)),
        problems=tuple(problems),
    )


def add_row(layer: str, op: str, sources: list[QuantSpec], output: QuantSpec) -> CertificateRow:
    """The proof of a sum: it is exact in float32."""
    exponents = [spec.exponent for spec in sources]
    distance = max(exponents) - min(exponents)
    problems: list[str] = []
    if any(spec.is_wide for spec in (*sources, output)):
        problem = wide_sum_problem(sources) or _wide_shift_problem(output, min(exponents))
        problems += [problem] if problem else []
    elif distance > MAX_EXPONENT_DISTANCE:
        problems.append(
            f"operands' exponents {exponents} are {distance} apart, expected at most {MAX_EXPONENT_DISTANCE}"
        )
    elif distance + output.exponent - max(exponents) > MAX_SUM_REACH:
        problems.append(f"output's exponent {output.exponent} is too coarse for operands of {exponents}")
    bits = max(spec.bits for spec in sources)
    return CertificateRow(layer, op, f"-/{bits}", problems=tuple(problems))


def wide_sum_problem(sources: list[QuantSpec]) -> str | None:
    """Why float32 does not hold a sum with codes of 16 bits, in words that follow the layer; None where it does."""
    unit = min(spec.exponent for spec in sources)
    largest = sum(spec.largest << (spec.exponent - unit) for spec in sources)
    if largest <= FLOAT32_EXACT:
        return None
    exponents = [spec.exponent for spec in sources]
    return (
        f"its operands' exponents are {exponents}, of {[spec.bits for spec in sources]} bits, too far apart for a sum "
        "of at most 2**24; one of them may be zero in the calibration data (--skip-bits 8 keeps to 8 bits)"
    )


def _wide_shift_problem(output: QuantSpec, unit: int) -> str | None:
    most = MAX_WIDE_SHIFT if output.is_wide else MAX_SHIFT
    if output.exponent - unit <= most:
        return None
    return f"output's exponent {output.exponent} is too coarse for a sum in steps of 2**{unit}"


def factors_row(layer: str, op: str, sources: list[QuantSpec], output: QuantSpec) -> CertificateRow:
    """The proof of a product of two activations.

    It has at most 16 bits, which float32 holds, and its unit is a power of two: the float product, and its quotient by
    the output's scale, are exact. Runtimes round that to an int32 before they saturate it.
    """
    unit = sum(spec.exponent for spec in sources)
    problems: list[str] = []
    if abs(unit) > MAX_PRODUCT_EXPONENT:
        problems.append(f"operands' exponents {[spec.exponent for spec in sources]} have a product beyond float32's")
    elif unit - output.exponent > MAX_FINER:
        problems.append(
            f"output's exponent {output.exponent} is {unit - output.exponent} below the product's, expected at most "
            f"{MAX_FINER}"
        )
    bits = max(spec.bits for spec in sources)
    return CertificateRow(layer, op, f"-/{bits}", problems=tuple(problems))


def pool_row(
    layer: str, op: str, source: QuantSpec, output: QuantSpec, *, counts: set[int], divides: bool
) -> CertificateRow:
    """The proof of an average whose positions have these counts of values; one that `divides` rounds every mean."""
    problems = []
    # A mean can be a tie only where its count has more factors of two than the output's grid is finer.
    ties = {n for n in counts if output.exponent > source.exponent - ((n & -n).bit_length() - 1)}
    inexact = set() if divides else {n for n in ties if not reciprocal_is_exact(n)}
    if inexact:
        problems.append(f"averages {min(inexact)} values, whose mean onnxruntime rounds wrongly at ties")
    if max(counts, default=0) * (source.largest if source.is_wide else STORAGE_MAX) > FLOAT32_EXACT:
        problems.append(f"averages {max(counts)} values, whose sum is over 2**24")
    return CertificateRow(layer, op, f"-/{source.bits}", problems=tuple(problems))


def reciprocal_is_exact(count: int) -> bool:
    """Whether onnxruntime's `float32(sum) * float32(1 / count)` is exact at every tie of an 8-bit mean."""
    odd = count // (count & -count)
    reciprocal = np.float32(1) / np.float32(odd)
    multiples = np.arange(1, 512, 2, dtype=np.float32)
    return bool(np.all(multiples * np.float32(odd) * reciprocal == multiples))
