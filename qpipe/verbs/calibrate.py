"""Float network -> QDQ network: `qpipe.calibrate`."""

from __future__ import annotations

import warnings

import onnx_ir as ir

from passes.quantizing.insert_quantizers import refuse_unsupported
from passes.quantizing.keep_float import KeepFloat
from passes.quantizing.keep_front_end import has_front_end, quantize_front_ends
from passes.shipping.remove_quantizers import RemoveQuantizers
from qpipe.data import DataLike
from qpipe.data.carried import store_preprocess
from qpipe.ir.cost.float_share import float_share
from qpipe.ir.files.metadata import CALIBRATION, AppliedPass, add_provenance, set_json
from qpipe.ir.files.outputs import check_output
from qpipe.ir.files.save import save_model
from qpipe.ir.files.sizes import open_sizes
from qpipe.ir.files.torch_import import ModelLike, resolve_model
from qpipe.ir.graph.layers import kept_in_float
from qpipe.ir.graph.numbers import check_numbers
from qpipe.ir.quantized.kind import Kind, find_kind, require_float
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.processes import is_main_process, wait_for_all
from qpipe.settings import CalibrateSettings, CalibrationRecord, LayersSettings, SeedSettings, TorchSettings
from qpipe.verbs.calibration_run import CalibrationRun, layer_table
from qpipe.verbs.options import takes_options
from qpipe.verbs.sizes import normalized_at_sizes, take_sizes
from qpipe.verbs.sources import (
    ModelPath,
    PreprocessLike,
    about,
    model_name,
    open_source,
    preprocess_of,
    store_origin_file,
)


@takes_options
def calibrate(
    model: ModelLike,
    data: DataLike,
    output: ModelPath | None = None,
    *,
    settings: CalibrateSettings,
    layers: LayersSettings,
    seed: SeedSettings,
    preprocess: PreprocessLike = None,
    source: TorchSettings,
) -> ir.Model:
    """Give every tensor and weight a power-of-two grid, from training batches and the weights themselves.

    Source: FAQ, sections 3.1 and 3.2. Of several processes (torchrun) each runs its share of the batches, all return
    the same model, and the main one writes it.

    The widths are those of the inner layers: the first and the last layer's weights, the last layer's input and a
    branch that a convolution gives to an Add keep 8 bits. A skip that is wider than its own tensor is read by layers of
    weights at the tensor's width.

    Of the quantizers "fixed-point" is FAQ's (section 3.1.1). "dorefa" is DoReFa-Net's, 2 to 7 bits; each layer needs a
    BatchNormalization behind it. "lq" is LQ-Net's learned levels, 2 to 4 bits; of unsigned activations as well, where
    they have 4 bits or fewer. "bireal" (BiReal-Net) makes the residual blocks binary, weights and what they multiply,
    on a stream of 8 bits with a shortcut around every convolution; no bits may be given, and what it gives is to be
    trained. "groupnet" (GroupNet) likewise, with five binary bases in the place of each block's convolutions. Clip and
    rounding of the weights, and one scale a tensor, are the fixed-point quantizer's alone; with another one `layers`
    can tell a clip to the first and the last layer.

    Random weights and fixed ranges, `2**(p / 2) - 1` for p bits, are the paper's controls (FAQ, section 3.2 and Table
    2); the network's input keeps the range of its data.

    Args:
        model: an .onnx path, a ModelProto, an onnx_ir.Model, a torch module, or `package.module:factory`. Of a QDQ file
            with fixed-point weights that can be trained, the float network that it holds: so a network that was trained
            at 8 bits is brought to fewer.
        data: a path, "digits", or arrays `[N, C, H, W]`; its training split is used.
        output: where to write the QDQ file; nothing is written without it.
        preprocess: what pixels go through; None is what the model carries.

    Returns:
        The QDQ model, which onnxruntime runs.

    Raises:
        ModelError, DataError, LoweringError, OutputError, RecipeError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> qdq = qpipe.calibrate("net.onnx", "digits", "net.qdq.onnx", preprocess={"mean": (0.3,), "std": (0.38,)})
        >>> qpipe.inspect("net.qdq.onnx").kind
        'QDQ, trainable'
    """
    if is_main_process():
        check_output(output, sources=(model, data, source.weights))
    network = resolve_model(model, source.weights, source.input_shape)
    name = model_name(model)
    # What had integers in an earlier calibration has them again.
    is_settled = not _to_float(network, name) and not has_front_end(network.graph)
    pixels = preprocess_of(network, preprocess)
    with about(name):
        data = take_sizes(network, data, pixels)
        network = normalized_at_sizes(network)
        if is_settled:
            quantize_front_ends(network.graph)
        KeepFloat(layers=layer_table(layers))(network)
        check_numbers(network.graph)
        # Before the network runs: what stands in the way is the news.
        plan = plan_quantization(network.graph)
        refuse_unsupported(plan)
    share = float_share(plan)
    said = [] if share is None else [f"{share.words}; `qpipe inspect` says what to do with each"]
    for words in (*said, *kept_in_float(network.graph)):
        warnings.warn(f"{name}: {words}", stacklevel=2)
    with about(name):
        images = open_source(network, data, "train", pixels, labels=False)
    store_preprocess(network, pixels)
    store_origin_file(network, model)
    set_json(network, CALIBRATION, CalibrationRecord.of(settings, layers, seed).to_json())
    CalibrationRun(
        network=network, name=name, settings=settings, layers=layers, seed=seed.seed, images=images
    ).carry_out()
    open_sizes(network)
    if output is not None:
        if is_main_process():
            save_model(network, output)
        wait_for_all()
    return network


def _to_float(network: ir.Model, name: str) -> bool:
    """Take the quantizers of an earlier calibration away; whether there were none.

    Raises ModelError for what holds no float weights any more.
    """
    if find_kind(network)[0] is not Kind.TRAINABLE:
        require_float(network, name)
        return True
    remove = RemoveQuantizers()
    with about(name):
        remove(network)
    add_provenance(network, AppliedPass.of(remove))
    return False
