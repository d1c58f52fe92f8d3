"""Rows of a paper's table on CIFAR-10 or -100: each is calibrated, fine-tuned, exported, counted, and kept in a folder.

Every row is counted on onnxruntime, on the integer file that `export` writes, over all test images; one whose skips are
in floating point, which no such file has, on the executor; one that trains a float network, on that. Networks,
checkpoints and counts stay in the folder: a command can be given again, and goes on where it was cut off. A run that
diverges is a result as well.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import typer
from float_skips import train_and_count
from results import PREPROCESS, Results, Row

import qpipe
from qpipe import progress
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import TRAINING, get_object
from qpipe.ir.files.write import atomic_path
from qpipe.train.keeper import DivergedError

DIVERGED = "Div."  # as the papers' tables have it
ORIGINAL = "the float network"  # as a teacher: the file itself, where training has changed what the QDQ file holds

ModelArgument = Annotated[Path, typer.Argument(help="the float network")]
DataArgument = Annotated[Path, typer.Argument(help="CIFAR-10 as an .npz, or CIFAR-100, which has 100 in its name")]
FolderArgument = Annotated[Path, typer.Argument(help="where networks, checkpoints and counts are kept")]
RowsOption = Annotated[
    list[str] | None, typer.Option("--rows", help="names of rows to run, with wildcards; all by default")
]
SeedsOption = Annotated[int, typer.Option("--seeds", help="how many seeds of the leading rows")]
RunOption = Annotated[bool, typer.Option(help="run what is missing; else only show what is there")]
NameOption = Annotated[str, typer.Option("--name", help="of the file in artifacts/results")]


@dataclass(frozen=True)
class ExperimentRow:
    """One network; finetune None is calibration only, and one with an arithmetic trains the float network.

    prepare: writes the float network that is begun with, from the original. after: the row whose trained network is
    begun with: trained on, or calibrated first where that is float and this row's is not. same_as: the row that trains
    to the same bits, whose counts these are. leads: run with several seeds. float_skips: trained and counted on the
    executor, see `float_skips.py`.
    """

    name: str
    calibrate: Mapping[str, Any] = field(default_factory=dict)
    finetune: Mapping[str, Any] | None = None
    prepare: Callable[[Path, Path], None] | None = None
    after: str | None = None
    same_as: str | None = None
    leads: bool = False
    is_float: bool = False
    float_skips: bool = False

    @property
    def evaluate_every(self) -> int | None:
        """Curves for the report where a run is long enough to have one."""
        return 1 if self.finetune and self.finetune.get("epochs", 1) > 1 else None

    @property
    def trains_float(self) -> bool:
        """Whether nothing is calibrated: a float network is trained, and one is what is counted."""
        return self.finetune is not None and "arithmetic" in self.finetune


@dataclass(frozen=True)
class Count:
    """Top-1 in percent, None of a run that diverged; low_bit: with the arithmetic that it was trained in."""

    top1: float | None
    low_bit: float | None = None


@dataclass(frozen=True)
class Experiment:
    """One row with one seed, and the files that it leaves in the folder."""

    row: ExperimentRow
    rows: Sequence[ExperimentRow]
    seed: int
    model: Path
    data: Path
    folder: Path

    @property
    def is_counted(self) -> bool:
        """Whether its count lies in the folder."""
        return self._file("count.json").exists()

    def count(self) -> Count:
        """Made, exported and counted unless that was done before."""
        done = self._file("count.json")
        if not self.is_counted:
            try:
                found = Count(self._count_float_skips()) if self.row.float_skips else self._count_shipped()
            except DivergedError as error:
                typer.echo(f"{self.row.name}: {error}")
                found = Count(None)
            with atomic_path(done) as beside:
                beside.write_text(json.dumps(asdict(found)))
        return Count(**json.loads(done.read_text()))

    def _count_shipped(self) -> Count:
        shipped = self.model if self.row.is_float else self._train(self._start())
        if not (self.row.is_float or self.row.trains_float):
            shipped = self._export(shipped)
        top1 = qpipe.validate([shipped], self.data, preprocess=PREPROCESS).rows[0].top1 or 0.0
        record = get_object(load_model(shipped), TRAINING) if self.row.trains_float else None
        low_bit = (record or {}).get("accuracy_low_bit")
        return Count(100 * top1, None if low_bit is None else 100 * float(low_bit))

    def _count_float_skips(self) -> float:
        checkpoint = self._file("checkpoint.safetensors")
        return 100 * train_and_count(self._start(), self.data, checkpoint, self.row.finetune or {}, seed=self.seed)

    def _file(self, suffix: str) -> Path:
        slug = "".join(c if c.isalnum() else "-" for c in self.row.name).strip("-").lower()
        return self.folder / f"{self.model.stem}.{slug}.seed{self.seed}.{suffix}"

    def _prepare(self) -> Path:
        if self.row.prepare is None:
            return self.model
        output = self._file("float.onnx")
        if not output.exists():
            self.row.prepare(self.model, output)
        return output

    def _start(self) -> Path:
        """What is trained."""
        if self.row.after is None:
            given, calibrates = self._prepare(), True
        else:
            before = replace(self, row=next(row for row in self.rows if row.name == self.row.after))
            given = before._train(before._start())
            # Of a QDQ file the float network that it holds, to other widths.
            calibrates = before.row.trains_float or before.row.calibrate != self.row.calibrate
        return self._calibrate(given) if calibrates and not self.row.trains_float else given

    def _calibrate(self, given: Path) -> Path:
        output = self._file("start.qdq.onnx")
        if not output.exists():
            qpipe.calibrate(given, self.data, output, preprocess=PREPROCESS, seed=self.seed, **self.row.calibrate)
        return output

    def _train(self, start: Path) -> Path:
        if self.row.finetune is None:
            return start
        output = self._file("trained.onnx" if self.row.trains_float else "qdq.onnx")
        checkpoint = self._file("checkpoint.safetensors")
        arguments = {"seed": self.seed, "evaluate_every": self.row.evaluate_every, **self.row.finetune}
        if arguments.get("teacher") == ORIGINAL:
            arguments["teacher"] = str(self.model)
        if self.row.trains_float:  # what is calibrated carries it
            arguments["preprocess"] = PREPROCESS
        if not output.exists():
            qpipe.finetune(start, self.data, output, checkpoint=checkpoint, resume=checkpoint.exists(), **arguments)
        return output

    def _export(self, trained: Path) -> Path:
        output = self._file("int.onnx")
        if not output.exists():
            qpipe.export(trained, output, data=self.data)
        return output


def reproduction(rows: Sequence[ExperimentRow], name: str, *, seeds: int, example: str) -> Callable[..., None]:
    """A command that runs the rows of one table. name: of its file in artifacts/results; example: its words."""

    def main(
        model: ModelArgument,
        data: DataArgument,
        folder: FolderArgument,
        patterns: RowsOption = None,
        seeds: SeedsOption = seeds,
        run: RunOption = True,
        name: NameOption = name,
    ) -> None:
        run_rows(rows, model, data, folder, patterns=patterns, seeds=seeds, run=run, name=name)

    main.__doc__ = f"""Run the rows that are not there yet, and print the table of all that are.

    Example: python tools/{example}
    """
    return main


def run_rows(
    rows: Sequence[ExperimentRow],
    model: Path,
    data: Path,
    folder: Path,
    *,
    patterns: Sequence[str] | None,
    seeds: int,
    run: bool,
    name: str,
    what: str = "",
) -> None:
    """Run the rows that are not there yet, and print and keep the table of all that are.

    what: all rows have in common, for the title. Other tables of the file stay, and rows of this one which are not in
    this folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with progress.reporting():
        for row in (_run_as(row, rows) for row in rows if run and _chosen(row, patterns)):
            for seed in range(seeds if row.leads else 1):
                count = Experiment(row, rows, seed, model, data, folder).count()
                typer.echo(f"{row.name}, seed {seed}: {_shown(count.top1)}")
    counted = [(row, _counted(_run_as(row, rows), model, data, folder)) for row in rows]
    results = Results.load(name)
    data_set = "CIFAR-100" if "100" in data.stem else "CIFAR-10"
    title = f"{model.stem} on {data_set}, {what}top-1 of 10,000 test images in percent"
    before = {line["network"]: line for line in results.tables.get(title, ())}
    lines = [_line(row, counts) if counts else before.get(row.name) for row, counts in counted]
    found = [line for line in lines if line is not None]
    if not found:
        typer.echo(f"nothing is counted yet: {title}")
        return
    results.add(title, found)
    results.save()


