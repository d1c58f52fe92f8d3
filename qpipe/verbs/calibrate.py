"""Float network -> QDQ network: `qpipe.calibrate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import onnx_ir as ir

from passes.calibrate_on_signs import CalibrateOnSigns
from passes.calibrate_percentile import CalibratePercentile
from passes.expand_bases import ExpandBases
from passes.fix_ranges import FixRanges
from passes.insert_quantizers import InsertQuantizers
from passes.normalize import normalize
from passes.randomize_weights import RandomizeWeights
from passes.remove_quantizers import RemoveQuantizers
from passes.rescale_channels import RescaleChannels
from passes.restore_batch_norm import RestoreBatchNorm
from passes.round_ranges import RangeRounding, RoundRanges
from passes.shortcut_every_convolution import ShortcutEveryConvolution
from qpipe.arith.power_of_two import Rounding
from qpipe.arith.weight_quantizer import BINARY_QUANTIZERS, WeightQuantizer
from qpipe.calibration.inputs import CalibrationInputs
from qpipe.calibration.shard import current_shard
from qpipe.data import DataLike, Source
from qpipe.data.carried import store_preprocess
from qpipe.ir.files.metadata import AppliedPass, add_provenance
from qpipe.ir.files.save import check_output, save_model
from qpipe.ir.files.torch_import import ModelLike, resolve_model
from qpipe.ir.graph.layer_options import LayerOptions, LayerTable
from qpipe.ir.quantized.kind import Kind, find_kind, require_float
from qpipe.settings import CalibrateSettings, LayerSettings, validated
from qpipe.verbs.sources import (
    ModelPath,
    PreprocessLike,
    about,
    model_name,
    open_source,
    preprocess_of,
    store_origin_file,
)


def calibrate(
    model: ModelLike,
    data: DataLike,
    output: ModelPath | None = None,
    *,
    weight_bits: int = 8,
    activation_bits: int = 8,
    skip_bits: int | None = None,
    quantizer: WeightQuantizer = "fixed-point",
    batches: int = 5,
    batch_size: int = 256,
    percentile: float | None = None,
    weight_clip: float | None = None,
    weight_rounding: Rounding | None = None,
    activation_rounding: RangeRounding = "ceil",
    per_channel: bool = True,
    restore_batch_norm: bool = True,
    start: Literal["pretrained", "random"] = "pretrained",
    ranges: Literal["data", "fixed"] = "data",
    layers: Sequence[Mapping[str, Any]] = (),
    cpu: Literal["portable", "vnni"] = "portable",
    seed: int = 0,
    preprocess: PreprocessLike = None,
    weights: ModelPath | None = None,
    input_shape: tuple[int, ...] | None = None,
) -> ir.Model:
    """Give every tensor and weight a power-of-two grid, from training batches and the weights themselves.

    Source: FAQ, sections 3.1 and 3.2. Of several processes (torchrun) each runs its share of the batches, all return
    the same model, and the main one writes it.

    Args:
        model: an .onnx path, a ModelProto, an onnx_ir.Model, a torch module, or `package.module:factory`. Of a QDQ file
            with fixed-point weights that can be trained, the float network that it holds: so a network that was trained
            at 8 bits is brought to fewer.
        data: a path, "digits", or arrays `[N, C, H, W]`; its training split is used.
        output: where to write the QDQ file; nothing is written without it.
        weight_bits, activation_bits: 2 to 8, of the inner layers. The first and the last layer's weights, the last
            layer's input and a branch that a convolution gives to an Add keep 8.
        skip_bits: of a tensor that a skip connection carries to an Add, where that is more than its own; layers of
            weights read it at its own. None: its own.
        quantizer: of the inner layers' weights, "fixed-point" (FAQ, section 3.1.1), "dorefa" (DoReFa-Net, 2 to 7
            bits; each layer needs a BatchNormalization behind it) or "lq" (LQ-Net's learned levels, 2 to 4 bits; of
            unsigned activations as well, where they have 4 bits or fewer). "bireal" (BiReal-Net) makes the residual
            blocks binary, weights and what they multiply, on a stream of 8 bits with a shortcut around every
            convolution; no bits may be given, and what it gives is to be trained. "groupnet" (GroupNet) likewise, with
            five binary bases in the place of each block's convolutions.
        batches, batch_size: how many training images are seen, drawn by `seed`.
        percentile: of an activation's range in a batch; None is the width's own (99.99 at 8 bits, 99.9 at 4).
        weight_clip: in standard deviations; None is the width's own (4.12 at 4 bits). With the fixed-point quantizer
            alone; with another one `layers` can tell it to the first and the last layer.
        weight_rounding: of log2 of the weights' step to l, "ceil" (FAQ, section 3.1.1) or "nearest"; None is the
            width's own, nearest below 8 bits. With the fixed-point quantizer alone.
        activation_rounding: of an activation's range to a power of two: "ceil" (FAQ, section 3.2), "nearest", or
            "least-error", the exponent of the least squared error over the same batches.
        per_channel: one weight exponent per output channel.
        restore_batch_norm: put a BatchNormalization, from measured statistics, where one was folded before export.
        start: "random" gives the network untrained weights, and BatchNormalizations that do nothing.
        ranges: "fixed" gives activations the range `2**(p / 2) - 1` of their p bits instead of a percentile. Both are
            the paper's controls (FAQ, section 3.2 and Table 2); the network's input keeps the range of its data.
        layers: what some layers are told, as `{"match": "layer3.*", "weight_bits": 4}`, with activation_bits (of the
            layer's output) and weight_clip too; match is a pattern of the names that `inspect` shows, or of what
            follows a "/" in them. It goes before the widths above, also for what keeps 8 bits otherwise.
        cpu: "portable" keeps weights exact on x86 without VNNI, "vnni" waives that.
        preprocess: what pixels go through; None is what the model carries.
        weights, input_shape: of a PyTorch model.

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
    table = _layer_table(layers)
    choices = {
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        "skip_bits": skip_bits,
        "quantizer": quantizer,
        "weight_clip": weight_clip,
        "weight_rounding": weight_rounding,
        "activation_rounding": activation_rounding,
        "start": start,
        "ranges": ranges,
    }
    validated(CalibrateSettings, choices, lambda location: str(location[0]))
    shard = current_shard()
    if shard.is_main:
        check_output(output, sources=(model, data, weights))
    network = resolve_model(model, weights, input_shape)
    name = model_name(model)
    _to_float(network, name)
    normalize(network)
    settings = preprocess_of(network, preprocess)
    source = open_source(network, data, "train", settings)
    store_preprocess(network, settings)
    store_origin_file(network, model)
    widths: dict[str, Any] = {"activation_bits": activation_bits, "skip_bits": skip_bits, "layers": table}
    draws: dict[str, Any] = {"batches": batches, "batch_size": batch_size, "seed": seed}
    inputs = CalibrationInputs(source, **draws)
    is_binary = quantizer in BINARY_QUANTIZERS
    rebuild: list[ir.passes.InPlacePass] = []
    if restore_batch_norm:
        rebuild.append(RestoreBatchNorm(inputs=_as_in_training(source, inputs, draws), shard=shard))
    if start == "random":
        rebuild.append(RandomizeWeights(seed=seed))
    if is_binary:
        rebuild.append(ShortcutEveryConvolution() if quantizer == "bireal" else ExpandBases())
    observe: list[ir.passes.InPlacePass] = []
    if ranges == "fixed":
        observe.append(FixRanges(**widths))
    if is_binary:
        observe.append(CalibrateOnSigns(percentile=percentile, inputs=inputs, shard=shard))
    observe.append(CalibratePercentile(percentile=percentile, **widths, inputs=inputs, shard=shard))
    if activation_rounding != "ceil":
        observe.append(RoundRanges(rounding=activation_rounding, **widths, inputs=inputs, shard=shard))
    insert = InsertQuantizers(
        weight_bits=weight_bits,
        **widths,
        quantizer=quantizer,
        weight_clip=weight_clip,
        weight_rounding=weight_rounding,
        per_channel=per_channel,
        cpu=cpu,
        percentile=percentile,
    )
    with about(name):
        _apply(rebuild, network, draws)
        insert.check(network)
    _apply([*observe, insert, RescaleChannels()], network, draws)
    if output is not None:
        if shard.is_main:
            save_model(network, output)
        shard.wait()
    return network


def _to_float(network: ir.Model, name: str) -> None:
    """Take the quantizers of an earlier calibration away; ModelError for what holds no float weights any more."""
    if find_kind(network)[0] is not Kind.TRAINABLE:
        require_float(network, name)
        return
    remove = RemoveQuantizers()
    with about(name):
        remove(network)
    add_provenance(network, AppliedPass.of(remove))


def _as_in_training(source: Source, inputs: CalibrationInputs, draws: Mapping[str, Any]) -> CalibrationInputs:
    """Batches as fine-tuning will augment them by default; a stream's are read once, as they are."""
    from qpipe.train.faq import default_augment

    if source.size is None:
        return inputs
    return CalibrationInputs(source, **draws, augment=default_augment(source, None, None))


def _layer_table(layers: Sequence[Mapping[str, Any]]) -> LayerTable:
    """The entries, checked as a recipe's are."""
    checked = [validated(LayerSettings, given, partial(_key, number)) for number, given in enumerate(layers)]
    return LayerTable(tuple(LayerOptions(**settings.arguments()) for settings in checked))


def _key(number: int, location: Sequence[int | str]) -> str:
    return " ".join([f"layers[{number}]", *map(str, location)])


def _apply(passes: Sequence[ir.passes.InPlacePass], network: ir.Model, draws: Mapping[str, Any]) -> None:
    """Run the passes, and record those that did something; `draws` say which data they saw."""
    for pass_ in passes:
        modified = pass_(network).modified
        if modified or not hasattr(pass_, "inputs"):
            applied = AppliedPass.of(pass_)
            seen = draws if hasattr(pass_, "inputs") else {}
            add_provenance(network, AppliedPass(name=applied.name, arguments={**applied.arguments, **seen}))
