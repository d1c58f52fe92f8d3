"""Put what was trained back into the QDQ graph that it came from."""

from __future__ import annotations

import onnx_ir as ir

from qpipe.ir.quantized.view import is_trainable
from qpipe.ir.quantized.write_trained import write_exponent, write_table
from qpipe.ir.quantized.write_weight import write_weight
from qpipe.nodes import set_constant_input
from qpipe.ops.weight_layout import to_rows
from qpipe.train.batch_norm import StandaloneBatchNorm
from qpipe.train.executor import Executor
from qpipe.train.floats import FloatNodes
from qpipe.train.island import Island
from qpipe.train.layer_norm import LayerNorm
from qpipe.train.weighted import WeightedLayer


def write_back(executor: Executor) -> None:
    """Write weights, exponents, BatchNormalization and biases into the model that the executor was made from.

    The executor must be in evaluation mode: its exponents are then those of the weights as they are.
    """
    for module in executor.weighted():
        _write_weight(module)
        _write_affine(module)
    for alone in executor.batch_norms():
        _write_batch_norm(alone, alone.node)
    for island in executor.islands:
        assert isinstance(island, Island)
        _write_floats(island.nodes)
    for rows in executor.layer_norms():
        _write_layer_norm(rows)
    for quantizer, learned in executor.learned_quantizers():
        write_table(quantizer, learned.table())
    for step in executor.steps:
        if step.layer.quantizer is not None and step.quantizer is not None and step.quantizer.moves:
            write_exponent(step.layer.quantizer, step.quantizer.grid.exponent)


def _write_floats(nodes: FloatNodes) -> None:
    """What has trained of an island; a constant that several nodes read once for each."""
    for name, places in nodes.trained.items():
        for node, index in places:
            set_constant_input(node, index, nodes.get_parameter(name).detach().numpy())


def _write_layer_norm(module: LayerNorm) -> None:
    set_constant_input(module.node, 1, module.gamma.detach().numpy())
    if module.has_beta:
        set_constant_input(module.node, 2, module.beta.detach().numpy())


def _write_weight(module: WeightedLayer) -> None:
    layer, quantizer, values = module.layer, module.quantizer, module.weight.detach().numpy()
    if quantizer is None or not is_trainable(layer):
        set_constant_input(layer.node, 1, values)
        return
    exponent = quantizer.exponent.numpy()
    basis = None if quantizer.basis is None else quantizer.basis.numpy()
    write_weight(layer, quantizer.format.storable(to_rows(layer.node, values), exponent), exponent, basis)


def _write_affine(module: WeightedLayer) -> None:
    layer = module.layer
    if layer.batch_norm is not None:
        _write_batch_norm(module, layer.batch_norm)
    elif module.beta.requires_grad:
        set_constant_input(layer.node, 2, module.beta.detach().numpy())


def _write_batch_norm(module: WeightedLayer | StandaloneBatchNorm, node: ir.Node) -> None:
    tensors = (module.gamma, module.beta, module.mean, module.variance)
    for index, tensor in enumerate(tensors, start=1):
        set_constant_input(node, index, tensor.detach().numpy())
