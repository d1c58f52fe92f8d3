"""The QDQ graph as a torch module: what trains is what ships.

In training it computes in float32 with fused fake quantization; in evaluation it computes exactly what the finalized
file gives on an integer runtime. A float graph, without quantizers, trains on it as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import onnx_ir as ir
import torch
from torch import nn

from qpipe.errors import ModelError
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.view import QuantizedLayer, RequantizedLayer, leading_to, read_view
from qpipe.nodes import describe
from qpipe.ops import Role, activation_of
from qpipe.ops.quantizer_parts import quantizes
from qpipe.settings.training import ActivationGradient, BatchNormMode, Precision
from qpipe.tasks.task import Ending
from qpipe.train.batch_norm import StandaloneBatchNorm
from qpipe.train.given import Given
from qpipe.train.island import Begin, Island, islands_of
from qpipe.train.layer_norm import LayerNorm
from qpipe.train.learned_quantizer import LearnedQuantizer, quantizer_of
from qpipe.train.quantizer import Quantizer
from qpipe.train.step import ModuleStep, NormStep, ProductStep, RowNormStep, Step
from qpipe.train.straight_through import channels_last
from qpipe.train.tail import Tail
from qpipe.train.weighted import WeightedLayer

Values = dict[ir.Value, torch.Tensor]
S = TypeVar("S", bound=Step)


class Executor(nn.Module):
    """Runs a trainable graph up to its last layers, and in training on to what the loss reads, its `answer`.

    The results of the last layers are in the order of the graph's outputs. It starts in evaluation mode, as what the
    file computes. `steps` are its layers in topological order; whoever changes or watches one does it there (see
    `Step`).

    Args:
        model: a trainable QDQ model, or a normalized float model.
        batch_norm: the statistics that training normalizes by.
        precision: of training's tensors between the layers, and of its products' operands. bfloat16 holds the integers
            of every grid; what it rounds is what lies between two grids. Evaluation is exact whatever it is.
        activation_gradient: where the gradient of a rounded activation ends.
        full_precision: be the float network that a QDQ graph still holds: weights and activations as they are,
            BatchNormalization unrounded.
        lender: a network of the same graph on whose weights this one trains, as the lender quantized them in the same
            step. Every BatchNormalization is its own, and unrounded.
        ending: what its `answer` is; by default the first result, each image's a row.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        batch_norm: BatchNormMode = "running",
        precision: Precision = "fp32",
        activation_gradient: ActivationGradient = "codes",
        full_precision: bool = False,
        lender: Executor | None = None,
        ending: Ending | None = None,
    ) -> None:
        super().__init__()
        self._model, self._batch_norm, self.precision = model, batch_norm, precision
        self._activation_gradient = activation_gradient
        layers, self._results, begins = _plan(model)
        self._entries = [begin for begin in begins if begin.source.is_graph_input()]
        self.is_quantized = any(map(quantizes, model.graph)) and not full_precision
        rounded = self._entries if self.is_quantized else []
        self.input_quantizers = nn.ModuleList(quantizer_of(b.quantizer) for b in rounded if b.quantizer is not None)
        # Of a network that borrows its weights the lender rounds them, and nothing rounds its affine maps.
        self._rounds = self.is_quantized and lender is None
        self.steps = [self._step(position, layer) for position, layer in enumerate(layers)]
        behind = [begin for begin in begins if begin not in self._entries]
        self.islands = nn.ModuleList(islands_of(self.steps, behind, set(self._given), rounds=self.is_quantized))
        if lender is not None:
            for own, lent in zip(self.weighted(), lender.weighted(), strict=True):
                own.borrow(lent)
            for rows, lent_rows in zip(self.layer_norms(), lender.layer_norms(), strict=True):
                rows.borrow(lent_rows)
            for mine, theirs in zip(self._islands, lender._islands, strict=True):
                mine.nodes.borrow(theirs.nodes)
        # So that torch finds what trains, and a checkpoint names it.
        self.layers = nn.ModuleList(step.module for step in self.steps if isinstance(step, ModuleStep))
        self.quantizers = nn.ModuleList(step.quantizer for step in self.steps if step.quantizer is not None)
        for _, each in self.named_quantizers():
            each.to_ymax = activation_gradient == "ymax"
        # It starts in evaluation, with the exponents that the file says.
        super().train(False)
        self._last_use = {value: step.position for step in self.steps for value in step.reads}
        for island in self._islands:
            for value in island.reads:
                self._last_use[value] = max(self._last_use.get(value, 0), island.position)
        self.tail = self.tail_at(ending or Ending())
        self._last_use.update(dict.fromkeys([*self._results, *self.tail.reads], len(self.steps)))
        self._before = {island.position: island for island in self._islands}

    @property
    def _islands(self) -> list[Island]:
        return [island for island in self.islands if isinstance(island, Island)]

    @property
    def _given(self) -> list[ir.Value]:
        """What is known before the first step: the graph's inputs, and these on their grids."""
        return [*self._model.graph.inputs, *(begin.output for begin in self._entries)]

    @property
    def graph(self) -> ir.Graph:
        """What it runs."""
        return self._model.graph

    def forward(self, x: Given) -> tuple[torch.Tensor, ...]:
        """`x [N, C, H, W]` float32, or inputs by name -> the results, float32 in training, exact float64 otherwise."""
        values = self.start(x)
        self.run(values, self.steps)
        return tuple(values[value] for value in self._results)

    def tail_at(self, ending: Ending) -> Tail:
        """What leads from the steps to where a loss could read; ModelError where no gradient comes through."""
        given = [*self._given, *(step.gives for step in self.steps)]
        given += [value for island in self._islands for value in island.gives]
        return Tail(self.graph, given, self._results, ending)

    def answer(self, x: Given) -> torch.Tensor:
        """What the loss reads: rows `[N, columns]`, scores `[N, classes, ...]`, or an output as it is."""
        values = self.start(x)
        self.run(values, self.steps)
        return self.answer_of(values)

    def answer_of(self, values: Values) -> torch.Tensor:
        """The answer, when all steps have run."""
        answer: torch.Tensor = self.tail(values)
        return answer

    def start(self, x: Given) -> Values:
        """The values before the first step."""
        inputs = self._model.graph.inputs
        values = {v: x[str(v.name)] for v in inputs} if isinstance(x, Mapping) else dict.fromkeys(inputs, x)
        for index, begin in enumerate(self._entries):
            own = _in_units(values[begin.source], begin.quantizer)
            values[begin.output] = self._prepared(self.input_quantizers[index](own) if self.input_quantizers else own)
        return values

    def run(self, values: Values, steps: Iterable[Step]) -> None:
        """Run these steps, and put what they give in the place of values that nobody reads any more."""
        for step in steps:
            if step.position in self._before:
                found = self._before[step.position](values)
                values.update((value, self._prepared(x)) for value, x in found.items() if value in self._last_use)
            # A result is summed up and compared: in float32 at least.
            widen = step.gives in self._results and self.precision == "bf16"
            values[step.gives] = step.run(
                [values[value].float() if widen else values[value] for value in step.reads], training=self.training
            )
            for value in step.reads:
                if self._last_use[value] == step.position:
                    values.pop(value, None)

    def finish(self, values: Values, step: Step, given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The network's results if this step had given something else; all steps up to it have run."""
        values[step.gives] = given
        self.run(values, self.steps[step.position + 1 :])
        return tuple(values[value] for value in self._results)

    def twin(self) -> Executor:
        """A network of the same graph and the same weights, in training, with every BatchNormalization its own."""
        other = Executor(
            self._model,
            batch_norm=self._batch_norm,
            precision=self.precision,
            activation_gradient=self._activation_gradient,
            lender=self,
            ending=self.tail.ending,
        )
        return other.train()

    def float_copy(self) -> Executor:
        """A float network of the same graph that starts from the same weights; in training, on batch statistics."""
        other = Executor(
            self._model, batch_norm="batch", precision=self.precision, full_precision=True, ending=self.tail.ending
        )
        state = self.state_dict()
        other.load_state_dict({name: state[name] for name in other.state_dict()})
        return other.train()

    def counterpart(self, step: S) -> S:
        """The step of this network that is what `step` is in another one of the same graph."""
        found = self.steps[step.position]
        if not isinstance(found, type(step)):
            raise ValueError(f"step {step.position} is of another graph")
        return found

    def train(self, mode: bool = True) -> Executor:
        """Switch the mode; leaving training fixes the weights' exponents at what the weights are then."""
        if self.training and not mode:
            for module in self.weighted():
                module.refresh()
        super().train(mode)
        return self

    def owner(self, name: str) -> str | None:
        """The layer that a tensor of the state belongs to, for messages; None where that is no layer's parameter."""
        nodes = [step.layer.node for step in self.steps if isinstance(step, ModuleStep)]
        kind, _, place = name.partition(".")
        return describe(nodes[int(place.partition(".")[0])]) if kind == "layers" else None

    def products(self) -> Iterator[ProductStep]:
        """The steps that multiply by weights."""
        return (step for step in self.steps if isinstance(step, ProductStep))

    def weighted(self) -> Iterator[WeightedLayer]:
        """Their modules."""
        return (step.module for step in self.products())

    def batch_norms(self) -> Iterator[StandaloneBatchNorm]:
        """The BatchNormalizations that stand alone."""
        return (step.module for step in self.steps if isinstance(step, NormStep))

    def layer_norms(self) -> Iterator[LayerNorm]:
        """The LayerNormalizations."""
        return (step.module for step in self.steps if isinstance(step, RowNormStep))

    def named_quantizers(self) -> Iterator[tuple[str, Quantizer]]:
        """The quantizers of the network's inputs, the only one called "input", and of its layers, by their names."""
        for begin, quantizer in zip(self._entries, self.input_quantizers, strict=False):
            assert isinstance(quantizer, Quantizer)
            yield ("input" if len(self._entries) == 1 else f"input {begin.source.name}"), quantizer
        yield from (named for island in self._islands for named in island.named_quantizers())
        yield from ((step.layer.name, step.quantizer) for step in self.steps if step.quantizer is not None)

    def learned_quantizers(self) -> Iterator[tuple[ActivationQuantizer, LearnedQuantizer]]:
        """What the file says, and what trains, of activations whose levels are learned."""
        for step in self.steps:
            if isinstance(step.quantizer, LearnedQuantizer) and step.layer.quantizer is not None:
                yield step.layer.quantizer, step.quantizer

    def _step(self, position: int, layer: QuantizedLayer) -> Step:
        quantizer = None
        if layer.quantizer is not None and self.is_quantized:
            carries = _carries(layer, layer.quantizer)
            quantizer = quantizer_of(layer.quantizer, layer.function, carries=carries)
        if layer.is_batch_norm:
            target = layer.quantizer if self._rounds else None
            grids = None if target is None else (layer.sources[0].grid, target.rounded_to)
            return NormStep(position, layer, quantizer, StandaloneBatchNorm(layer.node, grids))
        if layer.role is Role.COMPUTE:
            module = WeightedLayer(layer, batch_norm=self._batch_norm, quantized=self._rounds)
            return ProductStep(position, layer, quantizer, module)
        if layer.op.parameters:
            return RowNormStep(position, layer, quantizer, LayerNorm(layer, quantized=self.is_quantized))
        if isinstance(layer, RequantizedLayer) and self.is_quantized:
            return Step(position, layer, quantizer, layer.op.simulated(layer))
        return Step(position, layer, quantizer, layer.op.torch(layer.node))

    def _prepared(self, x: torch.Tensor) -> torch.Tensor:
        """What evaluates exactly takes x as it is; all else in the executor's precision, channels last."""
        if (self.is_quantized and not self.training) or not x.is_floating_point():
            return x
        return channels_last(x if self.precision == "fp32" else x.bfloat16())


def _plan(model: ir.Model) -> tuple[list[QuantizedLayer], list[ir.Value], list[Begin]]:
    """Layers, result values, and where integers begin: at inputs, and behind islands."""
    if any(map(quantizes, model.graph)):
        view = read_view(model)
        if view.is_final:
            raise ModelError("final already (its weights are integers), expected the file that calibrate wrote")
        return view.layers, view.results, [Begin(q.source, q.output, q) for q in view.inputs]
    plan = plan_quantization(model.graph)
    if plan.unsupported:
        raise ModelError(f"{describe(plan.unsupported[0].node)}: can't be trained, no torch semantics for it")
    layers = [QuantizedLayer(layer.node, layer.batch_norm, layer.activation, sources=()) for layer in plan.layers]
    given = {value for layer in (*plan.islands, *plan.lookups) for node in layer.nodes for value in node.outputs}
    results = leading_to(model.graph.outputs, given | {layer.result for layer in layers})
    return layers, results, [Begin(value, value) for value in plan.begins]


def _in_units(x: torch.Tensor, quantizer: ActivationQuantizer | None) -> torch.Tensor:
    """An input as its readers count it, with one rounding: QuantizeLinear's."""
    if quantizer is None or quantizer.unit == 1:
        return x
    # By a tensor on its device: by a number, some devices multiply by its rounded reciprocal.
    return x / torch.tensor([quantizer.step], dtype=x.dtype, device=x.device) * quantizer.rounded_to.scale


def _carries(layer: QuantizedLayer, quantizer: ActivationQuantizer) -> bool:
    """Whether the layer's output is on its quantizer's grid already."""
    if layer.role is not Role.CARRY or quantizer.table is not None or activation_of(layer.node) is not None:
        return False
    if layer.op.rounds(layer.node):
        return False
    return layer.op.carried(layer.node, [q.grid for q in layer.sources]) == quantizer.grid
