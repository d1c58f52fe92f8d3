"""SSP: delta's line, the draws, what is left unquantized, and evaluation, which never is."""

from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passes.quantizing.calibrate_on_signs import CalibrateOnSigns
from passes.quantizing.expand_bases import ExpandBases
from qpipe.formats.dorefa import DoReFa
from qpipe.train.companions.blocks import blocks_of
from qpipe.train.companions.navigation import input_quantizer
from qpipe.train.companions.stochastic import StochasticPrecision, block_fragments, layer_fragments
from qpipe.train.executor import Executor
from qpipe.train.step import ProductStep, Step
from support.networks import Network
from support.quantize import quantized
from support.run import assert_exact, evaluated
from support.training import batch
from support.zoo.residual import made as made_network
from support.zoo.residual import norm_conv, post_activation
from support.zoo.trainable import in_training, plain_qdq, residual_qdq, weighted

END = Fraction(20, 35)
INNER = (1, 2, 3, 4)
"""Of the plain network: between the first convolution and the Gemm."""


def made(
    executor: Executor | None = None, *more: Executor, fragments: str = "layers", **options: Any
) -> tuple[StochasticPrecision, Executor]:
    model = plain_qdq()
    executor = executor or in_training(model)
    policy = {"draws": "apart", "ratio": 0.5, "end": END, "seed": 3, **options}
    parts = (
        block_fragments(executor, blocks_of(model, executor)) if fragments == "blocks" else layer_fragments(executor)
    )
    return StochasticPrecision([executor, *more], parts, **policy), executor


def products(executor: Executor) -> list[ProductStep]:
    return [step for step in executor.products() if step.position in INNER]


def drawn(executor: Executor) -> list[tuple[bool, bool]]:
    """Whether weights and activations are quantized, layer by layer."""
    found = []
    for step in products(executor):
        source = input_quantizer(executor, step)
        assert source is not None
        found.append((step.module.rounds, source.rounds))
    return found


def all_draws(module: StochasticPrecision, executor: Executor, updates: int, done: Fraction) -> np.ndarray:
    """`[updates, layers, 2]`."""
    found = []
    for update in range(updates):
        module.begin_update(done, update)
        found.append(drawn(executor))
    return np.array(found)


def test_delta_is_that_of_the_paper() -> None:
    """A half at first, 0 at the 20th of 35 epochs."""
    module, _ = made()
    assert [module.ratio(Fraction(epoch, 35)) for epoch in (0, 10, 20, 21, 35)] == [0.5, 0.25, 0.0, 0.0, 0.0]
    assert module.ratio(Fraction(19, 35)) > 0


@cache
def some_network() -> Executor:
    return in_training(plain_qdq())


@given(ratio=st.floats(0, 1), end=st.fractions(Fraction(1, 100), 1), done=st.fractions(0, 1))
def test_delta_falls_on_a_line(ratio: float, end: Fraction, done: Fraction) -> None:
    module, _ = made(some_network(), ratio=ratio, end=end)
    expected = ratio * (1 - done / end) if done < end else 0
    assert module.ratio(done) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize(("done", "delta"), [(Fraction(0), 0.5), (Fraction(4, 35), 0.4), (Fraction(18, 35), 0.05)])
def test_the_frequencies(done: Fraction, delta: float) -> None:
    """Each is quantized with probability 1 - delta, whatever the others are."""
    module, executor = made()
    updates = 1500
    found = all_draws(module, executor, updates, done).reshape(updates, -1)
    deviation = 4.5 * (delta * (1 - delta) / updates) ** 0.5  # one in a hundred thousand is farther off
    assert np.abs(found.mean(0) - (1 - delta)).max() < deviation
    together = (found[:, :, None] & found[:, None, :]).mean(0)
    spread = 4.5 * ((1 - delta) ** 2 * (1 - (1 - delta) ** 2) / updates) ** 0.5
    assert np.abs(together - (1 - delta) ** 2)[~np.eye(8, dtype=bool)].max() < spread


