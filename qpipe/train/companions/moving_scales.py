"""Which grids of activations can move, which only together, and what stays exact when they do.

What a layer with weights, a sum or a pool gives has a grid of its own. What only carries integers gives the grid that
it reads, so all these have one exponent. A grid stays where something around it was made for it: tables, a bound that
lies on it, normalizations, constants and weights that are no fixed-point numbers, codes of 16 bits, and what begins an
integer region.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.view import Requantization, RequantizedLayer
from qpipe.ops import Rectifier, Role
from qpipe.ops.base import Op
from qpipe.train.executor import Executor
from qpipe.train.quantizer import Quantizer
from qpipe.train.step import ProductStep, Step

MOST = 4
"""Octaves that a grid may go away from where calibration put it."""


@dataclass(frozen=True)
class MovingScale:
    """Grids that have one exponent. `move` is all that changes it.

    name: of the layer that rounds. quantizers: of all networks that train. around: the steps of the first network that
    read or give such a tensor. grids: all quantizers of that network, by what they give.
    """

    name: str
    quantizers: Sequence[Quantizer]
    around: Sequence[Step]
    grids: Mapping[ir.Value, Quantizer]

    @property
    def shift(self) -> int:
        """How far it has moved."""
        return self.quantizers[0].moved

    def move(self, shift: int) -> bool:
        """Move all grids; or none, and be False, where a layer around would not be exact any more."""
        before = self.shift
        for quantizer in self.quantizers:
            quantizer.move(shift)
        if abs(shift) <= MOST and all(_is_exact(step, self.grids) for step in self.around):
            return True
        for quantizer in self.quantizers:
            quantizer.move(before)
        return False


def moving_scales(networks: Sequence[Executor]) -> list[MovingScale]:
    """What can move of networks of one graph, in the order of the layers, ready to be moved.

    networks: the first one rounds its weights itself.
    """
    network = networks[0]
    grids = {step.gives: step.quantizer for step in network.steps if step.quantizer is not None}
    roots: dict[ir.Value, ir.Value] = {}
    stuck: set[ir.Value] = set()

    def root(value: ir.Value) -> ir.Value:
        while (above := roots.setdefault(value, value)) is not value:
            value = above
        return value

    for step in network.steps:
        if not _takes_moves(step):
            stuck.update([*step.reads, step.gives])
        elif step.layer.role is Role.CARRY:
            for value in step.reads:
                roots[root(value)] = root(step.gives)
        if not _grid_moves(step):
            stuck.add(step.gives)
    stuck.update(value for value in list(roots) if value not in grids)
    fixed = {root(value) for value in stuck}
    members: dict[ir.Value, list[Step]] = {}
    for step in network.steps:
        if step.gives in grids and root(step.gives) not in fixed:
            members.setdefault(root(step.gives), []).append(step)
    return [_together(steps, networks, grids) for steps in members.values()]


def _together(steps: Sequence[Step], networks: Sequence[Executor], grids: Mapping[ir.Value, Quantizer]) -> MovingScale:
    """One scale, of these steps of the first network."""
    values = {step.gives for step in steps}
    around = [step for step in networks[0].steps if values & {*step.reads, step.gives}]
    quantizers = [network.counterpart(step).quantizer for network in networks for step in steps]
    for step in around:
        if isinstance(step, ProductStep) and step.module.quantizer is not None:
            step.module.quantizer.follow(source=grids.get(step.reads[0]), target=step.quantizer)
    found = [quantizer for quantizer in quantizers if quantizer is not None]
    for quantizer in found:
        quantizer.let_move()
    return MovingScale(steps[0].layer.name, found, around, grids)


def _grid_moves(step: Step) -> bool:
    """Whether what a step gives may be on another grid, for all that its quantizer knows."""
    function, quantizer = step.layer.function, step.quantizer
    if quantizer is None or quantizer.current_levels() is not None or quantizer.grid.is_wide:
        return False
    return function is None or (isinstance(function, Rectifier) and math.isinf(function.bound))


def _takes_moves(step: Step) -> bool:
    """Whether a step computes with whatever grids are around it."""
    layer = step.layer
    if isinstance(step, ProductStep):
        rounds = step.module.quantizer
        return rounds is not None and rounds.format.holds_floats
    if type(step) is not Step or isinstance(layer, Requantization) or not isinstance(layer, RequantizedLayer):
        return False
    # What simulates its integer form in a way of its own has grids and tables of it at hand.
    is_plain = type(layer.op).simulated is Op.simulated and not layer.op.is_float_form
    if not is_plain or layer.op.fixed_operands(layer.node) or not _grid_moves(step):
        return False
    return layer.role is not Role.CARRY or _carried(layer)


def _carried(layer: RequantizedLayer) -> bool:
    """Whether a carrier's grid is the one that it carries."""
    return layer.op.carried(layer.node, [q.grid for q in layer.sources]) == layer.quantizer.grid


def _is_exact(step: Step, grids: Mapping[ir.Value, Quantizer]) -> bool:
    """Whether a step is exact on the grids as they are now; one with weights makes itself so."""
    layer = step.layer
    if isinstance(step, ProductStep):
        return True
    assert isinstance(layer, RequantizedLayer)
    sources = tuple(_now(source, grids) for source in layer.sources)
    now = replace(layer, sources=sources, quantizer=_now(layer.quantizer, grids))
    specs, target = [source.grid for source in sources], now.quantizer.rounded_to
    if layer.op.distance(layer.node, specs) or layer.op.fitted(layer.node, specs, target) != target:
        return False
    if layer.role is Role.CARRY and not _carried(now):
        return False
    return not any(row.problems for row in layer.op.prove(now, check_pairs=False))


def _now(quantizer: ActivationQuantizer, grids: Mapping[ir.Value, Quantizer]) -> ActivationQuantizer:
    """One of the file, with the grid that it has now."""
    found = grids.get(quantizer.output)
    return quantizer if found is None or not found.moves else replace(quantizer, grid=found.grid)
