"""Skips that are carried wider than the layers around them read: the plan, and the same integers everywhere."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from passes.quantizing.calibrate_percentile import CalibratePercentile
from passes.quantizing.fix_ranges import FixRanges
from passes.quantizing.insert_quantizers import InsertQuantizers
from passes.quantizing.round_ranges import RoundRanges
from qpipe.arith.spec import QuantSpec
from qpipe.calibration.observe import ObservedRange
from qpipe.errors import RecipeError
from qpipe.ir.graph.layer_options import LayerOptions, LayerTable
from qpipe.ir.quantized.plan import QuantizationPlan, plan_quantization
from qpipe.ir.quantized.view import QuantizedLayer, read_view
from qpipe.runtime.gate import run_gate
from qpipe.train.executor import Executor
from qpipe.train.write_back import write_back
from support.networks import Network, checked
from support.quantize import finalized, quantized, to_integer, to_qoperator
from support.run import assert_exact
from support.training import train_steps
from support.zoo.residual import (
    BUILDS,
    Build,
    activated_branch,
    inverted_residuals,
    made,
    norm_conv,
    post_activation,
    pre_activation,
    stripped,
)

W4A4: dict[str, Any] = {"weight_bits": 4, "activation_bits": 4}


def plan(model: ir.Model, skip_bits: int | None = 8, **options: Any) -> QuantizationPlan:
    return plan_quantization(model.graph, **{**W4A4, **options}, skip_bits=skip_bits)


def bits(found: QuantizationPlan) -> dict[str, int]:
    return {str(value.name): planned.bits for value, planned in found.quantizers.items()}


def narrowed(found: QuantizationPlan) -> dict[str, int]:
    return {str(value.name): planned.bits for value, planned in found.narrowed.items()}


def block(net: Network, x: str, name: str, skip: str | None = None, **attributes: Any) -> str:
    """A basic block whose tensors are `NAME_inner`, `NAME_branch` and `NAME`; each `_y`."""
    inner = net.op("Relu", norm_conv(net, x, 8, 8, **attributes), name=f"{name}_inner")
    branch = net.op("Identity", norm_conv(net, inner, 8, 8), name=f"{name}_branch")
    return net.op("Relu", net.op("Add", branch, skip or x), name=name)


def identities(net: Network) -> str:
    x = net.op("Relu", norm_conv(net, "x", 3, 8), name="stem")
    return net.head(block(net, block(net, x, "first"), "second"), 8)


def pooled_stem(net: Network) -> str:
    """ResNet-18's: the skip starts at a MaxPool, which carries."""
    x = net.op("Relu", norm_conv(net, "x", 3, 8), name="stem")
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], name="pool")
    return net.head(block(net, block(net, x, "first"), "second"), 8)


def pool_on_the_skip(net: Network) -> str:
    x = net.op("Relu", norm_conv(net, "x", 3, 8), name="stem")
    skip = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], name="mean")
    return net.head(block(net, block(net, x, "first", skip, strides=[2, 2]), "second"), 8)


def carriers_on_the_skip(net: Network) -> str:
    """ResNet's option A, without new channels: every second pixel, and a border of zeros."""
    x = net.op("Relu", norm_conv(net, "x", 3, 8), name="stem")
    ints = [net.constant(np.array(v)) for v in ([0, 0], [7, 7], [2, 3], [2, 2])]
    skip = net.op("Slice", x, ints[0], ints[1], ints[2], ints[3], name="slice")
    skip = net.op("Pad", skip, net.constant(np.array([0, 0, 0, 0, 0, 0, 0, 0])), name="pad")
    return net.head(block(net, block(net, x, "first", skip, strides=[2, 2]), "second"), 8)


def convolution_as_skip(net: Network) -> str:
    x = net.op("Relu", norm_conv(net, "x", 3, 8), name="stem")
    skip = norm_conv(net, x, 8, 8, 1, strides=[2, 2])
    return net.head(block(net, block(net, x, "first", skip, strides=[2, 2]), "second"), 8)


