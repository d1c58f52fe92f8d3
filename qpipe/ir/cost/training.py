"""The operations of a training step: in float, on low-bit elements, or with simulated quantizers.

A step is that of a batch: forward, the gradients of what has any, and SGD with momentum and weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from qpipe.arith.mls.accumulator import Accumulator, accumulators
from qpipe.arith.mls.formats import MlsFormat
from qpipe.ir.cost.network import CountedLayer, CountedNetwork, ProductSizes
from qpipe.ir.cost.operations import FLOAT32, INT32, Integer, Operations
from qpipe.ir.cost.parts import BACKWARD, BIAS, FORWARD, INPUT_GRADIENT, UPDATE, WEIGHT_GRADIENT, Part, Tally, name_of
from qpipe.ops.work import FUNCTION, Work

CROSS_ENTROPY: Final = (FUNCTION + Work(multiply=1, add=3, compare=1), Work(multiply=1, add=1))
"""For each number of the outputs, forward and backward: of Softmax and the logarithm, stable ones."""
SGD: Final = Work(multiply=3, add=3)
"""Of a parameter: weight decay, momentum, the step."""
SIMULATED: Final = (Work(multiply=2, add=2, compare=2), Work(compare=2))
"""A quantizer in float32: to steps and back, rounded by adding and subtracting a large number, clipped; its gradient
passes where nothing was clipped.
"""
QUANTIZATION: Final = "quantize {}"
DRAW: Final = Integer(16)
"""The random bits of stochastic rounding; a step of a shift register is taken for an addition."""

_Products = Callable[[Tally, CountedLayer, ProductSizes], None]


@dataclass(frozen=True, kw_only=True)
class LowBit:
    """The formats of low-bit training. ends: whether the first and the last layer have them too."""

    weight: MlsFormat
    activation: MlsFormat
    error: MlsFormat
    ends: bool = False


def float_step(network: CountedNetwork, batch: int) -> tuple[Part, ...]:
    """All in float32."""

    def products(tally: Tally, layer: CountedLayer, sizes: ProductSizes) -> None:
        _float_products(tally, layer, sizes, batch)

    return _step(network, batch, products)


def low_bit_step(network: CountedNetwork, batch: int, formats: LowBit) -> tuple[Part, ...]:
    """Products on low-bit elements, with what quantizes their operands; all else in float32.

    Source: the MLS paper, Algorithms 1 and 2, section 4.2 and Figure 4 (b).
    """

    def products(tally: Tally, layer: CountedLayer, sizes: ProductSizes) -> None:
        if layer.is_edge and not formats.ends:
            _float_products(tally, layer, sizes, batch)
        else:
            _low_bit_products(tally, layer, sizes, batch, formats)

    return _step(network, batch, products)


def low_bit_accumulators(network: CountedNetwork, batch: int, formats: LowBit) -> dict[str, tuple[Accumulator, ...]]:
    """By the names of the layers on low-bit elements: how wide the integers of each of their products become."""
    return {
        layer.layer.name: tuple(_accumulators(layer, sizes, batch, formats).values())
        for layer, sizes in network.products
        if formats.ends or not layer.is_edge
    }


def simulated_step(network: CountedNetwork, batch: int, activations: int) -> tuple[Part, ...]:
    """That of a QDQ network: products in float32 on numbers that simulated quantizers rounded.

    activations: elements of what activation quantizers round for one image. What a weight format does besides rounding
    is not counted.
    """
    tally = Tally(float_step(network, batch))
    weights = sum(sizes.weights for _, sizes in network.products)
    for operand, elements in (("weights", weights), ("activations", batch * activations)):
        for stage, work in zip((FORWARD, BACKWARD), SIMULATED, strict=True):
            tally.add_work(QUANTIZATION.format(operand), stage, elements, work, FLOAT32)
    return tally.parts


def _step(network: CountedNetwork, batch: int, products: _Products) -> tuple[Part, ...]:
    tally = Tally()
    for layer in network.layers:
        if layer.product is not None:
            products(tally, layer, layer.product)
        for node in layer.nodes:
            count, work = batch * node.elements, node.work
            name = BIAS if layer.product and node.node is layer.layer.node else node.node.op_type
            tally.add_work(name, FORWARD, count, work.training_forward, FLOAT32)
            if node.is_trained:
                tally.add_work(name, BACKWARD, count, work.backward, FLOAT32)
    sums = batch * network.gradient_sums
    tally.add_work("sums of gradients", BACKWARD, sums, Work(add=1), FLOAT32)
    for stage, of_output in zip((FORWARD, BACKWARD), CROSS_ENTROPY, strict=True):
        tally.add_work("cross entropy", stage, batch * network.outputs, of_output, FLOAT32)
    tally.add_work("SGD", UPDATE, network.parameters, SGD, FLOAT32)
    return tally.parts


def _stages(layer: CountedLayer) -> list[str]:
    return [FORWARD, *([INPUT_GRADIENT] if layer.passes_gradient else []), WEIGHT_GRADIENT]


def _results(sizes: ProductSizes, batch: int) -> dict[str, int]:
    """Elements of what each of a step's products gives."""
    return {FORWARD: batch * sizes.outputs, INPUT_GRADIENT: batch * sizes.inputs, WEIGHT_GRADIENT: sizes.weights}


