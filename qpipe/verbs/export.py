"""QDQ network -> the integer network that ships, proven equal: `qpipe.export`."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import onnx
import onnx_ir as ir

from passes.shipping.finalize import Finalize
from passes.shipping.lower_qoperator import LowerQOperator
from passes.shipping.share_constants import ShareConstants
from passes.shipping.weights_to_uint8 import WeightsToUint8
from qpipe.arith.certificate import Certificate
from qpipe.data import Batch, DataLike
from qpipe.errors import DataError, LoweringError, ParityError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import COMPARISON, TRAINING, AppliedPass, add_provenance, get_object, set_json
from qpipe.ir.files.outputs import check_output
from qpipe.ir.files.save import save_model
from qpipe.ir.files.sizes import open_sizes, read_sizes
from qpipe.ir.graph.residual import find_blocks
from qpipe.ir.quantized.certify import certify, store_certificate
from qpipe.ir.quantized.float_free import float_tensors
from qpipe.ir.quantized.kind import require_qdq
from qpipe.ir.quantized.origin import origin_of, store_origin
from qpipe.ir.quantized.view import View, read_view
from qpipe.nodes import describe_some
from qpipe.runtime.gate import run_gate
from qpipe.settings import ExportSettings, SeedSettings
from qpipe.verbs.open_export import lowered_at_any_size
from qpipe.verbs.options import takes_options
from qpipe.verbs.sources import ModelPath, about, model_name, open_source, preprocess_of

GATE_IMAGES = 64  # of the calibration data that the gate compares, besides random and extreme inputs


@takes_options
def export(
    model: ModelPath | onnx.ModelProto | ir.Model,
    output: ModelPath | None = None,
    *,
    settings: ExportSettings,
    data: DataLike | None = None,
    seed: SeedSettings,
) -> ir.Model:
    """Finalize a QDQ model, prove its integers, lower it, and compare every integer with the QDQ file's.

    Nodes without an integer form stay float between a DequantizeLinear and a QuantizeLinear: islands, which the
    certificate names. What is proven and compared then holds for each region of integers. `integer_only` refuses them.

    The format "qoperator" is onnxruntime's integer operators, "integer" has no float tensor at all and standard
    operators only, "qdq" is the finalized QDQ graph itself. Skip connections can be trained away, not taken out:
    `plain` refuses a network that has them.

    The CPUs "portable" demand weights that are exact on x86 without VNNI, "vnni" waives that: the file is compared as a
    CPU with VNNI computes it, whatever this one is. Weights as "uint8" (zero point 128) are exact everywhere, whatever
    they are. Those of 4 bits and fewer are exact everywhere as they are, and stored as INT4 or INT2 in any case. A file
    with INT2 is of opset 25, the first that has it; every other one is of opset 21.

    With integer io the scale of the int32 outputs is in the metadata.

    Args:
        model: a QDQ model, trainable or finalized.
        output: where to write the file; nothing is written without it.
        data: a path, "digits" or arrays, from which the gate draws images; without it, it compares random and extreme
            integers only, and the certificate says so.

    Returns:
        The exported model, with preprocessing, provenance and certificate in its metadata.

    Raises:
        LoweringError: a layer has no exact integer form; its name and the condition that fails.
        ParityError: an integer differs from the QDQ file's; the first layer where one does.
        ModelError, DataError, OutputError, RecipeError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> exported = qpipe.export("tuned.qdq.onnx", "net.int8.onnx", format="qoperator", data="digits")
        >>> qpipe.inspect("net.int8.onnx").kind
        'qoperator'
    """
    check_output(output, sources=(model, data))
    spec = load_model(model)
    require_qdq(spec, model_name(model))
    set_json(spec, COMPARISON, None)  # a part of the QDQ file's story, and 5 kB for 38 tensors
    if settings.plain:
        _refuse_skips(spec, model_name(model))
    with about(model_name(model)):
        Finalize()(spec)
    add_provenance(spec, AppliedPass.of(Finalize()))
    view = read_view(spec)
    if settings.refuses_islands:
        _refuse_islands(view)
    certificate = certify(view, cpu=settings.cpu, weights=settings.weights)
    _refuse(certificate)
    lowered = _lowered(spec, settings)
    if settings.format == "integer":
        _refuse_floats(lowered, view, model_name(model))
    if settings.format != "qdq" and read_sizes(spec):
        lower = partial(_lowered, settings=settings)
        lowered = lowered_at_any_size(spec, lowered, lower, seed=seed.seed, pairs=certificate.pairs)
    if settings.format == "qdq":
        # The file is the specification; what it computes is compared with the integer operators.
        if origin_of(read_view(lowered)) != origin_of(read_view(spec)):
            raise ParityError(f"{model_name(model)}: the file's integers are not those that were finalized")
        other = lowered.clone()
        LowerQOperator(weights=settings.weights, cpu=settings.cpu)(other)
        compared = lowered, other
    else:
        compared = spec, lowered
    report = run_gate(*compared, batches=_images(spec, data, seed.seed), seed=seed.seed, pairs=certificate.pairs)
    certificate.gate.update(asdict(report))
    store_certificate(lowered, certificate)
    # `validate` compares the integers of all that was made from one QDQ file.
    store_origin(lowered, read_view(spec))
    if settings.format == "qdq":
        open_sizes(lowered)
    if output is not None:
        save_model(lowered, output)
    return lowered


def _refuse_skips(model: ir.Model, name: str) -> None:
    """Raise LoweringError where the network was trained with skips: without them it would be another function."""
    blocks = find_blocks(model.graph)
    if not blocks:
        return
    more = f" and {len(blocks) - 1} more" if len(blocks) > 1 else ""
    training = get_object(model, TRAINING) or {}
    top1 = training.get("accuracy_after")
    stake = f"its top-1 of {100 * top1:.2f} %" if isinstance(top1, float) else "its accuracy"
    raise LoweringError(
        f"{name}: was trained with the skips of '{blocks[0].name}'{more}, and would lose {stake} without them; train "
        f"them away first: qpipe finetune {name} --plain --data DATA -o PLAIN.qdq.onnx"
    )


def _refuse(certificate: Certificate) -> None:
    problems = certificate.problems
    if problems:
        more = f" (and {len(problems) - 1} more such problems)" if len(problems) > 1 else ""
        raise LoweringError(f"not exact: {problems[0]}{more}")


def _refuse_islands(view: View) -> None:
    """Raise LoweringError that names what stays float between integers."""
    nodes = [node for layer in view.islands for node in layer.nodes]
    if nodes:
        raise LoweringError(
            f"float between integers ({len(nodes)}): {describe_some(nodes)}; expected none of an export that "
            "is integer only: `qpipe inspect` says what to do with each, --no-integer-only keeps them"
        )


def _refuse_floats(lowered: ir.Model, view: View, name: str) -> None:
    """Raise LoweringError where the graph of integers has floats beside its islands and its tail."""
    known = {node.name for layer in (*view.islands, *view.tail) for node in layer.nodes}
    floats = float_tensors(lowered, known)
    if floats:
        more = f" and {len(floats) - 1} more" if len(floats) > 1 else ""
        raise LoweringError(f"{name}: '{floats[0]}'{more} would be float, expected integers from the first to the last")


def _lowered(spec: ir.Model, settings: ExportSettings) -> ir.Model:
    """A finalized graph in the format."""
    lowered = spec.clone()
    for pass_ in _lowering(settings):
        pass_(lowered)
        add_provenance(lowered, AppliedPass.of(pass_))
    return lowered


def _lowering(settings: ExportSettings) -> list[ir.passes.InPlacePass]:
    """The passes that make the format of a finalized graph."""
    ends: dict[str, Any] = {"weights": settings.weights, "io": settings.io, "layout": settings.layout}
    if settings.format == "qoperator":
        return [LowerQOperator(cpu=settings.cpu, **ends)]
    if settings.format == "integer":
        from passes.shipping.lower_integer import LowerInteger

        return [LowerInteger(**ends)]
    return [*([WeightsToUint8()] if settings.weights == "uint8" else []), ShareConstants()]


def _images(model: ir.Model, data: DataLike | None, seed: int) -> list[Batch]:
    """A batch of a few of the training images, shuffled where their number is known; none without data."""
    if data is None:
        return []
    source = open_source(model, data, "train", preprocess_of(model, None), labels=False)
    batches = source.batches(GATE_IMAGES, shuffle=source.size is not None, seed=seed, limit=GATE_IMAGES)
    if not (found := list(batches)):
        raise DataError("no images for the gate; expected one or more")
    return found
