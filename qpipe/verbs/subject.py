"""What a run of `qpipe finetune` trains: the network as it was given, calibrated first and stripped where asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir
from pydantic import JsonValue

from passes.strip_skips import StripSkips
from qpipe.data import DataLike
from qpipe.errors import RecipeError
from qpipe.ir.kind import Kind, find_kind, require_qdq
from qpipe.ir.load import load_model
from qpipe.ir.metadata import PLAIN, AppliedPass, add_provenance, get_json
from qpipe.verbs.calibrate import calibrate
from qpipe.verbs.sources import ModelPath, PreprocessLike, model_name

AnyModel = ModelPath | onnx.ModelProto | ir.Model
Count = Callable[[ir.Model], float | None]


@dataclass
class Subject:
    """network: what trains. origin: the QDQ network before its skips were stripped; `network` itself where none were.

    phases: the accuracy of each step on the way here, of 1.
    """

    network: ir.Model
    origin: ir.Model
    phases: list[dict[str, JsonValue]] = field(default_factory=list)

    def counted(self, phase: str, accuracy: float | None) -> None:
        """Note where the accuracy stands; None: nobody counted."""
        if accuracy is not None:
            self.phases.append({"phase": phase, "accuracy": accuracy})

    @property
    def is_stripped(self) -> bool:
        """Whether skips of this run's input were stripped by it."""
        return self.network is not self.origin


def make_subject(
    model: AnyModel, data: DataLike, *, plain: bool, blocks: str, seed: int, preprocess: PreprocessLike
) -> Subject:
    """Load; calibrate a float network to 8 bits; strip the chosen blocks.

    A network without residual Adds whose skips an earlier run stripped is plain already, and trained on.
    """
    network = load_model(model)
    kind, _ = find_kind(network)
    if kind is Kind.FLOAT and plain:
        network = calibrate(network, data, seed=seed, preprocess=preprocess)
    require_qdq(network, model_name(model))
    subject = Subject(network, network)
    if plain and not (get_json(network, PLAIN) and _has_no_add(network)):
        subject.network = network.clone()
        strip = StripSkips(blocks=blocks)
        strip(subject.network)
        add_provenance(subject.network, AppliedPass.of(strip))
    return subject


def refuse_without_skips(subject: Subject, *, fade: float, teacher: str | None) -> None:
    """Raise RecipeError for what needs the skips that the network has lost already, or has kept."""
    if fade and not subject.is_stripped:
        raise RecipeError(f"fade: {fade:g}, but no skips are stripped in this run, expected 0, or a network with skips")
    if teacher == "float" and not subject.is_stripped and get_json(subject.network, PLAIN):
        raise RecipeError("teacher: 'float', but this plain network holds none, expected the float network's file")


def _has_no_add(network: ir.Model) -> bool:
    return not any(node.op_type == "Add" for node in network.graph)
