"""What a run of `qpipe finetune` trains: the network as it was given, calibrated first and stripped where asked.

With an arithmetic a float network trains as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import onnx_ir as ir

from passes.randomize_weights import RandomizeWeights
from passes.shipping.remove_quantizers import RemoveQuantizers
from passes.skips.strip_skips import StripSkips, chosen_blocks
from qpipe.data import DataLike
from qpipe.errors import ModelError, RecipeError
from qpipe.ir.files.metadata import CALIBRATION, FLOAT_PHASE, AppliedPass, add_provenance, checked, get_object
from qpipe.ir.files.sizes import restore_sizes
from qpipe.ir.graph.layer_options import LayerOptions
from qpipe.ir.graph.layers import group_layers
from qpipe.ir.graph.residual import find_blocks
from qpipe.ir.graph.stripped_blocks import stripped_blocks
from qpipe.ir.quantized.kind import is_float, require_qdq
from qpipe.settings import CalibrateSettings, CalibrationRecord, FinetuneSettings, LayersSettings
from qpipe.settings.base import shown
from qpipe.settings.skips import SkipSettings
from qpipe.settings.training import FLOAT_TEACHER
from qpipe.verbs.calibrate import calibrate
from qpipe.verbs.calibration_run import CalibrationRun
from qpipe.verbs.runnable import OnnxModel
from qpipe.verbs.sizes import normalized_at_sizes, take_sizes
from qpipe.verbs.sources import (
    PreprocessLike,
    about,
    model_name,
    open_source,
    preprocess_of,
    store_origin_file,
)

_OF_QDQ: Final = (
    "method",
    "ssp",
    "additional_losses",
    "joint_distillation",
    "activation_gradient",
    "train_scales",
    "fade",
    "dampen_oscillations",
    "freeze_oscillations",
)
"""Settings whose companions look at quantizers."""


@dataclass(frozen=True)
class Subject:
    """network: what trains. origin: the network before its skips were stripped; `network` itself where none were.

    given: the float network, where that was given and calibrated here. is_float: whether `network` is one.
    """

    network: ir.Model
    origin: ir.Model
    given: ir.Model | None = None
    is_float: bool = False

    @property
    def is_stripped(self) -> bool:
        """Whether skips of this run's input were stripped by it."""
        return self.network is not self.origin

    @property
    def phases(self) -> dict[str, ir.Model]:
        """The networks on the way here, in order, each by what a report calls it; the last is what trains."""
        found = {} if self.given is None else {FLOAT_PHASE: self.given}
        if not self.is_stripped:
            return {**found, "before training": self.network}
        if not is_float(self.origin):
            found["quantized, with its skips"] = self.origin
        return {**found, "skips stripped": self.network}


def trains_float(asked: FinetuneSettings, network: ir.Model) -> bool:
    """Whether these settings train a network in float: with plain and low bits it is calibrated first."""
    return is_float(network) and (asked.arithmetic == "float" or (asked.arithmetic == "mls" and not asked.plain))


def make_subject(
    run: FinetuneSettings,
    network: ir.Model,
    model: OnnxModel,
    data: DataLike,
    *,
    seed: int,
    preprocess: PreprocessLike,
) -> Subject:
    """Of a network as it was loaded from `model`; with `plain` strip blocks, and calibrate a float network to 8 bits.

    With the arithmetic "float" it stays float. Blocks are refitted in float, so that a quantized network is calibrated
    again, as it was; where they are only cut it is calibrated with its skips, as skips that fade need it. A network
    without residual Adds whose skips an earlier run stripped is plain already, and trained on.
    """
    name = model_name(model)
    if trains_float(run, network):
        # Before the data, which take time.
        _check_float(run)
        store_origin_file(network, model)
        with about(name):
            network = _normalized(network, data, preprocess)
        if run.start == "random":
            forget = RandomizeWeights(seed=seed)
            forget(network)
            add_provenance(network, AppliedPass.of(forget))
        if not run.plain:
            return Subject(network, network, is_float=True)
        return Subject(_without_skips(run, network, name, data, seed, preprocess), network, network, is_float=True)
    if not is_float(network):
        require_qdq(network, name)
        if run.arithmetic == "float":
            raise RecipeError("arithmetic: 'float', but the network is quantized, expected 'mls', or none")
        if run.start == "random":
            raise RecipeError(
                "start: 'random', but the network is quantized, expected a float one (`qpipe calibrate` has it too)"
            )
        # What the file says is read before it is trained on for hours.
        before = stripped_blocks(network)
        if run.plain and before and not find_blocks(network.graph):
            if run.blocks != "*":
                raise RecipeError(f"blocks: '{run.blocks}', but the network is plain already, expected none")
            return Subject(network, network)
        if not run.plain:
            return Subject(network, network)
    elif not run.plain:
        raise ModelError(
            f"{name}: not a quantized model, expected a QDQ file; run `qpipe calibrate` first, or train it as it is "
            "with --arithmetic float or mls"
        )
    return _strip(run, network, name, model, data, seed=seed, preprocess=preprocess)


