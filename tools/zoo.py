"""Whether the networks that people have go through: inspect, calibrate, every export and validate over a zoo of them.

Each network of `zoo_networks/` is written through PyTorch's two exporters at several opsets, and in Keras' spelling,
with random weights and the statistics of trained ones. Each file runs in a process of its own, within limits of time
and memory. What comes of it goes into artifacts/results/zoo.json, and into the table of docs/zoo.md.

The files are kept in a folder; --fresh writes them anew, which is due after a change of `zoo_networks/`.
"""

import json
import os
import re
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import zoo_page
from fuzzing.forked import run_forked
from results import Results, Row, run_tool
from zoo_case import Arrays, Outcome, kinds, run_case
from zoo_given import given_inputs
from zoo_networks import ZOO
from zoo_networks.data import draw
from zoo_networks.export import VARIANTS, NotExportedError, Variant, write

import qpipe

CALIBRATION, EVALUATION = 32, 16
NETWORKS, GIVEN = "Networks of the zoo", "Given files"
"""Titles of the tables."""


@dataclass(frozen=True)
class Job:
    """A file to take through: of the zoo by variant, or a given one."""

    network: str
    variant: Variant | None
    path: Path

    @property
    def written(self) -> str:
        """As the table says it."""
        return "as it is" if self.variant is None else self.variant.name

    def arrays(self, count: int, seed: int) -> Arrays:
        """Data for its inputs."""
        if self.variant is None:
            return given_inputs(self.path, count, seed)
        arrays = draw(ZOO.entries[self.network], count, seed)
        if self.variant.exporter == "Keras":
            arrays = [np.moveaxis(array, 1, -1) if array.ndim == 4 else array for array in arrays]
        return {f"input{index}" if index else "input": array for index, array in enumerate(arrays)}


def jobs_of(only: str, models: Sequence[Path], folder: Path, *, quick: bool) -> list[Job]:
    """What is to be run: given files alone, if there are any."""
    if models:
        return [Job(path.name, None, path) for path in models]
    jobs = []
    for number, name in enumerate(ZOO.entries):
        variants = [VARIANTS[(2, 3)[number % 2]]] if quick else VARIANTS
        jobs += [Job(name, variant, folder / f"{name}.{variant.name}.onnx") for variant in variants]
    return [job for job in jobs if re.search(only, f"{job.network}.{job.written}")]


def work(job: Job, answer: Path, *, fresh: bool, profiled: bool = False) -> None:
    """In a child: write the network where it is not there, take it through, leave what came of it as JSON."""
    warnings.simplefilter("ignore")
    if job.variant is not None and (fresh or not job.path.exists()):
        try:
            write(job.network, job.variant, job.path)
        except NotExportedError as error:
            answer.write_text(json.dumps({"result": "not exported", "said": str(error)}))
            return
    with tempfile.TemporaryDirectory() as folder:
        # What calibration sees and what is compared are different draws.
        arguments = job.path, job.arrays(CALIBRATION, 1), job.arrays(EVALUATION, 2), Path(folder)
        if not profiled:
            answer.write_text(json.dumps(run_case(*arguments).to_json()))
            return
        import cProfile
        import pstats

        profile = cProfile.Profile()
        profile.runcall(run_case, *arguments)
        rows = zoo_page.heaviest(pstats.Stats(profile))
        answer.write_text(json.dumps(rows))


def answers(
    jobs: Sequence[Job], *, seconds: float, count: int, fresh: bool, profiled: bool = False
) -> Iterator[tuple[Job, Any]]:
    """What came of each, as it ends: the child's answer, or that it had none."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.json" for number in range(len(jobs))]

        def child(number: int) -> None:
            work(jobs[number], paths[number], fresh=fresh, profiled=profiled)

        for ended in run_forked(range(len(jobs)), child, seconds=seconds, jobs=count):
            path = paths[ended.number]
            if path.exists():
                yield jobs[ended.number], json.loads(path.read_text())
            else:
                said = f"not done within {seconds:g} s" if ended.slow else f"ended with status {ended.status}"
                yield jobs[ended.number], {"result": "slow" if ended.slow else "crashed", "said": said}


def row_of(job: Job, answer: dict[str, Any]) -> Row:
    """As it stands in the table."""
    outcome = Outcome(**answer)
    said = f"{outcome.step}: {outcome.said}" if outcome.step else outcome.said
    seconds = {f"{step} s": outcome.seconds.get(step) for step in zoo_page.STEPS}
    return {
        "network": job.network,
        "written by": job.written,
        "result": outcome.result,
        "said": said,
        "formats": ", ".join(outcome.formats),
        "integer refused": outcome.refusals.get("integer", ""),
        "float inside": sum(outcome.inside.values()),
        "of": kinds(outcome.inside),
        "float behind": sum(outcome.behind.values()),
        "which are": kinds(outcome.behind),
        "integers equal": None if outcome.equal is None else "yes" if outcome.equal else "no",
        "SNR dB": outcome.decibels,
        **seconds,
        "CPU s": outcome.computing,
    }


def merged(earlier: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Both, each file once, its last row; in the order of the zoo, others by name."""
    order = {name: number for number, name in enumerate(ZOO.entries)}
    kept = {(row["network"], row["written by"]): row for row in [*earlier, *rows]}
    return sorted(kept.values(), key=lambda row: (order.get(str(row["network"]), len(order)), str(row["network"])))


def main(
    models: Annotated[list[Path] | None, typer.Argument(help="float networks to run in the zoo's place")] = None,
    only: Annotated[str, typer.Option(help="a regular expression: of NETWORK.EXPORTER-OPSET")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="processes side by side")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="one file of each network")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="write the networks' files anew")] = False,
    seconds: Annotated[float, typer.Option(help="of computing that one file may take")] = 240.0,
    profile: Annotated[int, typer.Option(help="profile so many of the slowest")] = 0,
    folder: Annotated[Path, typer.Option(help="where the networks' files go")] = Path("artifacts/zoo"),
    save: Annotated[bool, typer.Option(help="keep results and page")] = True,
) -> None:
    """Take a zoo of networks, or given files, through all of qpipe.

    Example: python tools/zoo.py --only mobilenet --quick
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // jobs)))
    folder.mkdir(parents=True, exist_ok=True)
    for verb in ("inspect", "calibrate", "export", "validate"):
        getattr(qpipe, verb)  # What children share need not be loaded in each.
    todo = jobs_of(only, models or [], folder, quick=quick)
    results = Results.load("zoo") if save else Results("zoo")
    title = GIVEN if models else NETWORKS
    rows: list[Row] = []
    begin = time.monotonic()
    for job, answer in answers(todo, seconds=seconds, count=jobs, fresh=fresh):
        row = row_of(job, answer)
        typer.echo(f"{time.monotonic() - begin:6.0f} s {job.network}.{job.written}: {zoo_page.line(row)}")
        rows.append(row)
        results.tables[title] = merged(results.tables.get(title, []), rows)
        if save:
            # One after the other: a run may take hours.
            results.save(tell=False)
    if not rows:
        raise typer.BadParameter(f"{only}: no network has such a name")
    if profile:
        slowest = sorted(rows, key=lambda row: -zoo_page.total(row))[:profile]
        names = [(row["network"], row["written by"]) for row in slowest]
        again = [job for job in todo if (job.network, job.written) in names]
        found = answers(again, seconds=4 * seconds, count=1, fresh=False, profiled=True)
        results.add(zoo_page.PROFILES, [{"network": job.network, **row} for job, part in found for row in part])
    if save:
        results.save()
        zoo_page.write(results.tables)


if __name__ == "__main__":
    run_tool(main)
