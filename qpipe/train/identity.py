"""Which run a checkpoint is of: the network it started from, what it was told, its data, and who looked on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import CodeType
from typing import Any

import onnx_ir as ir
import torch
from pydantic import JsonValue

from qpipe.data import Source
from qpipe.data.inputs import arrays_of
from qpipe.errors import DataError, ModelError, QpipeError
from qpipe.settings import FinetuneSettings
from qpipe.tasks.task import CLASSES, Task, name_of
from qpipe.train.executor import Executor
from qpipe.train.observer import Observer

Identity = Mapping[str, Mapping[str, JsonValue]]
"""What a checkpoint must agree on, by what it is about: `network`, `run`, `data`. Equal values, equal results."""

SAMPLE = 64
"""How many images, drawn from all, stand for the content of the data."""
_DIGEST = "sha256:"
_FOLLOW_THE_RUN = ("grow_at", "ssp", "fade", "train_scales", "dampen_oscillations", "freeze_oscillations")
"""Settings of what changes with the part of the run that is done."""
_ANOTHER: Mapping[str, tuple[type[QpipeError], str]] = {
    "network": (ModelError, "another network"),
    "run": (QpipeError, "another run"),
    "data": (DataError, "other data"),
}


def identity_of(
    executor: Executor,
    settings: FinetuneSettings,
    seed: int,
    source: Source,
    task: Task = CLASSES,
    observers: Sequence[Observer] = (),
) -> Identity:
    """The identity of a run that is about to start on this executor, as its weights are now."""
    watching: JsonValue = [type(observer).__name__ for observer in observers]
    return {
        "network": _network(executor),
        "run": {**_settings(settings), "seed": seed, "observers": watching, **_task(task)},
        "data": _data(source),
    }


def check_identity(path: Path, stored: Identity, wanted: Identity) -> None:
    """Raise an error of one line that names the first thing that is another one than in the checkpoint at `path`."""
    for about, facts in wanted.items():
        for key, now in facts.items():
            was = stored.get(about, {}).get(key)
            if was == now:
                continue
            told = "differs" if str(now).startswith(_DIGEST) else f"was {_shown(was)}, now {_shown(now)}"
            kind, another = _ANOTHER[about]
            raise kind(f"{path}: a checkpoint of {another}: {key} {told}")


def tensor_parts(state: Mapping[str, torch.Tensor]) -> Iterable[bytes]:
    """All that tensors are, in the order of their names, for `digest_of`."""
    for name, tensor in sorted(state.items()):
        yield f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode()
        yield tensor.detach().cpu().contiguous().numpy().tobytes()


def digest_of(parts: Iterable[bytes]) -> str:
    """SHA-256, as "sha256:" and 64 digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return _DIGEST + digest.hexdigest()


def _network(executor: Executor) -> dict[str, JsonValue]:
    grids = [
        f"{name}: {quantizer.grid}"
        + (f" behind {quantizer.rounded_to}" if quantizer.rounded_to != quantizer.grid else "")
        for name, quantizer in executor.named_quantizers()
    ]
    grids += [f"{module.layer.name}: {module.quantizer and module.quantizer.format}" for module in executor.weighted()]
    return {
        "its structure": digest_of(line.encode() for line in _structure(executor.graph)),
        "a quantizer": digest_of(line.encode() for line in grids),
        "a starting weight": digest_of(tensor_parts(executor.state_dict())),
    }


def _structure(graph: ir.Graph) -> Iterable[str]:
    """One line for each node: op, attributes, the values it reads by their order, shapes of constants; no names."""
    numbers: dict[ir.Value | None, int] = {}
    for node in graph:
        reads = [numbers.setdefault(value, len(numbers)) for value in node.inputs]
        gives = [numbers.setdefault(value, len(numbers)) for value in node.outputs]
        attributes = sorted(f"{name}={attribute.value}" for name, attribute in node.attributes.items())
        constants = [None if value is None else value.const_value for value in node.inputs]
        shapes = [None if constant is None else str(constant.shape) for constant in constants]
        yield f"{node.domain}.{node.op_type} {reads} {gives} {shapes} {attributes}\n"


def _settings(settings: FinetuneSettings) -> dict[str, JsonValue]:
    """Every value that changes the result; a constant rate alone does not depend on how long the run will be."""
    facts = {name: _plain(value) for name, value in settings.of_training().items()}
    epochs = facts.pop("epochs")
    if settings.schedule != "constant" or any(getattr(settings, name) for name in _FOLLOW_THE_RUN):
        # Last, because it may be there only for what is told before it.
        facts["epochs"] = epochs
    if settings.teacher is None:
        del facts["teacher_weight"], facts["temperature"]
    elif Path(settings.teacher).is_file():
        facts["the teacher's file"] = digest_of([Path(settings.teacher).read_bytes()])
    return facts


def _task(task: Task) -> dict[str, JsonValue]:
    """What weights depend on; a metric changes none of them."""
    code = getattr(task.loss, "__code__", None)
    ending = task.ending
    return {
        "the output": task.output,
        "the loss": None if task.loss is None else name_of(task.loss),
        "the loss's function": digest_of([] if code is None else _parts_of(code)),
        "what the loss reads": [ending.value, *sorted(ending.skipped), ending.rows, ending.class_axis],
        "the ignored label": task.ignore_label,
        "labels": task.has_labels,
    }


def _parts_of(code: CodeType) -> Iterable[bytes]:
    """A function's own instructions and numbers; inner functions have addresses, which differ between processes."""
    yield code.co_code
    for constant in code.co_consts:
        if isinstance(constant, int | float | str):
            yield repr(constant).encode()


def _data(source: Source) -> dict[str, JsonValue]:
    """A stream tells nothing of itself before it is read, so all that is known of it is its name."""
    preprocess: JsonValue = source.preprocess.model_dump(mode="json")
    if source.size is None:
        return {"stream": source.name, "preprocessing": preprocess}
    labels = source.labels
    sample = next(iter(source.batches(SAMPLE, shuffle=True, limit=SAMPLE)))
    classes = len(source.class_names) if source.class_names else None
    return {
        "number of images": source.size,
        "number of classes": classes if classes or labels is None else int(labels.max()) + 1,
        "preprocessing": preprocess,
        "a label": digest_of([] if labels is None else [labels.tobytes()]),
        "an image": digest_of([array.tobytes() for array in arrays_of(sample.inputs)]),
    }


def _plain(value: Any) -> JsonValue:
    """A settings' value as JSON gives it back."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Fraction):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def _shown(value: JsonValue) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    return "none" if value is None else str(value)
