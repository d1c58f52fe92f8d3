"""onnxruntime's own static quantization, used as its documentation says; the benchmarks compare with it."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.version_converter
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from qpipe.runtime.session import open_session, single_input

FloatArray = npt.NDArray[np.float32]

PER_CHANNEL = 13
"""The opset."""

# Label, format, type of the activations. Its default for activations is int8, which has no fast kernel on x86.
VARIANTS = (
    ("ORT QDQ", QuantFormat.QDQ, QuantType.QUInt8),
    ("ORT QOperator", QuantFormat.QOperator, QuantType.QUInt8),
    ("ORT QDQ, its default types", QuantFormat.QDQ, QuantType.QInt8),
)


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """Gives onnxruntime's calibrators one batch after the other."""

    def __init__(self, input_name: str, batches: Sequence[FloatArray]) -> None:
        self._feeds = iter([{input_name: batch} for batch in batches])

    def get_next(self) -> dict[str, FloatArray] | None:
        """The next batch, None at the end."""
        return next(self._feeds, None)


def quantize(model: Path, folder: Path, batches: Sequence[FloatArray], **options: Any) -> dict[str, Path]:
    """Each of VARIANTS, per channel, everything else at its default: label -> file in `folder`."""
    logging.getLogger().setLevel(logging.ERROR)  # It recommends the preprocessing that has just been done.
    ort.set_default_logger_severity(3)
    prepared = folder / f"{model.stem}.prepared.onnx"
    quant_pre_process(_with_axes(onnx.load(model)), str(prepared))
    input_name = single_input(open_session(model)).name
    files = {}
    for label, quant_format, activation_type in VARIANTS:
        files[label] = folder / f"{model.stem}.{quant_format.name}.{activation_type.name}.onnx"
        quantize_static(
            str(prepared),
            str(files[label]),
            Batches(input_name, batches),
            quant_format=quant_format,
            per_channel=True,
            activation_type=activation_type,
            weight_type=QuantType.QInt8,
            **options,
        )
    return files


def _with_axes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in an opset whose quantizers can have a scale for each channel."""
    old = any(opset.domain == "" and opset.version < PER_CHANNEL for opset in model.opset_import)
    return onnx.version_converter.convert_version(model, PER_CHANNEL) if old else model
