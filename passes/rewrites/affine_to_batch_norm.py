"""Write a constant Mul, Add or both that no layer can take as a BatchNormalization that stands alone.

    f x + o  =  f (x - 0) / sqrt(v + eps) + o      with v + eps = 1 in float32

f and o are one number for each channel, or one for all. A BatchNormalization has an integer form, a depthwise
convolution; one that stands alone is trained on its own statistics as they are, so that those made up here stay true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray, Float64Array
from qpipe.ir.graph.edges import leading_to_weights
from qpipe.ir.graph.rewrite import only_reader, rewrite
from qpipe.nodes import initializer, static_shape
from qpipe.ops import op_of
from qpipe.ops.constant_affine import OP_TYPES, ConstantAffine, constant_affine
from qpipe.ops.lookup import Origins
from qpipe.ops.windows import MOST_DIMS

EPSILON: Final = float(np.float32(1e-5))
_VARIANCE: Final = np.float32(1) - np.float32(EPSILON)


@dataclass(frozen=True, kw_only=True)
class AffineToBatchNorm(ir.passes.InPlacePass):
    """Each map by constants of what has channels in axis 1, between what has integers and a layer of weights.

    What only leads to outputs stays: there it is float, and exact. So does what is looked up: its codes are known.
    """

    name: ClassVar[str] = "affine-to-batch-norm"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match, from the last node of a chain."""
        leading, origins = leading_to_weights(model.graph), Origins()

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            result = node.outputs[0]
            return result in leading and not origins.are_looked_up(result) and _try_replace(graph, node)

        return rewrite(model, OP_TYPES, attempt, backwards=True)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    affine, old = constant_affine(node), [node]
    if affine is None or not _has_integers(affine.x):
        return False
    producer = affine.x.producer()
    before = constant_affine(producer)
    if producer is not None and before is not None and producer.graph is graph and only_reader(affine.x) is node:
        both = before.then(affine)
        if both.fits_float32 and _per_channel(both) is not None:
            affine, old = both, [producer, node]
    along = _per_channel(affine)
    if along is None:
        return False
    new = batch_norm_of(graph, affine.x, *along, name=str(node.name or node.outputs[0].name))
    ir.convenience.replace_nodes_and_values(graph, node, old, [new], node.outputs, new.outputs)
    return True


def batch_norm_of(graph: ir.Graph, x: ir.Value, factor: AnyArray, offset: AnyArray, *, name: str) -> ir.Node:
    """`factor x + offset`, both `[C]`, as a BatchNormalization of a graph that it is not in yet."""
    factor = factor.astype(np.float32)
    tensors = {
        "scale": factor,
        "offset": offset.astype(np.float32),
        "mean": np.zeros_like(factor),
        "variance": np.full_like(factor, _VARIANCE),
    }
    constants = [initializer(graph, f"{name}_{part}", array) for part, array in tensors.items()]
    return ir.node("BatchNormalization", [x, *constants], {"epsilon": EPSILON}, name=name)


def _has_integers(value: ir.Value) -> bool:
    """Whether what gives the value has an integer form, or is a map by constants of what does."""
    producer = value.producer()
    affine = constant_affine(producer)
    if affine is not None:
        return _has_integers(affine.x)
    return producer is None or op_of(producer).refusal(producer) is None


def _per_channel(affine: ConstantAffine) -> tuple[Float64Array, Float64Array] | None:
    """Factor and offset, `[C]`; None where x has no channels, or these are not of channels."""
    sizes = static_shape(affine.x)
    channels = sizes[1] if sizes is not None and 2 <= len(sizes) <= 2 + MOST_DIMS else None
    return None if channels is None else affine.along(1, channels)
