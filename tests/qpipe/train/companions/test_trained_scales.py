"""Scales that train: which can, how they move, what stays together and exact, and that a stopped run goes on alike."""

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

import qpipe
from qpipe.data import Source
from qpipe.errors import ModelError
from qpipe.ops import Role
from qpipe.train.companions.best_epoch import BestEpoch
from qpipe.train.companions.make import make_companions
from qpipe.train.companions.moving_scales import MOST, moving_scales
from qpipe.train.companions.trained_scales import STEP, TURN, TrainedScales
from qpipe.train.executor import Executor
from qpipe.train.loop import train
from qpipe.train.write_back import write_back
from support.networks import Network
from support.quantize import quantized
from support.run import assert_exact
from support.training import (
    SETTINGS,
    InterruptedRunError,
    StopAfter,
    assert_same,
    bright_images,
    replace,
    state_of,
)
from support.zoo.every_op import NETWORKS, Build, build, concat, pools, separable
from support.zoo.trainable import IMAGE_SHAPE, network, plain_qdq, qdq, residual_qdq

FAST = 1e6
"""A rate at which some scales of eight updates move, as fast as they may."""


@pytest.fixture(scope="module")
def source() -> Source:
    return bright_images()


def scales_of(*networks: Executor, rate: float = 1.0, end: Fraction = Fraction(1, 2)) -> TrainedScales:
    return TrainedScales(networks, rate=rate, end=end)


def told(companion: TrainedScales) -> tuple[int, dict[str, int]]:
    facts: Any = companion.facts()["scales"]
    return facts["trained"], facts["moved"]


@torch.no_grad()
def move(companion: TrainedScales, offsets: list[float]) -> None:
    companion.offsets.copy_(torch.tensor(offsets))
    companion.begin_update(Fraction(0), 0)


@pytest.mark.parametrize("make", NETWORKS, ids=lambda make: make.__name__)
def test_scales_that_moved_are_exact(make: Build) -> None:
    """Finalized, the file gives on onnxruntime what the executor evaluates, wherever the scales are."""
    net, outputs = build(make)
    inputs = net.inputs()
    model = quantized(net.model(*outputs), inputs, bits=4)
    executor = Executor(model)
    scales = moving_scales([executor])
    rng = np.random.default_rng(1)
    moved = [scale.move(int(rng.choice([-1, 1]))) for scale in scales]
    write_back(executor)
    if make is not separable:  # ReLU6 bounds all but one
        assert any(moved)
    assert_exact(model, inputs, executor)
    again = Executor(model)
    assert [q.grid for _, q in again.named_quantizers()] == [q.grid for _, q in executor.named_quantizers()]


def test_what_carries_integers_moves_with_them() -> None:
    net, outputs = build(concat)
    executor = Executor(quantized(net.model(*outputs), net.inputs()))
    scales = moving_scales([executor])
    carriers = [step for step in executor.steps if step.layer.role is Role.CARRY]
    assert carriers
    for scale in scales:
        steps = [step for step in executor.steps if step.quantizer in scale.quantizers]
        before = {step: step.quantizer.grid.exponent for step in executor.steps if step.quantizer is not None}
        assert scale.move(1)
        after = {step: step.quantizer.grid.exponent for step in executor.steps if step.quantizer is not None}
        assert {step for step in before if after[step] == before[step] + 1} == set(steps)
    # What is joined with the network's input stays as it does.
    moves = [(step.layer.op_type, step.quantizer is not None and step.quantizer.moves) for step in carriers]
    assert moves == [("Concat", False), ("MaxPool", False), ("Concat", False), ("Flatten", True)]
    net, outputs = build(pools)
    executor = Executor(quantized(net.model(*outputs), net.inputs()))
    (flatten,) = [step for step in executor.steps if step.layer.role is Role.CARRY]
    (scale,) = [scale for scale in moving_scales([executor]) if flatten.quantizer in scale.quantizers]
    assert [step.layer.role for step in executor.steps if step.quantizer in scale.quantizers] == [Role.POOL, Role.CARRY]


