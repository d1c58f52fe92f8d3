"""Accuracy and agreement of any number of models: `qpipe.validate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from qpipe.data import DataLike
from qpipe.ir.files.metadata import CERTIFICATE, get_json, get_object
from qpipe.ir.quantized.certify import certify, check_certificate
from qpipe.ir.quantized.kind import Kind
from qpipe.ir.quantized.view_weights import QUANTIZATION
from qpipe.settings import TaskSettings, ValidateSettings
from qpipe.verbs.comparison import Comparison, compare, of_origin, open_common
from qpipe.verbs.options import takes_options
from qpipe.verbs.runnable import OnnxModel, Runnable, open_all
from qpipe.verbs.sources import PreprocessLike, about


@dataclass(frozen=True)
class ValidationRow:
    """One model.

    size: bytes of the file and its external data, None for a model in memory. metrics: by name, what the task is judged
    by, None without labels; of classes `top1` and `top5`, fractions of 1 (no top5 of five classes or fewer). agreement:
    how often its answer is the first model's, None where answers are no choices.
    largest_difference: of any output from the first model's, in real units. Both are None for an export whose float
    tail was cut off: its outputs are what the tail would read. integers_equal: with all models that were made from the
    same QDQ file, None where there is no other; floats that a tail computes of them, as far as roundings go.
    certificate: "holds" or "fails"; None where the model has none.
    """

    name: str
    kind: str
    size: int | None
    metrics: Mapping[str, float | None]
    agreement: float | None
    largest_difference: float | None
    integers_equal: bool | None
    certificate: str | None

    @property
    def top1(self) -> float | None:
        """Of 1; None without labels, and of other tasks."""
        return self.metrics.get("top1")

    @property
    def top5(self) -> float | None:
        """As top1; None of five classes or fewer too."""
        return self.metrics.get("top5")

    def to_json(self) -> dict[str, Any]:
        """Plain values, each metric by its own name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        at = list(values).index("metrics")
        return dict([*list(values.items())[:at], *self.metrics.items(), *list(values.items())[at + 1 :]])


@dataclass(frozen=True)
class ValidationReport:
    """images: how many were run. problems: each difference, and each certificate that fails.

    task: what the models are judged by, and how that was found. notes: on the data.
    """

    images: int
    rows: tuple[ValidationRow, ...]
    task: Mapping[str, Any]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all integers are equal that must be, and every certificate holds."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"ok": self.ok, **values, "rows": [row.to_json() for row in self.rows]}


@takes_options
def validate(
    models: Sequence[OnnxModel],
    data: DataLike,
    *,
    settings: ValidateSettings,
    task: TaskSettings,
    preprocess: PreprocessLike = None,
) -> ValidationReport:
    """Run models on the same images and compare: the task's metric, outputs, integers, certificates.

    What the models are for is derived and said, or asked for, as `finetune` does.

    Args:
        models: float, QDQ or exported, with float or integer inputs. A trainable QDQ model is finalized in memory, and
            a note says so: as it lies its outputs are near what is measured here, not equal.
        data: with labels, or without; then nothing is judged, and models are compared alone.
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
    comparison = compare(runnables, source, settings.batch_size, settings.limit, task)
    rows = []
    problems = _differences(runnables, comparison)
    for index, runnable in enumerate(runnables):
        failed = _certificate_problems(runnable)
        same = [other for other in _must_equal(runnables, index) if other != index]
        figures = comparison.figures[index]
        rows.append(
            ValidationRow(
                runnable.name,
                runnable.kind.value,
                runnable.size,
                comparison.metrics(index),
                figures.agreement,
                figures.largest_difference,
                not any(comparison.differ(index, other) for other in same) if same else None,
                None if failed is None else "fails" if failed else "holds",
            )
        )
        problems += [f"{runnable.name}: {problem}" for problem in failed or ()]
    notes: tuple[str, ...] = () if source.split_note is None else (source.split_note,)
    notes += tuple(_finalized(runnable) for runnable in runnables if runnable.kind is Kind.TRAINABLE)
    notes += tuple(_islands(runnable) for runnable in runnables if runnable.float_nodes)
    return ValidationReport(comparison.images, tuple(rows), comparison.task.to_json(), tuple(problems), notes)


def _finalized(runnable: Runnable) -> str:
    return (
        f"{runnable.name}: can be trained, and was finalized in memory: its exports and the trained network in "
        "evaluation equal that to the bit; the file as it lies gives outputs that are near, not equal"
    )


def _must_equal(runnables: Sequence[Runnable], index: int) -> list[int]:
    """Which models give the same integers: those of one origin, where no float lies between them."""
    return [index] if runnables[index].float_nodes else of_origin(runnables, index)


def _islands(runnable: Runnable) -> str:
    return (
        f"{runnable.name}: float between integers ({runnable.float_nodes} nodes), so its outputs are near those of "
        "files that were made from the same QDQ file, and need not equal them"
    )


def _differences(runnables: Sequence[Runnable], comparison: Comparison) -> list[str]:
    """A line for each pair that must be equal and is not."""
    lines = []
    for index, runnable in enumerate(runnables):
        for other in _must_equal(runnables, index):
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
