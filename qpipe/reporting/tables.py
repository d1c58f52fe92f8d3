"""The numbers of the figures, as the rows of tables: a layer, then what each run has for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qpipe.reporting.noise import diagnosed, layer_names, lossy, ratios
from qpipe.reporting.run import Run


def step_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Figure 1 and the layers' means of Figure 2 as rows: layer, then for each run bits, step and neuron cosine."""
    shown = [found for *_, found in diagnosed(runs)]
    if not shown:
        return []
    names = layer_names([found.layers for found in shown])
    return [
        {
            "layer": name,
            "runs": [
                {
                    "bits": _at(found.weight_bits, i),
                    "step": _at(found.step_cosine, i),
                    "neuron": _at(found.neuron_cosine.layers if found.neuron_cosine else None, i),
                }
                for found in shown
            ],
        }
        for i, name in enumerate(names)
    ]


def noise_tables(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """The ratios as rows, of weights and of activations: name, then for each run bits, dB before and after."""
    shown = [found for *_, found in diagnosed(runs) if found.sqnr_before and found.sqnr_after]
    tables: dict[str, list[dict[str, Any]]] = {}
    for part in ("weight", "activation") if shown else ():
        is_weight = part == "weight"
        names = layer_names([found.layers if is_weight else found.activations for found in shown])
        tables[part] = [
            {
                "layer": names[i],
                "runs": [
                    {
                        "bits": _at(found.weight_bits if is_weight else found.activation_bits, i),
                        "before": _at(ratios(found, part)[0], i),
                        "after": _at(ratios(found, part)[1], i),
                    }
                    for found in shown
                ],
            }
            for i in lossy(shown, part)
        ]
    return tables


def _at(values: Sequence[Any] | None, index: int) -> Any:
    return values[index] if values is not None and index < len(values) else None
