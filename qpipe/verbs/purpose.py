"""What a network is for, found before it is trained or judged: by its outputs, labels, and what the user says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from qpipe.data import Source
from qpipe.ir.files.metadata import get_object
from qpipe.lowering.integer_ends import IO
from qpipe.nodes import static_shape
from qpipe.ops.links import ends_of
from qpipe.runtime.session import AnyModel, Array, input_dtype, open_session, run_batches, single_input
from qpipe.settings import TaskSettings
from qpipe.tasks.derive import Purpose, derive
from qpipe.tasks.labels import LabelFacts, facts_of
from qpipe.tasks.outputs import OutputFacts
from qpipe.tasks.task import Task

_PROBED = 2
"""Images with which shapes are found out: an output that has as many rows has one for each."""


def task_of(
    network: ir.Model, source: Source, asked: TaskSettings, *, trains: bool = False, is_taught: bool = False
) -> Task:
    """The task of a network on these data; see `derive`.

    trains: whether a loss is needed. is_taught: whether a teacher can stand in for labels.
    """
    purpose = Purpose(source.name, trains, is_taught)
    return derive(outputs_of(network), _labels_of(source, asked), asked, purpose)


def _labels_of(source: Source, asked: TaskSettings) -> LabelFacts | None:
    if source.first_labels is None:
        return None
    names = None if source.class_names is None else len(source.class_names)
    return facts_of(source.first_labels, names=names, ignore=asked.ignore_label)


def outputs_of(network: ir.Model) -> list[OutputFacts]:
    """The outputs as the graph declares them; where it leaves a shape open, as they come out of onnxruntime."""
    values = list(network.graph.outputs)
    units = (get_object(network, IO) or {}).get("scales")
    # Integers with a unit are scores in fixed point, not classes.
    fixed = units if isinstance(units, dict) else {}
    shapes = _declared(network) or _probed(network)
    return [
        OutputFacts(str(value.name), position, shape, _is_integer(value) and value.name not in fixed, ends_of(value))
        for position, (value, shape) in enumerate(zip(values, shapes, strict=True))
    ]


def _is_integer(value: ir.Value) -> bool:
    return value.dtype is not None and not value.dtype.is_floating_point()


def _declared(network: ir.Model) -> list[tuple[int, ...] | None] | None:
    """Without the batch; None where a graph does not say all of it."""
    given = static_shape(network.graph.inputs[0]) or ()
    found: list[tuple[int, ...] | None] = []
    for value in network.graph.outputs:
        shape = static_shape(value)
        if not shape or value.dtype is None or shape[0] != given[0]:
            return None
        sizes = tuple(size for size in shape[1:] if size is not None)
        if len(sizes) < len(shape) - 1:
            return None
        found.append(sizes)
    return found


def _probed(network: ir.Model | AnyModel) -> list[tuple[int, ...] | None]:
    session = open_session(network)
    value: Any = single_input(session)
    sizes = [size if isinstance(size, int) else 1 for size in value.shape[1:]]
    count = value.shape[0] if isinstance(value.shape[0], int) else _PROBED
    zeros = np.zeros((count, *sizes), input_dtype(session))
    arrays: list[Array] = next(run_batches(session, [zeros], rows_only=False))
    return [array.shape[1:] if array.ndim and len(array) == count else None for array in arrays]
