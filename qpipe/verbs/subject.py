"""What a run of `qpipe finetune` trains: the network as it was given, calibrated first and stripped where asked."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from passes.normalize import normalize
from passes.strip_skips import StripSkips
from qpipe.data import DataLike
from qpipe.errors import RecipeError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import FLOAT_PHASE, AppliedPass, add_provenance
from qpipe.ir.graph.residual import find_blocks
from qpipe.ir.graph.stripped_blocks import stripped_blocks
from qpipe.ir.quantized.kind import Kind, find_kind, require_qdq
from qpipe.settings import FinetuneSettings
from qpipe.verbs.calibrate import calibrate
from qpipe.verbs.runnable import OnnxModel
from qpipe.verbs.sources import PreprocessLike, about, model_name, store_origin_file


@dataclass(frozen=True)
class Subject:
    """network: what trains. origin: the QDQ network before its skips were stripped; `network` itself where none were.

    given: the float network, where that was given and calibrated here.
    """

    network: ir.Model
    origin: ir.Model
    given: ir.Model | None = None

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


def make_subject(
    model: OnnxModel, data: DataLike, *, plain: bool, blocks: str, seed: int, preprocess: PreprocessLike
) -> Subject:
    """Load; with `plain` calibrate a float network to 8 bits, and strip the chosen blocks.

    A network without residual Adds whose skips an earlier run stripped is plain already, and trained on.
    """
    name = model_name(model)
    network, given = load_model(model), None
    if plain and find_kind(network)[0] is Kind.FLOAT:
        given = network
        store_origin_file(given, model)
        with about(name):
            _check_blocks(given, blocks)
        network = calibrate(given, data, seed=seed, preprocess=preprocess)
    require_qdq(network, name)
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
    """Raise RecipeError for settings that need skips which this run doesn't strip."""
    if run.fade and not subject.is_stripped:
        raise RecipeError(
            f"fade: {run.fade:g}, but no skips are stripped in this run, expected 0, or a network with skips and plain"
        )