EXPECTED: dict[Callable[[Network], str], tuple[set[str], set[str]]] = {
    identities: ({"stem_y", "first_y"}, {"stem_y", "first_y"}),
    # The carrier has no quantizer of its own; what reads it behind has one.
    pooled_stem: ({"stem_y", "first_y"}, {"pool_y", "first_y"}),
    # The pool's result is on the skip as well, and nobody else's.
    pool_on_the_skip: ({"stem_y", "mean_y", "first_y"}, {"stem_y", "first_y"}),
    carriers_on_the_skip: ({"stem_y", "first_y"}, {"stem_y", "first_y"}),
    # Weights begin anew: their branch has 8 bits in any case, and what they read is as narrow as for all others.
    convolution_as_skip: ({"first_y"}, {"first_y"}),
}


def model_of(build: Callable[[Network], str]) -> tuple[Network, ir.Model]:
    net = Network(3, 8, 8)
    return net, net.model(build(net))


@pytest.mark.parametrize("build", EXPECTED)
def test_the_plan(build: Callable[[Network], str]) -> None:
    """Only what lies on a skip is wider, by name; its readers with weights have the width that they had."""
    _, model = model_of(build)
    wide, narrow = EXPECTED[build]
    before, found = plan(model, None), plan(model, 6)
    assert narrowed(before) == {}
    assert bits(found) == bits(before) | dict.fromkeys(wide, 6)
    assert {bits(before)[name] for name in wide} == {4}
    assert narrowed(found) == dict.fromkeys(narrow, 4)
    assert found.weight_bits == before.weight_bits
    # Of 8 bits and at most 4: nothing, and nothing.
    assert narrowed(plan(model, 4)) == narrowed(plan(model, 2)) == {}
    assert bits(plan(model, 4)) == bits(plan(model, 2)) == bits(before)
    assert narrowed(plan(model, 8, activation_bits=8)) == {}


def test_the_layer_options_have_the_last_word() -> None:
    _, model = model_of(identities)
    layers = LayerTable((LayerOptions("first", activation_bits=3), LayerOptions("second", activation_bits=5)))
    stem = next(node for node in model.graph if node.op_type == "Conv")
    found = plan(model, layers=layers)
    # `first` is told 3 bits, so the skip is not carried wider there.
    assert bits(found) | {"stem_y": 8, "first_y": 3, "second_y": 5} == bits(found)
    assert narrowed(found) == {"stem_y": 4}
    assert narrowed(plan(model, layers=LayerTable((LayerOptions(str(stem.name), activation_bits=4),)))) == {
        "first_y": 4
    }


def test_a_width_that_there_is_not() -> None:
    _, model = model_of(identities)
    with pytest.raises(RecipeError, match="skip_bits is 9, expected 2 to 8"):
        plan(model, 9)


def convolutions(model: ir.Model) -> list[QuantizedLayer]:
    return [layer for layer in read_view(model).layers if layer.op_type == "Conv"]


def adds(model: ir.Model) -> list[QuantizedLayer]:
    return [layer for layer in read_view(model).layers if layer.op_type == "Add"]


def assert_widths(model: ir.Model, narrow: int, wide: int) -> None:
    """Every convolution but the first reads `narrow` bits; every operand of an Add has at least `wide`."""
    first, *inner = convolutions(model)
    assert first.sources[0].grid.bits == 8
    assert {layer.sources[0].grid.bits for layer in inner} == {narrow}
    assert min(source.grid.bits for layer in adds(model) for source in layer.sources) == wide


ALL = [*EXPECTED, *(lambda net, build=build: build(net, True) for build in BUILDS)]
NAMES = [*(build.__name__ for build in EXPECTED), *(build.__name__ for build in BUILDS)]


@pytest.mark.parametrize(("narrow", "wide"), [(2, 8), (4, 6)])
@pytest.mark.parametrize("build", ALL, ids=NAMES)
def test_everything_computes_the_same(build: Callable[[Network], str], narrow: int, wide: int) -> None:
    """The executor and the finalized file on onnxruntime, before training and after."""
    net, model = model_of(build)
    ir.passes.common.RemoveUnusedNodesPass()(model)
    quantized(model, net.inputs(16), weight_bits=4, activation_bits=narrow, skip_bits=wide)
    x = net.inputs(16, seed=3)
    assert_exact(checked(model), x)
    executor = Executor(model)
    train_steps(executor, net.inputs(16))
    write_back(executor)
    assert_exact(model, x, executor)