@pytest.mark.parametrize("draws", ["apart", "together"])
@pytest.mark.parametrize("fragments", ["blocks", "layers"])
def test_the_policies(fragments: Any, draws: Any) -> None:
    """One draw a block or a layer; for weights and activations apart, or one for both."""
    module, executor = made(fragments=fragments, draws=draws)
    found = all_draws(module, executor, 60, Fraction(0))
    weights, activations = found[..., 0], found[..., 1]
    assert bool((weights == activations).all()) == (draws == "together")
    for kind in (weights, activations):
        for first in (0, 2):
            assert bool((kind[:, first] == kind[:, first + 1]).all()) == (fragments == "blocks")
        assert not (kind[:, 1] == kind[:, 2]).all()
        assert 0 < kind.mean() < 1


def test_the_first_and_the_last_layer_are_never_drawn() -> None:
    module, executor = made(ratio=1.0)
    module.begin_update(Fraction(0), 0)
    assert drawn(executor) == [(False, False)] * 4
    rounds = [layer.rounds for layer in weighted(executor)]
    assert rounds == [True, False, False, False, False, True]
    positions = [step.position for step in executor.steps if step.quantizer is not None and step.quantizer.rounds]
    # What the last block gives, and the pool's; and the input's.
    assert positions == [4, 5, 6]
    assert executor.input_quantizers
    assert executor.input_quantizers[0].rounds


def test_a_projection_belongs_to_its_block() -> None:
    """The paper's fragment is the block, with what stands on its skip: it reads what the block's first layer reads."""
    _, network = made_network(post_activation)
    model = quantized(network, Network(3, 8, 8).inputs(16), weight_bits=4, activation_bits=4)
    executor = in_training(model)
    blocks = blocks_of(model, executor)
    (projecting,) = [block for block in blocks if block.on_skip]
    assert [step.layer.op_type for step in projecting.on_skip] == ["Conv"]
    fragment = block_fragments(executor, blocks)[blocks.index(projecting)]
    assert fragment == (*projecting.products, *projecting.on_skip)
    StochasticPrecision([executor], [fragment], draws="apart", ratio=1.0, end=END, seed=0).begin_update(Fraction(0), 0)
    assert {step.module.rounds for step in fragment} == {False}


def block_at_the_start(last: bool) -> ir.Model:
    """Its first convolution reads the network's input, and with `last` there is no layer behind the block."""
    net = Network(8, 8, 8)
    y = norm_conv(net, net.op("Relu", norm_conv(net, "x", 8, 8)), 8, 8)
    skip = norm_conv(net, "x", 8, 8, 1)
    x = net.op("Add", y, skip, name="add1")
    model = net.model(x if last else net.head(net.op("Relu", x), 8))
    return quantized(model, net.inputs(16), weight_bits=4, activation_bits=4)


def test_a_block_that_begins_with_the_first_layer() -> None:
    model = block_at_the_start(last=False)
    executor = in_training(model)
    module = StochasticPrecision(
        [executor], block_fragments(executor, blocks_of(model, executor)), draws="apart", ratio=1.0, end=END, seed=0
    )
    module.begin_update(Fraction(0), 0)
    left_out = [step for step in executor.products() if not step.module.rounds]
    (block,) = blocks_of(model, executor)
    assert left_out == [block.products[1]]


def test_layers_that_read_the_same_signs_are_one_fragment() -> None:
    """Of a block's bases the first convolutions; drawn apart, the last one would have decided for all."""
    net, model = made_network(post_activation)
    ExpandBases()(model)
    CalibrateOnSigns(inputs=[net.inputs(16)])(model)
    quantized(model, net.inputs(16), quantizer="groupnet")
    executor = in_training(model)
    module = StochasticPrecision([executor], layer_fragments(executor), draws="together", ratio=0.5, end=END, seed=0)
    seen = set()
    for update in range(20):
        module.begin_update(Fraction(0), update)
        for block in blocks_of(model, executor):
            for step in block.products:
                source = input_quantizer(executor, step)
                assert source is not None
                assert step.module.rounds == source.rounds
                seen.add((step, source.rounds))
    assert len(seen) == 2 * sum(len(block.products) for block in blocks_of(model, executor))


