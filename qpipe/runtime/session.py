"""Open models in onnxruntime and run arrays through them: the one place that sets session options."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from qpipe.data.inputs import Input, Inputs, count_of, fitted, form_of, rows_of
from qpipe.errors import ModelError, one_line
from qpipe.nodes import name_in_memory

AnyModel = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model
Array = npt.NDArray[Any]

# onnxruntime's exceptions have no base of their own; some failures arrive as Python's.
_ORT_ERRORS: Final[tuple[type[Exception], ...]] = (
    *(value for value in vars(ort_errors).values() if isinstance(value, type) and issubclass(value, Exception)),
    RuntimeError,
    ValueError,
)
_FATAL: Final = 4  # Warnings are about speed, and errors arrive as exceptions: neither is printed a second time.
_TYPES: Final = {
    "tensor(bool)": np.bool_,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


def open_session(
    model: AnyModel,
    *,
    threads: int | None = None,
    optimize: bool = True,
    optimized_path: str | os.PathLike[str] | None = None,
    config: Mapping[str, str] | None = None,
    name: str | None = None,
) -> ort.InferenceSession:
    """Open `model` on the CPU.

    threads: of one operator, all cores by default; idle ones don't spin, because sessions that spin in one process take
    the cores from each other. optimize: off runs the graph as it is written. optimized_path: where the optimized graph
    is written. config: further entries of the session's configuration. name: what messages and tables call the model;
    by default its path. Raises ModelError, one line that names the file.
    """
    own_name, source = _name_and_source(model)
    name = name or own_name
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    spinning = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}
    for key, value in (spinning | dict(config or {})).items():
        options.add_session_config_entry(key, value)
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized_path is not None:
        options.optimized_model_filepath = os.fspath(optimized_path)
    try:
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except _ORT_ERRORS as error:
        raise ModelError(f"{name}: onnxruntime can't open it: {one_line(error)}") from error
    session.qpipe_name = name
    return session


def as_session(model: AnyModel | ort.InferenceSession, threads: int | None) -> ort.InferenceSession:
    """The session itself, or one of the model, in which an operator has so many threads."""
    return model if isinstance(model, ort.InferenceSession) else open_session(model, threads=threads)


def session_name(session: ort.InferenceSession) -> str:
    """What messages call the model: its path, or the name of its graph."""
    name = getattr(session, "qpipe_name", None)
    return str(name if name is not None else f"model '{session.get_modelmeta().graph_name}'")


def inputs_of(session: ort.InferenceSession) -> tuple[Input, ...]:
    """What the model takes; ModelError where that is no tensor of numbers."""
    return tuple(Input(value.name, tuple(value.shape), _dtype(session, value)) for value in session.get_inputs())


def single_input(session: ort.InferenceSession) -> Any:
    """The only input (`.name`, `.type`, `.shape`); ModelError where there are more or none."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs) or "none"
        raise ModelError(f"{session_name(session)}: inputs are {names}; expected exactly one")
    return inputs[0]


def _dtype(session: ort.InferenceSession, value: Any) -> np.dtype[Any]:
    if value.type not in _TYPES:
        raise ModelError(f"{session_name(session)}: input '{value.name}' has type {value.type}; expected numbers")
    return np.dtype(_TYPES[value.type])


def fixed_batch(session: ort.InferenceSession) -> int | None:
    """The batch size that is written into the model's inputs, 1 where it has no batch; None where it is open."""
    return form_of(inputs_of(session)).size


def run_batches(
    session: ort.InferenceSession, batches: Iterable[Inputs], *, rows_only: bool = True
) -> Iterator[list[Array]]:
    """Each batch's outputs, [n, ...] in the model's order.

    Where the model's batch dimension is fixed, a batch is cut into pieces of that size, the last of them filled up
    with its own last row and cut back. An output that has other rows is refused then, unless `rows_only` is off: it is
    what it was in every piece, or what it was in all of them, one after the other. A model without a batch runs each
    sample by itself (see `qpipe/data/inputs.py`), and `n` is another axis of its outputs. Raises DataError where data
    don't fit the inputs, ModelError where the run fails.
    """
    for batch in batches:
        samples, form = fitted(batch, inputs_of(session), session_name(session))
        count = count_of(samples)
        if not form.is_batched:
            singles = [run_rows(session, rows_of(samples, index)) for index in range(count)]
            yield [_stacked(parts) for parts in zip(*singles, strict=True)]
        elif form.size is None:
            yield run_rows(session, samples)
        else:
            pieces = []
            for start in range(0, count, form.size):
                rows = rows_of(samples, slice(start, start + form.size))
                pieces.append(run_rows(session, rows, form.size))
                if rows_only:
                    _check_rows(session, pieces[-1], count_of(rows))
            yield [_joined(parts, count) for parts in zip(*pieces, strict=True)]


