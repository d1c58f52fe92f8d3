"""The QDQ graph as a torch module: what trains is what ships.

In training it computes in float32 with fused fake quantization; in evaluation it computes exactly what the finalized
file gives on an integer runtime. A float graph, without quantizers, trains on it as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from qpipe.errors import ModelError
from qpipe.ir.graph.layers import activation_bound
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.view import QuantizedLayer, View, is_trainable, leading_to, read_view
from qpipe.nodes import constant_array, describe, require_constant
from qpipe.ops import Role
from qpipe.ops.quantizer_parts import quantizes
from qpipe.settings.training import BatchNormMode, Precision
from qpipe.train.batch_norm import StandaloneBatchNorm
from qpipe.train.learned_quantizer import LearnedQuantizer, quantizer_of
from qpipe.train.quantizer import Quantizer, activate
from qpipe.train.straight_through import channels_last
from qpipe.train.weighted import WeightedLayer

Values = dict[ir.Value, torch.Tensor]
Addend = Callable[[], torch.Tensor | None]
Function = Callable[..., torch.Tensor]


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
        self._model, self._batch_norm, self.precision = model, batch_norm, precision
        self.is_quantized = any(map(quantizes, model.graph))
        self.plan, self._results, inputs = _plan(model)
        self._input, quantizer = inputs
        self.quantizers = nn.ModuleDict()
        self.layers = nn.ModuleDict()
        self._functions = {}
        if quantizer is not None:
            self.quantizers["input"] = quantizer_of(quantizer, carries=False, owns=False)
        for index, layer in enumerate(self.plan):
            key = str(index)
            if layer.is_batch_norm:
                self.layers[key] = StandaloneBatchNorm(layer)
            elif layer.role is Role.COMPUTE:
                self.layers[key] = WeightedLayer(layer, _weight(layer), batch_norm=batch_norm)
            else:
                self._functions[key] = layer.op.torch(layer.node)
            if layer.quantizer is not None:
                self.quantizers[key] = quantizer_of(
                    layer.quantizer,
                    layer.bound,
                    carries=_carries(layer),
                    owns=layer.role in {Role.COMPUTE, Role.JOIN},
                )
        self.unquantized: dict[str, torch.Tensor | None] = {}
        self.addends: defaultdict[str, list[Addend]] = defaultdict(list)
        # It starts in evaluation, with the exponents that the file says.
        super().train(False)
        self.reads = [_read_values(layer) for layer in self.plan]
        self._last_use = {value: i for i, reads in enumerate(self.reads) for value in reads}
        self._last_use.update(dict.fromkeys(self._results, len(self.plan)))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`x [N, C, H, W]` float32 -> the results, float32 in training, exact float64 otherwise."""
        values = self.start(x)
        self.run(values, range(len(self.plan)))
        return tuple(values[value] for value in self._results)

    def start(self, x: torch.Tensor) -> Values:
        """The values before the first layer."""
        return {self._input: self._prepared(self._quantized("input", x))}

    def run(self, values: Values, layers: Sequence[int]) -> None:
        """Run these layers, and put their results in the place of values that nobody reads any more.

        A layer whose key is in `unquantized` leaves there what its quantizer reads, and one in `addends` is given
        something more before its activation, in training only.
        """
        for i in layers:
            key, layer, reads = str(i), self.plan[i], self.reads[i]
            run = self.layers[key] if key in self.layers else self._functions[key]
            # A result is summed up and compared: in float32 at least.
            widen = layer.result in self._results and self.precision == "bf16"
            y = run(*(values[value].float() if widen else values[value] for value in reads))
            y = self._touched(key, y)
            values[layer.result] = self._quantized(key, y) if layer.quantizer is not None else activate(y, layer.bound)
            for value in reads:
                if self._last_use[value] == i:
                    values.pop(value, None)

    def _touched(self, key: str, y: torch.Tensor) -> torch.Tensor:
        for addend in self.addends.get(key, ()) if self.training else ():
            more = addend()
            y = y if more is None else y + more
        if key in self.unquantized:
            self.unquantized[key] = y
        return y

    def twin(self) -> Executor:
        """A network of the same graph and the same weights, in training, with every BatchNormalization its own."""
        other = Executor(self._model, batch_norm=self._batch_norm, precision=self.precision)
        for layer, lender in zip(other.weighted(), self.weighted(), strict=True):
            layer.borrow(lender)
        for norm in other.batch_norms():
            norm.source = norm.target = None
        return other.train()

    def float_copy(self) -> Executor:
        """A float network of the same graph that starts from the same weights; in training, on batch statistics."""
        other = Executor(self._model, batch_norm="batch", precision=self.precision).without_quantizers()
        other.load_state_dict(self.state_dict())
        return other.train()

    def keep_unquantized(self, key: str) -> None:
        """Let every forward leave in `unquantized` what the quantizer of this layer reads."""
        self.unquantized[key] = None
        self.quantizer(key).owns = False

    def activated(self, key: str) -> torch.Tensor:
        """What a layer of `unquantized` gives in full precision."""
        y = self.unquantized[key]
        assert y is not None
        return self.quantizer(key).activate(y)

    def tap(self, key: str, through: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Let what a layer's op gives go through this in every forward, before BatchNormalization and activation."""
        layer = self.layer(key)
        if layer is not None:
            layer.product = _tapped(layer.product, through)
            layer.folds = False
        else:
            self._functions[key] = _tapped(self._functions[key], through)
        self.quantizer(key).owns = False

    def finish(self, values: Values, key: str, result: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The network's results if this layer's result were another one; all layers up to it have run."""
        values[self.plan[int(key)].result] = result
        self.run(values, range(int(key) + 1, len(self.plan)))
        return tuple(values[value] for value in self._results)

    def layer(self, key: str) -> WeightedLayer | None:
        """The weighted layer of a key; None for another op."""
        found = dict(self.layers.items()).get(key)
        return found if isinstance(found, WeightedLayer) else None

    def quantizer(self, key: str) -> Quantizer:
        """The quantizer behind a layer; ModelError where there is none."""
        if key not in self.quantizers:
            raise ModelError(f"{describe(self.plan[int(key)].node)}: has no quantizer behind it, expected one")
        quantizer = self.quantizers[key]
        assert isinstance(quantizer, Quantizer)
        return quantizer

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
        for norm in self.batch_norms():
            norm.source = norm.target = None
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

    def learned_quantizers(self) -> Iterator[tuple[ActivationQuantizer, LearnedQuantizer]]:
        """What the file says, and what trains, of activations whose levels are learned."""
        for key, module in self.quantizers.items():
            layer = self.plan[int(key)] if key != "input" else None
            if isinstance(module, LearnedQuantizer) and layer is not None and layer.quantizer is not None:
                yield layer.quantizer, module

    def batch_norms(self) -> Iterator[StandaloneBatchNorm]:
        """The BatchNormalizations that stand alone."""
        return (layer for layer in self.layers.values() if isinstance(layer, StandaloneBatchNorm))


def _tapped(function: Function, through: Callable[[torch.Tensor], torch.Tensor]) -> Function:
    def run(*operands: torch.Tensor) -> torch.Tensor:
        return through(function(*operands))

    return run


def _plan(
    model: ir.Model,
) -> tuple[list[QuantizedLayer], list[ir.Value], tuple[ir.Value, ActivationQuantizer | None]]:
    """Layers, result values, and the input with its quantizer."""
    if any(map(quantizes, model.graph)):
        view: View = read_view(model)
        if view.is_final:
            raise ModelError("final already (its weights are integers), expected the file that calibrate wrote")
        if len(view.inputs) != 1:
            raise ModelError(f"the model has {len(view.inputs)} quantized inputs, expected 1")
        return view.layers, view.results, (view.inputs[0].output, view.inputs[0])
    plan = plan_quantization(model.graph)
    if plan.unsupported:
        raise ModelError(f"{describe(plan.unsupported[0].node)}: can't be trained, no torch semantics for it")
    layers = [QuantizedLayer(layer.node, layer.batch_norm, layer.activation, sources=()) for layer in plan.layers]
    results = leading_to(model.graph.outputs, {layer.result for layer in layers})
    return layers, results, (model.graph.inputs[0], None)


def _carries(layer: QuantizedLayer) -> bool:
    """Whether the layer's output is on its quantizer's grid already."""
    assert layer.quantizer is not None
    if layer.role is not Role.CARRY or layer.quantizer.table is not None or activation_bound(layer.node) is not None:
        return False
    return layer.op.carried(layer.node, [q.spec for q in layer.sources]) == layer.quantizer.spec


def _read_values(layer: QuantizedLayer) -> tuple[ir.Value, ...]:
    return tuple(q.output for q in layer.sources) or layer.inputs


def _weight(layer: QuantizedLayer) -> torch.Tensor:
    if is_trainable(layer):
        values = constant_array(layer.weight.values)
        assert values is not None
    else:
        values = require_constant(layer.node, 1, "weight")
    return torch.from_numpy(np.ascontiguousarray(values.astype(np.float32)))
