"""A sequence that is split off and read at known places is a Split; what is not so stays."""

import numpy as np
import pytest

from passes.normalize import normalize
from passes.rewrites.sequence_to_split import SequenceToSplit
from support.networks import build, integers, ops
from support.rewriting import assert_same, assert_stays, network

AT = "a = SequenceAt(s, zero) b = SequenceAt(s, last) y = Concat<axis=1>(b, a)"
CONSTANTS = {"zero": np.array(0), "last": np.array(-1), "two": np.array(2), "list": np.array([1, 4])}


@pytest.mark.parametrize(
    ("split", "parts"),
    [
        ("SplitToSequence<axis=1>(x, two)", 3),
        ("SplitToSequence<axis=-2>(x, list)", 2),
        ("SplitToSequence<axis=1>(x)", 5),
    ],
    ids=["equal parts, the last shorter", "sizes of each", "parts of one"],
)
def test_a_sequence_becomes_a_split(split: str, parts: int) -> None:
    model = network("3,5,4", f"s = {split} {AT}", **CONSTANTS)
    assert_same(SequenceToSplit(), model, ["Split", "Concat"], x=integers(3, 5, 4))
    assert [len(node.outputs) for node in model.graph if node.op_type == "Split"] == [parts]


def test_an_output_keeps_its_name() -> None:
    model = network("3,6,4", "s = SplitToSequence<axis=1>(x, two) y = SequenceAt(s, zero)", **CONSTANTS)
    assert_same(SequenceToSplit(), model, ["Split", "Identity"], x=integers(3, 6, 4))


def test_normalization_leaves_slices() -> None:
    model = network("N,6,4", f"s = SplitToSequence<axis=1>(x, two) {AT}", **CONSTANTS)
    normalize(model)
    assert ops(model) == ["Slice", "Slice", "Concat"]


@pytest.mark.parametrize(
    "nodes",
    [
        "s = SplitToSequence<axis=1, keepdims=0>(x) y = SequenceAt(s, zero)",
        "s = SplitToSequence<axis=0>(x, two) y = SequenceAt(s, zero)",
        "s = SplitToSequence<axis=1>(x, two) n = SequenceLength(s) y = SequenceAt(s, zero) z = Add(n, n)",
    ],
    ids=["the axis is dropped", "of an open axis", "read by another"],
)
def test_what_is_no_split_stays(nodes: str) -> None:
    assert_stays(SequenceToSplit(), network("N,6,4", nodes, **CONSTANTS))


def test_a_computed_place_stays() -> None:
    model = build(
        "(float[N,6] x, int64[1] at) => (float[] y) { s = SplitToSequence<axis=1>(x, two) y = SequenceAt(s, at) }",
        two=CONSTANTS["two"],
    )
    assert_stays(SequenceToSplit(), model)
