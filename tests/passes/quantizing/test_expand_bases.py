"""Five bases in the place of a block's main path, from what signs leave over of its weights."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.quantizing.expand_bases import ExpandBases
from qpipe.arith.spec import QuantSpec
from qpipe.errors import LoweringError
from qpipe.formats.binary import BASES, base_grid
from qpipe.ir.graph.binary_blocks import BinaryBlock, binary_blocks
from qpipe.nodes import require_constant
from support.networks import Network, checked, ops
from support.run import run
from support.zoo.residual import inverted_residuals, made, post_activation, pre_activation, unused

SUMMED_OTHERWISE = 1e-5
"""Of values of size 1: float32 sums in another order."""


def expanded(model: ir.Model) -> ir.Model:
    before = unused(model)
    assert ExpandBases()(model).modified
    assert unused(model) <= before
    return checked(model)


def weight(model: ir.Model, name: str) -> np.ndarray:
    node = next(node for node in model.graph if node.name == name)
    return require_constant(node, 1, "weight").astype(np.float64)


def magnitude(w: np.ndarray) -> np.ndarray:
    return np.abs(w).mean(axis=(1, 2, 3), keepdims=True)


def test_each_block_has_five_bases_and_a_chain_of_adds() -> None:
    _, model = made(post_activation)
    expanded(model)
    first, second = binary_blocks(model)
    bases = [f"{name}_base{k}" for k in range(2, 6) for name in ("conv3", "conv6")]
    assert first == BinaryBlock(
        "add1", ("conv3", "conv6", *bases), "add1", tuple(f"add1_bases{k}" for k in range(2, 6))
    )
    assert len(second.layers) == 2 * BASES
    counts = {op: ops(model).count(op) for op in set(ops(model))}
    # Stem, projection, and five of each of four; the head's ReLU alone is left.
    assert counts["Conv"] == counts["BatchNormalization"] == 2 + 4 * BASES
    assert counts["Add"] == 2 * BASES
    assert counts["Relu"] == 1


def test_the_bases_start_from_what_signs_leave_over() -> None:
    _, model = made(post_activation)
    pretrained = {name: weight(model, name) for name in ("conv3", "conv6", "conv10")}
    expanded(model)
    for name, left in pretrained.items():
        for k in range(1, BASES + 1):
            own = weight(model, name if k == 1 else f"{name}_base{k}")
            np.testing.assert_allclose(own, left, atol=SUMMED_OTHERWISE)
            left = left - magnitude(own) * np.where(own < 0, -1, 1)
        # Five signs are nearer than one.
        once = pretrained[name] - magnitude(pretrained[name]) * np.where(pretrained[name] < 0, -1, 1)
        assert np.square(left).mean() < 0.1 * np.square(once).mean()


def equal_bases(model: ir.Model, source: ir.Model) -> None:
    """Give every base the weights of the first."""
    for node in model.graph:
        if node.op_type == "Conv" and "_base" in str(node.name):
            first = weight(source, str(node.name).split("_base")[0]).astype(np.float32)
            model.graph.initializers[str(node.inputs[1].name)].const_value = ir.tensor(first)  # type: ignore[union-attr]


def test_equal_bases_add_up_to_the_block() -> None:
    """Without the ReLUs, which are gone on purpose; and the head's ReLU stays."""
    net, model = made(post_activation)
    source = model.clone()
    for node in list(source.graph):
        if node.op_type == "Relu" and node.name != "out2":
            node.outputs[0].replace_all_uses_with(node.inputs[0])
    expanded(model)
    equal_bases(model, source)
    found, expected = run(model, net.inputs())[0], run(source, net.inputs())[0]
    np.testing.assert_allclose(found, expected, rtol=SUMMED_OTHERWISE, atol=SUMMED_OTHERWISE)


def test_other_blocks_and_a_second_run() -> None:
    _, model = made(inverted_residuals)
    expanded(model)
    assert len(binary_blocks(model)[0].layers) == 3 * BASES
    count = len(ops(model))
    assert not ExpandBases()(model).modified
    assert len(ops(model)) == count


@pytest.mark.parametrize("count", [2, 3, 5])
def test_partial_sums_stay_on_the_grid(count: int) -> None:
    common = base_grid([QuantSpec.signed(8, -6), QuantSpec.signed(8, -4), *[QuantSpec.signed(8, -5)] * (count - 2)])
    assert count * common.qmax <= 127
    assert (common.qmin, common.zero_point) == (-common.qmax, 128)
    # At least 0.7 of the coarsest one's range, less than 3.
    assert 0.7 < common.qmax * common.scale / (128 * 2.0**-4) < 3


def test_what_can_not_be_is_refused() -> None:
    _, model = made(pre_activation)
    with pytest.raises(
        LoweringError, match=r"^block 'add1': no BatchNormalization follows Conv 'conv6', expected one$"
    ):
        ExpandBases()(model)
    net = Network(3, 8, 8)
    plain = net.model(net.head(net.op("Relu", net.norm(net.conv("x", 3, 8), 8)), 8))
    with pytest.raises(LoweringError, match=r"^no inner residual blocks, expected some"):
        ExpandBases()(plain)
