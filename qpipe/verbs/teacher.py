"""The loss of a run: against the labels, or with a teacher, which is looked at before anything that takes time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from passes.normalize import normalize
from qpipe.data import Preprocess
from qpipe.data.carried import carried_preprocess
from qpipe.errors import ModelError, RecipeError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import TRAINING, get_json
from qpipe.ir.graph.binary_blocks import binary_blocks
from qpipe.ir.graph.stripped_blocks import stripped_blocks
from qpipe.ir.quantized.kind import Kind, find_kind, is_float
from qpipe.ir.quantized.view import is_trainable, read_view
from qpipe.nodes import static_shape
from qpipe.settings.finetune import FinetuneSettings
from qpipe.settings.training import FLOAT_TEACHER
from qpipe.tasks.derive import ending_at
from qpipe.tasks.task import Ending, Task

if TYPE_CHECKING:
    from qpipe.train.companion import Loss


def load_teacher(run: FinetuneSettings) -> ir.Model | None:
    """The network in the file that a run names as its teacher; None where it names none, or the student's own floats.

    Raises:
        ModelError: no file, or what it holds is no float network and no QDQ file that still has one.
    """
    if run.teacher is None or run.teacher == FLOAT_TEACHER:
        return None
    network = load_model(run.teacher)
    kind, _ = find_kind(network)
    if kind not in {Kind.FLOAT, Kind.TRAINABLE}:
        raise ModelError(f"teacher '{run.teacher}': is {kind.value}, expected a float network")
    if kind is Kind.TRAINABLE and (why := why_no_float(network)):
        raise ModelError(f"teacher '{run.teacher}': {why}, expected a float network")
    normalize(network)
    return network


def check_teacher(
    run: FinetuneSettings, teacher: ir.Model | None, network: ir.Model, preprocess: Preprocess, *, is_stripped: bool
) -> None:
    """Look at the network that is to teach `network`: `teacher`, or with "float" the network's own floats.

    preprocess: what the images of both go through. is_stripped: whether this run stripped the network's skips; it still
    knows the network that had them.

    Raises:
        RecipeError: there are no floats that could teach. They are warned of where they were trained themselves.
        ModelError: the teacher takes other images than the network, or tells other classes apart.
    """
    if run.teacher == FLOAT_TEACHER:
        _check_own_floats(network, is_stripped)
    elif teacher is not None:
        _check_shapes(str(run.teacher), teacher, network)
        _warn_of_training(f"'{run.teacher}' is a", teacher)
        if carried_preprocess(teacher) not in (None, preprocess):
            raise ModelError(
                f"teacher '{run.teacher}': carries another preprocessing than the network, expected one for both"
            )


def _check_own_floats(network: ir.Model, is_stripped: bool) -> None:
    if is_float(network):  # the one that it was stripped from teaches
        return
    if not is_stripped and stripped_blocks(network):
        raise RecipeError("teacher: 'float', but this plain network holds none, expected the float network's file")
    if why := why_no_float(network):
        raise RecipeError(f"teacher: 'float', but {why}, expected the float network's file")
    _warn_of_training("'float' is this", network)


def _warn_of_training(what: str, network: ir.Model) -> None:
    """Of a QDQ network: a float one was trained as what it is."""
    if get_json(network, TRAINING) and not is_float(network):
        warnings.warn(
            f"teacher: {what} file's float copy as it was fine-tuned, which may know less than the float network: name "
            "that one's file",
            stacklevel=5,
        )


def _check_shapes(name: str, teacher: ir.Model, network: ir.Model) -> None:
    taken = [[str(value.name) for value in graph.inputs] for graph in (teacher.graph, network.graph)]
    if len(taken[0]) != len(taken[1]) or (len(taken[0]) > 1 and set(taken[0]) != set(taken[1])):
        raise ModelError(f"teacher '{name}': takes {', '.join(taken[0])}, expected {', '.join(taken[1])}")
    pairs = [("gives", (teacher.graph.outputs[0], network.graph.outputs[0]))]
    if len(taken[0]) == 1:
        pairs.insert(0, ("takes", (teacher.graph.inputs[0], network.graph.inputs[0])))
    for what, values in pairs:
        # Which of several outputs counts, the task says; a batch will tell.
        if what == "gives" and len(teacher.graph.outputs) + len(network.graph.outputs) > 2:
            continue
        # The first dimension is the batch.
        shapes = [shape[1:] for value in values if (shape := static_shape(value)) is not None]
        if len(shapes) == len(values) and not _agree(*shapes):
            raise ModelError(f"teacher '{name}': {what} {list(shapes[0])}, expected {list(shapes[1])}")


def _agree(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Whether sizes are the same where both are known."""
    return len(one) == len(other) and all(None in pair or pair[0] == pair[1] for pair in zip(one, other, strict=True))


def why_no_float(network: ir.Model) -> str | None:
    """Why a trainable QDQ network holds no float network that could teach; None where it does.

    Weights that another quantizer normalizes change their scale in training, and the statistics behind them follow what
    they become, so that the float weights are no network any more.
    """
    if binary_blocks(network):
        return "a binary network holds none"
    weights = [layer.weight for layer in read_view(network).layers if is_trainable(layer)]
    if get_json(network, TRAINING) and not all(weight.format.holds_floats for weight in weights):
        return "a network that was trained with another quantizer than fixed-point holds none"
    return None


def loss_of(run: FinetuneSettings, task: Task, origin: ir.Model, teacher: ir.Model | None) -> Loss:
    """The task's, or distillation from `teacher`, or from the float network that `origin` still holds."""
    from qpipe.train.losses import label_loss
    from qpipe.train.teacher import distillation, float_teacher
    from qpipe.train.together import together

    if run.teacher is None:
        return label_loss(task)
    network = origin if teacher is None else teacher
    executor = float_teacher(network, precision=run.precision, ending=_ending_of(network, task, str(run.teacher)))
    return distillation(executor.to(together().device), task, weight=run.teacher_weight, temperature=run.temperature)


def _ending_of(teacher: ir.Model, task: Task, name: str) -> Ending:
    """Of the teacher's output that the task is of: by its name, else the one at its place; looked at by itself."""
    outputs = {value.name: value for value in teacher.graph.outputs}
    value = outputs.get(task.output) or (teacher.graph.outputs[task.position] if len(outputs) == 1 else None)
    if value is None:
        raise ModelError(f"teacher '{name}': has no output '{task.output}', found {', '.join(map(str, outputs))}")
    return ending_at(value, task)