def _strip(
    run: FinetuneSettings,
    network: ir.Model,
    name: str,
    model: OnnxModel,
    data: DataLike,
    *,
    seed: int,
    preprocess: PreprocessLike,
) -> Subject:
    given, origin = None, network
    if is_float(network):
        store_origin_file(network, model)
        given = network
        with about(name):
            origin = _normalized(network.clone(), data, preprocess)
            # Before the calibration, which takes time.
            chosen_blocks(origin.graph, run.blocks)
        if run.stripping == "cut":
            origin = calibrate(given, data, seed=seed, preprocess=preprocess)
            restore_sizes(origin)
    if run.stripping == "cut":
        stripped = origin.clone()
        strip = StripSkips(blocks=run.blocks)
        with about(name):
            strip(stripped)
        add_provenance(stripped, AppliedPass.of(strip))
        return Subject(stripped, origin, given)
    with about(name):
        as_before = {"seed": seed} if given is not None else _as_calibrated(network, run)
    skips = {"plain": True, "blocks": run.blocks, "strip": run.stripping}
    stripped = calibrate(network, data, preprocess=preprocess, **as_before, **skips)
    restore_sizes(stripped)
    return Subject(stripped, origin, given)


def _without_skips(
    run: FinetuneSettings, network: ir.Model, name: str, data: DataLike, seed: int, preprocess: PreprocessLike
) -> ir.Model:
    """A normalized float network as `calibrate --plain` begins with it."""
    stripped = network.clone()
    with about(name):
        # Before the data, which take time.
        chosen_blocks(stripped.graph, run.blocks)
        images = open_source(stripped, data, "train", preprocess_of(stripped, preprocess), labels=False)
    settings = CalibrateSettings(plain=True, blocks=run.blocks, strip=run.stripping)
    CalibrationRun(
        network=stripped, name=name, settings=settings, layers=LayersSettings(), seed=seed, images=images
    ).strip()
    return stripped


def _normalized(network: ir.Model, data: DataLike, preprocess: PreprocessLike) -> ir.Model:
    take_sizes(network, data, preprocess)
    return normalized_at_sizes(network)


def _as_calibrated(network: ir.Model, run: FinetuneSettings) -> dict[str, Any]:
    """The options of `calibrate` by which a QDQ file came about; ModelError where it can't come about again."""
    chosen_blocks(network.graph, run.blocks)
    strip, instead = f"strip: '{run.stripping}', but", "expected the float network, or strip 'cut'"
    floats = network.clone()
    try:
        RemoveQuantizers()(floats)
    except ModelError as error:
        raise ModelError(f"{strip} {error} to take blocks apart with; {instead}") from None
    said = get_object(network, CALIBRATION)
    if said is None:
        raise ModelError(f"{strip} the file does not say how it was calibrated, {instead}")
    record = checked(CALIBRATION, said, CalibrationRecord)
    if record.start == "random":
        raise ModelError(f"{strip} the network began with random weights, {instead}")
    told = {name: value for name, value in record.arguments().items() if name not in SkipSettings.model_fields}
    if run.stripping == "exact" and record.activation_rounding == "fill":
        # As where nothing was said, which fills ranges too: factors of all kinds would round what is carried.
        del told["activation_rounding"]
    StripSkips(blocks=run.blocks)(floats)
    left = group_layers(floats.graph)
    told["layers"] = [
        entry for entry in record.layers if any(map(LayerOptions(**entry.arguments()).hits, left))
    ]  # what was told to a layer of the skips alone went with them
    return told


def _check_float(run: FinetuneSettings) -> None:
    """Raise RecipeError for settings that need a QDQ network."""
    for name in _OF_QDQ:
        if (value := getattr(run, name)) != FinetuneSettings.model_fields[name].default:
            raise RecipeError(f"{name}: {shown(value)}, but the network is float, expected none, or a QDQ file")


def check_subject(subject: Subject, run: FinetuneSettings) -> None:
    """Raise RecipeError for settings that need skips which this run doesn't strip, or a network before this one."""
    if subject.is_float and not subject.is_stripped and run.teacher == FLOAT_TEACHER:
        raise RecipeError("teacher: 'float', but the network is float itself, expected the teacher's file, or none")
    if run.fade and not subject.is_stripped:
        raise RecipeError(
            f"fade: {run.fade:g}, but no skips are stripped in this run, expected 0, or a network with skips and plain"
        )
