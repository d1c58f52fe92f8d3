"""ResNet-20 for CIFAR-10 in Brevitas' quantization-aware training: what a training step of qpipe is timed against.

The quantizers stand where qpipe's do: the input, every ReLU, the branch before each Add (signed, 8 bits) and what the
pooling gives; first and last layer and the last layer's input have 8 bits. All scales are powers of two. A weight's
is `Int8WeightPerChannelFixedPoint`: of the channel's largest weight, anew in every step. An activation's is one of

- `learned`: `Uint8ActPerTensorFixedPoint` and `Int8ActPerTensorFixedPoint`, Brevitas' usual ones: at first a percentile
  of what comes (here of one batch instead of 300, which no timed step should pay), a parameter from then on;
- `constant`: the same with a scale that stays, as FAQ has it: of what was tried here, the fastest.

Two things are left out because they only cost: biases stay float, and no tensor carries its scale along. A skip isn't
quantized again to the branch's grid, as an integer Add of equal scales would need: between powers of two a shift does.
"""

from typing import Any, Literal

import torch
from brevitas import nn as qnn
from brevitas.quant import fixed_point
from torch import nn
from torch.nn import functional as F
from torch_resnet20 import Block, ResNet20

Scales = Literal["learned", "constant"]
_OUTER_BITS = 8
_LARGEST = 8.0  # of an activation whose scale is constant; its value makes no difference to the time


class _ConstantUnsigned(fixed_point.Uint8ActPerTensorFixedPointMaxInit):
    scaling_impl_type = "const"
    max_val = _LARGEST


class _ConstantSigned(fixed_point.Int8ActPerTensorFixedPointMinMaxInit):
    scaling_impl_type = "const"
    min_val, max_val = -_LARGEST, _LARGEST


def _relu(bits: int, scales: Scales) -> nn.Module:
    return _activation(qnn.QuantReLU, fixed_point.Uint8ActPerTensorFixedPoint, _ConstantUnsigned, bits, scales)


def _identity(scales: Scales) -> nn.Module:
    quantizers = fixed_point.Int8ActPerTensorFixedPoint, _ConstantSigned
    return _activation(qnn.QuantIdentity, *quantizers, _OUTER_BITS, scales)


def _activation(kind: Any, learned: Any, constant: Any, bits: int, scales: Scales) -> nn.Module:
    settings = {"act_quant": constant} if scales == "constant" else {"act_quant": learned, "collect_stats_steps": 1}
    module: nn.Module = kind(bit_width=bits, **settings)
    return module


def _conv(conv: nn.Conv2d, bits: int) -> nn.Module:
    """The layer with a quantized weight, which starts at the float one's."""
    quantized = qnn.QuantConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        bias=False,
        weight_quant=fixed_point.Int8WeightPerChannelFixedPoint,
        weight_bit_width=bits,
    )
    quantized.load_state_dict(conv.state_dict())
    return quantized


class QuantizedBlock(nn.Module):
    """A residual block; `bits` are those of its weights and of its ReLU inside, `out_bits` those of the ReLU behind."""

    def __init__(self, block: Block, bits: int, out_bits: int, scales: Scales) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = _conv(block.conv1, bits), block.bn1, _relu(bits, scales)
        self.conv2, self.bn2, self.branch = _conv(block.conv2, bits), block.bn2, _identity(scales)
        self.relu2 = _relu(out_bits, scales)
        self.pad = block.pad

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the float block's."""
        skip = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad)) if self.pad else x
        y = self.relu1(self.bn1(self.conv1(x)))
        result: torch.Tensor = self.relu2(self.branch(self.bn2(self.conv2(y))) + skip)
        return result


class QuantizedResNet20(nn.Module):
    """Inputs [N, 3, 32, 32], logits [N, 10]; starts from the float network's parameters, and keeps its BatchNorms."""

    def __init__(self, network: ResNet20, bits: int, scales: Scales) -> None:
        super().__init__()
        self.input = _identity(scales)
        self.conv, self.bn, self.relu = _conv(network.conv, _OUTER_BITS), network.bn, _relu(bits, scales)
        *inner, last = network.blocks
        self.blocks = nn.Sequential(
            *[QuantizedBlock(block, bits, bits, scales) for block in inner],
            QuantizedBlock(last, bits, _OUTER_BITS, scales),
        )
        self.pooled = _relu(_OUTER_BITS, scales)
        self.linear = qnn.QuantLinear(
            network.linear.in_features,
            network.linear.out_features,
            bias=True,
            weight_quant=fixed_point.Int8WeightPerChannelFixedPoint,
            weight_bit_width=_OUTER_BITS,
        )
        self.linear.load_state_dict(network.linear.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, 32, 32] to [N, 10]."""
        x = self.blocks(self.relu(self.bn(self.conv(self.input(x)))))
        logits: torch.Tensor = self.linear(self.pooled(x.mean((2, 3))))
        return logits
