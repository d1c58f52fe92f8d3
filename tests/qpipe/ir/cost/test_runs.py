from fractions import Fraction

import pytest

from qpipe.arith.mls.formats import ElementFormat, MlsFormat
from qpipe.ir.cost.energy import energies, operation_rows, part_rows, run_row, saving
from qpipe.ir.cost.inference import planned_layers
from qpipe.ir.cost.prices import PriceList
from qpipe.ir.cost.runs import Comparison, Run, equation_9, float_network, low_bit_products, quantized_network
from qpipe.ir.cost.training import LowBit, float_step, low_bit_step
from qpipe.ir.quantized.plan import plan_quantization
from support.counting import counted, residual

ROUNDING = 1e-12
"""Sums of products of a few floats."""

E24 = ElementFormat(2, 4)
MLS = MlsFormat(E24)
FORMATS = LowBit(weight=MLS, activation=MLS, error=MLS)
PRICES = PriceList.model_validate(
    {
        "unit": "float32 additions",
        "covers": ["training"],
        "multiply": {"float32": 4.0, "element8": "4/7"},
        "add": {"float32": 1.0, "int16": "1/20"},
    }
)
EVERYTHING = PriceList.model_validate(
    {"unit": "pJ", "multiply": {"float32": 10.0, "int8": 1.0}, "add": {"float32": 2.0, "int32": 1.0}}
)


def runs_of_residual(batch: int = 2) -> tuple[list[Run], list[Comparison]]:
    model = residual()
    exports = {"int8": planned_layers(plan_quantization(model.graph))}
    return float_network(counted(model), batch, FORMATS, exports)


def test_equation_9_is_6_83() -> None:
    """`(4 + 8/9 + 1/9) / (4/7 + 1/20 (8/9 + 1/9) + 1/9)`: the paper says 6.8."""
    plain, low_bit = equation_9(E24, E24)
    assert plain.to_json() == {"multiply float32": 9, "add float32": 9}
    assert low_bit.to_json() == {"multiply ⟨2, 4⟩": 9, "add int16": 9, "add float32": 1}
    expected = 5 / (Fraction(4, 7) + Fraction(1, 20) + Fraction(1, 9))
    ratio = PRICES.total(plain) / PRICES.total(low_bit)
    assert ratio == pytest.approx(float(expected), rel=ROUNDING)
    assert f"{ratio:.2f}" == "6.83"


def test_runs_of_a_float_network() -> None:
    runs, compared = runs_of_residual()
    assert [(run.name, run.use, run.images) for run in runs] == [
        ("float step", "training", 2),
        ("low-bit step", "training", 2),
        ("float inference", "inference", 1),
        ("int8 inference", "inference", 1),
    ]
    assert [one.what for one in compared] == [
        "equation 9",
        "low-bit products, 2 images",
        "whole step, 2 images",
        "int8 inference",
    ]
    assert compared[2].plain == runs[0].operations
    assert compared[2].other == runs[1].operations
    assert runs_of_residual(1)[1][2].what == "whole step, 1 image"


def test_products_alone_are_those_that_become_low_bit() -> None:
    network = counted(residual())
    plain, low_bit = low_bit_products(float_step(network, 1), low_bit_step(network, 1, FORMATS))
    macs = 3 * sum(sizes.macs for layer, sizes in network.products if not layer.is_edge)
    assert plain.to_json() == {"multiply float32": macs, "add float32": macs}
    assert low_bit.to_json()["multiply ⟨2, 4⟩"] == macs
    assert "add int32" not in low_bit.to_json()


def test_a_qdq_network() -> None:
    model = residual()
    layers = planned_layers(plan_quantization(model.graph))
    network = counted(model)
    runs, compared = quantized_network(network, 2, layers, 10)
    assert [run.name for run in runs] == ["float step", "simulated step", "float inference", "integer inference"]
    assert [one.what for one in compared] == ["simulated step", "integer inference"]
    # Quantizers come on top of float.
    assert energies(compared[0].other - compared[0].plain, "training", {"all": EVERYTHING})["all"]
    final, compared = quantized_network(network, 2, layers, None)
    assert [run.name for run in final] == ["float inference", "integer inference"]


def test_rows_add_up() -> None:
    runs, compared = runs_of_residual()
    lists = {"all": EVERYTHING, "equation-9": PRICES}
    rows = [run_row(run, lists) for run in runs]
    for run, row in zip(runs, rows, strict=True):
        parts = part_rows(run, lists)
        assert {part.run for part in parts} == {run.name}
        for name in lists:
            found = [part.energies[name] for part in parts]
            if name == "equation-9" and run.use == "inference":
                assert row.energies[name] is None
                assert set(found) == {None}
            else:
                assert row.energies[name] == pytest.approx(sum(e for e in found if e is not None), rel=ROUNDING)
        kinds = operation_rows(runs, lists)
        costs = [kind.counts[run.name] * (kind.prices["all"] or 0) for kind in kinds]
        assert row.energies["all"] == pytest.approx(sum(costs), rel=ROUNDING)
    for one in compared:
        ratios = saving(one, lists).ratios
        assert ratios["all"] == pytest.approx(EVERYTHING.total(one.plain) / EVERYTHING.total(one.other), rel=ROUNDING)
        assert (ratios["equation-9"] is None) == (one.use == "inference")


def test_a_kind_that_a_list_does_not_cover_has_no_price_in_it() -> None:
    runs, _ = runs_of_residual()
    kinds = {row.operation: row for row in operation_rows(runs, {"equation-9": PRICES})}
    assert kinds["multiply int8"].prices == {"equation-9": None}
    assert kinds["multiply float32"].prices == {"equation-9": 4}
    assert kinds["multiply int8"].counts["float step"] == 0
