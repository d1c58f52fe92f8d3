"""FAQ on CIFAR-10: the paper's Table 2 and section 4.9 on ResNet-20, and what else moves a 4-bit network.

Every row is counted on onnxruntime, on the integer file that `export` writes, over all test images. Networks,
checkpoints and counts stay in the folder: the command can be given again, and goes on where it was cut off. Rows are
named by what they change; `--rows` picks some, as in `--rows "4/4, FAQ*"`.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import typer
from faq_rows import ORIGINAL, PREPROCESS, ROWS, ExperimentRow
from results import Results, Row

import qpipe
from qpipe import progress
from qpipe.ir.save import atomic_path


@dataclass(frozen=True)
class Experiment:
    """One row with one seed, and the files that it leaves in the folder."""

    row: ExperimentRow
    seed: int
    model: Path
    data: Path
    folder: Path

    @property
    def is_counted(self) -> bool:
        """Whether its count lies in the folder."""
        return self._file("count.json").exists()

    def count(self) -> float:
        """Top-1 in percent: made, exported and counted unless that was done before."""
        done = self._file("count.json")
        if not self.is_counted:
            shipped = self.model if self.row.is_float else self._export(self._train(self._calibrate()))
            top1 = qpipe.validate([shipped], self.data, preprocess=PREPROCESS).rows[0].top1
            with atomic_path(done) as beside:
                beside.write_text(json.dumps({"top1": 100 * (top1 or 0.0)}))
        return float(json.loads(done.read_text())["top1"])

    def _file(self, suffix: str) -> Path:
        slug = "".join(c if c.isalnum() else "-" for c in self.row.name).strip("-").lower()
        return self.folder / f"{self.model.stem}.{slug}.seed{self.seed}.{suffix}"

    def _prepare(self) -> Path:
        if self.row.prepare is None:
            return self.model
        output = self._file("float.onnx")
        self.row.prepare(self.model, output)
        return output

    def _calibrate(self) -> Path:
        if self.row.after is not None:
            before = replace(self, row=next(row for row in ROWS if row.name == self.row.after))
            return before._train(before._calibrate())
        output = self._file("start.qdq.onnx")
        if not output.exists():
            qpipe.calibrate(
                self._prepare(), self.data, output, preprocess=PREPROCESS, seed=self.seed, **self.row.calibrate
            )
        return output

    def _train(self, start: Path) -> Path:
        if self.row.finetune is None:
            return start
        output, checkpoint = self._file("qdq.onnx"), self._file("checkpoint.safetensors")
        arguments = dict(self.row.finetune)
        if arguments.get("teacher") == ORIGINAL:
            arguments["teacher"] = str(self.model)
        if not output.exists():
            qpipe.finetune(
                start, self.data, output, seed=self.seed, checkpoint=checkpoint, resume=checkpoint.exists(),
                evaluate_every=self.row.evaluate_every, **arguments,
            )  # fmt: skip
        return output

    def _export(self, trained: Path) -> Path:
        output = self._file("int.onnx")
        if not output.exists():
            qpipe.export(trained, output, data=self.data)
        return output


def main(
    model: Annotated[Path, typer.Argument(help="the float network")],
    data: Annotated[Path, typer.Argument(help="CIFAR-10 as an .npz")],
    folder: Annotated[Path, typer.Argument(help="where networks, checkpoints and counts are kept")],
    rows: Annotated[list[str] | None, typer.Option(help="names of rows to run, with wildcards; all by default")] = None,
    seeds: Annotated[int, typer.Option(help="how many seeds of the leading rows")] = 1,
    run: Annotated[bool, typer.Option(help="run what is missing; else only show what is there")] = True,
    name: Annotated[str, typer.Option(help="of the file in artifacts/results")] = "faq_cifar10",
) -> None:
    """Run the rows that are not there yet, and print the table of all that are.

    Example: python tools/reproduce_faq.py resnet20.onnx cifar10.npz artifacts/faq --rows "8/8*"
    """
    folder.mkdir(parents=True, exist_ok=True)
    with progress.reporting():
        for row in (row for row in ROWS if run and _chosen(row, rows)):
            for seed in range(seeds if row.leads else 1):
                count = Experiment(row, seed, model, data, folder).count()
                typer.echo(f"{row.name}, seed {seed}: {count:.2f}")
    counted = [(row, _counted(row, model, data, folder)) for row in ROWS]
    results = Results(name)
    title = f"{model.stem} on CIFAR-10, top-1 of 10,000 test images in percent"
    results.add(title, [_line(row, counts) for row, counts in counted if counts])
    results.save()


def _chosen(row: ExperimentRow, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(fnmatch(row.name, pattern) for pattern in patterns)


def _counted(row: ExperimentRow, model: Path, data: Path, folder: Path) -> dict[int, float]:
    """The counts that lie in the folder, by seed."""
    experiments = [Experiment(row, seed, model, data, folder) for seed in range(10)]
    return {e.seed: e.count() for e in experiments if e.is_counted}


def _line(row: ExperimentRow, counts: Mapping[int, float]) -> Row:
    """The mean over the seeds, and their deviation where there are several."""
    values = list(counts.values())
    return {
        "network": row.name,
        "top-1": round(statistics.mean(values), 2),
        "deviation": round(statistics.stdev(values), 2) if len(values) > 1 else None,
        "seeds": ", ".join(f"{seed}: {value:.2f}" for seed, value in counts.items()),
        "calibrate": _arguments(row.calibrate),
        "finetune": "-" if row.finetune is None else _arguments(row.finetune),
    }


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items()) or "defaults"


if __name__ == "__main__":
    typer.run(main)
