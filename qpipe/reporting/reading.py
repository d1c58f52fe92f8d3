"""Read a run from one file of qpipe, or from the folder of `qpipe run`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from qpipe.errors import ModelError, first_problem, one_line
from qpipe.ir.cost.file_size import file_size
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import (
    CERTIFICATE,
    PREPROCESS,
    TRAINING,
    get_input_sha256,
    get_object,
    get_provenance,
)
from qpipe.ir.quantized.certify import check_certificate
from qpipe.ir.quantized.kind import Kind, find_kind
from qpipe.reporting.record import ReportRecord, read_certificate, read_training
from qpipe.reporting.run import EXPORT, File, Run
from qpipe.reporting.widths import certified_widths, widths_of
from qpipe.reporting.words import metric_key
from qpipe.state import Finished, finished_stages

SUFFIXES: Final = (".onnx", ".qdq")


def read_run(path: Path, name: str | None = None) -> Run:
    """Read a file, or a folder that `qpipe run` wrote; ModelError says what was expected.

    name: what the page calls it; by default the file's or folder's own name.
    """
    return _read_folder(path, name or path.resolve().name) if path.is_dir() else _read_file(path, name or stem(path))


def stem(path: Path) -> str:
    """`out/net.qdq.onnx` is "net"."""
    name = path.name
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _read_file(path: Path, name: str) -> Run:
    model = load_model(path)
    kind, view = find_kind(model)
    if kind is Kind.FLOAT and get_object(model, TRAINING) is None:
        raise ModelError(f"{path}: is a float network, expected what `qpipe finetune`, `export` or `run` wrote")
    certificate = read_certificate(get_object(model, CERTIFICATE))
    training = read_training(get_object(model, TRAINING))
    weights, activations = widths_of(view) if view is not None else certified_widths(certificate)
    return Run(
        name=name,
        path=path,
        kind=kind.value,
        model=model,
        files=(File(path.name, file_size(path), kind.value),),
        weight_bits=weights,
        activation_bits=activations,
        training=training,
        certificate=certificate,
        certificate_source="stored in the file by its export" if certificate else "",
        certificate_problems=tuple(check_certificate(model)) if certificate else (),
        provenance=tuple(get_provenance(model)),
        input_sha256=get_input_sha256(model),
        preprocess=get_object(model, PREPROCESS),
        float_accuracy=training.float_accuracy,
    )


def _read_folder(folder: Path, name: str) -> Run:
    """The QDQ file tells of training; an export, if there is one, brings the certificate; validate's rows the rest."""
    stages = finished_stages(folder)
    qdq = stages.get("finetune") or stages.get("calibrate")
    if qdq is None:
        raise ModelError(f"{folder}: no finished stage is recorded in it, expected the folder of a `qpipe run`")
    run = _read_file(folder / qdq.output, name)
    exports = [_read_file(folder / stage.output, key) for key, stage in stages.items() if key.startswith(EXPORT)]
    certified = next((export for export in exports if export.certificate), run)
    training, rows = run.training, _validation(folder, stages.get("validate"))
    files = [
        File(stage.output, file_size(folder / stage.output), key)
        for key, stage in stages.items()
        if stage.output.endswith(".onnx") and (folder / stage.output).is_file()
    ]
    return replace(
        run,
        path=folder,
        files=tuple(files),
        certificate=certified.certificate,
        certificate_source="" if certified is run else f"stored in {certified.path.name} by its export",
        certificate_problems=certified.certificate_problems,
        provenance=certified.provenance,
        rows=rows,
        float_accuracy=next(
            (row.get(metric_key(training.metric)) for row in rows if row.get("kind") == Kind.FLOAT.value),
            run.float_accuracy,
        ),
        stages={key: stage.seconds for key, stage in stages.items()},
    )


def _validation(folder: Path, stage: Finished | None) -> tuple[Mapping[str, Any], ...]:
    """The rows of `validate`; none where it did not finish."""
    if stage is None:
        return ()
    path = folder / stage.output
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not the report of a `qpipe run`: {one_line(error, kind=True)}") from None
    try:
        rows = ReportRecord.model_validate(report).rows
    except ValidationError as error:
        raise ModelError(f"{path}: not the report of a `qpipe run`: {first_problem(error)}") from None
    return tuple({**row.model_dump(), "name": Path(row.name).name} for row in rows)
