"""Put what was trained back into the QDQ graph that it came from."""

from __future__ import annotations

import onnx_ir as ir

from qpipe.ir.graph.layers import Layer
from qpipe.ir.quantized.qdq import write_table
from qpipe.ir.quantized.view import is_trainable
from qpipe.ir.quantized.write_weight import write_weight
from qpipe.nodes import set_constant_input
from qpipe.ops.weight_layout import to_rows
from qpipe.train.batch_norm import StandaloneBatchNorm
from qpipe.train.executor import Executor
from qpipe.train.weighted import WeightedLayer


def write_back(executor: Executor) -> None:
    """Write weights, exponents, BatchNormalization and biases into the model that the executor was made from.

    The executor must be in evaluation mode: its exponents are then those of the weights as they are.
    """
    for layer in executor.weighted():
        _write_weight(layer)
        _write_affine(layer, layer.layer)
    for alone in executor.batch_norms():
        _write_batch_norm(alone, alone.layer.node)
    for quantizer, learned in executor.learned_quantizers():
        write_table(quantizer, learned.table())


def _write_weight(layer: WeightedLayer) -> None:
    quantized, values = layer.layer, layer.weight.detach().numpy()
    if not is_trainable(quantized):
        set_constant_input(quantized.node, 1, values)
        return
    rows = to_rows(quantized.node, values)
    exponent = layer.exponent.numpy()
    basis = None if layer.basis is None else layer.basis.numpy()
    write_weight(quantized, quantized.weight.spec.storable(rows, exponent), exponent, basis)


def _write_affine(module: WeightedLayer, layer: Layer) -> None:
    if layer.batch_norm is not None:
        _write_batch_norm(module, layer.batch_norm)
    elif module.beta.requires_grad:
        set_constant_input(layer.node, 2, module.beta.detach().numpy())


def _write_batch_norm(module: WeightedLayer | StandaloneBatchNorm, node: ir.Node) -> None:
    tensors = (module.gamma, module.beta, module.mean, module.variance)
    for index, tensor in enumerate(tensors, start=1):
        set_constant_input(node, index, tensor.detach().numpy())
