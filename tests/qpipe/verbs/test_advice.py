"""Each case of a node without an integer form gets an advice of its own."""

from typing import Any

import numpy as np
import pytest

import qpipe
from qpipe.verbs.inspect import ISLAND
from support.networks import parse
from support.zoo.digits import CHANNELS, digits_model

ONE = np.float32(1.5)
STATISTICS = {name: np.full(CHANNELS, 0.5, np.float32) for name in ("g", "b", "m", "v")}
MORE = {"more": np.arange(512, dtype=np.float32).reshape(1, 8, 8, 8)}
PADS = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}


def op_of(node: str) -> str:
    return node.split("= ")[1].split("(")[0].split("<")[0]


def advice_for(odd: str, constants: dict[str, Any]) -> str:
    report = qpipe.inspect(digits_model(between=[odd], constants=constants))
    (found,) = [info for info in report.nodes if info.role == ISLAND]
    assert (found.name, found.op) == ("odd", op_of(odd))
    return found.advice


@pytest.mark.parametrize(
    ("odd", "constants", "words"),
    [
        ("[odd] between = Clip(block, low, one)", {"one": ONE, "low": np.float32(2)}, "its bounds are (2, 1.5)"),
        ("[odd] between = Mod<fmod=1>(more, block)", MORE, "replace it by ops that have an integer form"),
        ("[odd] between = Mod<fmod=1>(block, r1)", {}, "replace it by ops that have an integer form"),
        ("[odd] between = InstanceNormalization(block, g, r1)", STATISTICS, "use BatchNormalization instead"),
        ("[odd] between = Pad(block, pads, one)", {**PADS, "one": np.float32(1e30)}, "it fills in 1e+30"),
        ("[odd] between = Ceil(block)", {}, "replace it by ops that have an integer form"),
        ("[odd] between = PRelu(block, r1)", {}, "replace it by Relu or Clip(0, 6)"),
    ],
    ids=lambda value: op_of(value) if isinstance(value, str) and value.startswith("[odd]") else None,
)  # fmt: skip
def test_in_the_middle(odd: str, constants: dict[str, Any], words: str) -> None:
    assert words in advice_for(odd, constants)


def small(nodes: list[str], shape: str, constants: dict[str, Any], output: str = "") -> dict[str, str]:
    """The advice for each node of a network from `x` to `y`."""
    text = f"(float[{shape}] x) => (float[{output}] y) {{ {' '.join(nodes)} }}"
    report = qpipe.inspect(parse(text, **constants))
    return {info.name: info.advice for info in report.nodes if info.advice}


def test_products() -> None:
    w = np.ones((4, 4), np.float32)
    scaled = ["[scaled] a = Gemm<alpha=1e30, transA=0>(x, huge)", "[last] y = MatMul(a, w)"]
    assert small(scaled, "batch,4", {"w": w, "huge": w * 1e30})["scaled"].startswith("alpha is 1e+30: put the factors")
    computed = ["[computed] a = Gemm(x, x)", "[last] y = MatMul(a, w)"]
    assert not small(computed, "4,4", {"w": w})
    attention = ["[attention] a = MatMul(x, x)", "[last] y = MatMul(a, w)"]
    assert not small(attention, "1,4,4", {"w": w})
    stacked = ["[stacked] a = MatMul(x, w3)", "[last] y = MatMul(a, w)"]
    assert "one MatMul for each matrix" in small(stacked, "batch,2,T,4", {"w3": np.stack([w, w]), "w": w})["stacked"]
    swapped = ["[swapped] a = MatMul(w, x)", "[last] y = MatMul(a, w)"]
    assert not small(swapped, "4,4", {"w": w})