def test_a_layer_counts_in_the_grids_as_they_are() -> None:
    executor = Executor(qdq())
    for scale in moving_scales([executor]):
        assert scale.move(2)
    by_value = {step.gives: step.quantizer for step in executor.steps}
    for step in executor.products():
        rounds = step.module.quantizer
        assert rounds is not None
        read = by_value.get(step.reads[0])
        assert rounds.source == (read or executor.input_quantizers[0]).grid
        assert rounds.rounded_to == (None if step.quantizer is None else step.quantizer.grid)


def test_what_a_bound_a_table_or_an_input_fixes_stays() -> None:
    net, outputs = build(separable)
    executor = Executor(quantized(net.model(*outputs), net.inputs()))
    moving = [q for scale in moving_scales([executor]) for q in scale.quantizers]
    for step in executor.steps:
        if step.quantizer is not None and step.layer.function is not None:
            assert (step.quantizer in moving) == (step.layer.function.bound == np.inf)
    assert executor.input_quantizers[0] not in moving
    net = Network(*IMAGE_SHAPE)
    alone = quantized(net.model(net.gemm(net.op("Flatten", "x"), 192, 5)), net.inputs())
    with pytest.raises(ModelError, match="train_scales: no scale can move, expected fixed-point weights"):
        scales_of(Executor(alone))


def test_beside_weights_of_other_formats_scales_stay() -> None:
    """DoReFa-Net's have one nominal exponent, and what it lacks is in the multiplier behind."""
    executor = Executor(plain_qdq(weight_bits=2, activation_bits=2, quantizer="dorefa"))
    moving = [q for scale in moving_scales([executor]) for q in scale.quantizers]
    roles = [step.layer.role for step in executor.steps if step.quantizer in moving]
    assert roles == [Role.POOL, Role.CARRY]


def test_a_grid_follows_its_offset_by_whole_octaves_and_late() -> None:
    executor = Executor(qdq()).train()
    companion = scales_of(executor)
    count, _ = told(companion)
    assert count == len(companion.offsets) > 2
    rest = [0.0] * (count - 1)
    for offset, shift in ((0.7, 0), (TURN, 1), (0.3, 1), (0.25, 0), (-0.8, -1), (1.6, 2)):
        move(companion, [offset, *rest])
        assert list(told(companion)[1].values()) == ([shift] if shift else [])


def test_an_offset_that_cannot_be_followed_goes_back() -> None:
    executor = Executor(qdq()).train()
    companion = scales_of(executor)
    count, _ = told(companion)
    move(companion, [float(MOST), *[0.0] * (count - 1)])
    assert list(told(companion)[1].values()) == [MOST]
    move(companion, [MOST + 1.0, *[0.0] * (count - 1)])
    assert list(told(companion)[1].values()) == [MOST]
    assert companion.offsets.tolist() == [MOST, *[0.0] * (count - 1)]


def test_operands_that_would_be_too_far_apart_stay() -> None:
    """The branch's steps are 12 octaves below the skip's, and float32 holds 15."""
    model = qdq()
    executor = Executor(model)
    scales = moving_scales([executor])
    (add,) = [step for step in executor.steps if step.layer.op.is_sum]
    reads = {step.gives: step.quantizer for step in executor.steps}
    skip, branch = (next(s for s in scales if reads[v] in s.quantizers) for v in (add.reads[1], add.reads[0]))
    distance = skip.quantizers[0].grid.exponent - branch.quantizers[0].grid.exponent
    for quantizer in branch.quantizers:
        quantizer._start = quantizer.grid.__class__.signed(8, branch.quantizers[0].grid.exponent - 12 + distance)
        quantizer.move(0)
    assert branch.move(-3)
    assert not branch.move(-4)
    assert branch.shift == -3
    assert not skip.move(1)
    assert skip.shift == 0


def run(source: Source, **options: Any) -> tuple[Executor, TrainedScales]:
    executor = Executor(qdq(), batch_norm="batch")
    companion = scales_of(executor, rate=FAST)
    train(executor, source, SETTINGS, companions=[companion], **options)
    return executor, companion


