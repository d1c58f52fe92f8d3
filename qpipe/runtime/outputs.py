"""What a model takes and gives: floats, or with `--io integer` uint8 pixels and int32 fixed point.

The metadata key ``qpipe.io`` of an integer model is an object: `layout`, NHWC or NCHW, is the order of its pixels, and
`scales` gives, for each int32 output by name, the real value of one step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from pydantic import TypeAdapter, ValidationError

from qpipe.data import Batch
from qpipe.data.inputs import Inputs
from qpipe.errors import DataError, ModelError, first_problem
from qpipe.runtime.session import Array, run_batches, run_feeds, session_name

IO_KEY: Final = "qpipe.io"
ROUNDINGS: Final = 2.0**-20
"""Of the largest number of a row: some roundings of float32, whose last bit is 2**-23."""


@dataclass(frozen=True)
class IntegerIO:
    """layout: of the uint8 pixels; scales: real units per step of each int32 output, by the output's name."""

    layout: Literal["NCHW", "NHWC"]
    scales: Mapping[str, float]


_INTEGER_IO: Final = TypeAdapter(IntegerIO)


@dataclass(frozen=True, eq=False)
class Output:
    """One output of a model on one batch: `values` [N, ...], float32 or integers.

    scale: real units per step, of integers that are fixed point; None of those that a float tail gives, as ArgMax does.
    """

    values: Array
    scale: float | None = None

    @property
    def is_choice(self) -> bool:
        """Whether the network itself chose: integers [N] that count no units."""
        return self.scale is None and self.values.ndim == 1 and np.issubdtype(self.values.dtype, np.integer)

    def whole(self) -> "Output":
        """It as a single row."""
        return Output(self.values.reshape(1, -1), self.scale)

    def real(self) -> npt.NDArray[np.float32]:
        """The values in real units, float32, as DequantizeLinear computes them."""
        if self.scale is None:
            return self.values.astype(np.float32, copy=False)
        return self.values.astype(np.float32) * np.float32(self.scale)


def integers_equal(one: Output, other: Output) -> npt.NDArray[np.bool_]:
    """For each row, whether both outputs are the same fixed point: bool [N]; [1] of an output that is one number.

    Integers of one scale, or of none, are compared as they are; otherwise an integer is compared as the float32 that
    DequantizeLinear makes of it, with no tolerance.
    """
    if one.values.shape != other.values.shape:
        return np.zeros(len(np.atleast_1d(one.values)), np.bool_)
    left, right = (one.values, other.values) if one.scale == other.scale else (one.real(), other.real())
    same: npt.NDArray[np.bool_] = np.atleast_1d(np.asarray(left == right))
    equal: npt.NDArray[np.bool_] = np.asarray(same.all(axis=tuple(range(1, same.ndim))))
    return equal


def floats_near(one: Output, other: Output) -> npt.NDArray[np.bool_]:
    """For each row, whether both outputs differ by roundings of float32 at most: bool [N]; [1] of one number.

    What a float tail gives hangs on the runtime's threads: which elements of a vectorized function are left to its
    scalar form, whose last bits differ.
    """
    if one.values.shape != other.values.shape:
        return np.zeros(len(np.atleast_1d(one.values)), np.bool_)
    left, right = (np.atleast_1d(output.real()).astype(np.float64) for output in (one, other))
    axes = tuple(range(1, left.ndim))
    size = np.maximum(np.abs(left), np.abs(right)).max(axis=axes, initial=0)
    near: npt.NDArray[np.bool_] = np.abs(left - right).max(axis=axes, initial=0) <= ROUNDINGS * size
    return near


def read_io(session: ort.InferenceSession) -> IntegerIO | None:
    """The model's ``qpipe.io``, None where it has none; ModelError where it is not as described above."""
    text = session.get_modelmeta().custom_metadata_map.get(IO_KEY)
    if text is None:
        return None
    try:
        return _INTEGER_IO.validate_json(text)
    except ValidationError as error:
        raise ModelError(f"{_where(session)}: {first_problem(error)}") from None


def model_input(session: ort.InferenceSession, batch: Batch) -> Inputs:
    """What of `batch` this model takes: its preprocessed inputs, or its pixels in the model's layout.

    A float network that takes bytes says nothing of their layout: they are pixels where they have its channels.
    """
    inputs = session.get_inputs()
    if all(value.type != "tensor(uint8)" for value in inputs):
        return batch.inputs
    io = read_io(session)
    if io is None and any(value.type == "tensor(int32)" for value in session.get_outputs()):
        raise ModelError(f"{_where(session)}: missing, though the input is uint8; expected the layout of its pixels")
    if io is None and (len(inputs) > 1 or batch.pixels is None):
        return batch.inputs
    if batch.pixels is None:
        raise DataError(f"{session_name(session)}: takes uint8 pixels, but the data are floats; expected images")
    is_last = io.layout == "NHWC" if io is not None else inputs[0].shape[-1:] == [batch.pixels.shape[-1]]
    return batch.pixels if is_last else np.ascontiguousarray(batch.pixels.transpose(0, 3, 1, 2))


def run_batch(session: ort.InferenceSession, batch: Batch) -> list[Output]:
    """The model's outputs on one batch; ModelError where one is NaN or infinite, or fixed point without a scale."""
    arrays = next(run_batches(session, [model_input(session, batch)], rows_only=False))
    return [_output(session, value.name, array) for value, array in zip(session.get_outputs(), arrays, strict=True)]


def run_outputs(session: ort.InferenceSession, feeds: Mapping[str, Array]) -> list[Output]:
    """The same of inputs by name, in one run."""
    arrays = run_feeds(session, feeds)
    return [_output(session, value.name, array) for value, array in zip(session.get_outputs(), arrays, strict=True)]


def _output(session: ort.InferenceSession, name: str, array: Array) -> Output:
    io = read_io(session) if np.issubdtype(array.dtype, np.integer) else None
    if io is not None and name not in io.scales:
        raise ModelError(f"{_where(session)}: no scale for the integer output '{name}'")
    if not np.isfinite(array).all():
        raise ModelError(f"{session_name(session)}: output '{name}' has NaN or infinite values")
    return Output(array, None if io is None else io.scales[name])


def _where(session: ort.InferenceSession) -> str:
    return f"{session_name(session)}: metadata '{IO_KEY}'"
