"""What a run of `qpipe finetune` trains: the network as it was given, calibrated first and stripped where asked.

With an arithmetic a float network trains as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from passes.normalize import normalize
from passes.skips.strip_skips import StripSkips
from qpipe.data import DataLike
from qpipe.errors import ModelError, RecipeError
from qpipe.ir.files.metadata import FLOAT_PHASE, AppliedPass, add_provenance
from qpipe.ir.files.sizes import restore_sizes
from qpipe.ir.graph.residual import find_blocks
from qpipe.ir.graph.stripped_blocks import stripped_blocks
from qpipe.ir.quantized.kind import is_float, require_qdq
from qpipe.settings import FinetuneSettings
from qpipe.settings.base import shown
from qpipe.settings.training import FLOAT_TEACHER
from qpipe.verbs.calibrate import calibrate
from qpipe.verbs.runnable import OnnxModel
from qpipe.verbs.sizes import normalized_at_sizes, take_sizes
from qpipe.verbs.sources import PreprocessLike, about, model_name, store_origin_file

_OF_QDQ: Final = ("method", "ssp", "additional_losses", "joint_distillation")
"""Settings whose companions look at quantizers."""


@dataclass(frozen=True)
class Subject:
    """network: what trains. origin: the QDQ network before its skips were stripped; `network` itself where none were.

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
        if self.is_stripped:
            return {**found, "quantized, with its skips": self.origin, "skips stripped": self.network}
        return {**found, "before training": self.network}


def trains_float(asked: FinetuneSettings, network: ir.Model) -> bool:
    """Whether these settings train a network in float: with plain it is calibrated first."""
    return asked.arithmetic is not None and not asked.plain and is_float(network)


def make_subject(
    asked: FinetuneSettings,
    network: ir.Model,
    model: OnnxModel,
    data: DataLike,
    *,
    seed: int,
    preprocess: PreprocessLike,
) -> Subject:
    """Of a network as it was loaded from `model`; with `plain` calibrate a float one to 8 bits, and strip blocks.

    A network without residual Adds whose skips an earlier run stripped is plain already, and trained on.
    """
    name, plain, blocks, given = model_name(model), asked.plain, asked.blocks, None
    if trains_float(asked, network):
        store_origin_file(network, model)
        with about(name):
            take_sizes(network, data, preprocess)
            network = normalized_at_sizes(network)
        return Subject(network, network, is_float=True)
    if plain and is_float(network):
        given = network
        store_origin_file(given, model)
        with about(name):
            _check_blocks(given, blocks)
        network = calibrate(given, data, seed=seed, preprocess=preprocess)
        restore_sizes(network)
    elif is_float(network):
        raise ModelError(
            f"{name}: not a quantized model, expected a QDQ file; run `qpipe calibrate` first, or train it as it is "
            "with --arithmetic float or mls"
        )
    require_qdq(network, name)
    if asked.arithmetic == "float":
        raise RecipeError("arithmetic: 'float', but the network is quantized, expected 'mls', or none")
    # What the file says is read before it is trained on for hours.
    before = stripped_blocks(network)
    if not plain:
        return Subject(network, network)
    if before and not find_blocks(network.graph):
        if blocks != "*":
            raise RecipeError(f"blocks: '{blocks}', but the network is plain already, expected none")
        return Subject(network, network)
    stripped = network.clone()
    strip = StripSkips(blocks=blocks)
    with about(name):
        strip(stripped)
    add_provenance(stripped, AppliedPass.of(strip))
    return Subject(stripped, network, given)


def _check_blocks(given: ir.Model, blocks: str) -> None:
    """Raise LoweringError, before the calibration, for blocks that can't be stripped."""
    trial = given.clone()
    normalize(trial)
    StripSkips(blocks=blocks)(trial)


def check_subject(subject: Subject, run: FinetuneSettings) -> None:
    """Raise RecipeError for settings that need skips which this run doesn't strip, or a QDQ network."""
    for name in _OF_QDQ if subject.is_float else ():
        if (value := getattr(run, name)) != FinetuneSettings.model_fields[name].default:
            raise RecipeError(f"{name}: {shown(value)}, but the network is float, expected none, or a QDQ file")
    if subject.is_float and run.teacher == FLOAT_TEACHER:
        raise RecipeError("teacher: 'float', but the network is float itself, expected the teacher's file, or none")
    if run.fade and not subject.is_stripped:
        raise RecipeError(
            f"fade: {run.fade:g}, but no skips are stripped in this run, expected 0, or a network with skips and plain"
        )
