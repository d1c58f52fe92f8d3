"""Accuracy and agreement of any number of models: `qpipe.validate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qpipe.data import DataLike
from qpipe.ir.files.metadata import CERTIFICATE, get_json, get_object
from qpipe.ir.quantized.certify import certify, check_certificate
from qpipe.ir.quantized.kind import Kind
from qpipe.ir.quantized.view_weights import QUANTIZATION
from qpipe.settings import ValidateSettings
from qpipe.verbs.comparison import Comparison, compare, of_origin, open_common
from qpipe.verbs.options import takes_options
from qpipe.verbs.runnable import OnnxModel, Runnable, open_all
from qpipe.verbs.sources import PreprocessLike, about


@dataclass(frozen=True)
class ValidationRow:
    """One model.

    size: bytes of the file and its external data, None for a model in memory. top1, top5: fractions of 1, None without
    labels (top5 also for five classes or fewer). agreement: how often its first choice is the first model's.
    largest_difference: of any output from the first model's, in real units. Both are None for an export whose float
    tail was cut off: its outputs are what the tail would read. integers_equal: with all models that were made from the
    same QDQ file, None where there is no other. certificate: "holds" or "fails"; None where the model has none.
    """

    name: str
    kind: str
    size: int | None
    top1: float | None
    top5: float | None
    agreement: float | None
    largest_difference: float | None
    integers_equal: bool | None
    certificate: str | None


@dataclass(frozen=True)
class ValidationReport:
    """images: how many were run. problems: each difference, and each certificate that fails. notes: on the data."""

    images: int
    rows: tuple[ValidationRow, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all integers are equal that must be, and every certificate holds."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"ok": self.ok, **asdict(self)}


@takes_options
def validate(
    models: Sequence[OnnxModel],
    data: DataLike,
    *,
    settings: ValidateSettings,
    preprocess: PreprocessLike = None,
) -> ValidationReport:
    """Run models on the same images and compare: accuracy, outputs, integers, certificates.

    Args:
        models: float, QDQ or exported, with float or integer inputs. A trainable QDQ model is finalized in memory.
        data: with labels, or without; then there are no accuracies.
        preprocess: what pixels go through; None is what the models carry.

    Returns:
        One row for each model; `ok` is False where integers differ between models that were made from one QDQ file, or
        where a certificate does not hold.

    Raises:
        ModelError, DataError, RecipeError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> report = qpipe.validate(["net.onnx", "net.qdq.onnx"], "digits", limit=100)
        >>> report.ok, report.images, [row.kind for row in report.rows]
        (True, 100, ['float', 'QDQ, trainable'])
    """
    runnables = open_all(models)
    source = open_common(runnables, data, settings.split, preprocess)
    comparison = compare(runnables, source, settings.batch_size, settings.limit)
    rows = []
    problems = _differences(runnables, comparison)
    for index, runnable in enumerate(runnables):
        failed = _certificate_problems(runnable)
        same = [other for other in of_origin(runnables, index) if other != index]
        figures = comparison.figures[index]
        rows.append(
            ValidationRow(
                runnable.name,
                runnable.kind.value,
                runnable.size,
                figures.top1,
                figures.top5,
                figures.agreement,
                figures.largest_difference,
                not any(comparison.differ(index, other) for other in same) if same else None,
                None if failed is None else "fails" if failed else "holds",
            )
        )
        problems += [f"{runnable.name}: {problem}" for problem in failed or ()]
    notes = () if source.split_note is None else (source.split_note,)
    return ValidationReport(comparison.images, tuple(rows), tuple(problems), notes)


def _differences(runnables: Sequence[Runnable], comparison: Comparison) -> list[str]:
    """A line for each pair that must be equal and is not."""
    lines = []
    for index, runnable in enumerate(runnables):
        for other in of_origin(runnables, index):
            if other > index and (count := comparison.differ(index, other)):
                names = f"{runnable.name} and {runnables[other].name}"
                lines.append(
                    f"{names} were made from one QDQ file, but differ on {count} of {comparison.images} images"
                )
    return lines


def _certificate_problems(runnable: Runnable) -> list[str] | None:
    """What is wrong with its certificate, none where it holds; None where it has none and makes none."""
    network = runnable.network
    with about(runnable.name):
        if runnable.kind is Kind.TRAINABLE and runnable.view is not None:
            options: Mapping[str, Any] = get_object(network, QUANTIZATION) or {}
            return certify(runnable.view, cpu=str(options.get("cpu", "portable"))).problems
        return None if get_json(network, CERTIFICATE) is None else check_certificate(network)