def test_nothing_is_left_out_at_the_end() -> None:
    module, executor = made(ratio=1.0)
    module.begin_update(Fraction(0), 0)
    for done in (END, Fraction(1)):
        module.begin_update(done, 1)
        assert drawn(executor) == [(True, True)] * 4


def test_draws_hang_on_seed_and_update_alone() -> None:
    runs = []
    for seed, updates in ((3, range(8)), (3, reversed(range(8))), (4, range(8))):
        module, executor = made(seed=seed)
        np.random.default_rng(0)
        torch.manual_seed(seed)
        found = {}
        for update in updates:
            module.begin_update(Fraction(1, 100), update)
            found[update] = drawn(executor)
        runs.append([found[update] for update in range(8)])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert len({str(draw) for draw in runs[0]}) > 1


def test_one_draw_serves_f_and_h() -> None:
    executor = in_training(plain_qdq())
    twin = executor.twin()
    module, _ = made(executor, twin)
    for update in range(8):
        module.begin_update(Fraction(0), update)
        assert drawn(executor) == drawn(twin)


@pytest.mark.parametrize("quantizer", ["fixed-point", "dorefa"])
def test_what_is_not_drawn_is_before_its_rounding(quantizer: str) -> None:
    model = plain_qdq(quantizer=quantizer)
    executor = in_training(model, "running")
    module, _ = made(executor, ratio=1.0)
    inputs: dict[Step, torch.Tensor] = {}
    for step in products(executor):
        step.module.register_forward_pre_hook(
            lambda layer, args, step=step: inputs.update({step: args[0].detach().clone()})
        )
    beyond = [False, False]
    x = 8 * batch()[0]  # beyond the ranges that calibration saw
    for ratio, update in ((1.0, 0), (0.0, 1)):
        module.begin_update(Fraction(0) if ratio else END, update)
        executor(x)
        for step in products(executor):
            layer, source = step.module, input_quantizer(executor, step)
            assert layer.quantizer is not None
            assert source is not None
            raw = layer.quantizer.unrounded(layer.weight)
            assert isinstance(layer.quantizer.format, DoReFa) == (quantizer == "dorefa")
            assert torch.equal(raw, layer.weight) == (quantizer == "fixed-point")
            assert torch.equal(layer.weight_in_use(), raw) == bool(ratio)
            steps = inputs[step] / source.grid.scale
            assert torch.equal(steps, steps.round()) != bool(ratio)
            beyond[bool(ratio)] |= bool((steps > source.grid.qmax).any())
            assert steps.min() == 0  # the ReLU stays
    assert beyond == [False, True]  # nor is it clipped


@pytest.mark.parametrize("make", [plain_qdq, residual_qdq])
def test_evaluation_is_always_quantized(make: Any) -> None:
    """To the bit that of the file, in the middle of a run in which nothing was drawn."""
    model = make()
    executor = Executor(model, batch_norm="batch")
    x = batch()[0].numpy()
    expected = evaluated(executor, x)[0]
    module = StochasticPrecision(
        [executor], block_fragments(executor, blocks_of(model, executor)), draws="apart", ratio=1.0, end=END, seed=0
    )
    module.begin_update(Fraction(0), 0)
    np.testing.assert_array_equal(evaluated(executor, x)[0], expected)
    assert_exact(model, x, executor)
    executor.train()
    executor(batch()[0])
    assert not np.array_equal(evaluated(executor, x)[0], expected)  # the running statistics moved


def test_gradients_reach_what_is_not_drawn() -> None:
    module, executor = made(ratio=1.0)
    module.begin_update(Fraction(0), 0)
    x, labels = batch()
    torch.nn.functional.cross_entropy(executor(x)[0].flatten(1), labels).backward()
    assert all(layer.weight.grad.abs().max() > 0 for layer in weighted(executor))


def test_what_was_in_use_is_no_parameter() -> None:
    """Neither of the module nor in the checkpoint, where the weight itself was used."""
    module, executor = made(ratio=1.0)
    names = list(executor.state_dict())
    for done in (Fraction(0), END, Fraction(0)):
        module.begin_update(done, 0)
        executor(batch()[0])
        assert list(executor.state_dict()) == names
