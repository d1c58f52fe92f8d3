"""The companions that a run's settings ask for."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import onnx_ir as ir

from qpipe.errors import RecipeError
from qpipe.ir.graph.stripped_blocks import stripped_blocks
from qpipe.settings import FinetuneSettings
from qpipe.tasks.task import CLASSES, Task, loss_words
from qpipe.train.companion import Companion
from qpipe.train.companions.additional_losses import AdditionalLosses
from qpipe.train.companions.auxiliary import AuxiliaryGradient
from qpipe.train.companions.average import WeightAverage
from qpipe.train.companions.blocks import Block, blocks_of
from qpipe.train.companions.fade import FadingSkips
from qpipe.train.companions.fresh_statistics import FreshStatistics
from qpipe.train.companions.joint_distillation import JointDistillation
from qpipe.train.companions.low_bit import LowBit
from qpipe.train.companions.oscillations import DampenedOscillations, FrozenOscillations
from qpipe.train.companions.stochastic import StochasticPrecision, block_fragments, layer_fragments
from qpipe.train.companions.trained_scales import TrainedScales
from qpipe.train.executor import Executor
from qpipe.train.losses import label_loss


def make_companions(
    executor: Executor,
    network: ir.Model,
    residual: ir.Model,
    settings: FinetuneSettings,
    image_shape: Sequence[int],
    seed: int = 0,
    task: Task = CLASSES,
) -> list[Companion]:
    """In the order in which they act.

    Args:
        executor: of `network`.
        residual: the network that `network` was stripped from, for skips that fade.
        image_shape: of one input, without the batch.
        seed: of what they draw.
        task: what the network is for.

    Raises:
        ModelError: no residual blocks where they are needed.
        RecipeError: one that the task has no use for.
    """
    _check_task(settings, task)

    @cache
    def blocks() -> list[Block]:
        return blocks_of(network, executor)

    made: list[Companion] = []
    networks = [executor]
    if settings.method == "ag":
        auxiliary = AuxiliaryGradient(
            executor,
            blocks(),
            weight=settings.auxiliary_weight,
            layerwise=settings.layerwise,
            image_shape=image_shape,
        )
        networks.append(auxiliary.twin)
        made.append(auxiliary)
    if settings.additional_losses:
        made.append(
            AdditionalLosses(
                executor,
                blocks(),
                weight=settings.additional_losses,
                image_shape=image_shape,
                seed=seed,
                loss=label_loss(task),
            )
        )
    fading = [*networks]
    if settings.joint_distillation:
        joint = JointDistillation(executor, blocks(), weight=settings.joint_distillation, loss=label_loss(task))
        # What its blocks give is compared with what the network's do, skips that still fade among them.
        fading.append(joint.teacher)
        made.append(joint)
    if settings.fade:
        names = [block.name for block in stripped_blocks(network)]
        made.append(FadingSkips(fading, residual, names, fraction=Fraction(settings.fade)))
    if settings.arithmetic == "mls":
        made.append(LowBit(networks, settings, seed=seed))
    if settings.ssp:
        made.append(
            StochasticPrecision(
                networks,
                layer_fragments(executor)
                if settings.ssp_fragments == "layers"
                else block_fragments(executor, blocks()),
                draws=settings.ssp_draws,
                ratio=settings.ssp_ratio,
                end=settings.ssp_end,
                seed=seed,
            )
        )
    if settings.train_scales:
        made.append(TrainedScales(networks, rate=settings.train_scales, end=settings.freeze_scales))
    if settings.dampen_oscillations:
        made.append(DampenedOscillations(executor, weight=settings.dampen_oscillations))
    if settings.freeze_oscillations:
        made.append(FrozenOscillations(executor, threshold=settings.freeze_oscillations))
    if settings.estimate_statistics:
        made.append(FreshStatistics())
    if settings.ema:
        made.append(WeightAverage(executor, decay=settings.ema))
    return made


def _check_task(settings: FinetuneSettings, task: Task) -> None:
    """Raise RecipeError for what learns from labels without them, and for classifiers where images have no row."""
    for name in ("additional_losses", "joint_distillation"):
        if getattr(settings, name) and not task.has_labels:
            raise RecipeError(f"{name}: learns from labels, and the data have none, expected 0")
    if settings.additional_losses and (callable(task.loss) or task.is_dense):
        what = loss_words(task.loss or "mse") + (" per pixel" if task.is_dense else "")
        raise RecipeError(
            f"additional_losses: its classifiers judge an image as a whole, and the loss is {what}, expected 0"
        )
