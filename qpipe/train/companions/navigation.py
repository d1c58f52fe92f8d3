"""Ways through an executor's steps: by the names of nodes, and from a step to those before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch

from qpipe.errors import ModelError
from qpipe.ir.quantized.view import Requantization
from qpipe.nodes import describe
from qpipe.ops import Role
from qpipe.train.executor import Executor
from qpipe.train.given import zeros_of
from qpipe.train.quantizer import Quantizer
from qpipe.train.step import Step


def step_with(network: Executor, name: str) -> Step:
    """The step whose layer has a node of this name; ModelError where there is none."""
    for step in network.steps:
        if any(node.name == name for node in step.layer.nodes):
            return step
    raise ModelError(f"no layer has a node '{name}'")


def step_giving(network: Executor, value: ir.Value) -> Step | None:
    """The step that gives this value; None for the network's input."""
    return next((step for step in network.steps if step.gives is value), None)


def step_before(network: Executor, step: Step) -> Step:
    """The step that gives what this one reads first; ModelError where that is the network's input."""
    found = _step_before(network, step)
    if found is None:
        raise ModelError(f"{describe(step.layer.node)}: reads the network's input, expected a layer before it")
    return found


def reads_the_input(network: Executor, step: Step) -> bool:
    """Whether there is no step before this one."""
    return _step_before(network, step) is None


def _step_before(network: Executor, step: Step) -> Step | None:
    """Looking through requantizations."""
    found = step_giving(network, step.reads[0])
    if found is not None and isinstance(found.layer, Requantization):
        return _step_before(network, found)
    return found


def input_quantizer(network: Executor, step: Step) -> Quantizer | None:
    """What rounds a step's first input; None where that is the quantizer of the network's input."""
    found = step_giving(network, step.reads[0])
    if found is None:
        return None
    carries = found.layer.role is Role.CARRY and found.layer.activation is None
    return input_quantizer(network, found) if carries else found.quantizer


def section(network: Executor, start: ir.Value, end: ir.Value) -> list[Step]:
    """The steps on the paths from one value to another, in order; empty where they are one value."""
    found: set[Step] = set()
    stack = [end]
    while stack:
        value = stack.pop()
        step = None if value is start else step_giving(network, value)
        if step is not None and step not in found:
            found.add(step)
            stack.extend(step.reads)
    return sorted(found, key=lambda step: step.position)


@dataclass(frozen=True)
class StepShapes:
    """first_input: of what a step reads first. result: of what it gives. Both with a batch of 1."""

    first_input: torch.Size
    result: torch.Size


@torch.no_grad()
def step_shapes(network: Executor, image_shape: Sequence[int]) -> list[StepShapes]:
    """The shapes at every step, by an evaluation of zeros, which leaves the network in evaluation mode.

    image_shape: of one input, without the batch.
    """
    found: list[StepShapes] = []
    values = network.eval().start(zeros_of(network.graph, image_shape))
    for step in network.steps:
        first_input = values[step.reads[0]].shape
        network.run(values, [step])
        found.append(StepShapes(first_input, values[step.gives].shape))
    return found


@torch.no_grad()
def answer_shape(network: Executor, image_shape: Sequence[int]) -> torch.Size:
    """The shape of a network's answer to one image, by an evaluation of zeros."""
    return network.eval().answer(zeros_of(network.graph, image_shape)).shape
