"""Initial states of zeros are left out; others stay."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.normalize import normalize
from passes.rewrites.drop_zero_states import DropZeroStates
from support.networks import build, ops
from support.rewriting import assert_stays
from support.run import run_as_written

HIDDEN, FEATURES, STEPS = 3, 4, 5
RNG = np.random.default_rng(0)
SIZE = "s = Shape<start=1, end=2>(x) t = Concat<axis=0>(one, s, hidden)"
ZEROS = {
    "filled": f"{SIZE} h = ConstantOfShape(t)",
    "filled with a zero": f"{SIZE} h = ConstantOfShape<value=float[1] {{0}}>(t)",
    "expanded": f"{SIZE} h = Expand(zero, t)",
    "a slice of what is joined": f"{SIZE} a = Expand(zero, t) b = Concat<axis=0>(a, a) h = Slice(b, none, one, none)",
}
OTHERS = {
    "filled with ones": f"{SIZE} h = ConstantOfShape<value=float[1] {{1}}>(t)",
    "expanded ones": f"{SIZE} h = Expand(ones, t)",
    "joined with ones": f"""{SIZE} a = Expand(zero, t) b = Expand(ones, t) c = Concat<axis=0>(a, b)
        h = Slice(c, one, two, none)""",
    "computed": f"{SIZE} a = ConstantOfShape(t) h = Cos(a)",
}  # fmt: skip


def network(state: str, layer: str = "GRU") -> ir.Model:
    gates = {"GRU": 3, "LSTM": 4, "RNN": 1}[layer]
    states = "h, h" if layer == "LSTM" else "h"
    constants = {
        "w": RNG.standard_normal((1, gates * HIDDEN, FEATURES)).astype(np.float32),
        "r": RNG.standard_normal((1, gates * HIDDEN, HIDDEN)).astype(np.float32),
        "none": np.array([0]), "one": np.array([1]), "two": np.array([2]), "hidden": np.array([HIDDEN]),
        "zero": np.zeros((1, 1, 1), np.float32), "ones": np.ones((1, 1, 1), np.float32),
    }  # fmt: skip
    words = state.replace("(", " ").replace(")", " ").replace(",", " ").split()
    used = {name: array for name, array in constants.items() if name in (*words, "w", "r")}
    nodes = f"{state} y = {layer}<hidden_size={HIDDEN}>(x, w, r, , , {states})"
    return build(f"(float[{STEPS},N,{FEATURES}] x) => (float[] y) {{ {nodes} }}", **used)


@pytest.mark.parametrize("state", ZEROS.values(), ids=list(ZEROS))
@pytest.mark.parametrize("layer", ["GRU", "LSTM", "RNN"])
def test_zeros_are_left_out(state: str, layer: str) -> None:
    model = network(state, layer)
    x = RNG.standard_normal((STEPS, 2, FEATURES)).astype(np.float32)
    (expected,) = run_as_written(model, x=x)
    assert DropZeroStates()(model).modified
    assert not DropZeroStates()(model).modified
    normalize(model)
    assert ops(model) == [layer]
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected)


@pytest.mark.parametrize("state", OTHERS.values(), ids=list(OTHERS))
def test_others_stay(state: str) -> None:
    assert_stays(DropZeroStates(), network(state))


def test_a_layer_without_states_stays() -> None:
    model = network(ZEROS["filled"])
    DropZeroStates()(model)
    assert_stays(DropZeroStates(), model)