def _chosen(row: ExperimentRow, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(fnmatch(row.name, pattern) for pattern in patterns)


def _run_as(row: ExperimentRow, rows: Sequence[ExperimentRow]) -> ExperimentRow:
    return row if row.same_as is None else next(other for other in rows if other.name == row.same_as)


def _counted(row: ExperimentRow, model: Path, data: Path, folder: Path) -> dict[int, Count]:
    """The counts that lie in the folder, by seed."""
    experiments = [Experiment(row, (row,), seed, model, data, folder) for seed in range(10)]
    return {e.seed: e.count() for e in experiments if e.is_counted}


def _line(row: ExperimentRow, counts: Mapping[int, Count]) -> Row:
    """The mean over the seeds, and their deviation where there are several; no mean where one diverged."""
    values = [count.top1 for count in counts.values() if count.top1 is not None]
    low_bit = [count.low_bit for count in counts.values() if count.low_bit is not None]
    more: Row = {"low-bit": _mean(low_bit) if low_bit else None} if row.trains_float else {}
    return {
        "network": row.name,
        "top-1": _mean(values) if len(values) == len(counts) else DIVERGED,
        **more,
        "deviation": round(statistics.stdev(values), 2) if len(values) > 1 else None,
        "seeds": ", ".join(f"{seed}: {_shown(count.top1)}" for seed, count in counts.items()),
        "calibrate": "-" if row.trains_float else _arguments(row.calibrate),
        "finetune": "-" if row.finetune is None else _arguments(row.finetune),
        **({} if row.same_as is None else {"counted as": row.same_as}),
    }


def _mean(values: Sequence[float]) -> float:
    return round(statistics.mean(values), 2)


def _shown(top1: float | None) -> str:
    return DIVERGED if top1 is None else f"{top1:.2f}"


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items()) or "defaults"
