"""`qpipe energy`: what a network's arithmetic costs, in float and in fewer bits."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import JsonValue

from qpipe.cli.options import JsonOption, ModelArgument, PictureOption, expand_settings
from qpipe.cli.output import emit, print_table, say, working
from qpipe.settings import EnergySettings, TorchSettings

if TYPE_CHECKING:
    from qpipe.ir.cost.energy import RunRow
    from qpipe.verbs.energy import EnergyReport

Row = Mapping[str, JsonValue]


@expand_settings
def energy(
    model: ModelArgument,
    settings: EnergySettings,
    source: TorchSettings,
    picture: PictureOption = None,
    json: JsonOption = False,
) -> None:
    """Count a network's operations, and price them.

    A training step and inference of one image, in float and in fewer bits: of a float network low-bit training and the
    int8 and int4 exports, of a QDQ file what it computes itself. Arithmetic alone: moving data is not counted.

    \b
    Example:
      qpipe energy resnet20.onnx --element 2,4
      qpipe energy resnet20.onnx --element 2,1 --prices equation-9 --picture e.png
    """
    import qpipe

    with working():
        report = qpipe.energy(model, **settings.arguments(), **source.arguments(), picture=picture)

    def show() -> None:
        _show(report)
        if picture is not None:
            say(f"wrote {picture}")

    emit(json, report.to_json(), show)


def _show(report: "EnergyReport") -> None:
    """Operations by kind and parts, of training and of inference, the runs as wholes, and last what is saved."""
    for use in ("training", "inference"):
        runs = [run for run in report.runs if run.use == use]
        lists = [name for name in report.units if any(run.energies[name] is not None for run in runs)]
        if not runs:
            continue
        title = f"{use}, {runs[0].images} image{'s' if runs[0].images > 1 else ''}"
        print_table(f"{title}: operations, and the price of one", _operations(report, runs, lists))
        if lists:
            print_table(f"{title}: {report.units[lists[0]]} by {lists[0]}", _parts(report, runs, lists[0]))
        if use == "training" and report.accumulators:
            print_table(f"{title}: bits of what sums the products of one scale", _accumulators(report))
    print_table("energy", [_whole(report, run) for run in report.runs])
    for name, title in report.titles.items():
        say(f"{name}: {title}" if title else name)
    for note in report.notes:
        say(f"note: {note}")
    rows: list[Row] = [{"": one.what, "of": one.use, **one.ratios} for one in report.savings]
    print_table("times less energy than in float", rows)


def _operations(report: "EnergyReport", runs: Sequence["RunRow"], lists: Sequence[str]) -> list[Row]:
    """A row for each kind that these runs have: how many, and the price of one."""
    return [
        {"operation": row.operation}
        | {run.name: float(row.counts[run.name]) or None for run in runs}
        | {name: row.prices[name] for name in lists}
        for row in report.operations
        if any(row.counts[run.name] for run in runs)
    ]


def _parts(report: "EnergyReport", runs: Sequence["RunRow"], name: str) -> list[Row]:
    """A row for each part of these runs, with its share of the last, and the whole; by one price list."""
    rows: dict[tuple[str, str], dict[str, JsonValue]] = {}
    last, whole = runs[-1].name, runs[-1].energies[name]
    for part in report.parts:
        if any(part.run == run.name for run in runs):
            row = rows.setdefault((part.name, part.stage), {"part": part.name, "pass": part.stage})
            energy = row[part.run] = part.energies[name]
            if part.run == last and whole and energy is not None:
                row["of it, %"] = round(100 * energy / whole, 2)
    return [*rows.values(), {"part": "all", "pass": "", **{run.name: run.energies[name] for run in runs}}]


def _accumulators(report: "EnergyReport") -> list[Row]:
    """A row for each layer, with the bits and the number of terms of each of its products."""
    products = dict.fromkeys(product for row in report.accumulators for product in row.bits)
    return [
        {"layer": row.layer}
        | {name: f"{row.bits[name]} ({row.terms[name]} terms)" for name in products if name in row.bits}
        for row in report.accumulators
    ]


def _whole(report: "EnergyReport", run: "RunRow") -> Row:
    energies = {f"{name}, {unit}": run.energies[name] for name, unit in report.units.items()}
    return {"run": run.name, "images": run.images, "MACs": float(run.macs), **energies}
