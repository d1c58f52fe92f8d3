"""The one way from a small float network to integers: calibrated, finalized, exported."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from passes.normalize import normalize
from passes.quantizing.calibrate_percentile import NARROW_KEY, RANGE_KEY, CalibratePercentile, write_range
from passes.quantizing.insert_quantizers import InsertQuantizers
from passes.shipping.finalize import Finalize
from passes.shipping.lower_integer import LowerInteger
from passes.shipping.lower_qoperator import LowerQOperator
from qpipe.calibration.observe import ObservedRange
from qpipe.ir.quantized.plan import plan_quantization
from support.networks import checked


def quantized(
    model: ir.Model, inputs: np.ndarray | Sequence[np.ndarray] | None = None, *, bits: int | None = None, **options: Any
) -> ir.Model:
    """The trainable QDQ model, in place: normalized, and calibrated on `inputs`: one batch, several, or normal noise.

    bits: of weights and activations. options: those of InsertQuantizers.
    """
    normalize(model)
    if bits is not None:
        options = {"weight_bits": bits, "activation_bits": bits, **options}
    widths = {name: options[name] for name in ("activation_bits", "skip_bits", "layers") if name in options}
    with warnings.catch_warnings():
        if inputs is None:
            warnings.simplefilter("ignore")  # a tensor of zeros is nothing special in a random network
            inputs = noise(model)
        CalibratePercentile(inputs=[inputs] if isinstance(inputs, np.ndarray) else inputs, **widths)(model)
        InsertQuantizers(**options)(model)
    return checked(model)


def noise(model: ir.Model) -> list[np.ndarray]:
    """Two batches of 16."""
    rng, shape = np.random.default_rng(0), [int(size) for size in model.graph.inputs[0].shape[1:]]
    return [rng.standard_normal((16, *shape)).astype(np.float32) for _ in range(2)]


def finalized_on_grids(
    model: ir.Model, log2_ymax: Callable[[], int], *, bits: int = 8, negative: bool = True
) -> ir.Model:
    """Normalized, quantized and finalized in place; each range is `2**log2_ymax()`."""
    normalize(model)
    return on_grids(model, log2_ymax, bits=bits, negative=negative)


def on_grids(model: ir.Model, log2_ymax: Callable[[], int], *, bits: int = 8, negative: bool = True) -> ir.Model:
    """The same of a network that is normalized, or that no pass is to touch."""
    plan = plan_quantization(model.graph, activation_bits=bits)
    for values, key in ((plan.quantizers, RANGE_KEY), (plan.narrowed, NARROW_KEY)):
        for value in values:
            write_range(value, ObservedRange(ymax=2.0 ** log2_ymax(), is_negative=negative), key)
    InsertQuantizers(weight_bits=bits, activation_bits=bits)(model)
    Finalize()(model)
    return checked(model)


def finalized(model: ir.Model) -> ir.Model:
    """A finalized copy of a trainable QDQ model: the specification that a lowering is compared with."""
    return applied(Finalize(), model)


def to_integer(spec: ir.Model, **options: Any) -> ir.Model:
    """An integer-only copy of a finalized model."""
    return applied(LowerInteger(**options), spec)


def to_qoperator(spec: ir.Model, **options: Any) -> ir.Model:
    """A copy of a finalized model in onnxruntime's own quantized operators."""
    return applied(LowerQOperator(**options), spec)


def applied(change: ir.passes.PassBase, model: ir.Model) -> ir.Model:
    copy = model.clone()
    change(copy)
    return checked(copy)