def _stacked(parts: Sequence[Array]) -> Array:
    """One output of all samples; of other sizes from sample to sample, all numbers one after the other."""
    if all(part.shape == parts[0].shape for part in parts):
        return np.stack(parts)
    return np.concatenate([part.reshape(-1) for part in parts])


def _joined(parts: Sequence[Array], count: int) -> Array:
    """One output of all pieces: a row for each of `count`, else what it was in every one."""
    if all(part.ndim for part in parts) and sum(map(len, parts)) == count:
        return np.concatenate(parts)
    if all(np.array_equal(part, parts[0]) for part in parts):
        return parts[0]
    return np.concatenate([part.reshape(-1) for part in parts])


def _check_rows(session: ort.InferenceSession, outputs: Sequence[Array], count: int) -> None:
    for value, output in zip(session.get_outputs(), outputs, strict=True):
        if output.ndim == 0 or len(output) != count:
            raise ModelError(
                f"{session_name(session)}: output '{value.name}' has shape {list(output.shape)}; "
                f"expected {count} rows, one for each of the batch"
            )


def run_rows(session: ort.InferenceSession, rows: Mapping[str, Array], size: int | None = None) -> list[Array]:
    """All outputs of what one run takes, by the inputs' names; ModelError where it fails.

    size: of a fixed batch, to which fewer rows are filled up with the last one, and their outputs cut back.
    """
    count = count_of(rows)
    missing = 0 if size is None else size - count
    if missing:
        # The last row again, because an all-zero row may be outside of what the network can take.
        rows = rows_of(rows, np.minimum(np.arange(count + missing), count - 1))
    names = [value.name for value in session.get_inputs()]
    try:
        outputs = run_feeds(session, {name: np.asarray(rows[name], order="C") for name in names})
    except ModelError as error:
        if size is None or size == 1:
            raise
        # It may well be what the memory is too small for.
        raise ModelError(f"{error} (its batch is fixed at {size:,})") from error
    for value, output in zip(session.get_outputs(), outputs, strict=True):
        if not isinstance(output, np.ndarray) or output.dtype.kind not in "fiub":
            raise ModelError(
                f"{session_name(session)}: output '{value.name}' has type {value.type}; expected a tensor of numbers"
            )
    return [output[:count] if missing and output.ndim and len(output) == size else output for output in outputs]


def run_feeds(session: ort.InferenceSession, feeds: Mapping[str, Array]) -> list[Array]:
    """All outputs in the model's order; ModelError, one line, where onnxruntime can't run it."""
    try:
        outputs: list[Array] = session.run(None, dict(feeds))
    except _ORT_ERRORS as error:
        raise ModelError(f"{session_name(session)}: onnxruntime can't run it: {one_line(error)}") from error
    return outputs


def _name_and_source(model: AnyModel) -> tuple[str, str | bytes]:
    """What messages call the model, and what onnxruntime opens: a path, or the serialized model."""
    if isinstance(model, bytes):
        return "model in memory", model
    if isinstance(model, ir.Model | onnx.ModelProto):
        name = name_in_memory(model)
        if isinstance(model, ir.Model):
            tensors = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
            outside = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
            model = ir.to_proto(ir.external_data.load_to_model(model.clone()) if outside else model)
        return name, _serialize(model, name)
    path = Path(model)
    if not path.is_file():
        raise ModelError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected an .onnx file")
    if not path.stat().st_size:
        raise ModelError(f"{path}: the file is empty; expected an .onnx file")
    if not _is_utf8(path):
        # onnxruntime takes no other names.
        return str(path), _name_and_source(ir.load(path))[1]
    return str(path), str(path)


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _serialize(proto: onnx.ModelProto, name: str) -> bytes:
    try:
        content: bytes = proto.SerializeToString()
    except Exception as error:  # protobuf's EncodeError is private to its implementation (upb, python).
        raise ModelError(f"{name}: too large for one message: {one_line(error)}; pass the path of a file") from error
    return content
