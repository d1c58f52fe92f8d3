"""What a network is for, found before it is trained or judged: by its outputs, labels, and what the user says."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.data import Source
from qpipe.data.inputs import form_of, inputs_of
from qpipe.errors import DataError, ModelError
from qpipe.ir.files.metadata import get_object
from qpipe.lowering.integer_ends import IO
from qpipe.nodes import static_shape
from qpipe.ops.links import ends_of
from qpipe.runtime.session import Array, open_session, run_batches
from qpipe.runtime.session import inputs_of as session_inputs
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
    return derive(outputs_of(network, source), _labels_of(source, asked), asked, purpose)


def _labels_of(source: Source, asked: TaskSettings) -> LabelFacts | None:
    if source.first_labels is None:
        return None
    names = None if source.class_names is None else len(source.class_names)
    return facts_of(source.first_labels, names=names, ignore=asked.ignore_label)


def outputs_of(network: ir.Model, source: Source | None = None) -> list[OutputFacts]:
    """The outputs as the graph declares them; where it leaves a shape open, as they come out of onnxruntime.

    source: of data that have the sizes which the inputs leave open.
    """
    values = list(network.graph.outputs)
    units = (get_object(network, IO) or {}).get("scales")
    # Integers with a unit are scores in fixed point, not classes.
    fixed = units if isinstance(units, dict) else {}
    shapes = _declared(network) or _probed(network, source)
    return [
        OutputFacts(str(value.name), position, shape, _is_integer(value) and value.name not in fixed, ends_of(value))
        for position, (value, shape) in enumerate(zip(values, shapes, strict=True))
    ]


def _is_integer(value: ir.Value) -> bool:
    return value.dtype is not None and not value.dtype.is_floating_point()


def _declared(network: ir.Model) -> list[tuple[int, ...] | None] | None:
    """Without the batch; None where a graph does not say all of it."""
    is_batched = form_of(inputs_of(network.graph)).is_batched
    given = static_shape(network.graph.inputs[0]) or ()
    found: list[tuple[int, ...] | None] = []
    for value in network.graph.outputs:
        shape = static_shape(value)
        if shape is None or value.dtype is None or (is_batched and (not shape or shape[:1] != given[:1])):
            return None
        sizes = tuple(size for size in shape[is_batched:] if size is not None)
        if len(sizes) < len(shape) - is_batched:
            return None
        found.append(sizes)
    return found


def _probed(network: ir.Model, source: Source | None) -> list[tuple[int, ...] | None]:
    session = open_session(network)
    inputs = session_inputs(session)
    form = form_of(inputs)
    count = form.size or _PROBED
    zeros = {}
    for each in inputs:
        sizes = [size if isinstance(size, int) else 1 for size in each.shape or ()]
        known = {} if source is None else source.sample_shapes or {each.name: source.image_shape}
        shape = known.get(each.name, sizes[form.is_batched :])
        zeros[each.name] = np.zeros((count, *shape), each.dtype)
    try:
        arrays: list[Array] = next(run_batches(session, [zeros], rows_only=False))
    except (ModelError, DataError):  # zeros may be no sample of it, as where one counts something
        return [None] * len(network.graph.outputs)
    return [array.shape[1:] if array.ndim and len(array) == count else None for array in arrays]
