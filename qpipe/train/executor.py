"""The QDQ graph as a torch module: what trains is what ships.

In training it computes in float32 with fused fake quantization; in evaluation it computes exactly what the finalized
file gives on an integer runtime. A float graph, without quantizers, trains on it as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from qpipe.arith.spec import QuantSpec
from qpipe.errors import ModelError
from qpipe.finetune_recipes import Precision
from qpipe.ir.attributes import constant_array, describe, require_constant
from qpipe.ir.layers import ACTIVATIONS, Layer, Role, activation_bound
from qpipe.ir.plan import plan_quantization
from qpipe.ir.view import QuantizedLayer, View, leading_to, read_view
from qpipe.ir.view_weights import TrainableWeight
from qpipe.ops import OPS
from qpipe.train.batch_norm import StandaloneBatchNorm
from qpipe.train.straight_through import channels_last, exact_fake_quantize, fake_quantize
from qpipe.train.weighted import BatchNormMode, WeightedLayer


class Quantizer(nn.Module):
    """One activation quantizer, with the activation before it; `enabled` False lets the activation's values through.

    `carries` says that the values are already on the grid, `owns` that nobody else reads x, so it may be overwritten.
    """

    def __init__(self, spec: QuantSpec, activation: float | None = None, *, carries: bool, owns: bool) -> None:
        super().__init__()
        self.spec = spec
        self.enabled = True
        self._activation = activation
        self._carries = carries
        self._owns = owns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x on its grid: in x's type while training, float32 otherwise."""
        if self._carries:
            return x
        if self.enabled and self.training:
            # The clip to an unsigned grid is the ReLU.
            return fake_quantize(x, self.spec, inplace=self._owns)
        x = _activate(x, self._activation)
        return exact_fake_quantize(x, self.spec).float() if self.enabled else x


class Executor(nn.Module):
    """Runs a trainable graph up to its last layers; what follows them (a Softmax, say) is not part of training.

    The results are in the order of the graph's outputs. It starts in evaluation mode, as what the file computes.

    Args:
        model: a trainable QDQ model, or a normalized float model.
        batch_norm: the statistics that training normalizes by.
        precision: of training's tensors between the layers, and of its products' operands. bfloat16 holds the integers
            of every grid; what it rounds is what lies between two grids. Evaluation is exact whatever it is.
    """

    def __init__(
        self, model: ir.Model, *, batch_norm: BatchNormMode = "running", precision: Precision = "fp32"
    ) -> None:
        super().__init__()
        self.precision = precision
        self.is_quantized = any(node.op_type == "QuantizeLinear" for node in model.graph)
        self._layers, self._results, inputs = _plan(model)
        self._input, spec = inputs
        self.quantizers = nn.ModuleDict()
        self.layers = nn.ModuleDict()
        self._functions = {}
        if spec is not None:
            self.quantizers["input"] = Quantizer(spec, carries=False, owns=False)
        for index, layer in enumerate(self._layers):
            key = str(index)
            if layer.op_type == "BatchNormalization":
                self.layers[key] = StandaloneBatchNorm(layer)
            elif layer.layer.role is Role.COMPUTE:
                self.layers[key] = WeightedLayer(layer, _weight(layer), batch_norm=batch_norm)
            else:
                self._functions[key] = OPS[layer.op_type].torch(layer.node)
            if layer.output is not None:
                self.quantizers[key] = Quantizer(
                    layer.output.spec,
                    activation_bound(layer.layer.activation) if layer.layer.activation is not None else None,
                    carries=_carries(layer),
                    owns=layer.layer.role in {Role.COMPUTE, Role.JOIN},
                )
        # It starts in evaluation, with the exponents that the file says.
        super().train(False)
        self._reads = [_read_values(layer) for layer in self._layers]
        self._last_use = {value: i for i, reads in enumerate(self._reads) for value in reads}
        self._last_use.update(dict.fromkeys(self._results, len(self._layers)))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`x [N, C, H, W]` float32 -> the results, float32 in training, exact float64 otherwise."""
        values: dict[ir.Value, torch.Tensor] = {self._input: self._prepared(self._quantized("input", x))}
        for i, (layer, reads) in enumerate(zip(self._layers, self._reads, strict=True)):
            key = str(i)
            run = self.layers[key] if key in self.layers else self._functions[key]
            # A result is summed up and compared: in float32 at least.
            widen = layer.result in self._results and self.precision == "bf16"
            y = run(*(values[value].float() if widen else values[value] for value in reads))
            values[layer.result] = (
                self._quantized(key, y) if layer.output is not None else _float_result(y, layer.layer)
            )
            for value in reads:
                if self._last_use[value] == i:
                    values.pop(value, None)
        return tuple(values[value] for value in self._results)

    def _quantized(self, key: str, x: torch.Tensor) -> torch.Tensor:
        if key not in self.quantizers:
            return x
        result: torch.Tensor = self.quantizers[key](x)
        return result

    def _prepared(self, x: torch.Tensor) -> torch.Tensor:
        """What evaluates exactly takes x as it is; all else in the executor's precision, channels last."""
        if self.is_quantized and not self.training:
            return x
        return channels_last(x if self.precision == "fp32" else x.bfloat16())

    def without_quantizers(self) -> Executor:
        """Turn itself into the float network: weights and activations as they are, BatchNormalization unrounded."""
        self.is_quantized = False
        for module in self.quantizers.values():
            assert isinstance(module, Quantizer)
            module.enabled = False
        for layer in self.weighted():
            layer.spec = None
        return self

    def train(self, mode: bool = True) -> Executor:
        """Switch the mode; leaving training fixes the weights' exponents at what the weights are then."""
        if self.training and not mode:
            for layer in self.weighted():
                layer.refresh()
        super().train(mode)
        return self

    def weighted(self) -> Iterator[WeightedLayer]:
        """The weighted layers in topological order."""
        return (layer for layer in self.layers.values() if isinstance(layer, WeightedLayer))

    def batch_norms(self) -> Iterator[StandaloneBatchNorm]:
        """The BatchNormalizations that stand alone."""
        return (layer for layer in self.layers.values() if isinstance(layer, StandaloneBatchNorm))


