"""A quantized network of another tool -> QDQ network: `qpipe.adopt`."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
from pydantic import JsonValue

from passes.quantizing.adopt_ranges import AdoptRanges, adopted_ranges
from passes.quantizing.separate_quantizers import SeparateQuantizers
from qpipe.data import DataLike
from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import ADOPTED, AppliedPass, add_provenance, set_json
from qpipe.ir.files.outputs import check_output
from qpipe.ir.files.save import save_model
from qpipe.ir.graph.layers import STAYS_FLOAT
from qpipe.ir.quantized.kind import Kind, find_kind
from qpipe.ir.quantized.view import is_of_another_tool
from qpipe.processes import is_main_process, wait_for_all
from qpipe.settings import AdoptSettings, SeedSettings
from qpipe.verbs.calibrate import calibrate
from qpipe.verbs.options import takes_options
from qpipe.verbs.sources import ModelPath, PreprocessLike, about, model_name, store_origin_file


@takes_options
def adopt(
    model: ModelPath | onnx.ModelProto | ir.Model,
    data: DataLike,
    output: ModelPath | None = None,
    *,
    settings: AdoptSettings,
    seed: SeedSettings,
    preprocess: PreprocessLike = None,
) -> ir.Model:
    """Read another tool's quantizers as observed ranges and weights, and snap them to power-of-two grids.

    Files with QuantizeLinear and DequantizeLinear are taken, as onnxruntime, NNCF, Quark, Model Optimizer, Brevitas,
    PyTorch and TensorFlow Lite (by tf2onnx) write them, and onnxruntime's operator-oriented ones. Activations that the
    tool took into its quantizers (Relu, Relu6) stand again, layers of weights that it left in float stay so, and what
    has no range of its own is observed on the data. `finetune` and `export` go on from there.

    Args:
        model: an .onnx path, a ModelProto or an onnx_ir.Model.
        data: a path, "digits", or arrays; its training split is used.
        output: where to write the QDQ file; nothing is written without it.
        preprocess: what pixels go through; None is what the model carries.

    Returns:
        The QDQ model, which onnxruntime runs.

    Raises:
        ModelError, DataError, LoweringError, OutputError, RecipeError: in one line, naming what is wrong.
    """
    if is_main_process():
        check_output(output, sources=(model, data))
    name = model_name(model)
    network = load_model(model)
    kind, _ = find_kind(network)
    # One whose scales are powers of two may read as a file of ours.
    if kind is not Kind.QOPERATOR and not is_of_another_tool(network):
        raise ModelError(f"{name}: is {kind.value}, expected a quantized file that another tool wrote")
    store_origin_file(network, model)
    passes = (SeparateQuantizers(), AdoptRanges())
    with about(name):
        for pass_ in passes:
            pass_(network)
    taken = adopted_ranges(network.graph)
    floats: list[JsonValue] = [str(node.name) for node in network.graph if node.metadata_props.get(STAYS_FLOAT)]
    if not taken:
        raise ModelError(f"{name}: no activation of it is quantized, expected a quantizer in front of a layer")
    for pass_ in passes:
        add_provenance(network, AppliedPass.of(pass_))
    options: dict[str, Any] = settings.arguments() | seed.arguments()
    with about(name):
        # What was folded before the other tool saw it is in its ranges, and stays folded.
        adopted = calibrate(network, data, preprocess=preprocess, restore_batch_norm=False, **options)
    set_json(adopted, ADOPTED, {"ranges": taken, "float_layers": floats})
    if output is not None:
        if is_main_process():
            save_model(adopted, output)
        wait_for_all()
    return adopted
