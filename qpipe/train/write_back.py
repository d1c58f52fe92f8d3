"""Put what was trained back into the QDQ graph that it came from."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.arith.weights import quantize_rows
from qpipe.ir.attributes import input_value
from qpipe.ir.layers import Layer
from qpipe.ir.view import TrainableWeight
from qpipe.ir.weight_layout import to_rows, to_weight
from qpipe.ir.weights import storable
from qpipe.train.batch_norm import StandaloneBatchNorm
from qpipe.train.executor import Executor
from qpipe.train.weighted import WeightedLayer


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
        _set(input_value(layer.layer.node, 1), values)
        return
    rows = to_rows(layer.layer.node, values)
    exponent = layer.exponent.numpy()
    codes, _ = quantize_rows(rows, exponent, weight.spec)
    stored = to_weight(layer.layer.node, storable(rows, codes, exponent, weight.spec), values.shape)
    _set(weight.values, stored)
    scales = np.ldexp(np.float32(1), exponent.astype(np.int32))
    _set(weight.scale, scales if weight.spec.per_channel else scales[0])


def _write_affine(module: WeightedLayer, layer: Layer) -> None:
    if layer.batch_norm is not None:
        _write_batch_norm(module, layer.batch_norm)
    elif module.beta.requires_grad:
        _set(input_value(layer.node, 2), module.beta.detach().numpy())


def _write_batch_norm(module: WeightedLayer | StandaloneBatchNorm, node: ir.Node) -> None:
    tensors = (module.gamma, module.beta, module.mean, module.variance)
    for index, tensor in enumerate(tensors, start=1):
        _set(input_value(node, index), tensor.detach().numpy())


def _set(value: ir.Value | None, array: np.ndarray | np.generic) -> None:  # type: ignore[type-arg]
    """Replace an initializer's tensor."""
    assert value is not None
    value.const_value = ir.tensor(np.ascontiguousarray(array, np.float32).reshape(array.shape).copy(), name=value.name)