def _float_products(tally: Tally, layer: CountedLayer, sizes: ProductSizes, batch: int) -> None:
    results, macs = _results(sizes, batch), batch * sizes.macs
    for stage in _stages(layer):
        operations = Operations()
        operations.put_work(macs, Work(multiply=1, add=1), FLOAT32)
        tally.add(name_of(layer), stage, results[stage], operations, macs=macs)


def _low_bit_products(tally: Tally, layer: CountedLayer, sizes: ProductSizes, batch: int, formats: LowBit) -> None:
    """What each needs is quantized once: the error for both of its gradients, the weights for the whole batch."""
    results, macs = _results(sizes, batch), batch * sizes.macs
    w, a, e = formats.weight, formats.activation, formats.error
    operands = {FORWARD: (w, a), INPUT_GRADIENT: (w, e), WEIGHT_GRADIENT: (a, e)}
    activation = (batch, *sizes.activation[1:])
    for stage, found in _accumulators(layer, sizes, batch, formats).items():
        summed = batch * sizes.touched if stage == INPUT_GRADIENT else results[stage]
        operations = low_bit_product(found, *operands[stage], macs, summed)
        # The scales of both tensors, and those of groups that are the same along the whole sum.
        operations.put(results[stage], "multiply", FLOAT32)
        tally.add(name_of(layer), stage, results[stage], operations, macs=macs, is_low_bit=True)
    error = (batch, sizes.weight[0], sizes.positions)
    for operand, stage, fmt, shape, groups in (
        ("weights", FORWARD, w, sizes.weight, sizes.convolution.groups),
        ("activations", FORWARD, a, activation, 1),
        ("errors", BACKWARD, e, error, 1),
    ):
        count = math.prod(shape)
        operations = quantization(count, math.prod(fmt.group_shape(shape, groups)))
        tally.add(QUANTIZATION.format(operand), stage, count, operations)


def _accumulators(layer: CountedLayer, sizes: ProductSizes, batch: int, formats: LowBit) -> dict[str, Accumulator]:
    """Of each of a step's products, by its stage."""
    activation = (batch, *sizes.activation[1:])
    roles = (formats.weight, formats.activation, formats.error)
    found = accumulators(sizes.convolution, sizes.weight, activation, formats=roles)
    by_stage = dict(zip((FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT), found, strict=True))
    return {stage: by_stage[stage] for stage in _stages(layer)}


def low_bit_product(found: Accumulator, left: MlsFormat, right: MlsFormat, macs: int, results: int) -> Operations:
    """So many products of elements, for so many numbers of a result.

    Those of one scale are added as integers. Where a number has several such sums, they are brought together by their
    scales, in float32 (the adder tree of Figure 4). A product of two scales is a shift; with mantissas of 1 bit it adds
    the number's half or quarter, once (equation 8).
    """
    operations, sums, sum_of = Operations(), results * found.partial_sums, Integer(found.bits)
    operations.put(macs, "multiply", left.element, right.element)
    operations.put(macs - sums, "add", sum_of)
    if found.partial_sums > 1:
        operations.put(sums, "shift", sum_of)
        operations.put(sums * max(fmt.group.mantissa for fmt in (left, right) if fmt.axes), "add", sum_of)
        operations.put(sums, "add", FLOAT32)
    return operations


def quantization(elements: int, groups: int) -> Operations:
    """Algorithm 1 on a tensor: maxima, division, stochastic rounding, saturation; and each group's own scale.

    An exponent and a mantissa are fields of the number (section 4.1), and cost nothing to find. Division by a scale is
    a multiplication, by what is found once for a group. Rounding adds random bits to the mantissa.
    """
    operations = Operations()
    operations.put_work(elements, Work(multiply=1, compare=1), FLOAT32)
    operations.put(elements, "add", DRAW)
    operations.put_work(elements, Work(add=1, compare=1), INT32)
    operations.put_work(groups, Work(multiply=2, compare=1), FLOAT32)
    operations.put(groups, "add", INT32)
    return operations
