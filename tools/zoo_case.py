"""One network through all of qpipe: inspect, calibrate, every export, validate; what comes of it, and how fast."""

import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from bench_snr import decibels

import qpipe
from qpipe.data.inputs import rows_of
from qpipe.errors import QpipeError
from qpipe.runtime.session import open_session, run_batches
from qpipe.verbs.inspect import CARRIES, FLOAT_TAIL, LOOKED_UP, QUANTIZED, Inspection

THROUGH: Final = "through"
REFUSED: Final = "refused"
DEFECT: Final = "defect"
UNEQUAL: Final = "unequal"
"""What can come of a network: all went well; one line says why not; a traceback; integers differ."""
FORMATS: Final = ("qoperator", "integer", "qdq")
TOGETHER: Final = 4
"""Samples in one run: large images of a whole batch would not fit into the limit of memory."""
ROOT: Final = Path(__file__).parent.parent
Arrays = Mapping[str, npt.NDArray[np.generic]]
T = TypeVar("T")


@dataclass
class Outcome:
    """What came of a network.

    said: the refusal's line, or the error with its place. step: where that was. formats: exports that were made.
    refusals: by format, why one alone was not made. inside, behind: kinds of nodes that stay float between integers and
    behind the last of them, with their number. equal: whether all exports' integers are equal and every certificate
    holds. decibels: of signal to noise of the `qdq` export against float. seconds: of wall time, by step.
    computing: seconds of CPU time, of all steps.
    """

    result: str = THROUGH
    step: str = ""
    said: str = ""
    formats: list[str] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    inside: dict[str, int] = field(default_factory=dict)
    behind: dict[str, int] = field(default_factory=dict)
    equal: bool | None = None
    decibels: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    computing: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class _EndedError(Exception):
    """The network goes no further."""


def run_case(model: Path, calibration: Arrays, evaluation: Arrays, folder: Path) -> Outcome:
    """Take a float network through every verb; its files go into the folder.

    calibration, evaluation: an array [N, ...] for each of the network's inputs, by name.
    """
    outcome = Outcome()
    quantized = folder / "quantized.onnx"

    def step(name: str, work: Callable[[], T]) -> T:
        begin, computed = time.perf_counter(), time.process_time()
        try:
            return work()
        except _EndedError:
            raise
        except QpipeError as error:
            raise _end(outcome, REFUSED, name, _without(str(error), folder, model.parent)) from error
        except Exception as error:
            raise _end(outcome, DEFECT, name, _place(error)) from error
        finally:
            outcome.seconds[name] = round(time.perf_counter() - begin, 2)
            outcome.computing = round(outcome.computing + time.process_time() - computed, 2)

    try:
        _count_floats(outcome, step("inspect", lambda: qpipe.inspect(model)))
        data = as_data(calibration, folder / "calibration.npz")
        count = len(next(iter(calibration.values())))
        step("calibrate", lambda: qpipe.calibrate(model, data, quantized, batches=1, batch_size=count))
        files = []
        for form in FORMATS:
            file = folder / f"{form}.onnx"
            if _export(outcome, step, quantized, file, form, data):
                files.append(file)
        step("validate", lambda: _validate(outcome, [model, quantized, *files], as_data(evaluation, folder / "v.npz")))
        ratio = step("compare", lambda: _decibels(model, files[-1], evaluation))
        outcome.decibels = ratio if np.isfinite(ratio) else None
    except _EndedError:
        pass
    return outcome


def as_data(arrays: Arrays, path: Path) -> Any:
    """The form in which qpipe takes them: of one input the array, of several a file with one for each."""
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stub knows no mapping here
    return path


def kinds(counts: Mapping[str, int]) -> str:
    """`Softmax, 2 Mul`, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(op if count == 1 else f"{count} {op}" for op, count in ordered)


def _end(outcome: Outcome, result: str, step: str, said: str) -> _EndedError:
    outcome.result, outcome.step, outcome.said = result, step, said
    return _EndedError()


def _count_floats(outcome: Outcome, inspection: Inspection) -> None:
    inside, behind = Counter[str](), Counter[str]()
    for node in inspection.nodes:
        if node.role == FLOAT_TAIL:
            behind[node.op] += 1
        elif node.role not in (QUANTIZED, CARRIES, LOOKED_UP):
            inside[node.op] += 1
    outcome.inside, outcome.behind = dict(inside), dict(behind)


def _export(outcome: Outcome, step: Callable[..., Any], quantized: Path, file: Path, form: str, data: Any) -> bool:
    """Whether the file was made; `integer` alone may be refused where something stays float, and the case goes on."""
    try:
        step(f"export {form}", lambda: qpipe.export(quantized, file, format=form, data=data))
    except _EndedError:
        if form != "integer" or outcome.result != REFUSED or not (outcome.inside or outcome.behind):
            raise
        outcome.refusals[form] = outcome.said
        outcome.result, outcome.step, outcome.said = THROUGH, "", ""
        return False
    outcome.formats.append(form)
    return True


def _validate(outcome: Outcome, files: list[Path], data: Any) -> None:
    report = qpipe.validate(files, data)
    outcome.equal = report.ok
    if not report.ok:
        raise _end(outcome, UNEQUAL, "validate", report.problems[0])


def _decibels(model: Path, other: Path, evaluation: Arrays) -> float:
    """Over all outputs that are numbers; not over labels."""
    exact, found = (_run(file, evaluation) for file in (model, other))
    pairs = [(y, q) for y, q in zip(exact, found, strict=True) if y.dtype.kind == "f"]
    return decibels(*map(list, zip(*pairs, strict=True))) if pairs else float("nan")


def _run(model: Path, evaluation: Arrays) -> list[npt.NDArray[Any]]:
    session = open_session(model)
    names = {each.name for each in session.get_inputs()}
    arrays = {name: array for name, array in evaluation.items() if name in names}
    count = len(next(iter(arrays.values())))
    parts = [rows_of(arrays, slice(start, start + TOGETHER)) for start in range(0, count, TOGETHER)]
    found = run_batches(session, parts, rows_only=False)
    return [np.stack(part) for part in zip(*found, strict=True)]


def _without(text: str, *folders: Path) -> str:
    """The text without this machine's folders."""
    for folder in folders:
        text = text.replace(f"{folder}/", "")
    return text


def _place(error: Exception) -> str:
    """Type, text and where qpipe raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT)]
    place = f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].name}" if ours else "?"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__} in {place}: {lines[0][:200]}"
