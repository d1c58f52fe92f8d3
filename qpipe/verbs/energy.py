"""What a network's arithmetic costs, in float and in fewer bits: `qpipe.energy`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, get_args

import onnx_ir as ir

from passes.normalize import normalize
from qpipe.arith.mls.generators import Role
from qpipe.errors import ModelError, RecipeError
from qpipe.ir.cost.energy import (
    AccumulatorRow,
    OperationRow,
    PartRow,
    RunRow,
    Saving,
    accumulator_rows,
    operation_rows,
    part_rows,
    run_row,
    saving,
)
from qpipe.ir.cost.inference import planned_layers, viewed_layers
from qpipe.ir.cost.network import CountedNetwork, count_network, elements_of
from qpipe.ir.cost.prices import FOLDER, PriceList
from qpipe.ir.cost.runs import Comparison, Run, float_network, quantized_network
from qpipe.ir.cost.training import LowBit, low_bit_accumulators
from qpipe.ir.files.infer import infer_shapes
from qpipe.ir.files.torch_import import ModelLike, resolve_model
from qpipe.ir.quantized.kind import Kind, find_kind
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.ir.quantized.view import View, read_view
from qpipe.nodes import describe_some
from qpipe.settings import EnergySettings, TorchSettings, validated
from qpipe.settings.arithmetic import ArithmeticSettings
from qpipe.settings.energy import PRICE_LISTS
from qpipe.settings.toml import about_file, read_toml, toml_key
from qpipe.verbs.options import takes_options
from qpipe.verbs.pictures import check_picture
from qpipe.verbs.sources import ModelPath, model_name

EXPORTS: Final = (8, 4)
"""Bits of weights and activations of the exports that a float network is compared with."""


@dataclass(frozen=True)
class EnergyReport:
    """What the runs of a network are made of, and cost.

    kind: of the file. batch_size: images of a training step. titles, units: of the price lists, by their names.
    runs: a training step, and inference of one image, in float and otherwise. parts: of each run. operations: by kind.
    savings: how many times less than in float. accumulators: of a float network's low-bit step. notes: what was not
    counted, and why.
    """

    kind: str
    batch_size: int
    parameters: int
    titles: dict[str, str]
    units: dict[str, str]
    runs: tuple[RunRow, ...]
    parts: tuple[PartRow, ...]
    operations: tuple[OperationRow, ...]
    savings: tuple[Saving, ...]
    accumulators: tuple[AccumulatorRow, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@takes_options
def energy(
    model: ModelLike, *, settings: EnergySettings, source: TorchSettings, picture: ModelPath | None = None
) -> EnergyReport:
    """Count a network's operations by kind, and price them: a training step and inference, in float and in fewer bits.

    A float network's step is compared with that of low-bit training, its inference with the int8 and the int4 export;
    a QDQ file with the same in float. Arithmetic alone is counted: moving data is not, which commonly costs more.

    Args:
        model: float or QDQ: an .onnx path, a ModelProto, an onnx_ir.Model, a torch module, or `package.module:factory`.
        picture: where to draw what is saved, and where a step's energy goes: a .png or an .svg.

    Returns:
        A row for each run, part of a run and kind of operation, and how many times less energy than float it takes.

    Raises:
        ModelError, RecipeError, OutputError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> report = qpipe.energy("net.onnx", element=(2, 4), prices="equation-9")
        >>> report.savings[0].what, round(report.savings[0].ratios["equation-9"], 2)
        ('equation 9', 6.83)
    """
    check_picture(picture, [model, settings.prices])
    lists = {name: _price_list(name) for name in ([settings.prices] if settings.prices else PRICE_LISTS)}
    network = resolve_model(model, source.weights, source.input_shape)
    kind, view = find_kind(network)
    if view is None and kind not in {Kind.FLOAT, Kind.FOREIGN}:
        wanted = "expected a float network, or the QDQ file that it was made from"
        raise ModelError(f"{model_name(model)}: is an export ({kind.value}), {wanted}")
    counted, (runs, compared), notes = (
        _count_float(network, settings) if kind is Kind.FLOAT else _count_quantized(network, view, settings)
    )
    if counted.uncounted:
        names = ", ".join(f"{count} {op_type}" for op_type, count in counted.uncounted.items())
        notes.append(f"not counted, because nothing is known of their work: {names}")
    report = EnergyReport(
        kind=kind.value,
        batch_size=settings.batch_size,
        parameters=counted.parameters,
        titles={name: prices.title for name, prices in lists.items()},
        units={name: prices.unit for name, prices in lists.items()},
        runs=tuple(run_row(run, lists) for run in runs),
        parts=tuple(row for run in runs for row in part_rows(run, lists)),
        operations=tuple(operation_rows(runs, lists)),
        savings=tuple(saving(one, lists) for one in compared),
        accumulators=() if kind is not Kind.FLOAT else _accumulators(counted, settings),
        notes=tuple(notes),
    )
    if picture is not None:
        _draw(report, picture)
    return report


_Counting = tuple[CountedNetwork, tuple[list[Run], list[Comparison]], list[str]]


def _count_float(network: ir.Model, settings: EnergySettings) -> _Counting:
    normalize(network)
    graph, notes = network.graph, []
    plan = plan_quantization(graph)
    counted = count_network(graph, [*plan.layers, *plan.islands, *plan.lookups, *plan.tail])
    exports = {}
    if plan.unsupported:
        nodes = [layer.node for layer in plan.unsupported]
        notes.append(f"no export is counted: no layer of weights has an integer form: {describe_some(nodes)}")
    else:
        for bits in EXPORTS:
            exports[f"int{bits}"] = planned_layers(plan_quantization(graph, weight_bits=bits, activation_bits=bits))
    return counted, float_network(counted, settings.batch_size, _formats(settings), exports), notes


def _count_quantized(network: ir.Model, view: View | None, settings: EnergySettings) -> _Counting:
    # Of a file of another form, reading it says what is wrong.
    view = view or read_view(network)
    infer_shapes(network)
    counted = count_network(network.graph, [*view.layers, *view.islands, *view.lookups, *view.tail])
    simulated = None
    if not view.is_final:
        quantizers = [*view.inputs, *(layer.quantizer for layer in view.layers if layer.quantizer is not None)]
        simulated = sum(elements_of(quantizer.source) or 0 for quantizer in quantizers)
    found = quantized_network(counted, settings.batch_size, viewed_layers(view), simulated)
    return counted, found, ["low-bit training takes a float network: of a QDQ file none is counted"]


def _formats(settings: EnergySettings) -> LowBit:
    """Those that training with the same options has."""
    same = ArithmeticSettings(**settings.model_dump(include=set(ArithmeticSettings.model_fields)))
    return LowBit(**{role: same.format_of(role) for role in get_args(Role)}, ends=settings.low_bit_ends)


def _accumulators(counted: CountedNetwork, settings: EnergySettings) -> tuple[AccumulatorRow, ...]:
    return tuple(accumulator_rows(low_bit_accumulators(counted, settings.batch_size, _formats(settings))))


def _price_list(name: str) -> PriceList:
    """A built-in one, or a file; RecipeError where it is neither, or is not what a price list has to be."""
    path = Path(name) if name not in PRICE_LISTS else FOLDER / f"{name}.toml"
    if name not in PRICE_LISTS and path.suffix.lower() != ".toml":
        raise RecipeError(f"prices: {name!r}, expected {', '.join(PRICE_LISTS)}, or a .toml file")
    values = read_toml(path, "a price list")
    with about_file(path):
        return validated(PriceList, values, toml_key)


def _draw(report: EnergyReport, path: ModelPath) -> None:
    """What is saved, by each price list; and where the energy of the first two runs goes, by the first list."""
    from qpipe.reporting.energy import Panel, draw_panels, height_of, shares
    from qpipe.reporting.style import drawing, save_picture

    first, runs = next(iter(report.units)), [run.name for run in report.runs[:2]]
    saved = {name: [one.ratios[name] for one in report.savings] for name in report.units}
    parts = shares({run: [(p.name, p.energies[first] or 0) for p in report.parts if p.run == run] for run in runs})
    panels = [
        Panel("Times less energy than in float", "×", [one.what for one in report.savings], saved, "not priced"),
        Panel(f"Where it goes, by {first}", " %", *parts, "none"),
    ]
    with drawing(height_of(panels)) as figure:
        draw_panels(figure, panels, "Arithmetic alone, without moving data.")
        save_picture(figure, path, "energy", "how many times less energy than in float, and where it goes")