@pytest.mark.slow
@pytest.mark.parametrize("build", [pooled_stem, pool_on_the_skip, convolution_as_skip])
def test_the_exports_compute_the_same(build: Callable[[Network], str]) -> None:
    net, model = model_of(build)
    spec = finalized(quantized(model, net.inputs(16), **W4A4, skip_bits=8))
    for exported in (to_qoperator(spec), to_integer(spec)):
        assert run_gate(spec, exported).tensors == 1 + len(read_view(spec).layers)


@pytest.mark.parametrize("build", EXPECTED)
@pytest.mark.parametrize(("narrow", "wide"), [(2, 8), (4, 6)])
def test_the_written_widths(build: Callable[[Network], str], narrow: int, wide: int) -> None:
    net, model = model_of(build)
    assert_widths(quantized(model, net.inputs(), weight_bits=4, activation_bits=narrow, skip_bits=wide), narrow, wide)


@pytest.mark.parametrize("build", [post_activation, inverted_residuals, pre_activation, activated_branch])
def test_stripped_it_is_as_if_there_had_been_no_skip(build: Build) -> None:
    """What was wider for the skip alone is narrow again, in training and in the file."""
    widths = []
    for skip_bits in (None, 8):
        net, model = made(build)
        stripped(quantized(model, net.inputs(16), **W4A4, skip_bits=skip_bits))
        widths.append([layer.sources[0].grid.bits for layer in convolutions(model)])
    assert widths[0] == widths[1]
    assert all(layer.op_type != "QuantizeLinear" for layer in read_view(model).layers)
    executor = Executor(model)
    train_steps(executor, net.inputs(16))
    write_back(executor)
    assert_exact(model, net.inputs(16, seed=3), executor)


def specs(model: ir.Model) -> tuple[QuantSpec, QuantSpec]:
    """Of the first Add's skip: as it is carried, and as the first block's first convolution reads it."""
    source = convolutions(model)[1].sources[0]
    (wide,) = {q.grid for q in adds(model)[0].sources} - {adds(model)[0].sources[0].grid}
    return wide, source.grid


def test_fixed_ranges_are_those_of_each_width() -> None:
    """`2**(p / 2) - 1`: 15, so 16, of 8 bits, and 3, so 4, of 4."""
    net, model = model_of(identities)
    FixRanges(activation_bits=4, skip_bits=8)(model)
    CalibratePercentile(inputs=[net.inputs()], activation_bits=4, skip_bits=8)(model)
    InsertQuantizers(**W4A4, skip_bits=8)(model)
    assert specs(model) == (QuantSpec.unsigned(8, 4 - 8), QuantSpec.unsigned(4, 2 - 4))
    assert_exact(checked(model), net.inputs(seed=3))


@pytest.mark.parametrize("rounding", ["ceil", "nearest", "least-error"])
def test_ranges_rounded_otherwise(rounding: Any) -> None:
    """Each of the two grids of a skip is rounded; the narrow one of "least-error" is rounded up."""
    net, model = model_of(identities)
    inputs = [net.inputs(16)]
    CalibratePercentile(inputs=inputs, activation_bits=4, skip_bits=8)(model)
    seen = {value.name: dict(value.metadata_props) for value in plan(model).narrowed}
    RoundRanges(rounding=rounding, activation_bits=4, skip_bits=8, inputs=inputs)(model)
    InsertQuantizers(**W4A4, skip_bits=8)(model)
    wide, narrow = specs(model)
    rounds: Any = "ceil" if rounding == "least-error" else rounding
    ranges = {
        key: ObservedRange(**json.loads(text)) for key, text in seen["stem_y"].items() if key.startswith("qpipe.range")
    }
    assert narrow == QuantSpec.unsigned(4, ranges["qpipe.range.narrow"].log2_ymax(rounds) - 4)
    if rounding != "least-error":
        assert wide == QuantSpec.unsigned(8, ranges["qpipe.range"].log2_ymax(rounds) - 8)
    assert_exact(checked(model), net.inputs(seed=3))
