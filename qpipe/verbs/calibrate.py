"""Float network -> QDQ network: `qpipe.calibrate`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from passes.calibrate_percentile import CalibratePercentile
from passes.insert_quantizers import InsertQuantizers
from passes.normalize import normalize
from passes.rescale_channels import RescaleChannels
from qpipe import progress
from qpipe.data import DataLike, Source
from qpipe.ir.kind import require_float
from qpipe.ir.metadata import AppliedPass, add_provenance, set_input_sha256
from qpipe.ir.save import check_output, save_model
from qpipe.ir.torch_import import ModelLike, resolve_model
from qpipe.verbs.sources import ModelPath, PreprocessLike, model_name, open_source, preprocess_of, store_preprocess


def calibrate(
    model: ModelLike,
    data: DataLike,
    output: ModelPath | None = None,
    *,
    weight_bits: int = 8,
    activation_bits: int = 8,
    batches: int = 5,
    batch_size: int = 256,
    percentile: float | None = None,
    weight_clip: float | None = None,
    per_channel: bool = True,
    cpu: Literal["portable", "vnni"] = "portable",
    seed: int = 0,
    preprocess: PreprocessLike = None,
    weights: ModelPath | None = None,
    input_shape: tuple[int, ...] | None = None,
) -> ir.Model:
    """Give every tensor and weight a power-of-two grid, from training batches and the weights themselves.

    Source: FAQ, sections 3.1 and 3.2.

    Args:
        model: an .onnx path, a ModelProto, an onnx_ir.Model, a torch module, or `package.module:factory`.
        data: a path, "digits", or arrays `[N, C, H, W]`; its training split is used.
        output: where to write the QDQ file; nothing is written without it.
        weight_bits, activation_bits: of the inner layers; first and last layer keep 8.
        batches, batch_size: how many training images are seen, drawn by `seed`.
        percentile: of an activation's range in a batch; None is 99.99 at 8 bits, 99.9 at 4.
        weight_clip: in standard deviations; None is the width's own.
        per_channel: one weight exponent per output channel.
        cpu: "portable" keeps weights exact on x86 without VNNI, "vnni" waives that.
        preprocess: what pixels go through; None is what the model carries.
        weights, input_shape: of a PyTorch model.

    Returns:
        The QDQ model, which onnxruntime runs.

    Raises:
        ModelError, DataError, LoweringError, OutputError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> qdq = qpipe.calibrate("net.onnx", "digits", "net.qdq.onnx", preprocess={"mean": (0.3,), "std": (0.38,)})
        >>> qpipe.inspect("net.qdq.onnx").kind
        'QDQ, trainable'
    """
    check_output(output)
    network = resolve_model(model, weights, input_shape)
    require_float(network, model_name(model))
    normalize(network)
    settings = preprocess_of(network, preprocess)
    source = open_source(network, data, "train", settings)
    store_preprocess(network, settings)
    if isinstance(model, str | Path) and Path(model).is_file():
        set_input_sha256(network, hashlib.sha256(Path(model).read_bytes()).hexdigest())
    observer = CalibratePercentile(
        percentile=percentile,
        activation_bits=activation_bits,
        inputs=_inputs(source, batches, batch_size, seed),
    )
    quantizers = InsertQuantizers(
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        weight_clip=weight_clip,
        per_channel=per_channel,
        cpu=cpu,
    )
    rescale = RescaleChannels()
    observer(network)
    quantizers(network)
    rescale(network)
    draws = {"batches": batches, "batch_size": batch_size, "seed": seed}
    applied = AppliedPass.of(observer)
    add_provenance(network, AppliedPass(name=applied.name, arguments={**applied.arguments, **draws}))
    add_provenance(network, AppliedPass.of(quantizers))
    add_provenance(network, AppliedPass.of(rescale))
    if output is not None:
        save_model(network, output)
    return network


def _inputs(source: Source, batches: int, batch_size: int, seed: int) -> Iterator[npt.NDArray[np.float32]]:
    """The batches that calibration sees: the first ones of a shuffled epoch without augmentation."""
    limit = batches * batch_size
    stream = source.batches(batch_size, shuffle=source.size is not None, seed=seed, limit=limit)
    total = source.n_batches(batch_size, limit=limit)
    return (batch.inputs for batch in progress.track(stream, "calibrating", total))
