"""Recurrent layers, which stay float: what they cost, and what torch makes of them.

ONNX and torch mean the same by an LSTM, an RNN and a GRU with `linear_before_reset`, but list the gates of a weight in
another order: ONNX an LSTM's as input, output, forget, cell and torch as input, forget, cell, output; ONNX a GRU's as
update, reset, hidden and torch as reset, update, hidden. A GRU that resets the state before it is multiplied (ONNX's
default, Cho et al. 2014) torch does not have; it is computed step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import onnx_ir as ir

from qpipe.nodes import STANDARD_DOMAINS, input_value, int_attribute, static_shape, string_attribute

if TYPE_CHECKING:
    import torch

    States = tuple[torch.Tensor, ...]

_GATES: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}
_IN_TORCH: Final = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Which of ONNX's gates are torch's, in torch's order."""
_FUNCTIONS: Final = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_LENGTHS, _PEEPHOLES = 4, 7
"""Inputs that torch knows nothing of."""


def sequence_macs(node: ir.Node) -> int | None:
    """Multiply-accumulates of an LSTM, a GRU or an RNN for one sequence; 0 of other nodes, None of unknown sizes.

    In each of T steps and D directions the gates multiply the input `[I]` and the state `[H]`: `T D g H (I + H)`.
    """
    gates = _GATES.get(node.op_type, 0) if node.domain in STANDARD_DOMAINS else 0
    if not gates:
        return 0
    x, weight = static_shape(node.inputs[0]), static_shape(node.inputs[1])
    if x is None or weight is None or len(x) != 3 or len(weight) != 3:
        return None
    steps, inputs = x[int_attribute(node, "layout", 0)], x[2]
    directions, rows = weight[0], weight[1]
    if steps is None or inputs is None or directions is None or rows is None:
        return None
    return steps * directions * rows * (inputs + rows // gates)


def recurrent_function(node: ir.Node) -> Callable[..., States] | None:
    """`(node, x, w, r, b, None, h0, c0) -> (y, h, c)`; None of what has functions, lengths or limits of its own."""
    if node.op_type not in _GATES or any(input_value(node, index) is not None for index in (_LENGTHS, _PEEPHOLES)):
        return None
    directions = 2 if string_attribute(node, "direction", "forward") == "bidirectional" else 1
    functions = node.attributes.get("activations")
    is_usual = functions is None or list(functions.as_strings()) == _FUNCTIONS[node.op_type] * directions
    odd = {"clip", "activation_alpha", "activation_beta"} & set(node.attributes)
    return None if odd or not is_usual or int_attribute(node, "input_forget", 0) else _run


def _run(
    node: ir.Node,
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    _: None = None,
    h0: torch.Tensor | None = None,
    c0: torch.Tensor | None = None,
) -> States:
    """x `[T, N, I]`, w `[D, g H, I]`, r `[D, g H, H]`, b `[D, 2 g H]`, states `[D, N, H]`; y `[T, D, N, H]`.

    With `layout` 1 the batch comes first: x `[N, T, I]`, states `[N, D, H]`, y `[N, T, D, H]`.
    """
    import torch

    batch_first = bool(int_attribute(node, "layout", 0))
    x = x.transpose(0, 1) if batch_first else x
    count, hidden = w.shape[0], r.shape[2]
    zeros = x.new_zeros(count, x.shape[1], hidden)
    h, c = (zeros if s is None else s.transpose(0, 1) if batch_first else s for s in (h0, c0))
    biases = w.new_zeros(count, 2 * w.shape[1]) if b is None else b
    runs = []
    for index in range(count):
        is_back = index == 1 or string_attribute(node, "direction", "forward") == "reverse"
        rows = x.flip(0) if is_back else x
        y, *states = _direction(node, rows, (w[index], r[index], *biases[index].chunk(2)), h[index], c[index])
        runs.append((y.flip(0) if is_back else y, *states))
    y, *last = (torch.stack(part, dim) for part, dim in zip(zip(*runs, strict=True), (1, 0, 0), strict=False))
    if batch_first:
        return (y.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in last))
    return (y, *last)


def _direction(node: ir.Node, x: torch.Tensor, weights: States, h: torch.Tensor, c: torch.Tensor) -> States:
    """`y [T, N, H]`, and the last states `[N, H]`."""
    import torch

    if node.op_type == "GRU" and not int_attribute(node, "linear_before_reset", 0):
        return _reset_before(x, weights, h)
    parts = [[part.chunk(_GATES[node.op_type])[i] for i in _IN_TORCH[node.op_type]] for part in weights]
    params = [torch.cat(part) for part in parts]
    # One layer of one direction, with biases and without dropout; no device has gradients in evaluation mode.
    rest = (params, True, 1, 0.0, True, False, False)
    if node.op_type == "LSTM":
        y, last, cell = torch.lstm(x, (h[None], c[None]), *rest)
        return y, last[0], cell[0]
    y, last = (torch.gru if node.op_type == "GRU" else torch.rnn_tanh)(x, h[None], *rest)
    return y, last[0]


def _reset_before(x: torch.Tensor, weights: States, h: torch.Tensor) -> States:
    """A GRU whose hidden gate multiplies the state that was reset."""
    import torch

    w, r, wb, rb = weights
    hidden = h.shape[1]
    inputs = x @ w.mT + wb + rb
    steps = []
    for given in inputs:
        update, reset = (given[:, : 2 * hidden] + h @ r[: 2 * hidden].mT).sigmoid().chunk(2, 1)
        new = (given[:, 2 * hidden :] + (reset * h) @ r[2 * hidden :].mT).tanh()
        h = (1 - update) * new + update * h
        steps.append(h)
    return torch.stack(steps), h
