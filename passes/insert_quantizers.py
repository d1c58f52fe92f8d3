"""Turn a calibrated float graph into a QDQ graph on power-of-two grids.

An activation becomes QuantizeLinear to uint8, an integer Clip where its range is narrower, DequantizeLinear; a weight
the same from its float values, which stay in the file, so that it can be trained again.

    unsigned: l = log2(ymax) - b        signed: l = log2(ymax) - (b - 1)        (FAQ, sections 3.1 and 3.2)

A ReLU6's bound becomes the Clip's. A carrier's output has its input's grid. Concat's inputs are requantized to the
coarsest of their grids. An unsafe pair of weights (see `qpipe.arith.weights`) is stored at its code.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from passes.calibrate_percentile import take_range
from qpipe.arith.certificate import MAX_EXPONENT_DISTANCE
from qpipe.arith.spec import QuantSpec
from qpipe.arith.weights import DEFAULT_CLIP, WeightSpec, pair_limit
from qpipe.errors import LoweringError, RecipeError
from qpipe.ir.layers import Layer, Role
from qpipe.ir.metadata import set_json
from qpipe.ir.plan import PlannedQuantizer, QuantizationPlan, plan_quantization
from qpipe.ir.qdq import insert_activation_quantizer, insert_weight_quantizer
from qpipe.ir.view import QUANTIZATION
from qpipe.ir.weight_layout import is_depthwise
from qpipe.ir.weights import initial_weight
from qpipe.ops import OPS


@dataclass(frozen=True, kw_only=True)
class InsertQuantizers(ir.passes.InPlacePass):
    """Write the QDQ graph; bits and clip are those of the inner layers, the edges have 8 bits.

    cpu: "portable" keeps weights exact on x86 without VNNI, "vnni" waives that.
    """

    name: ClassVar[str] = "insert-quantizers"

    weight_bits: int = 8
    activation_bits: int = 8
    weight_clip: float | None = None
    per_channel: bool = True
    cpu: str = "portable"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Quantize every planned tensor and weight; raise LoweringError that lists what has no integer form."""
        _check_bits("weight_bits", self.weight_bits)
        _check_bits("activation_bits", self.activation_bits)
        plan = plan_quantization(model.graph, weight_bits=self.weight_bits, activation_bits=self.activation_bits)
        _refuse_unsupported(plan)
        specs: dict[ir.Value, QuantSpec] = {}
        for value, planned in plan.quantizers.items():
            specs[value] = _observed_spec(planned)
        for layer in plan.layers:
            if layer.role is Role.CARRY:
                specs[layer.output] = OPS[layer.op_type].carried(layer.node, [specs[value] for value in layer.inputs])
            elif layer.role is Role.JOIN:
                _check_distance(layer, specs)
        for layer in plan.layers:
            if layer.role is Role.COMPUTE and layer.op_type != "BatchNormalization":
                self._quantize_weight(model.graph, layer, plan, specs)
        _quantize_activations(model.graph, plan, specs)
        # Names such as `conv1_scale` may be the graph's own.
        ir.passes.common.NameFixPass()(model)
        set_json(model, QUANTIZATION, {"weight_clip": self.weight_clip, "cpu": self.cpu})
        return ir.passes.PassResult(model, bool(specs))

    def _quantize_weight(
        self, graph: ir.Graph, layer: Layer, plan: QuantizationPlan, specs: dict[ir.Value, QuantSpec]
    ) -> None:
        bits = plan.weight_bits[layer.node]
        source = specs[layer.inputs[0]]
        waived = self.cpu == "vnni" or is_depthwise(layer.node)
        is_last = layer.node in plan.last
        spec = WeightSpec(
            bits=bits,
            clip=self.weight_clip or DEFAULT_CLIP[bits],
            per_channel=self.per_channel and not is_last,
            pair_limit=None if waived else pair_limit(source.stored_max),
        )
        stored, exponents = initial_weight(layer, spec, source, None if is_last else specs[layer.output])
        insert_weight_quantizer(graph, layer.node, stored, exponents, spec)


def _check_bits(name: str, bits: int) -> None:
    if bits not in DEFAULT_CLIP:
        raise RecipeError(f"{name} is {bits}, expected {min(DEFAULT_CLIP)} to {max(DEFAULT_CLIP)}")


def _refuse_unsupported(plan: QuantizationPlan) -> None:
    if not plan.weight_bits:
        raise LoweringError("the model has no Conv, Gemm or MatMul with constant weights: nothing to quantize")
    if plan.unsupported:
        names = ", ".join(f"{layer.op_type} '{layer.name}'" for layer in plan.unsupported)
        raise LoweringError(
            f"no integer form, with layers after it: {names}; `qpipe inspect` says what to do with each"
        )


def _observed_spec(planned: PlannedQuantizer) -> QuantSpec:
    observed = take_range(planned.value)
    signed = observed.is_negative if planned.signed is None else planned.signed
    log2_ymax = observed.log2_ymax
    if log2_ymax is None:
        warnings.warn(f"tensor '{planned.value.name}' was zero in all of the calibration data", stacklevel=2)
        log2_ymax = 0
    spec = QuantSpec.for_range(planned.bits, log2_ymax, signed=signed)
    if math.isinf(planned.bound):
        return spec
    return dataclasses.replace(spec, qmax=min(spec.qmax, max(round(planned.bound / spec.scale), 1)))


def _check_distance(layer: Layer, specs: dict[ir.Value, QuantSpec]) -> None:
    """Refuse an Add whose operands' grids are too far apart for an exact sum in float32."""
    exponents = [specs[value].exponent for value in layer.inputs]
    if max(exponents) - min(exponents) > MAX_EXPONENT_DISTANCE:
        raise LoweringError(
            f"Add '{layer.name}': its operands' exponents are {exponents[0]} and {exponents[1]}, expected at most "
            f"{MAX_EXPONENT_DISTANCE} apart; one of them may be zero in the calibration data"
        )


def _quantize_activations(graph: ir.Graph, plan: QuantizationPlan, specs: dict[ir.Value, QuantSpec]) -> None:
    for layer in plan.layers:
        if layer.op_type == "Concat":
            for value in dict.fromkeys(layer.inputs):
                own, joint = specs[value], specs[layer.output]
                if own != joint:
                    # The quantizer behind the Concat rounds in its place, where the one before has the finer steps.
                    meltable = own.exponent <= joint.exponent and own.zero_point == joint.zero_point
                    insert_activation_quantizer(
                        graph, value, joint, only=layer.node, suffix=layer.name, meltable=meltable
                    )
    bounds = {layer.output: layer.activation for layer in plan.layers if layer.activation is not None}
    for value, spec in specs.items():
        clip = bounds.get(value)
        insert_activation_quantizer(graph, value, spec, replaces=clip if clip and clip.op_type == "Clip" else None)
