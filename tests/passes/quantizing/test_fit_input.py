"""The input's own step and zero point: chosen where they err less, exact in exports and training, and taken back."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

import qpipe
from passes.quantizing.fit_input import take_unit, write_units
from passes.shipping.finalize import Finalize
from passes.shipping.remove_quantizers import RemoveQuantizers
from qpipe.errors import ModelError
from qpipe.ir.quantized.view import read_view
from qpipe.runtime.session import open_session, run_batches
from qpipe.train.executor import Executor
from support.networks import Network

FLOAT32_SUMS = 1e-5
"""Of the outputs' size: a unit that is no power of two is rounded in each weight."""


def network() -> Network:
    n = Network(3, 8, 8)
    n.head(n.op("Relu", n.conv("x", 3, 6, bias=True)), 6)
    return n


def shifted(count: int, *, seed: int = 0) -> np.ndarray:
    """From -0.9 to 2.1, both ends reached often, as pixels' are."""
    drawn = np.random.default_rng(seed).integers(0, 256, (count, 3, 8, 8))
    return (drawn / 255 * 3 - 0.9).astype(np.float32)


def calibrated(x: np.ndarray, **options: object) -> ir.Model:
    n = network()
    return qpipe.calibrate(n.proto(n.nodes[-1].output[0]), x, batches=1, batch_size=len(x), **options)  # type: ignore[arg-type]


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    array: np.ndarray = next(run_batches(open_session(model), [x]))[0]
    return array


def finalized(model: ir.Model) -> ir.Model:
    final = model.clone()
    Finalize()(final)
    return final


def test_step_and_zero_point_fit_the_data() -> None:
    x = shifted(64)
    (quantizer,) = read_view(calibrated(x)).inputs
    step = float(quantizer.step)
    assert step == pytest.approx(3 / 253, rel=1e-6)
    assert quantizer.grid.zero_point % 2 == 0
    assert -quantizer.grid.zero_point * step <= x.min()
    assert (255 - quantizer.grid.zero_point) * step >= x.max()
    assert 1 <= quantizer.unit < 2


def test_what_powers_of_two_hold_as_well_keeps_them() -> None:
    x = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8)).astype(np.float32)
    (quantizer,) = read_view(calibrated(x)).inputs
    assert (quantizer.unit, quantizer.grid.exponent, quantizer.grid.zero_point) == (1, 0, 0)


def test_rare_ends_have_room() -> None:
    x = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
    x[0, 0, 0, 0] = 7.9
    (quantizer,) = read_view(calibrated(x)).inputs
    if quantizer.unit != 1:
        assert (255 - quantizer.grid.zero_point) * float(quantizer.step) > 1.04 * x.max()


def test_the_input_errs_less() -> None:
    x, errors = shifted(64), []
    for rounding in ("ceil", "fill"):
        (quantizer,) = read_view(calibrated(x, activation_rounding=rounding)).inputs
        grid, step = quantizer.grid, float(quantizer.step)
        errors.append(np.square(np.clip(np.round(x / step), grid.qmin, grid.qmax) * step - x).mean())
    assert errors[1] < 0.2 * errors[0]


@pytest.mark.parametrize("kind", ["qoperator", "integer", "qdq"])
def test_exports_are_exact(kind: str, tmp_path: Path) -> None:
    model, x = calibrated(shifted(64)), shifted(32, seed=1)
    qpipe.export(model, tmp_path / "net.onnx", format=kind)
    assert np.array_equal(run(ir.load(tmp_path / "net.onnx"), x), run(finalized(model), x))


def test_pixels_come_in_through_the_same_codes(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
    preprocess = {"mean": (0.3, 0.4, 0.5), "std": (0.33, 0.3, 0.28)}
    n = network()
    model = qpipe.calibrate(n.proto(n.nodes[-1].output[0]), pixels, batches=1, batch_size=64, preprocess=preprocess)
    assert read_view(model).inputs[0].unit != 1
    # The gate compares every integer with the specification.
    qpipe.export(model, tmp_path / "net.onnx", format="integer", io="integer")


def test_training_evaluates_what_the_file_says() -> None:
    model, x = calibrated(shifted(64)), shifted(32, seed=1)
    with torch.no_grad():
        (found,) = Executor(model).eval()(torch.from_numpy(x))
    assert np.array_equal(found.numpy().astype(np.float32), run(finalized(model), x))


def test_without_quantizers_it_is_the_float_network() -> None:
    n, x = network(), shifted(16)
    model = calibrated(shifted(64), fit_weights=False)
    RemoveQuantizers()(model)
    exact = run(n.model(n.nodes[-1].output[0]), x)
    # Weights of the folded layer lie where their first quantizer left them.
    assert np.abs(run(model, x) - exact).max() <= 0.01 * np.abs(exact).max()
    assert [value.name for value in model.graph.inputs] == ["x"]


def test_a_float_network_with_a_unit_divides_by_it() -> None:
    n, x = network(), shifted(4)
    model = n.model(n.nodes[-1].output[0])
    exact = run(model, x)
    (value,) = model.graph.inputs
    value.metadata_props["qpipe.unit"] = "[1.5, -7, 100]"
    conv = next(node for node in model.graph if node.op_type == "Conv")
    weight = conv.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.5), name=weight.name)
    write_units(model)
    assert conv.inputs[0] is not None
    assert conv.inputs[0].name == "x/units"
    assert np.abs(run(model, x) - exact).max() <= FLOAT32_SUMS * np.abs(exact).max()
    assert take_unit(value) is None


def test_an_odd_zero_point_is_refused() -> None:
    model = calibrated(shifted(64))
    (quantizer,) = read_view(model).inputs
    for node in model.graph:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"} and node.name.startswith("x_"):
            zero_point = node.inputs[2]
            assert zero_point is not None
            zero_point.const_value = ir.tensor(np.uint8(77), name=zero_point.name)
    with pytest.raises(ModelError, match="zero point 77, expected an even one"):
        read_view(model)
    assert quantizer.grid.zero_point != 77
