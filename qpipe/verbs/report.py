"""Finished runs -> one page about them: `qpipe.report`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from passes.shipping.finalize import Finalize
from qpipe.errors import ModelError, QpipeError
from qpipe.ir.files.outputs import check_output
from qpipe.ir.files.write import atomic_path
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.kind import Kind
from qpipe.ir.quantized.view import read_view
from qpipe.reporting.missing import missing
from qpipe.reporting.reading import read_run
from qpipe.reporting.record import read_certificate
from qpipe.reporting.run import Run
from qpipe.settings import ReportSettings
from qpipe.verbs.names import told_apart
from qpipe.verbs.options import takes_options
from qpipe.verbs.sources import ModelPath, about


@dataclass(frozen=True)
class Report:
    """A page: its HTML, the runs that it is about, and what they lack, a sentence each."""

    html: str
    runs: tuple[Run, ...]
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the page itself."""
        return {"runs": [_facts(run) for run in self.runs], "missing": list(self.missing)}


@takes_options
def report(
    runs: ModelPath | Sequence[ModelPath],
    output: ModelPath | None = None,
    *,
    names: Sequence[str] | None = None,
    settings: ReportSettings,
) -> Report:
    """Draw finished runs: curves, the FAQ paper's figures, certificate and provenance, on one page of HTML.

    Several runs are drawn over each other. The page needs no network, and no other file.

    Args:
        runs: files that `finetune` or `export` wrote, or folders of `qpipe run`.
        output: where to write the page.
        names: what the page calls the runs, in their order; by default the names of files and folders.

    Raises:
        ModelError, OutputError, RecipeError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> page = qpipe.report("tuned.qdq.onnx", "report.html")
        >>> [run.name for run in page.runs], page.html.startswith("<!DOCTYPE html>")
        (['tuned'], True)
    """
    paths = [Path(runs)] if isinstance(runs, str | os.PathLike) else [Path(run) for run in runs]
    # In the folder of a run its files are read, and no other.
    read = [file for path in paths for file in ([path, *path.glob("*.onnx")] if path.is_dir() else [path])]
    check_output(output, sources=read)
    if not paths:
        raise ModelError("no runs were given, expected one or more")
    if names is not None and len(names) != len(paths):
        raise QpipeError(f"{len(names)} names for {len(paths)} runs, expected one for each")
    found = []
    for index, path in enumerate(paths):
        with about(os.fspath(path)):
            run = read_run(path, None if names is None else names[index])
            found.append(_proven(_with_float(run, settings.float_accuracy)))
    found = _told_apart(found)
    # matplotlib takes a second, which a missing file need not wait for.
    from qpipe.reporting.page import render

    html = render(found, settings.title or " · ".join(run.name for run in found))
    if output is not None:
        with atomic_path(output) as temporary:
            temporary.write_text(html, encoding="utf-8")
    sentences = dict.fromkeys(sentence for part in missing(found).values() for sentence in part)
    return Report(html, tuple(found), tuple(sentences))


def _told_apart(runs: Sequence[Run]) -> list[Run]:
    """Runs with a name each."""
    names = told_apart([run.name for run in runs], [run.path for run in runs])
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def _with_float(run: Run, accuracy: float | None) -> Run:
    return run if run.float_accuracy is not None else replace(run, float_accuracy=accuracy)


def _proven(run: Run) -> Run:
    """A trainable file carries no certificate: prove, in memory, what an export would."""
    if run.certificate is not None or run.kind != Kind.TRAINABLE.value:
        return run
    final = run.model.clone()
    Finalize()(final)
    certificate = certify(read_view(final))
    return replace(
        run,
        certificate=read_certificate(certificate.to_json()),
        certificate_source="proven for this page",
        certificate_problems=tuple(certificate.problems),
    )


def _facts(run: Run) -> dict[str, Any]:
    training = run.training
    return {
        "name": run.name,
        "path": str(run.path),
        "kind": run.kind,
        "bytes": run.files[0].size,
        "weight_bits": dict(run.weight_bits),
        "activation_bits": dict(run.activation_bits),
        "epochs": len(training.epochs),
        "float_accuracy": run.float_accuracy,
        "accuracy_before": training.accuracy_before,
        "accuracy_after": training.accuracy_after,
        "diagnostics": training.diagnostics is not None,
        "certificate_holds": None if run.certificate is None else not run.certificate_problems,
    }
