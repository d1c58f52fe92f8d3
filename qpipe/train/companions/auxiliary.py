"""AG, the auxiliary gradient module: a full-precision side chain over a network's convolutions, for training only.

    g_p = phi_p(O_p) + g_(p-1)        (equation 1)        L = L1 + lambda L2        (equation 2)

F is the network that ships. H runs the same graph on the same quantized weights (computed once a step), with every
BatchNormalization its own, in full precision; its answer comes through the chain alone: g_0 is what the first block
reads, O_p the output of a block's last convolution (`layerwise`: of each) before its BatchNormalization, or, where the
block keeps its skip, the tensor behind the Add. phi_p is a 1×1 convolution and a BatchNormalization. Behind the last
block come a BatchNormalization of H's own, a ReLU, and the rest of the graph, the head, shared with F. No g enters a
convolution of F. Gradients of what is shared, and only those, are averaged by 1 / (1 + lambda) (Algorithm 1, line 8).

What the paper leaves open: where shapes change between blocks, g_(p-1) is pooled by the mean and projected by a 1×1
convolution and a BatchNormalization; all of these convolutions start as the identity of the channels that both sides
have, and phi_p's BatchNormalization with the block's own gamma and beta, so that the chain of a stripped
network starts, block by block and in post-activation order, as the residual network's own stream without the ReLUs in
between.

Source: Zhuang et al., *Training Quantized Network with Auxiliary Gradient Module*, section 3.1 and Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import dropwhile

import torch
from torch import nn
from torch.nn import functional as F

from qpipe.errors import ModelError
from qpipe.nodes import describe
from qpipe.train.companion import Companion, Loss
from qpipe.train.companions.blocks import Block
from qpipe.train.companions.navigation import reads_the_input, step_before, step_shapes
from qpipe.train.executor import Executor
from qpipe.train.given import Given
from qpipe.train.step import ProductStep, Step

Shape = tuple[int, int, int]
"""Channels, height, width."""


class _Adaptor(nn.Module):
    """phi_p, and the projection of the chain to the shape that it gives, where the shapes differ."""

    def __init__(self, source: Shape, chain: Shape, step: Step) -> None:
        super().__init__()
        adapt, norm = _convolution(source[0], source[0])
        if isinstance(step, ProductStep) and step.module.has_batch_norm:
            with torch.no_grad():
                norm.weight.copy_(step.module.gamma)
                norm.bias.copy_(step.module.beta)
        self.adapt = nn.Sequential(adapt, norm)
        self.size = source[1:]
        self.project = None if source == chain else nn.Sequential(*_convolution(chain[0], source[0]))

    def forward(self, output: torch.Tensor, chain: torch.Tensor) -> torch.Tensor:
        """`phi(O) + g`."""
        if self.project is not None:
            chain = self.project(F.adaptive_avg_pool2d(chain, self.size))
        adapted: torch.Tensor = self.adapt(output)
        return adapted + chain


class AuxiliaryGradient(Companion):
    """H of a network F.

    Args:
        network: F.
        blocks: of F, in order. The chain starts at the first one that has a layer before it.
        weight: lambda.
        layerwise: a branch at every convolution of a block, not only at its last one.
        image_shape: of one input, without the batch.

    Raises:
        ModelError: no block has a layer before it, or what a branch would start at is no image.
    """

    def __init__(
        self, network: Executor, blocks: Sequence[Block], *, weight: float, layerwise: bool, image_shape: Sequence[int]
    ) -> None:
        super().__init__()
        self.weight = weight
        self.twin = network.twin()
        blocks = list(dropwhile(lambda block: reads_the_input(network, block.products[0]), blocks))
        if not blocks:
            raise ModelError("method: 'ag', but no block has a layer before it, expected one behind the first layer")
        self._start = step_before(self.twin, self.twin.counterpart(blocks[0].products[0]))
        self._end = self.twin.counterpart(blocks[-1].end)
        self._outputs: list[torch.Tensor] = []
        self._start.keep_unquantized()
        tapped = [self.twin.counterpart(step) for block in blocks for step in _branches(block, layerwise)]
        for step in tapped:
            step.tap(self._keep)
        start, *shapes = _shapes(self.twin, [self._start, *tapped], image_shape)
        self.adaptors = nn.ModuleList(map(_Adaptor, shapes, [start, *shapes[:-1]], tapped))
        self.norm = nn.BatchNorm2d(shapes[-1][0])
        self._shared = [parameter for module in network.weighted() for parameter in module.shared_parameters()]

    def extra_loss(self, loss: Loss, labels: torch.Tensor, inputs: Given) -> torch.Tensor:
        """`lambda L2`."""
        return self.weight * loss(self._answer(inputs), labels, inputs)

    def end_backward(self) -> None:
        """Average the gradients of what F and H share."""
        gradients = [parameter.grad for parameter in self._shared if parameter.grad is not None]
        torch._foreach_div_(gradients, 1 + self.weight)

    def _keep(self, output: torch.Tensor) -> torch.Tensor:
        self._outputs.append(output)
        return output

    def _answer(self, inputs: Given) -> torch.Tensor:
        """H's answer."""
        values = self.twin.start(inputs)
        self.twin.run(values, self.twin.steps[: self._end.position + 1])
        chain = self._start.activated.float()
        for adaptor, output in zip(self.adaptors, self._outputs, strict=True):
            chain = adaptor(output.float(), chain)
        self._outputs.clear()
        self.twin.finish(values, self._end, F.relu(self.norm(chain)))
        return self.twin.answer_of(values)


def _shapes(twin: Executor, steps: Sequence[Step], image_shape: Sequence[int]) -> list[Shape]:
    """Of what these steps give, and so of what their ops do; ModelError where that is no image."""
    of_steps = step_shapes(twin, image_shape)
    twin.train()
    found: list[Shape] = []
    for step in steps:
        shape = of_steps[step.position].result
        if len(shape) != 4:
            layer = describe(step.layer.node)
            raise ModelError(f"method: 'ag', but {layer} gives {len(shape)} dimensions, expected [N, C, H, W]")
        found.append((shape[1], shape[2], shape[3]))
    return found


def _branches(block: Block, layerwise: bool) -> tuple[Step, ...]:
    """The steps that a branch of the chain starts at."""
    inner = block.products[:-1] if layerwise else ()
    return (*inner, block.end if block.has_skip else block.products[-1])


def _convolution(channels: int, out: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """1×1 without bias, the identity of the channels that both sides have; then a BatchNormalization."""
    convolution = nn.Conv2d(channels, out, 1, bias=False)
    nn.init.dirac_(convolution.weight)
    return convolution, nn.BatchNorm2d(out)
