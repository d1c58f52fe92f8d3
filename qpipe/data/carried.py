"""The preprocessing that a model carries in its metadata, for every command that runs it on images."""

from __future__ import annotations

import onnx_ir as ir

from qpipe.data.preprocess import Preprocess
from qpipe.errors import DataError, ModelError
from qpipe.ir.files.metadata import PREPROCESS, get_object, set_json


def carried_preprocess(model: ir.Model) -> Preprocess | None:
    """What the model carries, None where that is nothing; ModelError that names the key where one is wrong."""
    stored = get_object(model, PREPROCESS)
    try:
        return None if stored is None else Preprocess().merge(stored)
    except DataError as error:
        raise ModelError(f"metadata 'qpipe.{PREPROCESS}': {error}") from None


def store_preprocess(model: ir.Model, preprocess: Preprocess) -> None:
    """Let the model carry it."""
    set_json(model, PREPROCESS, preprocess.model_dump(mode="json"))
