"""What runs cost by price lists: as rows of tables, and how many times less than in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qpipe.arith.mls.accumulator import Accumulator
from qpipe.errors import RecipeError
from qpipe.ir.cost.operations import Operation, Operations
from qpipe.ir.cost.prices import PriceList, Use
from qpipe.ir.cost.runs import Comparison, Run

Energies = dict[str, float | None]
"""By the names of price lists; None where one does not price such a run."""
PriceLists = Mapping[str, PriceList]


@dataclass(frozen=True)
class PartRow:
    """One part of a run (see `qpipe.ir.cost.parts.Part`), and what it costs."""

    run: str
    name: str
    stage: str
    elements: int
    macs: int
    is_low_bit: bool
    operations: dict[str, int]
    energies: Energies


@dataclass(frozen=True)
class OperationRow:
    """One kind of operation: how many each run has, by its name, and the price of one."""

    operation: str
    counts: dict[str, int]
    prices: Energies


@dataclass(frozen=True)
class RunRow:
    """A run as a whole. use: a training step, or inference. images: of which its operations and energies are."""

    name: str
    use: Use
    images: int
    macs: int
    energies: Energies


@dataclass(frozen=True)
class Saving:
    """How many times less energy than in float something takes."""

    what: str
    use: Use
    ratios: Energies


@dataclass(frozen=True)
class AccumulatorRow:
    """A layer of a low-bit step: for each of its products how many one sum has, and the sum's bits, sign included."""

    layer: str
    terms: dict[str, int]
    bits: dict[str, int]


def accumulator_rows(found: Mapping[str, Sequence[Accumulator]]) -> list[AccumulatorRow]:
    """A row for each layer, by its name."""
    return [
        AccumulatorRow(layer, {one.product: one.terms for one in of}, {one.product: one.bits for one in of})
        for layer, of in found.items()
    ]


def run_row(run: Run, lists: PriceLists) -> RunRow:
    """A run as a whole; RecipeError, with the list's name, where a price is missing."""
    macs = sum(part.macs for part in run.parts)
    return RunRow(run.name, run.use, run.images, macs, energies(run.operations, run.use, lists))


def part_rows(run: Run, lists: PriceLists) -> list[PartRow]:
    """A row for each part of a run."""
    return [
        PartRow(
            run=run.name,
            name=part.name,
            stage=part.stage,
            elements=part.elements,
            macs=part.macs,
            is_low_bit=part.is_low_bit,
            operations=part.operations.to_json(),
            energies=energies(part.operations, run.use, lists),
        )
        for part in run.parts
    ]


def operation_rows(runs: Sequence[Run], lists: PriceLists) -> list[OperationRow]:
    """A row for each kind of operation that a run has, in the order of their names."""
    totals = {run.name: run.operations for run in runs}
    uses: dict[Operation, set[Use]] = {}
    for run in runs:
        for one in totals[run.name]:
            uses.setdefault(one, set()).add(run.use)
    return [
        OperationRow(
            operation=str(one),
            counts={name: total[one] for name, total in totals.items()},
            prices={n: p.price(one) if uses[one].intersection(p.covers) else None for n, p in lists.items()},
        )
        for one in sorted(uses, key=str)
    ]


def saving(compared: Comparison, lists: PriceLists) -> Saving:
    """Of one arithmetic over float."""
    before = energies(compared.plain, compared.use, lists)
    after = energies(compared.other, compared.use, lists)
    pairs = {name: (before[name], after[name]) for name in lists}
    ratios = {name: None if b is None or not a else b / a for name, (b, a) in pairs.items()}
    return Saving(compared.what, compared.use, ratios)


def energies(operations: Operations, use: Use, lists: PriceLists) -> Energies:
    """What operations cost; RecipeError, with the list's name, where a price is missing."""
    found: Energies = {}
    for name, prices in lists.items():
        try:
            found[name] = prices.total(operations) if use in prices.covers else None
        except RecipeError as error:
            raise RecipeError(f"{name}: {error}") from None
    return found
