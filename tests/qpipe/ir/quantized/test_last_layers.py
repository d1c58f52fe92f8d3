"""Which layers of weights keep their int32 sums: those that only outputs, the tail and islands read."""

import numpy as np

from qpipe.ir.quantized.plan import QuantizationPlan, plan_quantization
from support.networks import Network, build, integers, load

W = {"w": integers(4, 4, 1, 1), "v": integers(4, 4, 1, 1, seed=1)}
IMAGE = "(float[N,4,6,6] x) => (float[] y)"


def plan(nodes: str, **constants: np.ndarray) -> QuantizationPlan:
    return plan_quantization(build(f"{IMAGE} {{ {nodes} }}", **W, **constants).graph)


def names(found: QuantizationPlan) -> tuple[set[str | None], set[str | None]]:
    """Of what is int32, and of what has one scale."""
    return {node.name for node in found.last}, {node.name for node in found.compared}


def test_sums_before_an_island_are_int32_with_scales_of_their_channels() -> None:
    found = plan("[a] c = Conv(x, w) [s] t = LpNormalization(c) [b] y = Conv(t, v)")
    assert names(found) == ({"a", "b"}, {"b"})
    assert [value.name for value in found.quantizers] == ["x", "t"]


def test_what_only_moves_them_is_a_part_of_the_island() -> None:
    nodes = "[a] c = Conv(x, w) [t] m = Transpose<perm=[0,2,3,1]>(c) [s] n = LpNormalization(m) "
    found = plan(nodes + "[u] k = Transpose<perm=[0,3,1,2]>(n) [b] y = Conv(k, v)")
    assert names(found)[0] == {"a", "b"}
    assert [layer.name for layer in found.islands] == ["t", "s"]
    assert [layer.name for layer in found.layers] == ["a", "u", "b"]


def test_sums_that_integers_read_too_have_a_grid() -> None:
    found = plan("[a] c = Conv(x, w) [s] t = LpNormalization(c) [j] u = Add(t, c) [b] y = Conv(u, v)")
    assert names(found) == ({"b"}, {"b"})
    assert "c" in {value.name for value in found.quantizers}


def test_an_activation_ends_on_a_grid() -> None:
    for activation in ("Relu", "Sigmoid"):
        found = plan(f"[a] c = Conv(x, w) [r] m = {activation}(c) [s] t = LpNormalization(m) [b] y = Conv(t, v)")
        assert names(found)[0] == {"b"}
        assert [layer.name for layer in found.islands] == ["s"]


def test_sums_that_outputs_or_a_choice_read_too_have_one_unit() -> None:
    shared = "[a] c = Conv(x, w) [s] t = LpNormalization(c) [b] d = Conv(t, v) [e] y = Hardmax(c) [f] z = Hardmax(d)"
    both = build(f"(float[N,4,6,6] x) => (float[] y, float[] z) {{ {shared} }}", **W)
    assert names(plan_quantization(both.graph)) == ({"a", "b"}, {"a", "b"})
    chosen = "[a] c = Conv(x, w) [m] i = ArgMax<axis=1>(c) [k] t = Cast<to=1>(i) "
    assert names(plan(chosen + "[e] u = Expand(t, shape) [b] y = Conv(u, v)", shape=np.array([1, 4, 1, 1])))[1] == {
        "a", "b",
    }  # fmt: skip


def test_a_convolution_of_sums_that_float32_may_not_hold_has_a_grid() -> None:
    """onnxruntime has no integer kernel that gives a Conv's int32, but one for a matrix."""

    def last(channels: int, loudest: float = 1) -> set[str | None]:
        net = Network(channels, 4, 4)
        net.constants["w"] = np.ones((8, channels, 3, 3), np.float32)
        net.constants["w"][0, 0, 0, 0] = loudest
        island = net.op("LpNormalization", net.op("Conv", "x", "w", name="before", pads=[1] * 4))
        return names(plan_quantization(load(net.proto(net.conv(island, 8, 4, name="after"))).graph))[0]

    assert last(16) == {"before", "after"}
    # 2**23 / (127 * 255) = 259 weights that are as large as the largest.
    assert last(32) == {"after"}
    # Channels have scales of their own: what is loud in one makes no room in another.
    assert last(32, loudest=1e4) == {"after"}
