"""What becomes of the weights of a float network that was trained low-bit: kept as integers, or rounded anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from passes.quantizing.hold_low_bit_weights import HoldLowBitWeights
from qpipe import progress
from qpipe.arith.namespace import AnyArray, FloatArray
from qpipe.formats import DEFAULT
from qpipe.ir.files.metadata import TRAINING, AppliedPass, add_provenance, checked, get_object, set_json
from qpipe.ir.quantized.final_weights import float_rows
from qpipe.ir.quantized.view import is_trainable, read_view
from qpipe.nodes import require_constant
from qpipe.ops.weight_layout import to_rows
from qpipe.settings import CalibrateSettings
from qpipe.settings.arithmetic import ArithmeticSettings
from qpipe.settings.base import Cpu

PEAK_CLIP: Final = 1e6
"""In standard deviations: the largest of fewer than 1e12 weights lies below."""


def low_bit_training(network: ir.Model) -> ArithmeticSettings | None:
    """How a float network's last training rounded weights; None where it did not. ModelError for a damaged record."""
    told = (get_object(network, TRAINING) or {}).get("settings")
    values = told if isinstance(told, dict) else {}
    known = {name: values[name] for name in ArithmeticSettings.model_fields if name in values}
    found = checked(TRAINING, known, ArithmeticSettings)
    return found if found.arithmetic == "mls" else None


def why_rounded_anew(trained: ArithmeticSettings, settings: CalibrateSettings) -> str | None:
    """Why no QDQ file with these settings holds the integers that training multiplied by; None where it does."""
    weights = trained.format_of("weight")
    bits = weights.element.bits
    reasons = (
        (not weights.element.fixed_point, f"elements of {weights.element.exponent} exponent bits are no integers"),
        (weights.grouping != "n", f"groups '{weights.grouping}' are not output channels"),
        (weights.group.mantissa != 0, "scales of groups are no powers of two"),
        (not weights.power_of_two, "the scale of a tensor is no power of two"),
        (trained.rounding != "nearest", "rounding was stochastic"),
        (settings.quantizer != DEFAULT, f"the quantizer '{settings.quantizer}' has other levels"),
        (bits > settings.weight_bits, f"they have {bits} bits, and weight_bits is {settings.weight_bits}"),
        (settings.weight_clip is not None, "a weight_clip was given"),
        (settings.weight_rounding is not None, "a weight_rounding was given"),
        (not settings.per_channel, "channels are to share a scale"),
        (settings.plain, "layers that lose their skips are refitted"),
        (settings.start == "random", "they are forgotten"),
    )
    return next((reason for applies, reason in reasons if applies), None)


@dataclass(frozen=True)
class HeldWeights:
    """Layers by name, and the rows `[C, K]` that training multiplied by: an integer times a power of two each."""

    rows: Mapping[str, FloatArray]

    def tell(self, network: ir.Model, cpu: Cpu) -> None:
        """Say how many channels of a QDQ network have the integers of training; cpu: that it was calibrated for."""
        kept = total = 0
        for layer in read_view(network).layers:
            if is_trainable(layer) and (rows := self.rows.get(layer.name)) is not None:
                codes: AnyArray = layer.weight.format.stored_codes(float_rows(layer), layer.weight.exponents)
                kept += int(_same_integers(rows, codes).sum())
                total += len(rows)
        # What is left where large pairs may be.
        why = "their multipliers demand" if cpu == "vnni" else "exactness demands (--cpu vnni demands less)"
        rest = "" if kept == total else f"; the others are rounded anew, as {why}"
        progress.say(f"weights keep the integers of low-bit training: {kept} channels of {total}{rest}")


def hold_weights(network: ir.Model, settings: CalibrateSettings) -> HeldWeights | None:
    """Round a normalized float network's weights to what training multiplied by, where a QDQ file can hold that.

    None where it can't, which is said, and where there is nothing to hold. The record of training goes in any case:
    what is quantized here was not trained yet.
    """
    trained = low_bit_training(network)
    why = None if trained is None else why_rounded_anew(trained, settings)
    if trained is None or why is not None:
        set_json(network, TRAINING, None)
        if trained is not None:
            progress.say(f"trained on low-bit weights {trained.format_of('weight')}, rounded anew: {why}")
        return None
    element, group = trained.format_of("weight").element, trained.format_of("weight").group
    hold = HoldLowBitWeights(
        element=(element.exponent, element.mantissa), group_exponent=group.exponent, ends=trained.low_bit_ends
    )
    hold(network)
    add_provenance(network, AppliedPass.of(hold))
    rows = {
        layer.name: np.array(to_rows(layer.node, require_constant(layer.node, 1, "weight")))
        for layer in hold.layers(network)
    }
    return HeldWeights(rows)


def _same_integers(rows: FloatArray, codes: AnyArray) -> npt.NDArray[np.bool_]:
    """Which channels' codes are their rows times a power of two, `[C]`."""
    largest, of_codes = (np.abs(values).max(axis=1, initial=0) for values in (rows, codes))
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.log2(of_codes.astype(np.float64) / largest)
        scaled = rows * np.exp2(shift)[:, None]
    same: npt.NDArray[np.bool_] = (shift == np.round(shift)) & np.all(scaled == codes, axis=1)
    same |= (largest == 0) & (of_codes == 0)
    return same
