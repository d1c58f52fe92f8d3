"""GroupNet from calibration to what ships: what is trained, the finalized file and every export agree."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

import qpipe
from passes.quantizing.calibrate_on_signs import CalibrateOnSigns
from passes.quantizing.expand_bases import ExpandBases
from passes.quantizing.rescale_channels import RescaleChannels
from passes.skips.strip_skips import StripSkips
from qpipe.errors import RecipeError
from qpipe.formats.base import TrainableWeight
from qpipe.formats.binary import BASES, Binary, is_sign
from qpipe.ir.graph.binary_blocks import binary_blocks, binary_layers
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.view import Weighted, read_final_view, read_view
from qpipe.nodes import DOMAIN
from qpipe.runtime.gate import run_gate
from qpipe.train.companions.auxiliary import AuxiliaryGradient
from qpipe.train.companions.blocks import blocks_of
from qpipe.train.companions.navigation import step_with
from qpipe.train.executor import Executor
from qpipe.train.write_back import write_back
from support.networks import Network
from support.quantize import finalized, quantized, to_integer, to_qoperator
from support.run import assert_exact
from support.training import cross_entropy, train_steps
from support.zoo.digits import PREPROCESS, digits_model
from support.zoo.residual import Build, inverted_residuals, made, post_activation


def groupnet(build: Build = post_activation) -> tuple[Network, ir.Model]:
    net, model = made(build)
    ExpandBases()(model)
    CalibrateOnSigns(inputs=[net.inputs(16)])(model)
    quantized(model, net.inputs(16), quantizer="groupnet")
    RescaleChannels()(model)
    return net, model


def test_bases_are_binary_on_one_grid_and_summed_exactly() -> None:
    _, model = groupnet()
    layers = {layer.name: layer for layer in read_view(model).layers}
    names = binary_layers(model)
    assert len(names) == 4 * BASES
    for name in names:
        weight = layers[name].weight
        assert isinstance(weight, TrainableWeight)
        assert isinstance(weight.format, Binary)
        assert is_sign(layers[name].sources[0].grid_or_table)
    # Of each block one table for what all its bases read, and one within each.
    assert sum(node.op_type == "GatherElements" for node in model.graph) == 2 * (1 + BASES)
    for block in binary_blocks(model):
        sums = [layers[name] for name in block.sums]
        totals = {add.quantizer.output for add in sums if add.quantizer is not None}
        inputs = [quantizer for add in sums for quantizer in add.sources]
        bases = {quantizer.grid for quantizer in inputs if quantizer.output not in totals}
        assert len(sums) == BASES - 1
        assert len(bases) == 1
        common = bases.pop()
        assert common.qmax * BASES <= 127
        for add in sums:
            assert add.quantizer is not None
            # The sum of integers on these steps lies on them: nothing is rounded, and nothing cut off.
            assert (add.quantizer.grid.exponent, add.quantizer.grid.qmax) == (common.exponent, 127)
        assert layers[block.end].sources[0].grid.exponent == common.exponent or (
            layers[block.end].sources[1].grid.exponent == common.exponent
        )


def test_partial_sums_round_nothing() -> None:
    """What the chain of Adds gives is the sum of the bases' own values."""
    net, model = groupnet()
    executor = Executor(model)
    block = binary_blocks(model)[0]
    sums = [step_with(executor, name) for name in block.sums]
    bases = [value for step in sums for value in step.reads]
    values: dict[ir.Value, torch.Tensor] = {}
    results = {step.gives for step in sums}
    kept = executor.start(torch.from_numpy(net.inputs()))
    for step in executor.steps[: sums[-1].position + 1]:
        executor.run(kept, [step])
        values |= kept
    total = sum(values[base] for base in bases if base not in results)
    assert torch.equal(total, values[sums[-1].gives])


@pytest.mark.parametrize(("build", "mode"), [(post_activation, "batch"), (inverted_residuals, "running")])
def test_everything_that_ships_is_what_was_trained(build: Build, mode: Any) -> None:
    """Before training and after, and in what training reads back from the file."""
    net, model = groupnet(build)
    x = net.inputs(16, seed=3)
    assert_exact(model, x)
    executor = Executor(model, batch_norm=mode)
    before = [layer.weight.detach().clone() for layer in executor.weighted()]
    train_steps(executor, net.inputs(16), lr=0.01)
    assert all(not torch.equal(old, new.weight) for old, new in zip(before, executor.weighted(), strict=True))
    write_back(executor)
    assert_exact(model, x, executor)
    assert_exact(model, x)
    spec = finalized(model)
    assert not certify(read_final_view(spec)).problems
    for exported in (to_qoperator(spec), to_integer(spec)):
        assert run_gate(spec, exported).tensors == 1 + len(read_view(spec).layers)
        assert DOMAIN not in exported.opset_imports
        assert not exported.functions


def test_auxiliary_gradients_reach_every_base() -> None:
    net, model = groupnet()
    executor = Executor(model, batch_norm="batch").train()
    blocks = blocks_of(model, executor)
    assert [(block.name, len(block.products)) for block in blocks] == [("add1", 2 * BASES), ("add2", 2 * BASES)]
    auxiliary = AuxiliaryGradient(executor, blocks, weight=1.0, layerwise=False, image_shape=(3, 8, 8))
    x, labels = torch.from_numpy(net.inputs()), torch.arange(8) % 5
    (cross_entropy(executor(x)[0].flatten(1), labels, x) + auxiliary.extra_loss(cross_entropy, labels, x)).backward()
    auxiliary.end_backward()
    assert all(layer.weight.grad is not None and layer.weight.grad.any() for layer in executor.weighted())


def test_the_verb_refuses_bits() -> None:
    message = r"^weight_bits: 4, expected none with the quantizer 'groupnet': a binary network has one bit$"
    with pytest.raises(RecipeError, match=message):
        qpipe.calibrate(digits_model(), "digits", quantizer="groupnet", weight_bits=4, batches=1)


@pytest.mark.slow
def test_the_verbs(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save_model(digits_model(), path)
    options: dict[str, Any] = {"quantizer": "groupnet", "batches": 1, "batch_size": 64}
    qpipe.calibrate(path, "digits", tmp_path / "qdq.onnx", preprocess=PREPROCESS, **options)
    trained: dict[str, Any] = {"recipe": "ag-binary", "epochs": 1, "flip": False}
    qpipe.finetune(tmp_path / "qdq.onnx", "digits", tmp_path / "tuned.onnx", method="ag", **trained)
    exports = [qpipe.export(tmp_path / "tuned.onnx", format=form) for form in ("qdq", "qoperator", "integer")]
    for row in qpipe.validate([tmp_path / "tuned.onnx", *exports], "digits", limit=90).rows[1:]:
        assert row.integers_equal


def test_codes_are_signs() -> None:
    _, model = groupnet()
    names = binary_layers(model)
    layers = [layer for layer in read_final_view(finalized(model)).layers if layer.name in names]
    assert {layer.name for layer in layers} == names
    for layer in layers:
        assert isinstance(layer, Weighted)
        assert set(np.unique(layer.weight.codes)) == {-1, 1}  # type: ignore[union-attr]


def test_without_skips_a_block_ends_in_the_sum_of_its_bases() -> None:
    net, model = groupnet()
    StripSkips()(model)
    executor = Executor(model)
    blocks = blocks_of(model, executor)
    assert [block.end.layer.name for block in blocks] == ["add1_bases5", "add2_bases5"]
    assert_exact(model, net.inputs(8, seed=3))
