"""Models of any kind, as onnxruntime is to run them: a trainable QDQ file is finalized in memory first."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnx_ir as ir

from passes.quantizing.real_ends import RealEnds
from passes.shipping.finalize import Finalize
from qpipe.errors import ModelError
from qpipe.ir.cost.file_size import file_size
from qpipe.ir.files.load import is_as_written, load_model
from qpipe.ir.files.metadata import CERTIFICATE, get_object
from qpipe.ir.files.opset import original_opset
from qpipe.ir.files.save import save_model
from qpipe.ir.files.upgrade import OPSET
from qpipe.ir.quantized.kind import Kind, find_kind
from qpipe.ir.quantized.origin import origin_of, stored_origin
from qpipe.ir.quantized.view import View, read_view
from qpipe.nodes import static_shape
from qpipe.verbs.sources import ModelPath, about

OnnxModel = ModelPath | onnx.ModelProto | ir.Model


@dataclass(frozen=True, eq=False)
class Runnable:
    """name: what tables call it. kind: of the file. network: the model as it is run, loaded; view: of a QDQ model.

    path: the file, where it is run as it is. origin: which quantized network it computes, None where nobody knows.
    size: bytes of the file and its external data, None for a model in memory.
    """

    name: str
    kind: Kind
    network: ir.Model
    path: Path | None
    view: View | None
    origin: str | None
    size: int | None

    @property
    def source(self) -> Path | ir.Model:
        """What onnxruntime opens."""
        return self.path or self.network

    @property
    def sizes(self) -> dict[str, tuple[int | None, ...]]:
        """Those of its inputs that are known, None of others and of an open batch."""
        return {str(value.name): static_shape(value) or () for value in self.network.graph.inputs}

    @property
    def float_nodes(self) -> int:
        """How many nodes stay float between integers: whole outputs are then near those of its origin, not equal."""
        if self.view is not None:
            return sum(len(layer.nodes) for layer in self.view.islands)
        said = (get_object(self.network, CERTIFICATE) or {}).get("float_nodes")
        return len(said) if isinstance(said, list) else 0

    @contextmanager
    def file(self) -> Iterator[Path]:
        """Its file, or a temporary one."""
        if self.path is not None:
            yield self.path
            return
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            save_model(self.network, path)
            yield path


def open_all(models: Sequence[OnnxModel]) -> list[Runnable]:
    """Open each; ModelError where there is none, or one can't be read."""
    if isinstance(models, str | os.PathLike | onnx.ModelProto | ir.Model):
        models = [models]
    if not models:
        raise ModelError("no models were given, expected one or more")
    return [open_runnable(model, number) for number, model in enumerate(models, start=1)]


def open_runnable(model: OnnxModel, number: int = 1) -> Runnable:
    """Open one model; `number` tells models in memory apart."""
    network = load_model(model)
    is_file = isinstance(model, str | os.PathLike)
    name = os.fspath(model) if is_file else f"model {number}"  # type: ignore[arg-type]
    with about(name):
        return _runnable(model, network, name, is_file=is_file)


def _runnable(model: OnnxModel, network: ir.Model, name: str, *, is_file: bool) -> Runnable:
    kind, view = find_kind(network)
    # What ships is the file itself, but for opsets that onnxruntime may not know yet.
    can_open = is_file and original_opset(model) <= network.opset_imports.get("", OPSET)
    path = Path(name) if can_open and is_as_written(network) else None
    if kind is Kind.TRAINABLE:
        Finalize()(network)
        view, path = read_view(network), None
    if kind is Kind.FOREIGN and RealEnds()(network).modified:
        path = None
    origin = None if kind is Kind.TRAINABLE else stored_origin(network)
    if origin is None and view is not None:
        origin = origin_of(view)
    return Runnable(name, kind, network, path, view, origin, file_size(name) if is_file else None)
