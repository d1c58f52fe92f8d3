"""How much of a network's multiply-accumulates stays float."""

import numpy as np
import pytest

import qpipe
from qpipe.ir.cost.float_share import float_share
from qpipe.ir.cost.macs import count_macs
from qpipe.ir.quantized.plan import plan_quantization
from support.networks import Weights, build

STEPS, INPUTS, STATE = 5, 8, 16


def network(op: str, gates: int, *, directions: int = 1, head: int = 3, **attributes: int | str):
    """A recurrent layer over 5 steps of 8 numbers, and a Gemm of what it gives."""
    w = Weights()
    w.normal("w", directions, gates * STATE, INPUTS)
    w.normal("r", directions, gates * STATE, STATE)
    w.normal("v", STEPS * directions * STATE, head)
    w.constants["rows"] = np.array([0, -1])
    said = ", ".join(
        f'{name}="{value}"' if isinstance(value, str) else f"{name}={value}"
        for name, value in {"hidden_size": STATE, **attributes}.items()
    )
    nodes = (
        f"t = Transpose<perm=[1,0,2]>(x) [recurrent] h = {op}<{said}>(t, w, r) g = Transpose<perm=[2,0,1,3]>(h) "
        "f = Reshape(g, rows) y = Gemm(f, v)"
    )
    return build(f"net (float[N,{STEPS},{INPUTS}] x) => (float[] y) {{ {nodes} }}", **w.constants)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("directions", [1, 2])
def test_of_a_recurrent_layer_every_step_counts(op: str, gates: int, directions: int) -> None:
    more = {"direction": "bidirectional"} if directions == 2 else {}
    model = network(op, gates, directions=directions, **more)
    node = next(node for node in model.graph if node.name == "recurrent")
    assert count_macs(node) == STEPS * directions * gates * STATE * (INPUTS + STATE)


def test_a_share_over_a_half_is_told_with_its_nodes() -> None:
    share = float_share(plan_quantization(network("LSTM", 4).graph))
    assert share is not None
    macs = STEPS * 4 * STATE * (INPUTS + STATE), 3 * STEPS * STATE
    assert share.share == pytest.approx(macs[0] / sum(macs))
    assert share.words == "97% of the multiply-accumulates stay float: LSTM 'recurrent'"


def test_no_more_than_a_half_is_not_told() -> None:
    # As many in the Gemm as in the LSTM.
    model = network("LSTM", 4, head=4 * (INPUTS + STATE))
    assert float_share(plan_quantization(model.graph)) is None


def test_calibration_warns_of_it_and_inspect_notes_it() -> None:
    model = network("LSTM", 4)
    data = np.random.default_rng(0).standard_normal((8, STEPS, INPUTS)).astype(np.float32)
    with pytest.warns(UserWarning, match="97% of the multiply-accumulates stay float: LSTM 'recurrent'"):
        qpipe.calibrate(model.clone(), data, batches=1)
    assert any("97%" in note for note in qpipe.inspect(model).notes)


def test_a_share_that_hangs_on_unknown_sizes_is_not_told() -> None:
    """What the Conv costs hangs on the image."""
    w = Weights()
    w.normal("v", STEPS * INPUTS, 3, 1, 1)
    w.normal("w", 1, 4 * STATE, INPUTS)
    w.normal("r", 1, 4 * STATE, STATE)
    w.normal("z", STATE, 3)
    w.constants["rows"] = np.array([STEPS, -1, INPUTS])
    nodes = (
        "c = Conv(x, v) g = GlobalAveragePool(c) t = Reshape(g, rows) "
        f"h = LSTM<hidden_size={STATE}>(t, w, r) y = MatMul(h, z)"
    )
    model = build(f"net (float[N,3,H,W] x) => (float[] y) {{ {nodes} }}", **w.constants)
    plan = plan_quantization(model.graph)
    assert [layer.op_type for layer in plan.layers if layer.is_weighted] == ["Conv", "MatMul"]
    assert float_share(plan) is None