def test_they_move_and_then_stay(source: Source) -> None:
    seen: list[tuple[torch.Tensor, dict[str, int]]] = []

    class Watching(TrainedScales):
        def end_update(self) -> None:
            super().end_update()
            seen.append((self.offsets.detach().clone(), told(self)[1]))

    executor = Executor(qdq(), batch_norm="batch")
    train(executor, source, SETTINGS, companions=[Watching([executor], rate=FAST, end=Fraction(1, 2))])
    assert len(seen) == 8
    assert seen[3][1] != {}
    steps = torch.stack([after - before for (before, _), (after, _) in itertools.pairwise(seen)])
    assert steps.abs().max() == STEP
    # Those of the last update that learned are too late to be followed.
    assert all(torch.equal(offsets, seen[3][0]) and moved == seen[3][1] for offsets, moved in seen[4:])


def test_without_a_rate_of_its_own_nothing_would_move(source: Source) -> None:
    """The rate counts, and weight decay does not."""
    executor = Executor(qdq(), batch_norm="batch")
    companion = scales_of(executor, rate=0.0)
    with torch.no_grad():
        companion.offsets.fill_(0.25)
    train(executor, source, replace(SETTINGS, weight_decay=0.5), companions=[companion])
    assert companion.offsets.tolist() == [0.25] * len(companion.offsets)


@pytest.mark.parametrize("stop", [3, 6])
def test_resuming_changes_nothing(source: Source, tmp_path: Path, stop: int) -> None:
    path, (whole, companion) = tmp_path / "run.safetensors", run(source)
    options: dict[str, Any] = {"checkpoint": path, "checkpoint_every": 1}
    with pytest.raises(InterruptedRunError):
        run(source, observers=[StopAfter(stop)], **options)
    for _ in range(2):  # the second time all updates are done
        again, its = run(source, observers=[StopAfter()], resume=True, **options)
        assert_same(state_of(again), state_of(whole))
        assert_same(state_of(its), state_of(companion))
        assert told(its) == told(companion)
        assert [q.grid for _, q in again.named_quantizers()] == [q.grid for _, q in whole.named_quantizers()]
    assert told(companion)[1]


def test_what_is_written_and_exported_is_exact(source: Source) -> None:
    model = qdq()
    executor = Executor(model, batch_norm="batch")
    companion = scales_of(executor, rate=FAST)
    train(executor, source, SETTINGS, companions=[companion])
    assert told(companion)[1]
    write_back(executor)
    assert_exact(model, network()[0].inputs(seed=2), executor)
    for form in ("qoperator", "integer"):
        exported = qpipe.export(model, format=form)  # its gate compares every integer
        assert qpipe.inspect(exported).kind


def test_the_best_epoch_has_its_own_scales() -> None:
    executor = Executor(qdq())
    companion = scales_of(executor)
    metrics = iter([0.9, 0.1])
    best = BestEpoch(executor, lambda: next(metrics), rises=True)
    count, _ = told(companion)
    move(companion, [1.0] * count)
    best.end_epoch(1)
    move(companion, [-1.0] * count)
    best.end_epoch(2)
    best.end_training()
    assert set(told(companion)[1].values()) == {1}


def test_with_auxiliary_gradients_both_networks_move() -> None:
    model = residual_qdq()
    executor = Executor(model, batch_norm="batch")
    settings = replace(SETTINGS, method="ag", train_scales=2.0, freeze_scales=Fraction(1, 4))
    auxiliary, companion = make_companions(executor, model, model, settings, IMAGE_SHAPE)
    assert isinstance(companion, TrainedScales)
    assert companion.rate == 2
    move(companion, [1.0] * told(companion)[0])
    assert len(told(companion)[1]) == told(companion)[0]
    twins: Any = auxiliary
    mine = [q.grid for _, q in executor.named_quantizers()]
    assert mine == [q.grid for _, q in twins.twin.named_quantizers()]
    assert not any(isinstance(p, torch.nn.Parameter) for name, p in executor.named_parameters() if "shift" in name)
    companion.begin_update(Fraction(1, 4), 0)
    assert all(q._through is None for _, q in executor.named_quantizers())


def test_nothing_of_it_is_in_a_network_without() -> None:
    model: ir.Model = qdq()
    assert not any("shift" in name for name in state_of(Executor(model)))