def test_what_no_lowering_writes_is_refused_at_once() -> None:
    """Four dimensions, windows with gaps in an average, pads that nobody knows, a bias for each row."""
    w4 = np.ones((2, 2, 1, 1, 1, 1), np.float32)
    deep = [
        "[deep] a = Conv(x, w4)",
        "[deep_pool] b = MaxPool<kernel_shape=[2,2,2,2]>(a)",
        "[deep_mean] c = GlobalAveragePool(b)",
        "[flat] d = Flatten(c)",
        "[last] y = Gemm(d, w)",
    ]
    found = small(deep, "1,2,4,4,4,4", {"w4": w4, "w": np.ones((2, 3), np.float32)})
    assert set(found) == {"deep", "deep_pool", "deep_mean"}
    assert all("it has 4 spatial dimensions, expected 1 to 3" in advice for advice in found.values())
    alone = ["[deep] y = Conv(x, w4)"]
    assert set(small(alone, "1,2,4,4,4,4", {"w4": w4})) == {"deep"}
    gaps = [
        "[gaps] a = AveragePool<kernel_shape=[2,2], dilations=[2,2]>(x)",
        '[same] b = Conv<auto_pad="SAME_UPPER", strides=[5,5]>(a, w)',
        "[last] y = Conv(b, w)",
    ]
    found = small(gaps, "batch,2,11,11", {"w": np.ones((2, 2, 2, 2), np.float32)})
    assert set(found) == {"gaps", "same"}
    assert "its dilations are [2, 2]: write it as a Conv" in found["gaps"]
    assert found["same"].startswith("auto_pad is 'SAME_UPPER', expected explicit pads")
    rows = ["[rows] a = Gemm(x, w, c)", "[last] y = Gemm(a, w)"]
    constants = {"w": np.ones((4, 4), np.float32), "c": np.ones((2, 4), np.float32)}
    assert "rows" not in small(rows, "2,4", constants)


def test_bounds_may_be_lists_of_one() -> None:
    nodes = [
        "[conv] a = Conv(x, w)",
        "[relu6] b = Clip(a, low, high)",
        "[last] y = Conv(b, w)",
    ]
    constants = {"w": np.ones((2, 2, 1, 1)), "low": np.zeros(1), "high": np.full(1, 6)}
    assert small(nodes, "batch,2,4,4", {k: v.astype(np.float32) for k, v in constants.items()}) == {}


def test_nodes_that_change_the_size() -> None:
    nodes = [
        '[resize] a = Resize<mode="cubic", exclude_outside=1>(x, , scales)',  # [1, 2, 4, 4]
        "[reduce] b = ReduceMean(a, axes)",
        "[dynamic] c = Conv(x, b)",
        "[conv] y = Conv(c, w)",
    ]
    constants = {
        "scales": np.array([1, 1, 1, 0.5], np.float32),
        "axes": np.array([2]),
        "w": np.ones((2, 1, 1, 1), np.float32),
    }
    found = small(nodes, "1,2,4,8", constants)
    assert set(found) == {"resize", "dynamic"}
    assert "mode 'cubic' has no integer form" in found["resize"]
    assert "its weight is computed by the graph" in found["dynamic"]


def test_operands_of_unlike_ranks() -> None:
    nodes = [
        "[mean] mean = GlobalAveragePool(x)",
        "[flat] flat = Flatten(mean)",
        "[broadcast] a = Add(x, flat)",
        "[conv] y = Conv(a, w)",
    ]
    found = small(nodes, "batch,2,2,2", {"w": np.ones((2, 2, 1, 1), np.float32)})
    assert "its operands have 2 and 4 dimensions: unsqueeze" in found["broadcast"]


def test_other_domains() -> None:
    nodes = ["[fused] a = com.microsoft.FusedThing(x)", "[conv] y = Conv(a, w)"]
    # Nobody can infer a shape behind a node of an unknown domain.
    found = small(nodes, "batch,2,4,4", {"w": np.ones((2, 2, 1, 1), np.float32)}, output="batch,2,4,4")
    assert found["fused"] == "the domain 'com.microsoft' is not standard ONNX: replace the node by standard ops"
