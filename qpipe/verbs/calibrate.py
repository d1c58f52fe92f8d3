"""Float network -> QDQ network: `qpipe.calibrate`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import onnx_ir as ir

from passes.quantizing.bound_scores import BoundScores, sums_of_scores
from passes.quantizing.calibrate_on_signs import CalibrateOnSigns
from passes.quantizing.calibrate_percentile import CalibratePercentile
from passes.quantizing.equalize_channels import EqualizeChannels
from passes.quantizing.expand_bases import ExpandBases
from passes.quantizing.fill_ranges import FillRanges
from passes.quantizing.fit_input import FitInput, write_units
from passes.quantizing.fit_weights import FitWeights
from passes.quantizing.fix_ranges import FixRanges
from passes.quantizing.insert_quantizers import InsertQuantizers, refuse_unsupported
from passes.quantizing.keep_codes import KeepCodes
from passes.quantizing.rescale_channels import RescaleChannels
from passes.quantizing.restore_batch_norm import RestoreBatchNorm
from passes.quantizing.round_ranges import RoundRanges
from passes.quantizing.separate_skips import SeparateSkips
from passes.randomize_weights import RandomizeWeights
from passes.shipping.remove_quantizers import RemoveQuantizers
from passes.skips.carry_skips import CarrySkips
from passes.skips.refit_blocks import RefitBlocks
from passes.skips.shortcut_every_convolution import ShortcutEveryConvolution
from passes.skips.strip_skips import StripSkips
from qpipe.calibration.inputs import CalibrationInputs
from qpipe.calibration.shard import current_shard
from qpipe.data import DataLike, Source
from qpipe.data.carried import store_preprocess
from qpipe.formats.table import FORMATS
from qpipe.ir.cost.float_share import float_share
from qpipe.ir.files.metadata import CALIBRATION, AppliedPass, add_provenance, set_json
from qpipe.ir.files.outputs import check_output
from qpipe.ir.files.save import save_model
from qpipe.ir.files.sizes import open_sizes
from qpipe.ir.files.torch_import import ModelLike, resolve_model
from qpipe.ir.graph.layer_options import LayerOptions, LayerTable
from qpipe.ir.graph.numbers import check_numbers
from qpipe.ir.quantized.kind import Kind, find_kind, require_float
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.processes import is_main_process, wait_for_all
from qpipe.settings import CalibrateSettings, CalibrationRecord, LayersSettings, SeedSettings, TorchSettings
from qpipe.verbs.beside_float import IMAGES, compare_with_float
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
from qpipe.verbs.trained_weights import PEAK_CLIP, hold_weights

DRAWN_FROM: Final = 256
"""Images: values and rows of inputs are drawn from what they give."""
REFITTED_ON: Final = 1024
"""Images: blocks that lose their skips are refitted on them."""
_STRIPS: dict[str, type[RefitBlocks | CarrySkips]] = {"refit": RefitBlocks, "exact": CarrySkips}
"""By how they take skips out of float networks, those that look at data."""
_REBUILDS: dict[str, type[ir.passes.InPlacePass]] = {
    known.name: known for known in (ShortcutEveryConvolution, ExpandBases)
}
"""Those that make a network ready for a format of weights."""


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
    _to_float(network, name)
    pixels = preprocess_of(network, preprocess)
    with about(name):
        data = take_sizes(network, data, pixels)
        network = normalized_at_sizes(network)
        check_numbers(network.graph)
        # Before the network runs: what stands in the way is the news.
        plan = plan_quantization(network.graph)
        refuse_unsupported(plan)
    if (share := float_share(plan)) is not None:
        warnings.warn(f"{name}: {share.words}; `qpipe inspect` says what to do with each", stacklevel=2)
    with about(name):
        images = open_source(network, data, "train", pixels, labels=False)
    store_preprocess(network, pixels)
    store_origin_file(network, model)
    set_json(network, CALIBRATION, CalibrationRecord.of(settings, layers, seed).to_json())
    table = LayerTable(tuple(LayerOptions(**entry.arguments()) for entry in layers.layers))
    widths: dict[str, Any] = settings.model_dump(include={"activation_bits", "skip_bits"}) | {"layers": table}
    draws: dict[str, Any] = settings.model_dump(include={"batches", "batch_size"}) | {"seed": seed.seed}
    inputs = CalibrationInputs(images, **draws)
    shard = current_shard()
    seen: dict[str, Any] = {"inputs": inputs, "shard": shard}
    with about(name):
        held = hold_weights(network, settings)
    if settings.plain:
        seen_few: dict[str, Any] = {"inputs": inputs.first(REFITTED_ON), "shard": shard}
        strip: ir.passes.InPlacePass = StripSkips(blocks=settings.blocks)
        if settings.stripping != "cut":
            strip = _STRIPS[settings.stripping](blocks=settings.blocks, **seen_few)
        with about(name):
            _apply([strip], network, draws)
    is_ready = FORMATS[settings.quantizer].holds_floats and settings.start == "pretrained"
    prepare: list[Callable[..., ir.passes.InPlacePass]] = [BoundScores] if sums_of_scores(network.graph) else []
    prepare += [SeparateSkips, EqualizeChannels] if is_ready else []
    if prepare and settings.ranges == "data":
        few: dict[str, Any] = {"inputs": inputs.first(IMAGES), "shard": shard}
        with about(name):
            _apply([change(**few) for change in prepare], network, draws)
    floats = network.clone()
    rebuild: list[ir.passes.InPlacePass] = []
    if settings.restore_batch_norm:
        rebuild.append(RestoreBatchNorm(inputs=_as_in_training(images, inputs, draws), shard=shard))
    if settings.start == "random":
        rebuild.append(RandomizeWeights(seed=seed.seed))
    ready = FORMATS[settings.quantizer].rebuild
    if ready is not None:
        rebuild.append(_REBUILDS[ready]())
    observe: list[ir.passes.InPlacePass] = []
    if settings.ranges == "fixed":
        observe.append(FixRanges(**widths))
    if ready is not None:
        observe.append(CalibrateOnSigns(percentile=settings.percentile, **seen))
    observe.append(CalibratePercentile(percentile=settings.percentile, **widths, **seen))
    fills, fits = settings.fills_ranges and held is None, settings.fits_weights
    drawn = inputs.first(DRAWN_FROM) if fills or fits else {}
    if fills:
        plain: dict[str, Any] = {"activation_bits": settings.activation_bits, "layers": table}
        # A percentile that is asked for is where ranges end.
        observe += [
            FitInput(**plain, inputs=inputs),
            FillRanges(**plain, foresees=settings.percentile is None, inputs=drawn, shard=shard),
        ]
    elif settings.activation_rounding in {"nearest", "least-error"}:
        observe.append(RoundRanges(rounding=settings.activation_rounding, **widths, **seen))
    if settings.plain and settings.stripping == "exact":
        observe.append(KeepCodes(activation_bits=settings.activation_bits, layers=table))
    insert = InsertQuantizers(
        weight_bits=settings.weight_bits,
        **widths,
        quantizer=settings.quantizer,
        weight_clip=settings.weight_clip if held is None else PEAK_CLIP,
        weight_rounding=settings.weight_rounding if held is None else "ceil",
        per_channel=settings.per_channel,
        cpu=settings.cpu,
        percentile=settings.percentile,
    )
    with about(name):
        _apply(rebuild, network, draws)
        insert.check(network)
    _apply(observe, network, draws)
    if is_ready:
        # Factors between layers change what tensors are counted in: what is compared has them.
        floats = network.clone()
        write_units(floats)
    keep = () if held is None else tuple(held.rows)
    _apply([insert, RescaleChannels(keep=keep)] if settings.rescale_channels else [insert], network, draws)
    if fits:
        _apply([FitWeights(keep=keep, floats=floats, inputs=drawn, shard=shard)], network, draws)
    if held is not None:
        held.tell(network)
    with about(name):
        compare_with_float(floats, network, inputs, is_ready=is_ready)
    open_sizes(network)
    if output is not None:
        if is_main_process():
            save_model(network, output)
        wait_for_all()
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


def _apply(passes: Sequence[ir.passes.InPlacePass], network: ir.Model, draws: Mapping[str, Any]) -> None:
    """Run the passes, and record those that did something; `draws` say which data they saw."""
    for pass_ in passes:
        modified = pass_(network).modified
        if modified or not hasattr(pass_, "inputs"):
            applied = AppliedPass.of(pass_)
            seen = draws if hasattr(pass_, "inputs") else {}
            add_provenance(network, AppliedPass(name=applied.name, arguments={**applied.arguments, **seen}))