def _plan(model: ir.Model) -> tuple[list[QuantizedLayer], list[ir.Value], tuple[ir.Value, QuantSpec | None]]:
    """Layers, result values, and the input with its grid."""
    if any(node.op_type == "QuantizeLinear" for node in model.graph):
        view: View = read_view(model)
        if view.is_final:
            raise ModelError("the model is final (its weights are integers); train the file that calibrate wrote")
        if len(view.inputs) != 1:
            raise ModelError(f"the model has {len(view.inputs)} quantized inputs, expected 1")
        return view.layers, view.results, (view.inputs[0].output, view.inputs[0].spec)
    plan = plan_quantization(model.graph)
    if plan.unsupported:
        raise ModelError(f"{describe(plan.unsupported[0].node)}: can't be trained, no torch semantics for it")
    layers = [QuantizedLayer(layer, (), None) for layer in plan.layers]
    results = leading_to(model.graph.outputs, {layer.result for layer in layers})
    return layers, results, (model.graph.inputs[0], None)


def _carries(layer: QuantizedLayer) -> bool:
    """Whether the layer's output is on its quantizer's grid already."""
    assert layer.output is not None
    if layer.layer.role is not Role.CARRY or layer.op_type in ACTIVATIONS:
        return False
    return OPS[layer.op_type].carried(layer.node, [q.spec for q in layer.inputs]) == layer.output.spec


def _read_values(layer: QuantizedLayer) -> tuple[ir.Value, ...]:
    return tuple(q.output for q in layer.inputs) or layer.layer.inputs


def _weight(layer: QuantizedLayer) -> torch.Tensor:
    if isinstance(layer.weight, TrainableWeight):
        values = constant_array(layer.weight.values)
        assert values is not None
    else:
        values = require_constant(layer.node, 1, "weight")
    return torch.from_numpy(np.ascontiguousarray(values.astype(np.float32)))


def _float_result(y: torch.Tensor, layer: Layer) -> torch.Tensor:
    return _activate(y, activation_bound(layer.activation) if layer.activation is not None else None)


def _activate(y: torch.Tensor, bound: float | None) -> torch.Tensor:
    """The fused activation, in place: what a layer computed is needed by none of its own gradients."""
    if bound is None:
        return y
    return y.relu_() if bound == float("inf") else y.clamp_(0.0, bound)
