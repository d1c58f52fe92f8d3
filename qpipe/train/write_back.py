"""Put what was trained back into the QDQ graph that it came from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.arith.weights import safe_codes
from qpipe.ir.attributes import input_value
from qpipe.ir.layers import Layer
from qpipe.ir.qdq import initializer
from qpipe.ir.view import TrainableWeight
from qpipe.ir.weight_layout import to_rows, to_weight
from qpipe.ir.weights import storable
from qpipe.train.batch_norm import StandaloneBatchNorm
from qpipe.train.executor import Executor
from qpipe.train.weighted import WeightedLayer


Floats = npt.NDArray[np.float32]


def write_back(executor: Executor) -> None:
    """Write weights, exponents, BatchNormalization and biases into the model that the executor was made from.

    The executor must be in evaluation mode: its exponents are then those of the weights as they are.
    """
    for layer in executor.weighted():
        _write_weight(layer)
        _write_affine(layer, layer.layer.layer)
    for alone in executor.batch_norms():
        _write_batch_norm(alone, alone.layer.node)


def _write_weight(layer: WeightedLayer) -> None:
    weight = layer.layer.weight
    values = layer.weight.detach().numpy()
    if not isinstance(weight, TrainableWeight):
        _set_input(layer.layer.node, 1, values)
        return
    rows = to_rows(layer.layer.node, values)
    exponent = layer.exponent.numpy()
    codes = safe_codes(rows, exponent, weight.spec)
    stored = to_weight(layer.layer.node, storable(rows, codes, exponent, weight.spec), values.shape)
    _set(weight.values, stored)
    scales = np.ldexp(np.float32(1), exponent.astype(np.int32))
    _set(weight.scale, scales if weight.spec.per_channel else scales[0])


def _write_affine(module: WeightedLayer, layer: Layer) -> None:
    if layer.batch_norm is not None:
        _write_batch_norm(module, layer.batch_norm)
    elif module.beta.requires_grad:
        _set_input(layer.node, 2, module.beta.detach().numpy())


def _write_batch_norm(module: WeightedLayer | StandaloneBatchNorm, node: ir.Node) -> None:
    tensors = (module.gamma, module.beta, module.mean, module.variance)
    for index, tensor in enumerate(tensors, start=1):
        _set_input(node, index, tensor.detach().numpy())


def _set_input(node: ir.Node, index: int, array: Floats) -> None:
    """Replace a node's constant; where others read it too (exporters share equal ones), by one of its own."""
    value = input_value(node, index)
    assert value is not None
    if len(value.uses()) > 1 and node.graph is not None:
        assert isinstance(node.graph, ir.Graph)
        node.replace_input_with(index, initializer(node.graph, f"{node.name}_{value.name}", np.array(array)))
    else:
        _set(value, array)


def _set(value: ir.Value, array: Floats | np.float32) -> None:
    """Replace an initializer's tensor."""
    value.const_value = ir.tensor(np.array(array, np.float32, order="C"), name=value.name)
    value.shape = ir.Shape(array.shape)

