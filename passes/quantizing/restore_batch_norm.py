"""Put a trainable BatchNormalization behind each Conv and Gemm whose own was folded into its bias before export.

From the statistics of the product without its bias, measured on batches that look as training's will (augmented, or
training on batch statistics starts from another function), per output channel, and with a power of two r by which the
channel's weights are scaled:

    w' = r w,   mean' = r mean,   var' = r**2 var,   gamma = sqrt(var' + eps) / r,   beta = bias + mean

so `gamma / sqrt(var' + eps) (conv' - mean') + beta = conv + bias`: the function stays what it is, and now the channel
has a k that `rescale-channels` and training may use. This undoes the folding of Jacob et al. 2018, section 3.2, but for
how gamma and the weights shared the scale, which can't be told any more. Behind a normalization a gradient step turns
the weights by an angle that grows with 1 / |w|**2 (van Laarhoven 2017, section 2), and folded weights are several times
shorter than they were; so r gives each channel a norm from 1 to 2, about the sqrt(2) that networks with normalization
are initialized with (He et al. 2015, equation 10), and a recipe's learning rate means what it means elsewhere.

A channel that never varies gets var = 0 and gamma = sqrt(eps) / r: k is 1 / r as for all others, and at most that
should training make it vary. (A larger variance would let k grow while the running variance falls to its 0.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.calibration.moments import Moments, measure_moments
from qpipe.calibration.shard import ALONE, Shard
from qpipe.ir.graph.affine import batch_norm_of, read_affine, unit_ratio
from qpipe.ir.graph.layers import Layer
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.nodes import initializer, input_value, require_constant, set_constant_input
from qpipe.ops.weight_layout import output_axis, to_rows, to_weight

EPSILON = float(np.float32(1e-5))  # what a file can hold of ONNX's default


@dataclass(frozen=True, kw_only=True)
class RestoreBatchNorm(ir.passes.InPlacePass):
    """Run `inputs` (batches of float32 `[N, C, H, W]`) through the normalized float network and insert.

    Without a bias nothing was folded; and a last layer has neither a multiplier nor a scale for each channel.
    """

    name: ClassVar[str] = "restore-batch-norm"

    inputs: Iterable[Any] = field(default=(), repr=False, metadata={"argument": False})
    shard: Shard = field(default=ALONE, repr=False, metadata={"argument": False})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert behind every matching layer; without one, `inputs` are not touched. Raises DataError on bad inputs."""
        layers = _folded_layers(model.graph)
        if not layers:
            return ir.passes.PassResult(model, False)
        channels = {name: _channels(layer.node) for name, layer in layers.items()}
        for name, moments in measure_moments(model, channels, self.inputs, shard=self.shard).items():
            _insert(model.graph, layers[name], moments)
        # Names such as `conv1_mean` may be the graph's own.
        ir.passes.common.NameFixPass()(model)
        return ir.passes.PassResult(model, True)


def _folded_layers(graph: ir.Graph) -> dict[str, Layer]:
    """By the name of their product."""
    plan = plan_quantization(graph)
    return {
        str(layer.node.outputs[0].name): layer
        for layer in plan.layers
        if layer.is_weighted
        and layer.batch_norm is None
        and layer.node not in plan.last
        and input_value(layer.node, 2) is not None
    }


def _channels(node: ir.Node) -> int:
    return int(require_constant(node, 1, "weight").shape[output_axis(node)])


def _insert(graph: ir.Graph, layer: Layer, measured: Moments) -> None:
    """measured: of the product with its bias."""
    node = layer.node
    bias = read_affine(layer, len(measured.mean)).beta
    weight = require_constant(node, 1, "weight").astype(np.float32)
    rows, mean = to_rows(node, weight), measured.mean - bias
    ratio = unit_ratio(rows, mean, measured.variance)
    set_constant_input(node, 1, to_weight(node, (rows * ratio[:, None]).astype(np.float32), weight.shape))
    arrays = batch_norm_of(mean, measured.variance, bias, ratio, EPSILON)
    tensors = dict(zip(("gamma", "beta", "mean", "variance"), arrays, strict=True))
    # After the bias, whose place they take: where nodes have no telling names, blocks have theirs from parameters.
    base = node.inputs[2].name if node.inputs[2] is not None else node.name
    constants = [initializer(graph, f"{base}_{name}", array) for name, array in tensors.items()]
    # Its first input is set last: until then it is no reader of the product.
    batch_norm = ir.node("BatchNormalization", [None, *constants], {"epsilon": EPSILON}, name=f"{node.name}_batch_norm")
    product, result = node.outputs[0], batch_norm.outputs[0]
    product.replace_all_uses_with(result, replace_graph_outputs=True)
    batch_norm.replace_input_with(0, product)
    result.type, result.shape = product.type, product.shape
    # The name belongs to the function, which readers and graph outputs know.
    result.name, product.name = product.name, f"{product.name}_product"
    graph.insert_after(node, batch_norm)
    _remove_bias(graph, node)


def _remove_bias(graph: ir.Graph, node: ir.Node) -> None:
    bias = node.inputs[2]
    node.resize_inputs(2)
    if bias is not None and not bias.uses() and bias.is_initializer():
        del graph.initializers[str(bias.name)]
