"""The emulation of a CPU without VNNI, against sums done by hand and against exact convolutions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.saturating_kernel import exact_matmul, im2col, saturating_conv_u8s8, saturating_matmul_u8s8, unsafe_pairs


def matmul(a, b):
    return saturating_matmul_u8s8(np.array(a, np.uint8), np.array(b, np.int8)).tolist()


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([[255, 255]], [[127], [127]], [[32767]]),  # 64,770 saturates
        ([[255, 255]], [[-127], [-127]], [[-32768]]),  # -64,770 saturates
        ([[255, 255]], [[64], [64]], [[32640]]),  # 128 in all: the largest pair that is safe
        ([[255, 255]], [[64], [65]], [[32767]]),  # 129: 32,895 saturates
        ([[255, 255]], [[127], [-127]], [[0]]),  # opposite signs don't add up
        ([[255, 255, 255, 255]], [[127], [127], [-127], [-127]], [[-1]]),  # 32,767 - 32,768: no saturation in int32
        ([[255, 255, 255, 255]], [[127], [-127], [127], [-127]], [[0]]),  # the same numbers, other pairs
        ([[1, 255, 255]], [[1], [127], [127]], [[64771]]),  # pair (0, 1) is 32,386; a lone third is exact
        ([[2, 3]], [[5, -7], [11, 13]], [[43, 25]]),
        ([[255, 255], [100, 100]], [[127], [127]], [[32767], [25400]]),  # each row by itself
    ],
)
def test_products_by_hand(a, b, expected):
    assert matmul(a, b) == expected


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match="int8 and int8; expected uint8 and int8"):
        saturating_matmul_u8s8(np.zeros((1, 2), np.int8), np.zeros((2, 1), np.int8))


def test_channels_are_fastest_along_k():
    x = np.full((1, 2, 1, 2), 255, np.uint8)
    w = np.array([[[[100, 0]], [[0, 100]]]], np.int8)  # [O=1, C=2, 1, 2]: the two weights sit at different positions
    assert saturating_conv_u8s8(x, w).tolist() == [[[[51000]]]]
    w = np.array([[[[100, 0]], [[100, 0]]]], np.int8)  # both at the first position: neighbours
    assert saturating_conv_u8s8(x, w).tolist() == [[[[32767]]]]


def test_odd_channels_pair_across_positions():
    x = np.full((1, 1, 1, 2), 255, np.uint8)
    w = np.full((2, 1, 1, 2), 100, np.int8)
    assert saturating_conv_u8s8(x, w).ravel().tolist() == [32767, 32767]


def test_zero_point_is_taken_off_after_saturation():
    x = np.full((1, 2, 1, 1), 255, np.uint8)
    w = np.full((1, 2, 1, 1), 127, np.int8)
    assert saturating_conv_u8s8(x, w, x_zero_point=128).item() == 32767 - 128 * 254


def test_borders_hold_the_zero_point():
    x = np.full((1, 1, 1, 1), 130, np.uint8)
    w = np.ones((1, 1, 3, 3), np.int8)
    y = saturating_conv_u8s8(x, w, pads=(1, 1, 1, 1), x_zero_point=128)
    assert y.tolist() == [[[[2]]]]
    assert im2col(x, (3, 3), (1, 1, 1, 1), (1, 1), (1, 1), 128)[0, 0, 0, :, :, 0].tolist() == [
        [128, 128, 128],
        [128, 130, 128],
        [128, 128, 128],
    ]


def test_depthwise_is_exact():
    x = np.full((1, 2, 2, 2), 255, np.uint8)
    w = np.full((2, 1, 2, 2), 127, np.int8)
    assert saturating_conv_u8s8(x, w, groups=2).ravel().tolist() == [4 * 255 * 127] * 2


@given(st.data())
def test_pair_safe_weights_give_the_exact_convolution(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    groups, channels, outputs = (data.draw(st.integers(1, 3)) for _ in range(3))
    kernel, strides, dilations = (data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(3))
    pads = data.draw(st.tuples(*[st.integers(0, 2)] * 4))
    zero_point = data.draw(st.sampled_from([0, 128]))
    x = rng.integers(0, 256, (2, groups * channels, 8, 9)).astype(np.uint8)
    w = rng.integers(-64, 65, (groups * outputs, channels, *kernel)).astype(np.int8)
    assert not unsafe_pairs(w).any()
    padded = np.pad(x.astype(np.float64) - zero_point, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(padded),
        torch.from_numpy(w.astype(np.float64)),
        stride=strides,
        dilation=dilations,
        groups=groups,
    )
    y = saturating_conv_u8s8(
        x, w, pads=pads, strides=strides, dilations=dilations, groups=groups, x_zero_point=zero_point
    )
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, expected.numpy())


@given(st.integers(0, 10**6), st.integers(1, 9))
def test_saturation_is_where_the_pairs_are_unsafe(seed, size):
    rng = np.random.default_rng(seed)
    weight = rng.integers(-128, 128, (size, 5)).astype(np.int8)
    unsafe = unsafe_pairs(weight.T[:, :, None, None]).any(axis=1)
    # The worst inputs of a column: 255 wherever its weights have one sign.
    positive, negative = (255 * (weight > 0)).T.astype(np.uint8), (255 * (weight < 0)).T.astype(np.uint8)
    for column in range(5):
        rows = np.stack([positive[column], negative[column]])
        wrong = saturating_matmul_u8s8(rows, weight[:, [column]]) != exact_matmul(rows, weight[:, [column]])
        assert wrong.any() == unsafe[column]
