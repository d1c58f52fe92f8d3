"""The numbers of the figures, as the rows of tables: a layer, then what each run has for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qpipe.reporting.noise import diagnosed, layer_names, lossy, ratios
from qpipe.reporting.run import Run

Columns = Mapping[str, Sequence[Any] | None]


def step_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Figure 1 and the layers' means of Figure 2 as rows: layer, then for each run bits, step and neuron cosine."""
    shown = [found for *_, found in diagnosed(runs)]
    if not shown:
        return []
    columns = [
        {
            "bits": found.weight_bits,
            "step": found.step_cosine,
            "neuron": found.neuron_cosine.layers if found.neuron_cosine else None,
        }
        for found in shown
    ]
    return _rows(enumerate(layer_names([found.layers for found in shown])), columns)


def noise_tables(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """The ratios as rows, of weights and of activations: name, then for each run bits, dB before and after."""
    shown = [found for *_, found in diagnosed(runs) if found.sqnr_before and found.sqnr_after]
    tables: dict[str, list[dict[str, Any]]] = {}
    for part in ("weight", "activation") if shown else ():
        is_weight = part == "weight"
        names = layer_names([found.layers if is_weight else found.activations for found in shown])
        columns: list[Columns] = []
        for found in shown:
            before, after = ratios(found, part)
            bits = found.weight_bits if is_weight else found.activation_bits
            columns.append({"bits": bits, "before": before, "after": after})
        tables[part] = _rows([(i, names[i]) for i in lossy(shown, part)], columns)
    return tables


def _rows(names: Iterable[tuple[int, str]], runs: Sequence[Columns]) -> list[dict[str, Any]]:
    """For each position with its name what the columns of each run have there; None where they end before."""

    def cells(columns: Columns, i: int) -> dict[str, Any]:
        return {key: values[i] if values is not None and i < len(values) else None for key, values in columns.items()}

    return [{"layer": name, "runs": [cells(columns, i) for columns in runs]} for i, name in names]
