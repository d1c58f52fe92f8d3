"""Sums of low-bit products are counted one by one, on lines in a circle, whose borders change nothing."""

from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.arith.mls.accumulator import Convolution, Product, accumulator
from qpipe.arith.mls.formats import ElementFormat, GroupFormat, Grouping, MlsFormat
from qpipe.ir.cost.network import ProductSizes
from qpipe.ir.cost.operations import FLOAT32, Integer, Operations, operation
from qpipe.ir.cost.parts import BACKWARD, FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, Part, all_operations
from qpipe.ir.cost.training import (
    LowBit,
    float_step,
    low_bit_product,
    low_bit_step,
    quantization,
    simulated_step,
)
from support.counting import counted, of_kind, residual

E24 = ElementFormat(2, 4)
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)


class Line(NamedTuple):
    """A convolution of one spatial dimension, `outputs` positions in a circle of `outputs * stride`."""

    batch: int
    groups: int
    group_in: int
    group_out: int
    kernel: int
    stride: int
    dilation: int
    outputs: int

    def sizes(self) -> ProductSizes:
        channels_in, channels_out = self.groups * self.group_in, self.groups * self.group_out
        weight, length = (channels_out, self.group_in, self.kernel), self.outputs * self.stride
        # Pads that give so many outputs, as the circle does.
        pad = (self.outputs - 1) * self.stride + (self.kernel - 1) * self.dilation + 1 - length
        convolution = Convolution((self.stride,), ((0, pad),), (self.dilation,), self.groups)
        macs = channels_out * self.group_in * self.kernel * self.outputs
        return ProductSizes(macs, weight, (1, channels_in, length), convolution)

    def products(self) -> Iterator[tuple[int, int, int, int, int, int]]:
        """Sample, output and input channel, output and input position, tap of each."""
        ranges = (self.batch, self.groups, self.group_out, self.group_in, self.outputs, self.kernel)
        for n, group, out, into, position, tap in product(*map(range, ranges)):
            x = (position * self.stride + tap * self.dilation) % (self.outputs * self.stride)
            yield n, group * self.group_out + out, group * self.group_in + into, position, x, tap


LAYER = ProductSizes(900, (1, 4, 3, 3), (1, 4, 5, 5), Convolution((1, 1), ((1, 1), (1, 1)), (1, 1)))
lines = st.builds(
    Line,
    batch=st.integers(1, 2),
    groups=st.integers(1, 2),
    group_in=st.integers(1, 3),
    group_out=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    # No tap comes around the circle to where another one was.
    outputs=st.integers(5, 6),
)


def scale(grouping: Grouping, first: int, second: int) -> tuple[int | None, int | None]:
    """Which group of its tensor a number is in."""
    return (first if grouping in {"n", "nc"} else None, second if grouping in {"c", "nc"} else None)


@given(line=lines, grouping=st.sampled_from(GROUPINGS))
def test_sums_are_those_of_one_scale(line: Line, grouping: Grouping) -> None:
    found: dict[Product, Counter[object]] = {name: Counter() for name in get_args(Product)}
    results: dict[Product, set[object]] = {name: set() for name in found}
    for n, out, into, position, x, tap in line.products():
        weight, activation, error = (scale(grouping, *pair) for pair in ((out, into), (n, into), (n, out)))
        entries: dict[Product, tuple[object, object]] = {
            "Conv(W, A)": ((n, out, position), (weight, activation)),
            "Conv(W, E)": ((n, into, x), (weight, error)),
            "Conv(A, E)": ((out, into, tap), (activation, error)),
        }
        for name, (result, scales) in entries.items():
            found[name][result, scales] += 1
            results[name].add(result)
    sizes, fmt = line.sizes(), MlsFormat(E24, grouping)
    assert sizes.outputs * line.batch == len(results["Conv(W, A)"])
    assert sizes.touched * line.batch == len(results["Conv(W, E)"])
    assert sizes.weights == len(results["Conv(A, E)"])
    for name in found:
        activation = (line.batch, *sizes.activation[1:])
        sums = accumulator(name, sizes.convolution, sizes.weight, activation, (fmt, fmt))
        products = low_bit_product(sums, fmt, fmt, line.batch * sizes.macs, len(results[name]))
        assert of_kind(products, "multiply") == sum(found[name].values())
        # What is not the first of its sum is added to it.
        local = sum(count - 1 for count in found[name].values())
        scaled = len(found[name]) if len(found[name]) > len(results[name]) else 0
        assert (of_kind(products, "shift"), products.to_json().get("add float32", 0)) == (scaled, scaled)
        assert of_kind(products, "add") == local + 2 * scaled


