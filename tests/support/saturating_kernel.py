"""What an x86 CPU without VNNI makes of uint8 x int8 products (see "Pairs" in docs/numbers.md).

`vpmaddubsw` multiplies uint8 by int8 and adds two neighbouring products along K in a *saturating* int16; `vpmaddwd` and
`vpaddd` then accumulate in int32 without loss. A kernel built of them is exact only where no pair leaves int16. With
these emulations the tests see on any machine what such a CPU would give.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
INT16_MIN, INT16_MAX = -(2**15), 2**15 - 1


def saturating_matmul_u8s8(a: Array, b: Array) -> Array:
    """uint8 [M, K] times int8 [K, N], int32 [M, N]; k = 0 and 1, 2 and 3, ... are the pairs, a lone last k is exact."""
    if a.dtype != np.uint8 or b.dtype != np.int8:
        raise TypeError(f"factors are {a.dtype} and {b.dtype}; expected uint8 and int8")
    left, right = a.astype(np.int32), b.astype(np.int32)
    total = np.zeros((len(a), b.shape[1]), np.int32)
    for k in range(0, a.shape[1], 2):
        pair = left[:, k : k + 2] @ right[k : k + 2]
        total += np.clip(pair, INT16_MIN, INT16_MAX)
    return total


def saturating_conv_u8s8(
    x: Array,
    w: Array,
    *,
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    strides: tuple[int, int] = (1, 1),
    dilations: tuple[int, int] = (1, 1),
    groups: int = 1,
    x_zero_point: int = 0,
) -> Array:
    """Accumulators int32 [N, O, H', W'] of uint8 `x` [N, C, H, W] convolved with int8 `w` [O, C / groups, kh, kw].

    `pads` is (top, left, bottom, right), as in ONNX; borders hold the zero point. As in onnxruntime the products run
    along K = (kh, kw, channel), channels fastest, on the stored bytes; what the zero point adds is taken off
    afterwards. Depthwise convolutions (one input and one output channel a group) have a kernel of their own, exact.
    """
    kernel = (w.shape[2], w.shape[3])
    patches = im2col(x, kernel, pads, strides, dilations, x_zero_point)
    batch, height, width = patches.shape[:3]
    channels, outputs = w.shape[1], w.shape[0] // groups
    depthwise = channels == 1 and outputs == 1
    accumulators = []
    for group in range(groups):
        columns = patches[..., group * channels : (group + 1) * channels].reshape(batch * height * width, -1)
        weight = w[group * outputs : (group + 1) * outputs].transpose(2, 3, 1, 0).reshape(-1, outputs)
        product = exact_matmul(columns, weight) if depthwise else saturating_matmul_u8s8(columns, weight)
        product = product - x_zero_point * weight.sum(axis=0, dtype=np.int32)
        accumulators.append(product.reshape(batch, height, width, outputs))
    return np.concatenate(accumulators, axis=-1).transpose(0, 3, 1, 2)


def exact_matmul(a: Array, b: Array) -> Array:
    """The product of integer matrices in int32, without saturation."""
    return a.astype(np.int32) @ b.astype(np.int32)


def im2col(
    x: Array,
    kernel: tuple[int, int],
    pads: tuple[int, int, int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    zero_point: int,
) -> Array:
    """uint8 [N, C, H, W] as patches [N, H', W', kh, kw, C]; borders hold `zero_point`."""
    top, left, bottom, right = pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=zero_point)
    span = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, span, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    return windows.transpose(0, 2, 3, 4, 5, 1)


def unsafe_pairs(w: Array) -> Array:
    """Which neighbours along K, channels fastest, can leave int16 for some uint8 input: bool [O, ceil(K / 2)].

    `w` is int8 [O, C, kh, kw]. A pair is safe where its positive weights sum to 128 at most, and its negative to -128.
    """
    flat = w.transpose(0, 2, 3, 1).reshape(len(w), -1).astype(np.int32)
    flat = np.pad(flat, ((0, 0), (0, flat.shape[1] % 2))).reshape(len(w), -1, 2)
    largest, smallest = 255 * np.maximum(flat, 0).sum(2), 255 * np.minimum(flat, 0).sum(2)
    return (largest > INT16_MAX) | (smallest < INT16_MIN)