@pytest.mark.parametrize(("mantissa", "adds"), [(0, 0), (1, 100)])
def test_a_product_with_groups_is_shifted_and_goes_to_the_tree(mantissa: int, adds: int) -> None:
    fmt = MlsFormat(E24, "nc", GroupFormat(8, mantissa))
    sums = accumulator("Conv(W, A)", LAYER.convolution, LAYER.weight, LAYER.activation, (fmt, fmt))
    # Nine products of ⟨2, 4⟩ need 19 bits, where the paper has 16; with a mantissa a scale is a sum of two shifts.
    expected = {"multiply ⟨2, 4⟩": 900, "add int19": 800 + adds, "shift int19": 100, "add float32": 100}
    assert low_bit_product(sums, fmt, fmt, 900, 100 // sums.partial_sums).to_json() == expected


def test_a_sum_of_one_scale_is_the_result() -> None:
    fmt = MlsFormat(E24, "none")
    sums = accumulator("Conv(W, A)", LAYER.convolution, LAYER.weight, LAYER.activation, (fmt, fmt))
    assert low_bit_product(sums, fmt, fmt, 900, 25).to_json() == {"multiply ⟨2, 4⟩": 900, "add int21": 875}


def test_quantization_of_a_tensor() -> None:
    assert quantization(1000, 10).to_json() == {
        "multiply float32": 1020,
        "compare float32": 1010,
        "add int16": 1000,
        "add int32": 1010,
        "compare int32": 1000,
    }


def low_bit(grouping: Grouping = "nc", *, ends: bool = False) -> LowBit:
    weight, activation, error = (
        MlsFormat(element, grouping) for element in (ElementFormat(2, 1), E24, ElementFormat(0, 4))
    )
    return LowBit(weight=weight, activation=activation, error=error, ends=ends)


def find(parts: tuple[Part, ...], name: str, stage: str) -> Part:
    (found,) = (part for part in parts if (part.name, part.stage) == (name, stage))
    return found


def test_a_float_step() -> None:
    network, batch = counted(residual()), 3
    parts = float_step(network, batch)
    inner = [sizes for layer, sizes in network.products if not layer.is_edge]
    macs = batch * sum(sizes.macs for sizes in inner)
    for stage in (FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT):
        part = find(parts, "Conv", stage)
        assert (part.macs, part.operations.to_json()) == (macs, {"multiply float32": macs, "add float32": macs})
    assert find(parts, "Conv", WEIGHT_GRADIENT).elements == sum(sizes.weights for sizes in inner)
    assert find(parts, "Conv", INPUT_GRADIENT).elements == batch * sum(sizes.inputs for sizes in inner)
    # The image has no gradient.
    assert [part.stage for part in parts if part.name == "Conv, first or last"] == [FORWARD, WEIGHT_GRADIENT]
    norms = batch * (8 * 36 * 2 + 16 * 9 * 2)
    assert find(parts, "BatchNormalization", FORWARD).operations[operation("multiply", FLOAT32)] == 2 * norms
    assert find(parts, "BatchNormalization", BACKWARD).operations[operation("add", FLOAT32)] == 4 * norms
    assert find(parts, "sums of gradients", BACKWARD).operations.to_json() == {"add float32": batch * 2 * 8 * 36}
    # Once a step, whatever the batch.
    update = find(parts, "SGD", "update")
    assert update.operations.to_json() == dict.fromkeys(("multiply float32", "add float32"), 3 * network.parameters)


def test_a_low_bit_step_differs_in_its_inner_products_and_in_what_quantizes() -> None:
    network = counted(residual())
    plain, other = float_step(network, 3), low_bit_step(network, 3, low_bit())
    changed = [part for part in other if part not in plain]
    assert {(part.name, part.stage, part.is_low_bit) for part in changed} == {
        ("Conv", FORWARD, True),
        ("Conv", INPUT_GRADIENT, True),
        ("Conv", WEIGHT_GRADIENT, True),
        ("quantize weights", FORWARD, False),
        ("quantize activations", FORWARD, False),
        ("quantize errors", BACKWARD, False),
    }
    assert [part for part in plain if part not in other] == [
        find(plain, "Conv", stage) for stage in (FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT)
    ]
    inner = [sizes for layer, sizes in network.products if not layer.is_edge]
    elements = {part.name: part.elements for part in changed if part.name.startswith("quantize")}
    assert elements == {
        "quantize weights": sum(sizes.weights for sizes in inner),
        "quantize activations": 3 * sum(sizes.inputs for sizes in inner),
        "quantize errors": 3 * sum(sizes.outputs for sizes in inner),
    }


def test_operands_of_each_product() -> None:
    parts = low_bit_step(counted(residual()), 1, low_bit())
    kinds = {
        stage: {str(one) for one in find(parts, "Conv", stage).operations if one.kind == "multiply"}
        for stage in (FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT)
    }
    assert kinds == {
        FORWARD: {"multiply ⟨2, 4⟩ × ⟨2, 1⟩", "multiply float32"},
        INPUT_GRADIENT: {"multiply ⟨0, 4⟩ × ⟨2, 1⟩", "multiply float32"},
        WEIGHT_GRADIENT: {"multiply ⟨2, 4⟩ × ⟨0, 4⟩", "multiply float32"},
    }


def test_the_ends_can_be_low_bit_too() -> None:
    parts = low_bit_step(counted(residual()), 1, low_bit(ends=True))
    assert {part.name for part in parts if part.macs and not part.is_low_bit} == set()
    # The image is quantized, but needs no gradient.
    assert [part.stage for part in parts if part.name == "Conv, first or last"] == [FORWARD, WEIGHT_GRADIENT]


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_without_groups_nothing_is_shifted(grouping: Grouping) -> None:
    total = all_operations(part for part in low_bit_step(counted(residual()), 2, low_bit(grouping)) if part.is_low_bit)
    assert bool(of_kind(total, "shift")) == (grouping != "none")


def test_simulated_quantizers_come_on_top() -> None:
    network = counted(residual())
    plain, other = float_step(network, 3), simulated_step(network, 3, 50)
    weights = sum(sizes.weights for _, sizes in network.products)
    forward, backward = Operations(), Operations()
    count = weights + 3 * 50
    for kind, times in (("multiply", 2), ("add", 2), ("compare", 2)):
        forward.put(times * count, kind, FLOAT32)  # type: ignore[arg-type]
    backward.put(2 * count, "compare", FLOAT32)
    more = [part for part in other if part not in plain]
    assert all_operations(part for part in more if part.stage == FORWARD) == forward
    assert all_operations(part for part in more if part.stage == BACKWARD) == backward
    assert Integer(16) not in {one.left for part in more for one in part.operations}
